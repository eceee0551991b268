"""The worker against bare mlx-lm: `python -m bench.bridge --model DIR`.

Both decode the same number of rows of the same length, in one process, in blocks of steps that alternate, so that both
see the same machine. Bare is the loop of mlx-lm's batch_generate. The worker is all of it: requests come as frames
through a pipe, each step's text and tokens go out as a frame through another.

Every figure is one line on standard output; with --json it is an object {"name", "value", "unit", "target", "at_most",
"blas"}, where a target of null is none. Ratios are worker ÷ bare, the median of the pairs of blocks.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import part
from bench.figure import Figure, show
from bench.inside import Inside

# What is asked of the ratio and of the worker's own time in a step (ms), by model and rows.
_RATIO = {"tiny": {1: 0.90, 8: 0.95, 32: 0.95}, "small": {1: 0.90, 8: 0.97, 32: 0.97}}
_COST = {8: 0.25, 32: 0.6}


class Bare:
    """The loop of mlx-lm's batch_generate, one step at a time."""

    def __init__(self, model: Any, prompts: list[list[int]], tokens: int) -> None:
        from mlx_lm.generate import BatchGenerator

        self._generator: Any = BatchGenerator(model.net, stop_tokens=[[model.vocabulary]])
        uids = self._generator.insert(prompts, [tokens] * len(prompts))
        self._results: dict[int, list[int]] = {uid: [] for uid in uids}
        while not all(self._results.values()):
            self.step()

    def step(self) -> None:
        """Take one step."""
        for r in self._generator.next_generated():
            if r.finish_reason != "stop":
                self._results[r.uid].append(r.token)

    def stop(self) -> None:
        """End all rows."""
        self._generator.close()


@dataclass
class Pairs:
    """What was measured: seconds of each block, and of the worker's own part in each of its steps."""

    bare: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)


def measure(worker: Inside, rows: int, prompt_tokens: int, pairs: int, steps: int) -> Pairs:
    """Decode the same with both, in turns."""
    import mlx.core as mx
    from mlx_lm.generate import generation_stream

    def block(step: Callable[[], None]) -> float:
        mx.synchronize(generation_stream)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        mx.synchronize(generation_stream)
        return time.perf_counter() - start

    prompts = make_prompts(rows, prompt_tokens, worker.model.vocabulary)
    tokens = 4 * steps * (pairs + 4)
    bare = Bare(worker.model, prompts, tokens)
    worker.start(prompts, tokens)
    out = Pairs()
    for pair in range(-2, pairs):
        if pair == 0:  # the ones before were to warm up
            out, worker.own = Pairs(), []
        for who in ("bare", "worker") if pair % 2 else ("worker", "bare"):
            if who == "bare":
                out.bare.append(block(bare.step))
            else:
                out.worker.append(block(worker.step))
    out.own = worker.own
    worker.stop(rows)
    bare.stop()
    return out


def make_prompts(rows: int, tokens: int, vocabulary: int) -> list[list[int]]:
    """Return prompts of one length that have no beginning in common."""
    return [[(31 * i + j * j) % (vocabulary - 1) + 1 for j in range(1, tokens + 1)] for i in range(rows)]


def figures(name: str, rows: int, steps: int, pairs: Pairs) -> list[Figure]:
    """Return the lines for one number of rows."""
    ratio = statistics.median(b / w for b, w in zip(pairs.bare, pairs.worker, strict=True))
    rate = {k: rows * steps / statistics.median(v) for k, v in (("bare", pairs.bare), ("worker", pairs.worker))}
    return [
        Figure(f"bridge_vs_bare_{name}_{rows}", ratio, "ratio", _RATIO.get(name, {}).get(rows)),
        Figure(f"bridge_cost_{name}_{rows}", statistics.median(pairs.own) * 1000, "ms", _COST.get(rows), at_most=True),
        Figure(f"bridge_tokens_{name}_{rows}", rate["worker"], "tok/s"),
        Figure(f"bare_tokens_{name}_{rows}", rate["bare"], "tok/s"),
    ]


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.bridge", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, required=True, help="folder of a model that mlx-lm can load")
    parser.add_argument("--rows", default="1,8,32", help="rows at once, several with commas")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of blocks")
    parser.add_argument("--steps", type=int, default=10, help="steps of a block")
    parser.add_argument("--json", action="store_true", help="one object a line")
    part.add_blas(parser)
    chosen = parser.parse_args()
    part.prepare(chosen.blas, ["-m", "bench.bridge"] if __package__ else [str(Path(__file__).resolve())])
    rows = [int(n) for n in chosen.rows.split(",")]
    worker = Inside(chosen.model, max(rows))
    for n in rows:
        pairs = measure(worker, n, chosen.prompt, chosen.pairs, chosen.steps)
        for line in figures(chosen.model.name, n, chosen.steps, pairs):
            show(line, chosen.json)
    return 0


if __name__ == "__main__":
    part.leave(main())
