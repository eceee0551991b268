"""Frames from the other side, parsed on their own thread and picked up between steps."""

from __future__ import annotations

import os
import threading
from collections import deque

from mlxworker import frames
from mlxworker.frames import Frame, FrameError


class Inbox:
    """Reads frames from a descriptor. take() belongs to the main thread, the rest to the reader."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "rb", buffering=1 << 16)
        self._frames: deque[Frame | FrameError] = deque()
        self._arrived = threading.Event()
        self._thread = threading.Thread(target=self._read, name="frames", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self, wait_seconds: float) -> list[Frame]:
        """Return all frames that came, after waiting for the first. Raises FrameError when the peer is broken."""
        if wait_seconds > 0:
            self._arrived.wait(wait_seconds)
        self._arrived.clear()
        out: list[Frame] = []
        while self._frames:
            item = self._frames.popleft()
            if isinstance(item, FrameError):
                if not out:
                    raise item
                self._frames.appendleft(item)
                self._arrived.set()
                break
            out.append(item)
        return out

    def _read(self) -> None:
        try:
            while (frame := frames.read(self._file.read)) is not None:
                self._frames.append(frame)
                self._arrived.set()
        except FrameError as e:
            self._frames.append(e)
            self._arrived.set()
            return
        except OSError:
            pass
        # The other side is gone: nobody is left to answer to.
        os._exit(0)


def watch_lifeline(fd: int) -> None:
    """End the process as soon as a descriptor is at its end."""

    def watch() -> None:
        try:
            while os.read(fd, 4096):
                pass
        except OSError:
            pass
        os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
