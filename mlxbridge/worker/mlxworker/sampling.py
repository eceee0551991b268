"""How the next token of every row is drawn, for all rows in one go.

A row draws its n-th token with one number that follows from its seed and n alone. So its answer does not depend on
who else is in the batch, and goes on the same after the row was moved, started again or continued elsewhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

_MASK = (1 << 64) - 1
# The largest number drawn stays far enough below 1 that rounding cannot reach the end of the distribution.
_MOST = 1 - 2**-22


@dataclass(frozen=True)
class Policy:
    """Checked sampling parameters of one row. Zero temperature takes the likeliest token, zero top_k is no limit."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(eq=False)
class Draw:
    """Where one row stands in its sequence of numbers."""

    policy: Policy
    seed: int
    count: int = 0

    def number(self) -> float:
        """Return the next number, above 0 and below 1."""
        bits = _mix((self.seed + (self.count + 1) * 0x9E3779B97F4A7C15) & _MASK) >> 41
        self.count += 1
        return min((bits + 0.5) / (1 << 23), _MOST)


def _mix(z: int) -> int:
    """Return splitmix64 of z."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class OrderError(Exception):
    """The batch generator asked for rows in another order than expected."""


class BatchSampler:
    """Draws for a whole batch at once. The rows of each call are announced beforehand."""

    def __init__(self) -> None:
        self._expected: deque[list[Draw]] = deque()
        self._last: list[Draw] = []
        self._columns = _Columns((), 0)

    def expect(self, calls: list[list[Draw]]) -> None:
        """Announce the next calls. What was announced before and has not come is forgotten."""
        self._expected = deque(calls)

    def done(self) -> bool:
        """Say whether all announced calls came."""
        return not self._expected

    def __call__(self, logprobs: Any) -> Any:
        """Return one token a row. Raises OrderError for rows that were not announced."""
        if not self._expected or len(self._expected[0]) != logprobs.shape[0]:
            raise OrderError(f"sampler called with {logprobs.shape[0]} rows that were not announced")
        draws = self._expected.popleft()
        if draws != self._last:
            self._last, self._columns = draws, _Columns(tuple(d.policy for d in draws), logprobs.shape[-1])
        return self._columns.sample(logprobs, draws)


def sample_ahead(draw: Draw, logprobs: Any) -> Any:
    """Return the next tokens of one row, one a line. That does not count as drawn: not all of them may be kept."""
    draws = [Draw(draw.policy, draw.seed, draw.count + i) for i in range(logprobs.shape[0])]
    return _Columns(tuple(d.policy for d in draws), logprobs.shape[-1]).sample(logprobs, draws)


def sample_alone(draw: Draw, logprobs: Any) -> Any:
    """Return the token of one row, the same as in a batch."""
    return _Columns((draw.policy,), logprobs.shape[-1]).sample(logprobs, [draw])


@dataclass
class _Columns:
    """The parameters of a batch as arrays, one line a row."""

    policies: tuple[Policy, ...]
    vocabulary: int
    greedy: bool = field(init=False)

    def __post_init__(self) -> None:
        policies = self.policies
        self.greedy = all(p.temperature == 0 for p in policies)
        if self.greedy:
            return
        self._is_greedy = (
            _column([p.temperature == 0 for p in policies]) if any(p.temperature == 0 for p in policies) else None
        )
        self._heat = _column([1.0 / p.temperature if p.temperature else 1.0 for p in policies])
        self._limits_p = any(p.top_p < 1 for p in policies)
        self._top_p = _column([max(p.top_p, 1e-9) for p in policies])
        ks = [p.top_k if 0 < p.top_k < self.vocabulary else self.vocabulary for p in policies]
        self._limits_k = any(k < self.vocabulary for k in ks)
        self._last_k = mx.array([[k - 1] for k in ks])
        self._limits_min = any(p.min_p > 0 for p in policies)
        self._min_p = _column([max(p.min_p, 1e-30) for p in policies])

    def sample(self, logprobs: Any, draws: list[Draw]) -> Any:
        """Return one token a row: the first whose share of the distribution reaches the row's number."""
        if self.greedy:
            for draw in draws:
                draw.count += 1
            return mx.argmax(logprobs, axis=-1)
        logprobs = logprobs.astype(mx.float32)
        kept = self._keep(logprobs)
        peak = mx.max(logprobs, axis=-1, keepdims=True)
        shares = mx.exp((kept - peak) * self._heat)
        reached = mx.cumsum(shares, axis=-1)
        target = _column([d.number() for d in draws]) * reached[:, -1:]
        drawn = mx.argmax(mx.logical_and(reached > target, shares > 0), axis=-1)
        if self._is_greedy is None:
            return drawn
        return mx.where(self._is_greedy[:, 0], mx.argmax(logprobs, axis=-1), drawn)

    def _keep(self, logprobs: Any) -> Any:
        """Return logprobs with -inf for what top_p, min_p and top_k exclude, each judged before temperature."""
        least = None
        if self._limits_p or self._limits_k:
            ordered = -mx.sort(-logprobs, axis=-1)
        if self._limits_p:
            shares = mx.exp(ordered - ordered[:, :1])
            reached = mx.cumsum(shares, axis=-1)
            # A token stays while what is likelier than it holds less than top_p.
            staying = mx.sum(reached - shares < self._top_p * reached[:, -1:], axis=-1, keepdims=True)
            staying = mx.where(self._top_p >= 1, self.vocabulary, mx.maximum(staying, 1))
            least = mx.take_along_axis(ordered, staying - 1, axis=-1)
        if self._limits_k:
            by_k = mx.take_along_axis(ordered, self._last_k, axis=-1)
            least = by_k if least is None else mx.maximum(least, by_k)
        if self._limits_min:
            by_min = mx.max(logprobs, axis=-1, keepdims=True) + mx.log(self._min_p)
            least = by_min if least is None else mx.maximum(least, by_min)
        return logprobs if least is None else mx.where(logprobs < least, -mx.inf, logprobs)


def _column(values: list[float] | list[bool]) -> Any:
    return mx.array([[v] for v in values])
