"""The worker against bare mlx-lm: `python -m bench.bridge --model DIR`.

Both decode the same number of rows of the same length, in one process, in blocks of steps that alternate, so that both
see the same machine. Bare is the loop of mlx-lm's batch_generate. The worker is all of it: requests come as frames
through a pipe, each step's text and tokens go out as a frame through another.

Every figure is one line on standard output; with --json it is an object {"name", "value", "unit", "target", "blas"},
where a target of null is none. Ratios are worker ÷ bare, the median of the pairs of blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import blas

# What is asked of the ratio and of the worker's own time in a step (ms), by rows.
_RATIO = {1: 0.90, 8: 0.95, 32: 0.95}
_COST = {8: 0.25, 32: 0.6}


@dataclass
class Timer:
    """Seconds spent inside mlx-lm, not counting what the worker adds there."""

    seconds: float = 0.0


class TimedGenerator:
    """A batch generator that knows how long its steps took."""

    def __init__(self, inner: Any, timer: Timer) -> None:
        self.__dict__.update(_inner=inner, _timer=timer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def next(self) -> Any:
        """Run a step."""
        start = time.perf_counter()
        try:
            return self._inner.next()
        finally:
            self._timer.seconds += time.perf_counter() - start


def timed_sampler(sampler: Any, timer: Timer) -> Callable[[Any], Any]:
    """Return a sampler whose time does not count as mlx-lm's: choosing tokens is the worker's work."""

    def sample(logprobs: Any) -> Any:
        start = time.perf_counter()
        try:
            return sampler(logprobs)
        finally:
            timer.seconds -= time.perf_counter() - start

    return sample


@dataclass(frozen=True)
class TimedApi:
    """mlx-lm as the worker knows it, with a clock in its generators."""

    inner: Any
    timer: Timer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def make_generator(self, model: object, sampler: object) -> TimedGenerator:
        """Return a batch generator with a clock."""
        return TimedGenerator(self.inner.make_generator(model, timed_sampler(sampler, self.timer)), self.timer)


class Worker:
    """The worker's loop in this process, between two pipes."""

    def __init__(self, folder: Path, most_rows: int) -> None:
        from mlxworker import adapter, frames, inbox, loop

        self.timer = Timer()
        self.own: list[float] = []
        to_worker, self._requests = os.pipe()
        sink, from_worker = os.pipe()
        # Another process reads, as mlxctl does.
        self._reader = subprocess.Popen(["cat"], stdin=sink, stdout=subprocess.DEVNULL)
        os.close(sink)
        incoming = inbox.Inbox(to_worker)
        incoming.start()
        api: Any = TimedApi(adapter.load_api(), self.timer)
        self._loop = loop.Loop(api, incoming, frames.Writer(from_worker), os.getpid())
        # Steps are compared, so a step has to be one token a row.
        load = {"type": "load", "dir": str(folder), "name": folder.name, "max_rows": most_rows, "prefix_bytes": 0}
        self.send({**load, "options": {"speculate": "off"}})
        while self._loop.engine is None:
            self._loop.turn()
        self.engine = self._loop.engine
        self.model = self.engine.model
        # A stop token that never comes costs the same and lets no row end early.
        self.model.stop = api.make_stop([self.model.vocabulary])

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame to the worker."""
        body = json.dumps(frame).encode()
        os.write(self._requests, struct.pack("<I", len(body)) + body)

    def start(self, prompts: list[list[int]], tokens: int) -> None:
        """Begin to answer; return when each row decodes."""
        for i, prompt in enumerate(prompts):
            self.send({"type": "gen", "id": f"r{i}", "tokens": prompt, "max_tokens": tokens, "temperature": 0})
        want = self.engine.counters.generated_tokens + len(prompts)
        while self.engine.running < len(prompts) or self.engine.counters.generated_tokens < want:
            self._loop.turn()

    def step(self) -> None:
        """Take one step, and note how much of it was the worker's own."""
        inside, start = self.timer.seconds, time.perf_counter()
        self._loop.turn()
        self.own.append(time.perf_counter() - start - (self.timer.seconds - inside))

    def stop(self, rows: int) -> None:
        """End all rows."""
        for i in range(rows):
            self.send({"type": "cancel", "id": f"r{i}"})
        while self.engine.busy:
            self._loop.turn()


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


def measure(worker: Worker, rows: int, prompt_tokens: int, pairs: int, steps: int) -> Pairs:
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


def figures(name: str, rows: int, steps: int, pairs: Pairs) -> list[dict[str, Any]]:
    """Return the lines for one number of rows."""
    ratio = statistics.median(b / w for b, w in zip(pairs.bare, pairs.worker, strict=True))
    rate = {k: rows * steps / statistics.median(v) for k, v in (("bare", pairs.bare), ("worker", pairs.worker))}
    own = statistics.median(pairs.own) * 1000
    lines: list[tuple[str, float, str, float | None]] = [
        (f"bridge_vs_bare_{name}_{rows}", ratio, "ratio", _RATIO.get(rows)),
        (f"bridge_cost_{name}_{rows}", own, "ms", _COST.get(rows)),
        (f"bridge_tokens_{name}_{rows}", rate["worker"], "tok/s", None),
        (f"bare_tokens_{name}_{rows}", rate["bare"], "tok/s", None),
    ]
    which = blas.loaded()
    return [{"name": n, "value": round(v, 4), "unit": u, "target": t, "blas": which} for n, v, u, t in lines]


def show(line: dict[str, Any], as_json: bool) -> None:
    """Print one figure."""
    if as_json:
        print(json.dumps(line), flush=True)
        return
    target = "-" if line["target"] is None else line["target"]
    print(f"{line['name']:<32} {line['value']:>12} {line['unit']:<6} {target:>6}  {line['blas']}", flush=True)


def use_fast_blas() -> None:
    """Start again with a fast BLAS where one is found and none was chosen."""
    library = blas.find()
    if library is not None and "LD_PRELOAD" not in os.environ:
        module = ["-m", "bench.bridge"] if __package__ else [str(Path(__file__).resolve())]
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        os.execve(sys.executable, [sys.executable, *module, *sys.argv[1:]], environment)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.bridge", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, required=True, help="folder of a model that mlx-lm can load")
    parser.add_argument("--rows", default="1,8,32", help="rows at once, several with commas")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of blocks")
    parser.add_argument("--steps", type=int, default=10, help="steps of a block")
    parser.add_argument(
        "--blas", choices=("fast", "wheel"), default="fast", help="on a Linux CPU: OpenBLAS, or MLX's own"
    )
    parser.add_argument("--json", action="store_true", help="one object a line")
    chosen = parser.parse_args()
    if chosen.blas == "fast":
        use_fast_blas()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sys.platform != "darwin":
        os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    rows = [int(n) for n in chosen.rows.split(",")]
    worker = Worker(chosen.model, max(rows))
    for n in rows:
        pairs = measure(worker, n, chosen.prompt, chosen.pairs, chosen.steps)
        for line in figures(chosen.model.name, n, chosen.steps, pairs):
            show(line, chosen.json)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # The reader of frames ends the process when its pipe does; there is nothing to wait for.
    os._exit(code)
