"""Frames: a little-endian length of four bytes, then that many bytes of a JSON object with a "type"."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME_BYTES = 64 << 20

Frame = dict[str, Any]

# The type of the frame that stands for one whose content cannot be read. No peer sends it.
UNREADABLE = "unreadable\0"

_ID = re.compile(rb'"id":\s*"([^"\\]{1,128})"')
_LENGTH = struct.Struct("<I")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class FrameError(Exception):
    """What came is not a frame: the peer is broken."""


def encode(frame: Frame) -> bytes:
    """Return a frame as bytes. Raises FrameError when it is too long."""
    body = _ENCODER.encode(frame).encode("utf-8", "replace")
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(body)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def read(read_bytes: Callable[[int], bytes]) -> Frame | None:
    """Return the next frame, or None at the end of the stream.

    read_bytes(n) returns n bytes, fewer only at the end of the stream. Raises FrameError for anything that is not a
    whole frame.
    """
    head = read_bytes(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise FrameError("stream ended inside a frame's length")
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {size} bytes is longer than {MAX_FRAME_BYTES}")
    body = read_bytes(size)
    if len(body) < size:
        raise FrameError("stream ended inside a frame")
    try:
        frame = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise FrameError(f"frame is not JSON: {e}") from e
    except (ValueError, RecursionError) as e:
        # Too deep or a number too long: what a client sent, handed through. The stream itself is in order.
        return {"type": UNREADABLE, "id": _id_in(body), "why": str(e)}
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise FrameError('frame is not an object with a "type"')
    return frame


def _id_in(body: bytes) -> str | None:
    """Return the first id in a body: the peer writes its own before what it hands through."""
    found = _ID.search(body, 0, 1024)
    return found[1].decode("utf-8", "replace") if found else None


class Writer:
    """Collects frames and writes them to a descriptor in one go. Not safe for concurrent use."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: list[bytes] = []

    def put(self, frame: Frame) -> None:
        """Keep a frame for the next flush."""
        self._pending.append(encode(frame))

    def flush(self) -> None:
        """Write what was put. Raises OSError when nobody reads."""
        if not self._pending:
            return
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        while data:
            data = data[os.write(self._fd, data) :]
