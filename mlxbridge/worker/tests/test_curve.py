"""What the curve makes of measurements, against values worked out by hand."""

from __future__ import annotations

import pytest

from mlxworker import curve
from mlxworker.curve import Curve, Points


class Clock:
    """A time that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("mlxworker.curve.time.perf_counter", made)
    return made


def points(*known: tuple[int, float]) -> Points:
    made = Points((1, 2, 4, 8, 16), 0.05)
    for at, value in known:
        made.put(at, value, 9)
    return made


def test_between_two_points_the_line_is_straight_and_beyond_them_it_is_level() -> None:
    line = points((2, 10.0), (4, 20.0))

    assert [line.value(n) for n in (1, 2, 3, 4, 9)] == [10, 10, 15, 20, 20]
    assert points().value(1) is None


def test_a_measurement_moves_its_point_by_its_share() -> None:
    line = points((2, 10.0), (4, 20.0))

    line.learn(4, 30.0)  # one beside nine others: a tenth of the way

    assert line.pairs(6) == [[2, 10.0], [4, 21.0]]


def test_a_measurement_between_points_moves_both_by_their_nearness() -> None:
    line = points((4, 10.0), (8, 20.0))

    line.learn(5, 25.0)  # 12.5 was expected, so everything takes twice as long; a tenth of that, three to one

    assert line.pairs(6) == [[4, 10.75], [8, 20.5]]


def test_one_absurd_measurement_is_not_believed() -> None:
    line = points((1, 10.0))

    line.learn(1, 1e9)

    assert line.pairs(6) == [[1, 13.0]]  # as four times what was expected


def test_many_measurements_outweigh_what_was_first() -> None:
    line = points((1, 10.0))
    for _ in range(200):
        line.learn(1, 20.0)

    assert line.value(1) == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize("order", [range(1, 200), range(199, 0, -1), [1 + 37 * i % 199 for i in range(199)]])
def test_there_are_never_many_points(order: list[int]) -> None:
    line = points()
    for n in order:
        line.learn(n, float(n))
        assert len(line) <= 7  # five of the grid and two ends

    at = [int(a) for a, _ in line.pairs(1)]
    assert at == sorted(set(at))
    assert {at[0], at[-1]} == {1, 199}


def test_a_step_counts_from_the_end_of_one_with_as_many_rows(clock: Clock) -> None:
    got = Curve()
    for rows, seconds in ((2, 9.0), (2, 0.004), (3, 7.0), (0, 5.0), (3, 6.0), (3, 0.009)):
        clock.now += seconds
        got.stepped(rows)

    assert got.as_frame()["decode"] == [[2, 4.0], [3, 9.0]]
    assert not got.measured


def test_a_piece_of_a_prompt_tells_the_mean_of_one_that_it_is_the_middle_of() -> None:
    got = Curve()
    got.computed(256, 256, 0.5)
    got.computed(0, 8, 0.001)  # too short to say anything

    assert got.as_frame()["prefill"] == [[768, 512.0]]


def test_prompts_that_are_computed_together_share_the_time() -> None:
    got = Curve()
    got.computed(0, 4 * 64, 0.5, prompts=4)

    assert got.as_frame()["prefill"] == [[64, 512.0]]


def test_the_grids_start_where_requests_are() -> None:
    assert curve.ROWS[:4] == (1, 2, 4, 8)
    assert curve.LENGTHS[:4] == (64, 256, 1024, 2048)
