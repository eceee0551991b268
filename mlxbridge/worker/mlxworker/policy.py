"""Decisions of the scheduler that need no model: who joins, where, and how much prompt is computed at once."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

# Prompts are computed together when none is more than this much longer than the shortest.
_SIMILAR_TOKENS = 64
_SIMILAR_FACTOR = 2
# From how many measurements the rate of prompts is taken.
_RATES = 5


class Pace:
    """How many prompt tokens one step computes.

    Nobody decodes: as many as are fastest. Somebody does: as many as fit the gap that a stream may see, by the rate
    that was measured lately. Such pieces are powers of two, so that few sizes come: a GPU may build a kernel for each
    new one, which takes longer than the piece. For the same reason the rate is a median: one that was built says
    nothing of the next.
    """

    def __init__(self, on_gpu: bool, fixed: int = 0, gap_seconds: float = 0.0) -> None:
        self._fixed = fixed
        self._whole = fixed or (2048 if on_gpu else 256)
        self._least, self._most = (64, 512) if on_gpu else (32, 128)
        self._gap = gap_seconds or (0.1 if on_gpu else 0.05)
        self._rates: deque[float] = deque(maxlen=_RATES)
        self.rate = 0.0  # prompt tokens a second, 0 until known

    def chunk(self, decoding: bool, prompts: int = 1) -> int:
        """Return how many tokens of each of some prompts the next step takes."""
        if not decoding:
            return self._whole
        if self._fixed:
            return self._fixed
        wanted = self._gap * self.rate if self.rate else self._most
        each = int(min(max(wanted, self._least), self._most)) // max(prompts, 1)
        return 1 << max(each.bit_length() - 1, 0)

    def learn(self, tokens: int, seconds: float) -> None:
        """Take a measurement in."""
        if tokens < 16 or seconds <= 0:
            return
        self._rates.append(tokens / seconds)
        self.rate = statistics.median(self._rates)


def group(lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[int]:
    """Return which of the waiting prompts are computed together: the first, and those about as long.

    All are padded to the longest of them; most_tokens bounds that product, but never keeps the first one out.
    """
    if not lengths or most_rows < 1:
        return []
    chosen, shortest, longest = [0], lengths[0], lengths[0]
    for i in range(1, len(lengths)):
        if len(chosen) >= most_rows:
            break
        low, high = min(shortest, lengths[i]), max(longest, lengths[i])
        if high > max(low * _SIMILAR_FACTOR, low + _SIMILAR_TOKENS) or high * (len(chosen) + 1) > most_tokens:
            continue
        chosen.append(i)
        shortest, longest = low, high
    return chosen


def padding(lengths: Sequence[int]) -> int:
    """Return how many tokens of padding rows of these lengths need in one batch."""
    return max(lengths) * len(lengths) - sum(lengths) if lengths else 0


def choose_lane(lanes: Sequence[Sequence[int]], length: int, most_padding: int) -> int:
    """Return the lane for a row: one where padding stays small, the fullest first; else where it grows least.

    Every lane in use reads all weights once a step, so a second one has to pay for that: most_padding is what it costs.
    """
    order = sorted(range(len(lanes)), key=lambda i: -len(lanes[i]))
    for i in order:
        if padding([*lanes[i], length]) <= most_padding:
            return i
    return min(order, key=lambda i: padding([*lanes[i], length]) - padding(lanes[i]))
