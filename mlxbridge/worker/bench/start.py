"""How soon a worker answers: from the start of its process to the first token, its files in the system's cache.

`python -m bench.start --model DIR`. The figure is a median of starts; the first is not counted, it fills the cache.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

from bench import loads, part
from bench.answer import Ask, wait
from bench.figure import Figure, median
from bench.process import Worker

_ROUNDS = 5
_TARGET = 0.6


def run(setting: part.Setting) -> None:
    """Start workers, one after the other."""
    found = [start(setting) for _ in range(setting.rounds + 1)][1:]
    setting.emit(Figure(f"start_{setting.name}", median(t for _, t in found), "s", _TARGET, at_most=True))
    setting.emit(Figure(f"start_loaded_{setting.name}", median(t for t, _ in found), "s"))


def start(setting: part.Setting) -> tuple[float, float]:
    """Return the seconds from the start of a process until its model is loaded, and until its first token."""
    begin = time.perf_counter()
    with closing(Worker(setting.model)) as worker:
        loaded = time.perf_counter()
        worker.send([Ask("first", loads.short(100), 4)])
        answer = worker.answers["first"]
        wait(worker, lambda: bool(answer.times), "the first token")
        return loaded - begin, answer.times[0] - begin


if __name__ == "__main__":
    sys.exit(part.main("bench.start", __doc__, run, _ROUNDS))
