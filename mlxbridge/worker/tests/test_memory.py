"""Memory: what is let in, what has to wait, what goes when rows outgrow it."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import pytest
from harness import Driver, answer, ask, ask_frame

from mlxworker import memory, warmup
from mlxworker.engine import Engine, Options
from mlxworker.errors import LoadError
from mlxworker.memory import GIB, KV_STEP, Budget, KVPlan
from mlxworker.model import Model
from mlxworker.report import Output

QUIET = 8 << 20  # set aside on the CPU


def count(first: int, last: int) -> str:
    return ", ".join(str(n) for n in range(first, last + 1))


def room(model: Model, rows: float) -> int:
    """Return a limit under which that many rows of KV_STEP tokens run at once, not counting what a join copies."""
    return model.weight_bytes + QUIET + int(rows * model.kv.bytes(KV_STEP))


def test_a_plan_pads_every_row_to_the_longest_of_its_lane_and_rounds_up() -> None:
    budget = Budget(1 << 30, weights=1000, kv=KVPlan(10), vocabulary=5, hidden=2, spare=7)

    assert budget.live([[1, 300], [256]]) == 2 * 512 * 10 + 256 * 10
    assert budget.live([[], []]) == 0
    one_joins = budget.peak([[1, 300], [256]], 0, 4, 1)
    assert one_joins == 1000 + 7 + 2 * (2 * 512 * 10) + 256 * 10 + 4 * (5 * 4 + 48 * 2)
    both_are_the_first = budget.peak([[1, 300], [256]], 0, 4, 2)
    assert both_are_the_first == 1000 + 7 + 2 * 512 * 10 + 256 * 10 + 4 * 2 * (5 * 4 + 48 * 2)


def test_windows_and_fixed_states_stop_growing() -> None:
    plan = KVPlan(per_token=2, windows=((3, 512),), fixed=11)

    assert plan.bytes(256) == 2 * 256 + 3 * 256 + 11
    assert plan.bytes(5000) == 2 * 5120 + 3 * 512 + 11


def test_rows_that_do_not_fit_together_run_after_each_other(tiny: Model) -> None:
    driver = Driver(tiny, memory_bytes=room(tiny, 5) + (1 << 20))
    asks = [ask(f"r{i}", f"Count from 1 to {20 + i}.", max_tokens=200) for i in range(8)]
    driver.add(*asks)
    most = 0
    while driver.engine.busy:
        driver.step()
        most = max(most, driver.engine.running)

    assert 1 <= most < 8
    assert [driver.answers[a.id].text for a in asks] == [count(1, 20 + i) for i in range(8)]


@pytest.mark.parametrize("fitting", [0, 1, 2, 5, 8])
def test_as_many_of_a_group_start_as_fit(tiny: Model, fitting: int) -> None:
    driver = Driver(tiny, memory_bytes=1)
    asks = [ask_frame(id=f"r{i}", tokens=[30 + i] * 10, max_tokens=20) for i in range(8)]
    driver.add(*asks)
    engine = driver.engine
    each = tiny.kv.bytes(KV_STEP) + 10 * (4 * tiny.vocabulary + 48 * tiny.config["hidden_size"])
    limit = tiny.weight_bytes + QUIET + fitting * each + each // 2
    engine._admission.budget = tiny.budget(limit)

    chosen = engine._admission.fitting(engine._lanes, 0, list(engine.waiting), 256)

    assert [r.id for r in chosen] == [a.id for a in asks[:fitting]]


def test_without_a_limit_all_run_at_once(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.add(*[ask(f"r{i}", f"Count from 1 to {20 + i}.") for i in range(8)])
    driver.step()

    assert driver.engine.running == 8


def test_a_prompt_that_no_memory_is_left_for_is_refused_with_the_numbers(tiny: Model) -> None:
    driver = Driver(tiny, memory_bytes=room(tiny, 6))
    bad, good = driver.run(ask_frame(id="bad", tokens=[7] * 4000), ask("good", "Count from 1 to 20."))

    assert bad.error is not None
    assert bad.error.code == "too_large"
    assert "4000 tokens need" in bad.error.message
    assert str(room(tiny, 6) - tiny.weight_bytes) in bad.error.message
    assert good.text == count(1, 20)


def test_stored_prefixes_make_room_for_rows(tiny: Model) -> None:
    driver = Driver(tiny, memory_bytes=room(tiny, 13), prefix_bytes=1 << 30)
    for i in range(3):
        driver.run(ask_frame(id=f"old{i}", tokens=[20 + i] * 400, max_tokens=1))
    kept = driver.engine.prefix.nbytes
    assert kept >= 1200 * tiny.kv.for_one_token()

    got = driver.run(ask_frame(id="new", tokens=[9] * 700, max_tokens=8))[0]

    assert got.reason == "length"
    assert [driver.engine.prefix.fetch([20 + i] * 400)[1] > 0 for i in range(3)] == [False, False, True]


def test_rows_that_outgrow_memory_pause_and_end_exactly(tiny: Model) -> None:
    how: dict[str, Any] = {"temperature": 3.0, "seed": 5, "max_tokens": 1100, "logit_bias": {"2": -100}}
    alone = answer(tiny, "Tell me.", **how).tokens
    driver = Driver(tiny, memory_bytes=room(tiny, 14))
    driver.add(ask("a", "Count from 1 to 300."), ask("b", "Count from 1 to 298."), ask("c", "Tell me.", **how))
    driver.until(lambda: driver.engine.running == 3)
    paused = 0
    while driver.engine.busy:
        before = driver.engine.running
        out = driver.step()
        paused += before - len(out.ended) > driver.engine.running

    assert paused > 0
    assert [driver.answers[i].text for i in "ab"] == [count(1, 300), count(1, 298)]
    assert driver.answers["c"].tokens == alone
    assert driver.engine.counters.finished == 3


def test_a_single_row_that_outgrows_memory_ends_as_if_the_context_did(tiny: Model) -> None:
    driver = Driver(tiny, memory_bytes=room(tiny, 4.5))

    got = driver.run(ask("a", "Count from 1 to 300.", logit_bias={"2": -100}))[0]

    assert got.reason == "length"
    assert count(1, 300).startswith(got.text[:500])
    assert 1000 < got.usage["prompt_tokens"] + got.usage["completion_tokens"] < 1200


def test_a_paused_row_that_never_fits_again_ends_with_what_it_has(tiny: Model) -> None:
    driver = Driver(tiny, memory_bytes=room(tiny, 40))
    driver.add(ask("a", "Count from 1 to 300."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 100)
    engine = driver.engine
    row = engine._answers.live["a"]
    lane = engine._all.of(row)
    assert lane is not None
    engine._answers.take_out(lane, row, keep=False)
    engine.waiting.insert(0, row)
    small = Budget(room(tiny, 0.5), tiny.weight_bytes, tiny.kv, tiny.vocabulary, 1, QUIET)
    engine._admission.budget = small
    driver.run()

    assert (driver.answers["a"].reason, len(driver.answers["a"].tokens)) == ("length", 100)


def test_a_model_that_leaves_no_memory_for_an_answer_is_too_big(tiny: Model) -> None:
    with pytest.raises(LoadError) as e:
        warmup.produce_token(Engine(tiny, Options(memory_bytes=tiny.weight_bytes + 1000)))

    assert e.value.code == "model_too_big"
    assert "no memory is left" in e.value.message


# -- lanes -----------------------------------------------------------------------------------------------------------


def lanes_in_use(driver: Driver) -> int:
    return sum(1 for lane in driver.engine._lanes if len(lane))


def test_a_long_row_gets_a_lane_of_its_own(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.add(ask_frame(id="long", tokens=[30 + i % 900 for i in range(3000)], max_tokens=60, logit_bias={"2": -100}))
    asks = [ask(f"r{i}", f"Count from 1 to {20 + i}.") for i in range(7)]
    driver.add(*asks)
    driver.until(lambda: all(driver.answers[a.id].tokens for a in asks))

    assert lanes_in_use(driver) == 2
    driver.run()
    assert [driver.answers[a.id].text for a in asks] == [count(1, 20 + i) for i in range(7)]


def test_rows_of_two_lanes_move_together_when_the_long_ones_are_gone(tiny: Model) -> None:
    how: dict[str, Any] = {"temperature": 8.0, "seed": 3, "max_tokens": 300, "logit_bias": {"2": -100}}
    alone = answer(tiny, "Tell me.", **how).tokens
    driver = Driver(tiny)
    engine = driver.engine
    driver.add(ask("a", "Count from 1 to 80."), ask("b", "Count from 1 to 70."))
    driver.until(lambda: len(driver.answers["a"].tokens) > 5)
    other = next(lane for lane in engine._lanes if not len(lane))
    driver.add(ask("c", "Tell me.", **how))
    engine._insert(other, [engine.waiting.pop()], Output())
    driver.step()
    assert lanes_in_use(driver) == 2
    assert len(other) == 1
    driver.until(lambda: lanes_in_use(driver) == 1, most=200)
    assert engine.running == 3
    driver.run()

    assert driver.answers["a"].text == count(1, 80)
    assert driver.answers["b"].text == count(1, 70)
    assert driver.answers["c"].tokens == alone
    assert engine.counters.finished == 3


@pytest.mark.parametrize("seed", range(6))
def test_memory_is_never_planned_over_its_limit(tiny: Model, seed: int) -> None:
    draw = random.Random(seed)
    limit = room(tiny, draw.choice([6, 12, 25]))
    driver = Driver(tiny, memory_bytes=limit, prefix_bytes=1 << 22, prefill_chunk=64)
    asks = [
        ask_frame(id=f"r{i}", tokens=[30 + (i * n) % 700 for n in range(draw.choice([5, 40, 300]))], max_tokens=20)
        for i in range(14)
    ]
    driver.add(*asks)
    budget = tiny.budget(limit)
    while driver.engine.busy:
        driver.step()
        live = budget.live([lane.lengths() for lane in driver.engine._lanes])
        assert tiny.weight_bytes + live + QUIET <= limit

    assert all(driver.answers[a.id].reason or driver.answers[a.id].error for a in asks)


@pytest.mark.parametrize(
    ("memory_bytes", "pool"), [(0, 2 * GIB), (GIB, GIB // 8), (64 * GIB, 2 * GIB), (100 << 20, 32 << 20)]
)
def test_the_pool_of_freed_buffers_is_bounded(monkeypatch: pytest.MonkeyPatch, memory_bytes: int, pool: int) -> None:
    told: dict[str, int] = {}
    monkeypatch.setattr(mx, "set_memory_limit", lambda n: told.update(memory=n))
    monkeypatch.setattr(mx, "set_cache_limit", lambda n: told.update(pool=n))
    memory.set_limits(memory_bytes)

    assert told == ({"memory": memory_bytes, "pool": pool} if memory_bytes else {"pool": pool})
