"""How many steps a cancelled request still takes part in: waiting, while its prompt is computed, and while it decodes.

`python -m bench.cancel --model DIR`. The frame comes at the worst moment, when a step has just begun, and that step
counts. The worker is all there, frames included, but in this process, so that its steps can be counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import part
from bench.bridge import make_prompts
from bench.figure import BenchError, Figure
from bench.inside import Inside

_TRIALS = 5
_TARGET = 1
_MOST_STEPS = 100
_LONG = 3000
_ROWS = 2
# A step of a real model lasts at least so long; the frame is read meanwhile, as it is with one.
_STEP_SECONDS = 0.005


def run(setting: part.Setting) -> None:
    """Cancel at every stage."""
    worker = Inside(setting.model, _ROWS)
    stages: dict[str, Callable[[Inside, int, int], int]] = {"queued": queued, "prefill": prefill, "decode": decode}
    for stage, trial in stages.items():
        length = _LONG // 10 if setting.small else _LONG
        most = max(trial(worker, n, length) for n in range(setting.rounds))
        setting.emit(Figure(f"cancel_{stage}_{setting.name}", most, "steps", _TARGET, at_most=True))


def queued(worker: Inside, number: int, _: int) -> int:
    """Cancel a request that waits for a row."""
    worker.start(_prompts(worker, number), 10_000)
    worker.send(_ask("late", _prompts(worker, number)[0]))
    _turn_until(worker, lambda: bool(worker.engine.waiting))
    return _cancelled(worker, "late", _ROWS)


def prefill(worker: Inside, number: int, length: int) -> int:
    """Cancel a request while its prompt is computed, beside one that decodes."""
    worker.start(_prompts(worker, number)[:1], 10_000)
    worker.send(_ask("late", make_prompts(1, length, worker.model.vocabulary)[0]))
    _turn_until(worker, lambda: worker.engine.running == _ROWS)
    for _ in range(number):
        worker.turn()
    return _cancelled(worker, "late", 1)


def decode(worker: Inside, number: int, _: int) -> int:
    """Cancel a request that decodes, beside another one."""
    worker.start(_prompts(worker, number), 10_000)
    for _ in range(number):
        worker.turn()
    return _cancelled(worker, "r1", _ROWS)


def _prompts(worker: Inside, number: int) -> list[list[int]]:
    return make_prompts(_ROWS, 16 + number, worker.model.vocabulary)


def _ask(request: str, tokens: list[int]) -> dict[str, object]:
    return {"type": "gen", "id": request, "tokens": tokens, "max_tokens": 10_000, "temperature": 0}


def _turn_until(worker: Inside, claim: Callable[[], bool]) -> None:
    for _ in range(_MOST_STEPS):
        if claim():
            return
        worker.turn()
    raise BenchError(f"a request was not where it should be after {_MOST_STEPS} steps")


def _cancelled(worker: Inside, request: str, others: int) -> int:
    """Cancel a request inside the next step, then end the others; return how many steps end with it still there."""
    if not worker.engine.is_live(request):
        raise BenchError("a request ended before it was cancelled")

    def cancel() -> None:
        worker.send({"type": "cancel", "id": request})
        time.sleep(_STEP_SECONDS)

    worker.timer.during = cancel
    steps = 0
    while steps < _MOST_STEPS:
        worker.turn()
        if not worker.engine.is_live(request):
            break
        steps += 1
    worker.stop(others)
    return steps


if __name__ == "__main__":
    part.leave(part.main("bench.cancel", __doc__, run, _TRIALS))
