"""What is asked in a measurement and what came back, whoever answered: times are those of the client's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.figure import BenchError

Message = dict[str, Any]

# Longer than any answer of a sound run; after that something hangs.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Ask:
    """A chat request at temperature 0."""

    id: str
    messages: list[Message]
    max_tokens: int
    session: str = ""


@dataclass
class Answer:
    """One request's answer so far. Counts of tokens are known at its end."""

    sent: float
    times: list[float] = field(default_factory=list)  # of each piece that brought something
    text: str = ""
    ended: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def first_seconds(self) -> float:
        """Return the time to the first token."""
        if not self.times:
            raise BenchError("an answer brought no token")
        return self.times[0] - self.sent


class Endpoint(Protocol):
    """Something that answers: the worker, or mlx-lm's server. Used by one thread."""

    answers: dict[str, Answer]

    def send(self, asks: list[Ask]) -> None:
        """Send requests, all at once."""

    def poll(self, seconds: float) -> None:
        """Take in what came, after waiting for it at most so long."""

    def cancel(self, request: str) -> None:
        """Give a request up."""

    def close(self) -> None:
        """End what answers."""

    def said(self) -> str:
        """Return the end of what it wrote to its log."""


def wait(endpoint: Endpoint, until: Callable[[], bool], what: str) -> None:
    """Take in what comes until something is so. Raises BenchError when it does not come to that."""
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while not until():
        if time.perf_counter() > deadline:
            raise BenchError(f"not within {PATIENCE_SECONDS:g} s: {what}; its log: {endpoint.said()}")
        endpoint.poll(0.5)


def answer(endpoint: Endpoint, asks: list[Ask]) -> list[Answer]:
    """Send requests and wait for all of their ends."""
    endpoint.send(asks)
    found = [endpoint.answers[a.id] for a in asks]
    wait(endpoint, lambda: all(a.ended for a in found), f"the end of {len(asks)} answers")
    return found


def rate(answers: Iterable[Answer]) -> float:
    """Return tokens a second of all answers together, from the first request to the last token."""
    found = list(answers)
    tokens = sum(a.completion_tokens for a in found)
    return tokens / (max(a.times[-1] for a in found) - min(a.sent for a in found))


def longest_gap(streams: Iterable[Answer], begin: float, end: float) -> float:
    """Return the longest time between two neighbouring pieces of any stream that overlaps the given span."""
    gaps = [
        later - sooner
        for stream in streams
        for sooner, later in zip(stream.times, stream.times[1:], strict=False)
        if later > begin and sooner < end
    ]
    if not gaps:
        raise BenchError("no stream was under way")
    return max(gaps)
