"""What the worker says of requests and of its own end, as frames."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from mlxworker.errors import EXIT_INTERNAL, EXIT_LOAD_FAILED, INTERNAL, FatalError, LoadError, RequestError, describe
from mlxworker.frames import FrameError, Writer
from mlxworker.report import Output


class Telling:
    """Writes frames for a step and for errors."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def step(self, out: Output, fail: Callable[[str, RequestError], RequestError]) -> None:
        """Say what came of a step. fail ends a request whose part of it cannot be written, and returns why."""
        put = self._writer.put
        for row in out.accepted:
            put(
                {
                    "type": "accepted",
                    "id": row.id,
                    "prompt_tokens": len(row.prompt),
                    "cached_tokens": row.usage()["cached_tokens"],
                }
            )
        for row, done, total in out.progress:
            put({"type": "progress", "id": row.id, "done": done, "total": total})
        broken = self._put_texts(out.texts)
        now = time.perf_counter()
        for row, reason in out.ended:
            if row.id in broken:
                self.error(row.id, broken.pop(row.id))
                continue
            put(
                {
                    "type": "done",
                    "id": row.id,
                    "reason": reason,
                    "stop": row.stop,
                    "usage": row.usage(),
                    "timing": row.timing(now),
                }
            )
        for row, error in out.failed:
            broken.pop(row.id, None)
            self.error(row.id, error)
        for request, error in broken.items():
            self.error(request, fail(request, error))

    def _put_texts(self, texts: list[list[Any]]) -> dict[str, RequestError]:
        """Send what a step gave its rows; return the rows for which that is not possible, with why."""
        if not texts:
            return {}
        with contextlib.suppress(FrameError, ValueError, TypeError):
            self._writer.put({"type": "step", "rows": texts})
            return {}
        broken: dict[str, RequestError] = {}
        for entry in texts:
            if entry[0] in broken:
                continue
            try:
                self._writer.put({"type": "step", "rows": [entry]})
            except (FrameError, ValueError, TypeError) as e:
                broken[entry[0]] = RequestError(INTERNAL, f"row failed: its step cannot be written: {describe(e)}")
        return broken

    def error(self, request: str | None, error: RequestError) -> None:
        """Say that a request failed, or that something did which is no request's."""
        frame: dict[str, Any] = {"type": "error", "id": request, "code": error.code, "message": error.message}
        if error.field is not None:
            frame["field"] = error.field
        self._writer.put(frame)


def load_failed(writer: Writer, error: LoadError) -> int:
    """Say why a model cannot be served; return the exit code."""
    writer.put({"type": "load_error", "code": error.code, "message": error.message})
    writer.flush()
    return EXIT_LOAD_FAILED


def fatal(writer: Writer, error: BaseException, trace: str) -> int:
    """Say why the worker ends; return the exit code."""
    known = error if isinstance(error, FatalError) else FatalError(describe(error), EXIT_INTERNAL)
    writer.put({"type": "fatal", "message": known.message, "trace": trace})
    writer.flush()
    return known.exit_code
