"""A worker as a process that is spoken to in frames, as mlxctl does it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.answer import Answer, Ask
from bench.figure import BenchError

_ROOT = Path(__file__).resolve().parents[1]
_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 18
_START_SECONDS = 300.0


class Worker:
    """A worker process that has loaded a model. It implements Endpoint."""

    def __init__(self, folder: Path, **load: Any) -> None:
        """Start it and load; further fields are those of the load frame."""
        self.answers: dict[str, Answer] = {}
        self.counters: dict[str, int] = {}
        self._data = b""
        self._loaded = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        to_worker, self._out = os.pipe()
        self._into, from_worker = os.pipe()
        lifeline, self._lifeline = os.pipe()
        # Out of the way first: the pipes' own numbers may be those that the worker expects something at.
        moved = [os.dup2(fd, 200 + i) for i, fd in enumerate((to_worker, from_worker))]
        log = self._log.fileno()
        ends = [(lifeline, 0), (log, 1), (log, 2), (moved[0], 3), (moved[1], 4)]
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._pid: int | None = os.posix_spawn(
            sys.executable,
            [sys.executable, "-X", "utf8", "-m", "mlxworker", "--name", "bench"],
            {**os.environ, "PYTHONPATH": path},
            file_actions=[(os.POSIX_SPAWN_DUP2, a, b) for a, b in ends],
        )
        for fd in (to_worker, from_worker, lifeline, *moved):
            os.close(fd)
        try:
            self._frame({"type": "hello", "proto": 1})
            self._frame({"type": "load", "dir": str(folder), "name": folder.name, **load})
            self._await_load()
        except BaseException:
            self.close()
            raise

    def _await_load(self) -> None:
        deadline = time.perf_counter() + _START_SECONDS
        while not self._loaded:
            if time.perf_counter() > deadline:
                raise BenchError(f"the worker did not load within {_START_SECONDS:g} s: {self.said()}")
            self.poll(0.5)

    def send(self, asks: list[Ask]) -> None:
        """Send requests, all at once."""
        for ask in asks:
            frame = {"type": "gen", "id": ask.id, "messages": ask.messages, "max_tokens": ask.max_tokens}
            if ask.session:
                frame["session"] = ask.session
            self.answers[ask.id] = Answer(time.perf_counter())
            self._frame({**frame, "temperature": 0})

    def poll(self, seconds: float) -> None:
        """Take in what came, after waiting for it at most so long."""
        if not select.select([self._into], [], [], seconds)[0]:
            return
        data = os.read(self._into, _READ_BYTES)
        now = time.perf_counter()
        if not data:
            raise BenchError(f"the worker ended: {self.said()}")
        self._data += data
        at = 0
        while len(self._data) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._data, at)
            if len(self._data) - at - _LENGTH.size < size:
                break
            at += _LENGTH.size
            self._take(json.loads(self._data[at : at + size]), now)
            at += size
        self._data = self._data[at:]

    def cancel(self, request: str) -> None:
        """Give a request up."""
        self._frame({"type": "cancel", "id": request})

    def close(self) -> None:
        """End the process."""
        if self._pid is None:
            return
        for fd in (self._out, self._lifeline):
            os.close(fd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._pid = None
        os.close(self._into)
        self._log.close()

    def _frame(self, frame: dict[str, Any]) -> None:
        body = json.dumps(frame).encode()
        rest = memoryview(_LENGTH.pack(len(body)) + body)
        while rest:
            try:
                rest = rest[os.write(self._out, rest) :]
            except BrokenPipeError as e:
                raise BenchError(f"the worker ended: {self.said()}") from e

    def _take(self, frame: dict[str, Any], now: float) -> None:
        kind = frame["type"]
        if kind == "step":
            for request, text, *_ in frame["rows"]:
                answer = self.answers[request]
                answer.times.append(now)
                answer.text += text
        elif kind == "done":
            answer, usage = self.answers[frame["id"]], frame["usage"]
            answer.ended = True
            answer.prompt_tokens = usage["prompt_tokens"]
            answer.cached_tokens = usage["cached_tokens"]
            answer.completion_tokens = usage["completion_tokens"]
        elif kind == "stats":
            self.counters = frame["counters"]
        elif kind == "loaded":
            self._loaded = True
        elif kind in ("error", "load_error", "fatal"):
            raise BenchError(f"the worker says: {frame['message']}")

    def said(self) -> str:
        """Return the end of its log."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode("utf-8", "replace").strip()
