"""Calibration on a clock that real steps move by what they are said to take, so that every value is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from conftest import TINY
from harness import Driver, Process, ask, ask_frame

from mlxworker import warmup
from mlxworker.calibration import QUIET_SECONDS, Calibration
from mlxworker.engine import Engine, Options
from mlxworker.lane import Lane, Token
from mlxworker.model import Model
from mlxworker.report import Counters

COUNTED = ", ".join(str(n) for n in range(1, 21))


class Machine:
    """Takes decode(rows) seconds for a step, and prefill(tokens) for tokens of prompts."""

    def __init__(self, decode: Callable[[int], float], prefill: Callable[[int], float]) -> None:
        self.now = 1000.0
        self.decode, self.prefill = decode, prefill
        self.steps: list[int] = []
        self.longest = 0.0
        self.padded = 0.0  # seconds for a token that a row has before it, or its padding
        self.closed = 0  # lanes

    def close(self, real: Callable[[Lane], None], lane: Lane) -> None:
        self.closed += 1
        real(lane)

    def next(self, real: Callable[[Lane, int], list[Token]], lane: Lane, chunk: int) -> list[Token]:
        rows = len(lane.decoding) + sum(r.remaining == 1 for r in lane.prefilling)
        tokens = sum(min(chunk, r.remaining - 1) for r in lane.prefilling)
        took = (self.decode(rows) if rows else 0.0) + self.prefill(tokens)
        took += self.padded * rows * max(lane.lengths(), default=0)
        self.now += took
        self.longest = max(self.longest, took)
        self.steps.append(rows)
        return real(lane, chunk)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(lambda rows: 0.010 + 0.001 * rows, lambda tokens: tokens / 8000)
    real, close = Lane.next, Lane.close
    monkeypatch.setattr(Lane, "next", lambda lane, chunk: made.next(real, lane, chunk))
    monkeypatch.setattr(Lane, "close", lambda lane: made.close(close, lane))
    monkeypatch.setattr("time.perf_counter", lambda: made.now)
    monkeypatch.setattr("time.monotonic", lambda: made.now)
    return made


def until_done(machine: Machine, work: Calibration, most: int = 2000) -> int:
    """Turn until nothing is left; return how many turns that took."""
    machine.now += QUIET_SECONDS
    for n in range(most):
        if work.wait_seconds() > QUIET_SECONDS:
            return n
        work.turn(occupied=False)
    raise AssertionError("it goes on and on")


def test_a_step_and_a_prompt_are_measured_as_they_are(tiny: Model, machine: Machine) -> None:
    engine = Engine(tiny, Options())
    until_done(machine, Calibration(engine))

    assert engine.curve.as_frame() == {
        "decode": [[1, 11.0], [2, 12.0], [4, 14.0], [8, 18.0], [16, 26.0], [32, 42.0]],
        "prefill": [[64, 8000.0], [256, 8000.0], [1024, 8000.0], [2048, 8000.0]],
        "measured": True,
    }
    assert engine.pace.rate == pytest.approx(8000)


def test_on_a_gpu_lanes_are_planned_with_what_padding_costs(tiny: Model, machine: Machine) -> None:
    engine = Engine(dataclasses.replace(tiny, device="gpu"), Options())
    heuristic = engine._admission.most_padding
    machine.padded = 0.000_001
    until_done(machine, Calibration(engine))

    # A lane costs the 11 ms of a step of one row, and a token a microsecond.
    assert heuristic < 5000
    assert engine._admission.most_padding == pytest.approx(11_000, rel=0.2)


def test_nothing_of_it_is_seen_in_the_engine(tiny: Model, machine: Machine) -> None:
    engine = Engine(tiny, Options(prefix_bytes=1 << 20))
    work = Calibration(engine)
    machine.now += QUIET_SECONDS
    while work.wait_seconds() <= 0:
        work.turn(occupied=False)
        assert not engine.busy
        assert engine.running == len(engine.waiting) == len(engine.prefix) == 0

    assert engine.counters == Counters()


def test_no_turn_takes_more_than_one_step(tiny: Model, machine: Machine) -> None:
    work = Calibration(Engine(tiny, Options()))
    machine.now += QUIET_SECONDS
    while work.wait_seconds() <= 0:
        before = len(machine.steps)
        work.turn(occupied=False)
        assert len(machine.steps) - before <= 1

    assert machine.longest <= 0.25


def test_it_gives_way_at_once_and_goes_on_later(tiny: Model, machine: Machine) -> None:
    driver = Driver(tiny)
    work = Calibration(driver.engine)
    machine.now += QUIET_SECONDS
    while machine.steps.count(8) < 4:
        work.turn(occupied=False)
    driver.add(ask("a", "Count from 1 to 20."))
    before = machine.closed
    work.turn(occupied=driver.engine.busy)
    assert machine.closed == before + 1
    machine.steps.clear()
    while driver.engine.busy:
        work.turn(occupied=driver.engine.busy)
        driver.step()

    assert driver.answers["a"].text == COUNTED
    assert set(machine.steps) == {0, 1}
    assert QUIET_SECONDS - 0.02 < work.wait_seconds() <= QUIET_SECONDS
    work.turn(occupied=False)
    assert set(machine.steps) == {0, 1}, "it was not quiet for long enough"
    assert 8 not in [at for at, _ in driver.engine.curve.as_frame()["decode"]]

    until_done(machine, work)
    assert [at for at, _ in driver.engine.curve.as_frame()["decode"]] == [1, 2, 4, 8, 16, 32]


def test_a_slow_machine_measures_less_and_stays_within_its_time(tiny: Model, machine: Machine) -> None:
    machine.decode, machine.prefill = lambda rows: 0.1 * rows, lambda tokens: tokens / 100
    engine = Engine(tiny, Options())
    began = machine.now
    until_done(machine, Calibration(engine))

    assert engine.curve.as_frame()["decode"] == [[1, 100.0], [2, 200.0]]
    assert [rate for _, rate in engine.curve.as_frame()["prefill"]] == [100.0]
    assert machine.now - began <= QUIET_SECONDS + 3.5
    assert machine.longest <= 0.25


def test_it_takes_no_memory_from_anybody(tiny: Model, machine: Machine) -> None:
    room_for_four = tiny.budget(0).peak([[64] * 4], 0, 16, 4)
    driver = Driver(tiny, memory_bytes=room_for_four, prefix_bytes=1 << 20)
    driver.run(ask("a", "Count from 1 to 20."))
    stored = len(driver.engine.prefix)
    until_done(machine, Calibration(driver.engine))

    rows = [at for at, _ in driver.engine.curve.as_frame()["decode"]]
    assert rows[0] == 1
    assert max(rows) < 8
    assert len(driver.engine.prefix) == stored == 1


def test_rows_are_bounded_by_what_the_worker_runs(tiny: Model, machine: Machine) -> None:
    engine = Engine(tiny, Options(max_rows=4))
    until_done(machine, Calibration(engine))

    assert [at for at, _ in engine.curve.as_frame()["decode"]] == [1, 2, 4]


def test_a_step_that_fails_ends_it_and_nothing_else(
    tiny: Model, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(tiny)
    work = Calibration(driver.engine)
    with monkeypatch.context() as broken:
        broken.setattr(Lane, "next", lambda *_: (_ for _ in ()).throw(MemoryError("no memory")))
        until_done(machine, work)

    assert driver.engine.curve.as_frame() == {"decode": [], "prefill": [], "measured": False}
    assert driver.run(ask("a", "Count from 1 to 20."))[0].text == COUNTED


def test_answers_correct_the_curve(tiny: Model, machine: Machine) -> None:
    driver = Driver(tiny)
    until_done(machine, Calibration(driver.engine))
    machine.decode = lambda rows: 0.030
    driver.run(*[ask(f"r{i}", "Count from 1 to 60.") for i in range(4)])

    got = dict(driver.engine.curve.as_frame()["decode"])
    assert got[4] == pytest.approx(30, rel=0.05)
    assert (got[1], got[32]) == (11.0, 42.0)


@pytest.mark.parametrize("lanes", [1, 2])
def test_steps_that_do_two_things_at_once_tell_nothing(tiny: Model, machine: Machine, lanes: int) -> None:
    driver = Driver(tiny, lanes=lanes)
    driver.add(ask("a", "Count from 1 to 300."))
    driver.until(lambda: len(driver.answers["a"].tokens) > 20)
    known = driver.engine.curve.as_frame()
    machine.prefill = lambda tokens: tokens / 100
    driver.add(ask_frame(id="long", tokens=[30 + i % 900 for i in range(3000)], max_tokens=1))
    driver.until(lambda: driver.answers["long"].reason != "")

    assert driver.engine.curve.as_frame() == known
    assert known["decode"] == [[1, 11.0]]


def test_what_answers_have_told_is_not_measured_again(tiny: Model, machine: Machine) -> None:
    driver = Driver(tiny)
    machine.decode = lambda rows: 0.030
    driver.run(*[ask(f"r{i}", "Count from 1 to 60.") for i in range(4)])
    machine.decode = lambda rows: 0.010 + 0.001 * rows
    until_done(machine, Calibration(driver.engine))

    got = dict(driver.engine.curve.as_frame()["decode"])
    assert (got[2], got[4], got[8]) == (12.0, 30.0, 18.0)


def test_an_answer_is_a_measurement_before_there_was_any(tiny: Model, machine: Machine) -> None:
    driver = Driver(tiny)
    prompt = driver.run(ask("a", "Count from 1 to 20. " * 8))[0].usage["prompt_tokens"]
    got = driver.engine.curve.as_frame()

    assert got["decode"] == [[1, 11.0]]
    assert got["prefill"] == [[prompt - 1, 8000.0]]
    assert got["measured"]


def test_a_gpu_meets_its_sizes_before_the_first_request(
    tiny: Model, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny, Options(max_rows=4))
    warmup.compile_kernels(engine)
    assert machine.steps == [], "without a GPU there is nothing to do"

    monkeypatch.setattr(tiny, "device", "gpu")
    warmup.compile_kernels(engine)

    assert {1, 2, 4} <= set(machine.steps)
    assert 8 not in machine.steps
    assert engine.counters == Counters()
    assert not engine.busy


def test_an_idle_worker_sends_its_curve_and_looks_idle() -> None:
    worker = Process()
    worker.load(TINY)
    stats = worker.wait("stats")
    while not stats["curve"]["measured"]:
        assert not any(stats["counters"].values())
        assert stats["running"] == stats["waiting"] == stats["prefix_entries"] == 0
        stats = worker.wait("stats")
    assert all(ms > 0 for _, ms in stats["curve"]["decode"])
    kinds = {f["type"] for f in worker.seen}
    assert kinds == {"ready", "loaded", "stats"}

    worker.send({"type": "gen", "id": "a", "messages": [{"role": "user", "content": "Count from 1 to 20."}]})
    assert worker.collect(["a"])["a"].text == COUNTED
    worker.close()
