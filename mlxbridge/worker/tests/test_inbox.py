"""Frames that were sent together are picked up together."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator

import pytest

from mlxworker.frames import Frame
from mlxworker.inbox import Inbox


def frame(n: int) -> bytes:
    body = json.dumps({"type": "ping", "n": n}).encode()
    return struct.pack("<I", len(body)) + body


@pytest.fixture
def pipe() -> Iterator[tuple[Inbox, int]]:
    read, write = os.pipe()
    inbox = Inbox(read)
    # The reader ends the process at the end of its file, so the file stays open: its other end is never closed here.
    inbox.start()
    yield inbox, write


class Scripted(Inbox):
    """An inbox that gives what a test says, one list a call."""

    def __init__(self, *answers: list[Frame]) -> None:
        self.answers = list(answers)
        self.waits: list[float] = []

    def take(self, wait_seconds: float) -> list[Frame]:
        self.waits.append(wait_seconds)
        return self.answers.pop(0)


class Clock:
    """A time that passes only when a test says so."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("mlxworker.inbox.time.monotonic", lambda: made.now)
    return made


@pytest.mark.usefixtures("clock")
def test_frames_that_follow_closely_are_gathered() -> None:
    one, two, three, late = ({"type": "ping", "n": n} for n in range(4))
    inbox = Scripted([two], [three], [], [late])
    got: list[Frame] = []
    inbox.gather([one], got.append)
    assert got == [one, two, three]
    assert inbox.answers == [[late]]
    assert max(inbox.waits) > 0


def test_what_handling_takes_is_not_waited_for_once_more(clock: Clock) -> None:
    one, two, late = ({"type": "ping", "n": n} for n in range(3))
    inbox = Scripted([two], [late])
    got: list[Frame] = []

    def slow(frame: Frame) -> None:
        got.append(frame)
        clock.now += 0.01

    inbox.gather([one], slow)
    assert got == [one, two]  # those that came meanwhile start together, and no later ones
    assert max(inbox.waits) <= 0


def test_gathering_ends_though_frames_keep_coming(pipe: tuple[Inbox, int]) -> None:
    inbox, write = pipe
    over = threading.Event()
    got: list[Frame] = []

    def send() -> None:
        n = 0
        while not over.is_set():
            os.write(write, frame(n))
            n += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        inbox.gather(inbox.take(60.0), got.append)
    finally:
        over.set()
        while sender.is_alive():  # it may be waiting for room in the pipe
            inbox.take(0.01)
    sender.join()
    assert got
    assert [f["n"] for f in got] == list(range(len(got)))
