"""Decisions of the scheduler that need no model: who joins, where, and how much prompt is computed at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

# Prompts are computed together when none is more than this much longer than the shortest.
_SIMILAR_TOKENS = 64
_SIMILAR_FACTOR = 2
# The last so many measurements say the rate of prompts, and what a step with a piece of one takes.
_RATES, _TIMES = 8, 3
# A piece of half the size should take less than this share, else its tokens are not what takes the time.
_NO_GAIN = 0.8
# For so many pieces a size that took too long is not tried again.
_REMEMBERED = 64
# Fewer tokens than this say more about the step around them.
_LEAST_TOKENS = 16


class Pace:
    """How many prompt tokens one step computes.

    Nobody decodes: as many as are fastest. Somebody does: as many as fit the gap that a stream may see. The first
    piece goes by the rate of prompts; then it is halved when steps take longer than the gap, and doubled when they do
    not, unless that was too long of late. Pieces are powers of two, so that few sizes come: a GPU may build a kernel
    for each new one, which takes longer than the piece. One such step changes nothing.
    """

    def __init__(self, on_gpu: bool, fixed: int = 0, gap_seconds: float = 0.0) -> None:
        self._fixed = fixed
        self._whole = fixed or (2048 if on_gpu else 256)
        self._least, self._most = (64, 512) if on_gpu else (32, 128)
        self._gap = gap_seconds or (0.1 if on_gpu else 0.05)
        self._rates: deque[float] = deque(maxlen=_RATES)
        self._size = 0  # of a piece while somebody decodes; 0 before there was one
        self._times: deque[float] = deque(maxlen=_TIMES)  # of steps with such a piece
        self._pieces = 0  # of such steps
        self._slow: dict[int, int] = {}  # sizes that took too long, and at which piece that was
        self._halved = (0, 0.0)  # the size before it was halved, and what steps took
        self._patient_until = 0  # the piece up to which nothing is halved
        self._told = False  # a rate was measured where nobody decoded
        self.rate = 0.0  # prompt tokens a second, the best of late; 0 until known

    def chunk(self, decoding: bool, prompts: int = 1) -> int:
        """Return how many tokens of each of some prompts the next step takes."""
        if not decoding:
            return self._whole
        return self._fixed or _power_of_two((self._size or self._first()) // max(prompts, 1))

    def learn(self, tokens: int, seconds: float, decoding: bool = False) -> None:
        """Take in how long a step took with so many tokens of prompts, and whether somebody decoded in it."""
        if tokens < _LEAST_TOKENS or seconds <= 0:
            return
        if decoding and not self._fixed:
            self._size = self._size or self._first()
            if 2 * tokens >= self._size:
                self._adapt(seconds)
        if not decoding and not self._told:
            self._told = True
            self._rates.clear()
        if not (decoding and self._told):
            self._rates.append(tokens / seconds)
        self.rate = max(self._rates)

    def _first(self) -> int:
        wanted = self._gap * self.rate if self.rate else self._most // 2
        return _power_of_two(int(min(max(wanted, self._least), self._most)))

    def _adapt(self, seconds: float) -> None:
        self._pieces += 1
        self._times.append(seconds)
        if len(self._times) < 2:
            return
        typical = sorted(self._times)[(len(self._times) - 1) // 2]
        size, (larger, before) = self._size, self._halved
        self._halved = (0, 0.0)
        if larger and typical > _NO_GAIN * before:
            # It was not the tokens that took so long.
            size, self._patient_until = larger, self._pieces + _REMEMBERED
        elif typical > self._gap and self._pieces >= self._patient_until:
            self._slow[size] = self._pieces
            self._halved = (size, typical)
            size //= 2
        elif typical <= self._gap and len(self._times) == _TIMES and self._may_double(size):
            size *= 2
        size = min(max(size, self._least), self._most)
        if size != self._size:
            self._size = size
            self._times.clear()

    def _may_double(self, size: int) -> bool:
        """Say whether a piece of twice that size was not too long of late."""
        at = self._slow.get(2 * size)
        return at is None or self._pieces - at >= _REMEMBERED


def _power_of_two(n: int) -> int:
    """Return the largest power of two that is not above n, at least 1."""
    return 1 << max(n.bit_length() - 1, 0)


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
