"""Errors that cross the frame border, with the codes that the other side knows."""

from __future__ import annotations

INVALID = "invalid_request"
CONTEXT = "context_exceeded"
UNSUPPORTED = "unsupported"
INTERNAL = "internal"
BUSY = "busy"
TOO_LARGE = "too_large"
TOO_BIG = "model_too_big"
BAD_MODEL = "model_invalid"

EXIT_LOAD_FAILED = 1
EXIT_INTERNAL = 70
EXIT_OUT_OF_MEMORY = 71


class RequestError(Exception):
    """One request is refused or has failed; the others go on."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = one_line(message)
        self.field = field


class LoadError(Exception):
    """The model cannot be served; the worker says why and exits."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = one_line(message)


class FatalError(Exception):
    """The worker cannot go on."""

    def __init__(self, message: str, exit_code: int = EXIT_INTERNAL) -> None:
        super().__init__(message)
        self.message = one_line(message)
        self.exit_code = exit_code


def one_line(text: object, most: int = 400) -> str:
    """Return text as one line of at most `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def describe(error: BaseException) -> str:
    """Return an exception as one line: its message, or its type where it has none."""
    return one_line(error) or type(error).__name__


def unforeseen(error: Exception, claim: str) -> RequestError:
    """Return what a request ends with where handling it raised something else than a RequestError."""
    if isinstance(error, RecursionError):
        return RequestError(INVALID, f"{claim}: something in it is nested too deeply")
    return RequestError(INTERNAL, f"{claim}: {describe(error)}")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception of MLX means that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(
        s in text for s in ("out of memory", "insufficient memory", "[malloc", "metal::malloc", "resource limit")
    )
