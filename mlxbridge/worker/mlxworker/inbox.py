"""Frames from the other side, parsed on their own thread and picked up between steps."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable

from mlxworker import frames
from mlxworker.errors import describe
from mlxworker.frames import Frame, FrameError

# A sender that is this far ahead of the steps has to wait.
_MOST_WAITING = 1024
# Frames less than this apart came together; no frame waits for others longer than the whole.
_SILENCE_SECONDS = 0.002
_GATHER_SECONDS = 0.008


class Inbox:
    """Reads frames from a descriptor. take() and gather() belong to the main thread."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "rb", buffering=1 << 16)
        self._frames: queue.Queue[Frame | FrameError] = queue.Queue(_MOST_WAITING)
        self._broken: FrameError | None = None
        self._thread = threading.Thread(target=self._read, name="frames", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def take(self, wait_seconds: float) -> list[Frame]:
        """Return all frames that came, after waiting for the first. Raises FrameError when the peer is broken."""
        out: list[Frame] = []
        if wait_seconds <= 0 and self._broken is None and self._frames.empty():
            return out  # what nearly every step finds, and cheaper than an exception
        with contextlib.suppress(queue.Empty):
            while self._broken is None and len(out) < _MOST_WAITING:
                item = self._frames.get(wait_seconds > 0 and not out, wait_seconds or None)
                if isinstance(item, FrameError):
                    self._broken = item
                else:
                    out.append(item)
        if self._broken is not None and not out:
            raise self._broken
        return out

    def put(self, frame: Frame) -> None:
        """Add a frame from within the worker, on any thread but the main one: it may have to wait for room."""
        self._frames.put(frame)

    def gather(self, frames: list[Frame], handle: Callable[[Frame], None]) -> None:
        """Hand on frames, and those that follow them closely.

        Requests that were sent together start together: one that starts alone has the others join in small pieces. What
        handling takes is not waited for once more.
        """
        until, over = time.monotonic() + _GATHER_SECONDS, False
        while frames:
            silence = min(time.monotonic() + _SILENCE_SECONDS, until)
            for frame in frames:
                handle(frame)
            now = time.monotonic()
            if over:
                return
            over = now >= until  # what came while others were handled is taken once more
            frames = self.take(silence - now)

    def _read(self) -> None:
        try:
            while (frame := frames.read(self._file.read)) is not None:
                self._frames.put(frame)
        except FrameError as e:
            self._frames.put(e)
            return
        except OSError:
            pass
        except Exception as e:  # without a reader the worker would be deaf, and look well
            self._frames.put(FrameError(f"frames cannot be read: {describe(e)}"))
            return
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
