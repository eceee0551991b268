"""Drawing tokens: the right shares, the right limits, the same in any company."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest

from mlxworker.sampling import BatchSampler, Draw, OrderError, Policy, sample_alone

SHARES = [0.4, 0.25, 0.15, 0.1, 0.06, 0.04]


def line() -> mx.array:
    return mx.array([[math.log(p) for p in SHARES]])


def frequencies(policy: Policy, n: int = 6000) -> list[float]:
    """Return how often each token is drawn by n rows in one call."""
    sampler = BatchSampler()
    sampler.expect([[Draw(policy, seed) for seed in range(n)]])
    drawn = sampler(mx.broadcast_to(line(), (n, len(SHARES)))).tolist()
    return [drawn.count(t) / n for t in range(len(SHARES))]


def renormed(kept: list[float]) -> list[float]:
    return [p / sum(kept) for p in kept]


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Policy(temperature=1), SHARES),
        (Policy(temperature=2), renormed([math.sqrt(p) for p in SHARES])),
        (Policy(temperature=1, top_k=2), renormed([0.4, 0.25, 0, 0, 0, 0])),
        (Policy(temperature=1, top_p=0.5), renormed([0.4, 0.25, 0, 0, 0, 0])),
        (Policy(temperature=1, top_p=0.7), renormed([0.4, 0.25, 0.15, 0, 0, 0])),
        (Policy(temperature=1, min_p=0.3), renormed([0.4, 0.25, 0.15, 0, 0, 0])),
        (Policy(temperature=1, top_p=0.9, top_k=3, min_p=0.5), renormed([0.4, 0.25, 0, 0, 0, 0])),
        (Policy(), [1, 0, 0, 0, 0, 0]),
    ],
)
def test_tokens_come_as_often_as_they_should(policy: Policy, wanted: list[float]) -> None:
    got = frequencies(policy)

    for g, w in zip(got, wanted, strict=True):
        assert (g == 0) == (w == 0)
        assert abs(g - w) < 0.02


def test_one_row_draws_the_right_shares_over_time() -> None:
    draw = Draw(Policy(temperature=1), seed=5)

    drawn = [sample_alone(draw, line()).item() for _ in range(3000)]

    for token, share in enumerate(SHARES):
        assert abs(drawn.count(token) / 3000 - share) < 0.03


def test_rows_with_different_parameters_draw_in_a_batch_what_they_draw_alone() -> None:
    policies = [
        Policy(),
        Policy(temperature=0.7),
        Policy(temperature=3, top_k=4),
        Policy(temperature=3, top_p=0.8),
        Policy(temperature=2, min_p=0.1),
        Policy(temperature=9, top_k=10**9),
    ]
    mx.random.seed(1)
    table = mx.random.normal((len(policies), 500)) * 4
    table = table - mx.logsumexp(table, axis=-1, keepdims=True)
    sampler = BatchSampler()
    for count in range(20):
        sampler.expect([[Draw(p, seed=9, count=count) for p in policies]])
        together = sampler(table).tolist()
        alone = [sample_alone(Draw(p, 9, count), table[i : i + 1]).item() for i, p in enumerate(policies)]
        assert together == alone


def test_the_numbers_of_a_row_never_reach_the_ends() -> None:
    numbers = [Draw(Policy(), seed=s).number() for s in range(20_000)]

    assert 0 < min(numbers) < 0.001
    assert 0.999 < max(numbers) < 1


def test_rows_that_were_not_announced_are_refused() -> None:
    sampler = BatchSampler()
    sampler.expect([[Draw(Policy(), 1)]])

    with pytest.raises(OrderError):
        sampler(mx.zeros((2, 5)))
    assert not sampler.done()
