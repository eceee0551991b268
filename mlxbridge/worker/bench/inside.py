"""The worker's loop in this process, with a clock in it, so that its steps can be counted and timed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Timer:
    """Seconds spent inside mlx-lm, not counting what the worker adds there."""

    seconds: float = 0.0
    during: Callable[[], None] | None = None  # called once, when the next step has begun


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
        during, self._timer.during = self._timer.during, None
        if during is not None:
            during()
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

    def make_generator(self, model: object, sampler: object, wanted: Callable[[], bool]) -> TimedGenerator:
        """Return a batch generator with a clock."""
        made = self.inner.make_generator(model, timed_sampler(sampler, self.timer), wanted)
        return TimedGenerator(made, self.timer)


class Inside:
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
        # Speculation would give rows more than one token a step, and what is compared is a step.
        options = {"speculate": "off"}
        load = {"type": "load", "dir": str(folder), "name": folder.name, "max_rows": most_rows, "prefix_bytes": 0}
        self.send({**load, "options": options})
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

    def turn(self) -> None:
        """Handle what came and take one step."""
        self._loop.turn()

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
