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

    def take(self, wait_seconds: float) -> list[Frame]:
        assert wait_seconds > 0, "who does not wait gathers nothing"
        return self.answers.pop(0)


def test_frames_that_follow_closely_are_gathered() -> None:
    one, two, three, late = ({"type": "ping", "n": n} for n in range(4))
    inbox = Scripted([two], [three], [], [late])
    assert inbox.gather([one]) == [one, two, three]
    assert inbox.answers == [[late]]


def test_gathering_ends_though_frames_keep_coming(pipe: tuple[Inbox, int]) -> None:
    inbox, write = pipe
    over = threading.Event()

    def send() -> None:
        n = 0
        while not over.is_set():
            os.write(write, frame(n))
            n += 1

    sender = threading.Thread(target=send)
    sender.start()
    try:
        got = inbox.gather(inbox.take(5.0))
    finally:
        over.set()
        while sender.is_alive():  # it may be waiting for room in the pipe
            inbox.take(0.01)
    sender.join()
    assert got
    assert [f["n"] for f in got] == list(range(len(got)))
