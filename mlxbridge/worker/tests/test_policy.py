"""Decisions of the scheduler, and what they come to in an engine."""

from __future__ import annotations

import pytest
from harness import Driver, ask, ask_frame

from mlxworker import policy
from mlxworker.model import Model
from mlxworker.policy import Pace


@pytest.mark.parametrize(("on_gpu", "whole"), [(True, 2048), (False, 256)])
def test_nobody_waits_so_prompts_go_in_the_largest_pieces(on_gpu: bool, whole: int) -> None:
    assert Pace(on_gpu).chunk(decoding=False) == whole
    assert Pace(on_gpu).chunk(decoding=False, prompts=8) == whole


def test_somebody_waits_so_pieces_fit_the_gap_by_the_measured_rate() -> None:
    pace = Pace(on_gpu=True, gap_seconds=0.1)
    for _ in range(30):
        pace.learn(2000, 1.0)

    assert pace.chunk(decoding=True) == 128  # of 200 that fit, a power of two
    assert pace.chunk(decoding=True, prompts=4) == 32

    for _ in range(30):
        pace.learn(100_000, 1.0)
    assert pace.chunk(decoding=True) == 512
    for _ in range(60):
        pace.learn(16, 10.0)
    assert pace.chunk(decoding=True) == 64
    assert pace.chunk(decoding=True, prompts=10_000) == 1


def test_one_slow_piece_changes_nothing() -> None:
    pace = Pace(on_gpu=True)
    pace.learn(2048, 0.08)
    for seconds in (0.9, 0.03, 0.03, 0.7, 0.03):
        assert pace.chunk(decoding=True) == 512
        pace.learn(512, seconds, decoding=True)


def test_pieces_follow_what_steps_take() -> None:
    pace = Pace(on_gpu=True, gap_seconds=0.1)
    pace.learn(512, 0.1)

    def serve(step: float, rate: float, pieces: int) -> int:
        for _ in range(pieces):
            size = pace.chunk(decoding=True)
            pace.learn(size, step + size / rate, decoding=True)
        return pace.chunk(decoding=True)

    assert pace.chunk(decoding=True) == 512
    assert serve(step=0.02, rate=1000, pieces=10) == 64  # 84 ms; 128 takes 148
    assert serve(step=0.02, rate=4000, pieces=20) == 64
    assert serve(step=0.02, rate=4000, pieces=80) == 256
    pace.learn(2048, 0.07)
    # What each new size costs beside its tokens makes them no smaller, as long as the gap is kept.
    assert serve(step=0.07, rate=30_000, pieces=80) == 512


def test_pieces_stay_large_where_smaller_ones_take_as_long() -> None:
    pace = Pace(on_gpu=True, gap_seconds=0.1)
    pace.learn(2048, 0.07)
    sizes = []
    for _ in range(60):
        sizes.append(pace.chunk(decoding=True))
        pace.learn(sizes[-1], 0.12 + sizes[-1] / 100_000, decoding=True)

    assert sizes.count(512) > 50
    assert set(sizes) == {512, 256}


def test_a_few_tokens_say_nothing_about_the_rate() -> None:
    pace = Pace(on_gpu=True)
    pace.learn(15, 100.0)
    pace.learn(500, 0.0)

    assert pace.rate == 0


def test_a_fixed_piece_is_kept_to() -> None:
    assert Pace(True, fixed=100).chunk(decoding=False) == 100
    assert Pace(True, fixed=100).chunk(decoding=True) == 100


@pytest.mark.parametrize(
    ("lengths", "most_rows", "most_tokens", "chosen"),
    [
        ([], 4, 1000, []),
        ([50], 0, 1000, []),
        ([5000], 4, 100, [0]),
        ([20, 3000, 30, 25], 4, 1000, [0, 2, 3]),
        ([3000, 20, 2900, 2000], 4, 9000, [0, 2, 3]),
        ([3000, 20, 2900, 2000], 4, 6000, [0, 2]),
        ([20, 21, 22, 23], 2, 1000, [0, 1]),
        ([100, 200, 300], 4, 1000, [0, 1]),
    ],
)
def test_prompts_of_about_one_length_start_together(
    lengths: list[int], most_rows: int, most_tokens: int, chosen: list[int]
) -> None:
    assert policy.group(lengths, most_rows, most_tokens) == chosen


def test_a_row_goes_where_it_pads_least_unless_padding_is_cheap() -> None:
    assert policy.choose_lane([[100, 120], []], 110, most_padding=50) == 0
    assert policy.choose_lane([[], [100, 120]], 110, most_padding=50) == 1
    assert policy.choose_lane([[100] * 7, []], 3000, most_padding=2048) == 1
    assert policy.choose_lane([[100, 100], []], 1000, most_padding=2048) == 0
    assert policy.choose_lane([[100] * 7, [3000]], 2500, most_padding=2048) == 1
    assert policy.choose_lane([[100] * 7, [3000]], 20_000, most_padding=2048) == 1


def test_a_long_prompt_that_arrives_does_not_stop_who_is_answered(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.add(*[ask(f"r{i}", f"Count from 1 to {60 + i}.") for i in range(4)])
    driver.until(lambda: all(driver.answers[f"r{i}"].tokens for i in range(4)))
    driver.add(ask_frame(id="long", tokens=[30 + i % 900 for i in range(3000)], max_tokens=2))
    steps = 0
    while driver.engine.running == 5 or driver.engine.waiting:
        before = driver.engine.counters.prompt_tokens
        out = driver.step()
        steps += 1
        assert driver.engine.counters.prompt_tokens - before <= 128
        streams = {id_ for id_, *_ in out.texts} | {row.id for row, _ in out.ended}
        assert streams >= {a for a in driver.answers if a != "long" and not driver.answers[a].reason}

    assert steps >= 3000 / 128
    driver.run()
    assert driver.answers["long"].usage["completion_tokens"] == 2


def test_a_long_prompt_alone_goes_in_the_largest_pieces(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.run(ask_frame(id="long", tokens=[30 + i % 900 for i in range(1025)], max_tokens=1))

    assert driver.engine.counters.steps == 4 + 2  # four pieces, the last token, the answer
