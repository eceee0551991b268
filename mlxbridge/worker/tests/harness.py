"""Drives an engine without frames, and a worker process with them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxworker.engine import Engine, Options
from mlxworker.errors import RequestError
from mlxworker.model import Model
from mlxworker.protocol import Generate, parse_generate
from mlxworker.report import Output

WORKER = Path(__file__).resolve().parents[1]
PATIENCE = 60  # seconds; it ends what hangs, and says nothing about how long anything may take
Frame = dict[str, Any]


def ask(id_: str, text: str, **fields: Any) -> Generate:
    """Return a chat request; fields are those of the gen frame."""
    frame: Frame = {"type": "gen", "id": id_, "messages": [{"role": "user", "content": text}], **fields}
    return parse_generate(frame)


def ask_frame(**fields: Any) -> Generate:
    return parse_generate({"type": "gen", **fields})


def count(first: int, last: int) -> str:
    """Return what the test models say when they are asked to count."""
    return ", ".join(str(n) for n in range(first, last + 1))


@dataclass
class Answer:
    """What came for one request."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Frame] = field(default_factory=list)
    reason: str = ""
    stop: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    error: RequestError | None = None
    steps: int = 0
    reasoning: str = ""
    calls: list[Frame] = field(default_factory=list)  # whole ones
    pieces: list[Frame] = field(default_factory=list)  # as they came

    def take(self, text: str, logprobs: list[Frame] | None = None, extra: Frame | None = None) -> None:
        """Take what follows the id in a row of a step, without its tokens."""
        self.text += text
        self.logprobs += logprobs or []
        self.reasoning += (extra or {}).get("reasoning", "")
        for piece in (extra or {}).get("calls", []):
            self.pieces.append(piece)
            if "id" in piece:
                assert piece["index"] >= len(self.calls)
                self.calls.append(dict(piece))
            elif piece["index"] < len(self.calls):  # else an earlier attempt began it
                self.calls[piece["index"]]["arguments"] += piece["arguments"]


class Driver:
    """An engine and the answers that it gave. It guesses nothing ahead unless told: a step is a token a row."""

    def __init__(self, model: Model, **options: Any) -> None:
        self.engine = Engine(model, Options(**{"speculate": False, **options}))
        self.answers: dict[str, Answer] = {}

    def add(self, *asks: Generate) -> None:
        for a in asks:
            self.answers[a.id] = Answer()
            self.engine.add(a)

    def step(self) -> Output:
        out = self.engine.step()
        for id_, text, tokens, *rest in out.texts:
            answer = self.answers[id_]
            assert not answer.reason, f"{id_} got text after its end"
            assert answer.error is None
            answer.take(text, *rest)
            answer.tokens += tokens
            answer.steps += 1
        for row, reason in out.ended:
            answer = self.answers[row.id]
            assert not answer.reason
            assert answer.error is None
            answer.reason, answer.stop, answer.usage = str(reason), row.stop, row.usage()
        for row, error in out.failed:
            assert not self.answers[row.id].reason
            self.answers[row.id].error = error
        return out

    def run(self, *asks: Generate) -> list[Answer]:
        """Answer these and whatever is under way."""
        self.add(*asks)
        while self.engine.busy:
            self.step()
        return [self.answers[a.id] for a in asks]

    def until(self, claim: Callable[[], bool], most: int = 10_000) -> None:
        for _ in range(most):
            if claim():
                return
            self.step()
        raise AssertionError("it never came to that")


def answer(model: Model, text: str, **fields: Any) -> Answer:
    """Return the answer of a fresh engine that has nothing else to do."""
    return Driver(model).run(ask("only", text, **fields))[0]


class Process:
    """A worker process, spoken to in frames. damage is Python that runs in it before it starts."""

    def __init__(self, damage: str = "") -> None:
        to_worker, self.out = os.pipe()
        self.into, from_worker = os.pipe()
        lifeline_end, self.lifeline = os.pipe()
        self.errors = os.memfd_create("stderr")
        env = {**os.environ, "PYTHONPATH": str(WORKER)}
        high = {n: os.dup2(fd, 200 + i) for i, (n, fd) in enumerate((("in", to_worker), ("out", from_worker)))}
        moves = [(lifeline_end, 0), (self.errors, 1), (self.errors, 2), (high["in"], 3), (high["out"], 4)]
        actions = [(os.POSIX_SPAWN_DUP2, a, b) for a, b in moves]
        start = f"{damage}\nimport os, mlxworker.__main__ as m; os._exit(m.main())"
        program = ["-c", start] if damage else ["-m", "mlxworker"]
        argv = [sys.executable, "-X", "utf8", *program, "--name", "test"]
        self.pid = os.posix_spawn(sys.executable, argv, env, file_actions=actions)
        for fd in (to_worker, from_worker, lifeline_end, *high.values()):
            os.close(fd)
        self.seen: list[Frame] = []
        self._data = b""
        self._code: int | None = None

    def send(self, *frames: Frame) -> None:
        """Send frames in one go: the worker finds all of them there, however slow this process is."""
        bodies = [json.dumps(frame).encode() for frame in frames]
        self.send_raw(b"".join(struct.pack("<I", len(body)) + body for body in bodies))

    def send_raw(self, data: bytes) -> None:
        os.write(self.out, data)

    def load(self, folder: Path, **fields: Any) -> Frame:
        self.send({"type": "hello", "proto": 1}, {"type": "load", "dir": str(folder), "name": folder.name, **fields})
        return self.wait("loaded")

    def next(self, timeout: float = PATIENCE) -> Frame | None:
        """Return the next frame, None at the end of the stream."""
        deadline = time.monotonic() + timeout
        while True:
            if len(self._data) >= 4:
                (size,) = struct.unpack_from("<I", self._data)
                if len(self._data) >= 4 + size:
                    frame: Frame = json.loads(self._data[4 : 4 + size])
                    self._data = self._data[4 + size :]
                    self.seen.append(frame)
                    return frame
            if not select.select([self.into], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise AssertionError(f"no frame within {timeout} s; last: {self.seen[-3:]}; {self.log()}")
            data = os.read(self.into, 1 << 16)
            if not data:
                return None
            self._data += data

    def wait(self, kind: str, timeout: float = PATIENCE, **fields: Any) -> Frame:
        """Return the next frame of a type with these fields; what comes before is kept in seen."""
        while True:
            frame = self.next(timeout)
            assert frame is not None, f"the worker ended before {kind}: {self.seen[-3:]} {self.log()}"
            if frame["type"] == kind and all(frame.get(k) == v for k, v in fields.items()):
                return frame

    def collect(self, ids: list[str], timeout: float = PATIENCE) -> dict[str, Answer]:
        """Read until each of these has ended."""
        answers = {i: Answer() for i in ids}
        open_ = set(ids)
        while open_:
            frame = self.next(timeout)
            assert frame is not None, self.log()
            if frame["type"] == "step":
                for id_, text, tokens, *rest in frame["rows"]:
                    assert id_ in open_
                    answers[id_].take(text, *rest)
                    answers[id_].tokens += tokens
            elif frame["type"] == "done" and frame["id"] in open_:
                a = answers[frame["id"]]
                a.reason, a.stop, a.usage = frame["reason"], frame["stop"], frame["usage"]
                open_.discard(frame["id"])
            elif frame["type"] == "error" and frame["id"] in open_:
                answers[frame["id"]].error = RequestError(frame["code"], frame["message"], frame.get("field"))
                open_.discard(frame["id"])
        return answers

    def exit_code(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the process; return its exit code."""
        deadline = time.monotonic() + timeout
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                break
            assert time.monotonic() < deadline, f"the worker did not end within {timeout} s"
            time.sleep(0.005)
        return self._code

    def log(self) -> str:
        size = os.fstat(self.errors).st_size
        return os.pread(self.errors, size, 0).decode()

    def close(self) -> None:
        for fd in (self.out, self.lifeline):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.exit_code()
        os.close(self.into)
        os.close(self.errors)
