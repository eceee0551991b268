"""How fast a model computes here, as measured: the time of a step by rows, the rate of prompts by length."""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Any

# Where the curve is kept. Other numbers of rows and other lengths correct the points on both sides of them.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
# The share of a new measurement: the mean of what came first, then of about as many as its inverse.
_STEP_SHARE = 0.05
_PROMPT_SHARE = 0.2
# One measurement counts at most this many times what was expected: a machine that slept measures nonsense.
_MOST_SURPRISE = 4.0
# Fewer prompt tokens than this say more about the step around them.
_LEAST_TOKENS = 16


class Points:
    """A line through a few points that learns. Between two points it is straight."""

    def __init__(self, grid: tuple[int, ...], share: float) -> None:
        self._grid = frozenset(grid)
        self._share = share
        self._at: list[int] = []
        self._values: list[float] = []
        self._seen: list[int] = []  # measurements of a point

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self._at)

    def pairs(self, digits: int) -> list[list[float]]:
        """Return the points in order, their values rounded."""
        return [[at, round(value, digits)] for at, value in zip(self._at, self._values, strict=True)]

    def value(self, at: int) -> float | None:
        """Return the value at a point, between two points, or that of the nearest end; None without points."""
        if not self._at:
            return None
        i = bisect_left(self._at, at)
        if i == len(self._at):
            return self._values[-1]
        if i == 0 or self._at[i] == at:
            return self._values[i]
        return self._between(i, at)

    def seen(self, at: int) -> int:
        """Return how many measurements a point rests on."""
        i = bisect_left(self._at, at)
        return self._seen[i] if i < len(self._at) and self._at[i] == at else 0

    def put(self, at: int, value: float, seen: int) -> None:
        """Set a point that was measured with care, which counts as much as that many measurements."""
        i = bisect_left(self._at, at)
        if i < len(self._at) and self._at[i] == at:
            self._values[i], self._seen[i] = value, seen
        else:
            self._insert(i, at, value, seen)

    def learn(self, at: int, value: float) -> None:
        """Take one measurement in."""
        i = bisect_left(self._at, at)
        if i < len(self._at) and self._at[i] == at:
            self._correct(i, self._values[i], value, 1.0)
        elif 0 < i < len(self._at):
            expected = self._between(i, at)
            nearness = (at - self._at[i - 1]) / (self._at[i] - self._at[i - 1])
            self._correct(i - 1, expected, value, 1.0 - nearness)
            self._correct(i, expected, value, nearness)
        else:
            self._insert(i, at, value, 1)

    def _between(self, i: int, at: int) -> float:
        low, high = self._at[i - 1], self._at[i]
        return self._values[i - 1] + (self._values[i] - self._values[i - 1]) * (at - low) / (high - low)

    def _correct(self, i: int, expected: float, value: float, nearness: float) -> None:
        surprise = min(max(value / expected, 1 / _MOST_SURPRISE), _MOST_SURPRISE)
        share = max(1 / (self._seen[i] + 1), self._share)
        self._values[i] *= 1 + (surprise - 1) * share * nearness
        self._seen[i] += 1

    def _insert(self, i: int, at: int, value: float, seen: int) -> None:
        self._at.insert(i, at)
        self._values.insert(i, value)
        self._seen.insert(i, seen)
        # Off the grid only the two ends are kept, so there are never many points.
        for j in (i + 1, i - 1):
            if 0 < j < len(self._at) - 1 and self._at[j] not in self._grid:
                del self._at[j], self._values[j], self._seen[j]


class Curve:
    """Milliseconds of a step by the rows that decode in it, and prompt tokens a second by the length of a prompt.

    It learns from every step, which costs about a microsecond. A step's time is from the end of the one before to its
    own: what a reader sees between two tokens, whatever the hardware does in between.
    """

    def __init__(self) -> None:
        self.decode = Points(ROWS, _STEP_SHARE)
        self.prefill = Points(LENGTHS, _PROMPT_SHARE)
        self._rows = 0
        self._ended = 0.0

    @property
    def measured(self) -> bool:
        """Say whether both lines have a point."""
        return len(self.decode) > 0 and len(self.prefill) > 0

    def stepped(self, rows: int) -> None:
        """Take note of the end of a step in which so many rows decoded; 0 for one that did anything else as well.

        Only a step that follows one with as many rows counts: what a row costs that joins or leaves is not the step's.
        """
        now = time.perf_counter()
        if rows and rows == self._rows:
            self.decode.learn(rows, (now - self._ended) * 1000)
        self._rows, self._ended = rows, now

    def computed(self, known: int, tokens: int, seconds: float, prompts: int = 1) -> None:
        """Take note of tokens of some prompts that were computed with nothing beside them, after known ones of each.

        The time for a token grows with what is before it, in a straight line. So the middle of a piece tells the mean
        of a prompt of twice that length.
        """
        if tokens >= _LEAST_TOKENS and seconds > 0:
            self.prefill.learn(2 * known + tokens // prompts, tokens / seconds)

    def as_frame(self) -> dict[str, Any]:
        """Return it as it goes out."""
        return {"decode": self.decode.pairs(3), "prefill": self.prefill.pairs(1), "measured": self.measured}
