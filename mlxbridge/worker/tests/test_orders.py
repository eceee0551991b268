"""What is changed while the worker runs: memory, rows, pressure, and what is wired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from conftest import TINY
from harness import Driver, Process, ask

from mlxworker import lane, memory, model, protocol
from mlxworker.adapter import Api
from mlxworker.errors import LoadError, RequestError
from mlxworker.memory import GIB, KV_STEP
from mlxworker.model import Model
from mlxworker.orders import Orders, prefix_budget
from mlxworker.protocol import Change

QUIET = 8 << 20  # set aside on the CPU


def count(last: int) -> str:
    return ", ".join(str(n) for n in range(1, last + 1))


def stored(model: Model, asks: int = 4) -> Driver:
    """Return a driver whose store holds some prefixes."""
    driver = Driver(model, prefix_bytes=GIB)
    driver.run(*[ask(f"s{i}", f"Count from 1 to {20 + i}.") for i in range(asks)])
    assert len(driver.engine.prefix) == asks
    return driver


def test_the_store_follows_the_memory_limit_unless_it_has_its_own() -> None:
    assert prefix_budget(0, None) == GIB
    assert prefix_budget(GIB, None) == GIB // 8
    assert prefix_budget(64 * GIB, None) == GIB
    assert prefix_budget(GIB, 7) == 7
    assert prefix_budget(GIB, 0) == 0


def test_a_change_that_takes_no_memory_leaves_the_pool_alone(tiny: Model) -> None:
    driver = stored(tiny)
    orders = Orders(driver.engine, GIB, None)
    mx.eval(mx.zeros((1 << 20,)) + 1)
    pool = mx.get_cache_memory()
    assert pool > 0

    for change in (Change(max_rows=3), Change(pressure=1), Change(memory_bytes=2 * GIB)):
        orders.obey(change)
        assert mx.get_cache_memory() == pool
    orders.obey(Change(memory_bytes=GIB))
    assert mx.get_cache_memory() == 0


def test_pressure_halves_the_store_then_drops_it_and_the_end_of_it_brings_it_back(tiny: Model) -> None:
    driver = stored(tiny)
    engine, orders = driver.engine, Orders(driver.engine, 0, driver.engine.prefix.nbytes)
    whole = engine.prefix.nbytes

    orders.obey(Change(pressure=2))
    assert engine.prefix.budget == whole // 2
    assert 0 < engine.prefix.nbytes <= whole // 2
    assert mx.get_cache_memory() == 0
    orders.obey(Change(pressure=4))
    assert (engine.prefix.nbytes, len(engine.prefix), engine.admitting) == (0, 0, False)
    orders.obey(Change(pressure=1))
    assert (engine.prefix.budget, engine.admitting) == (whole, True)
    driver.run(ask("again", "Count from 1 to 9."))
    assert len(engine.prefix) == 1


def test_under_critical_pressure_running_rows_end_and_waiting_ones_wait(tiny: Model) -> None:
    driver = Driver(tiny)
    orders = Orders(driver.engine, 0, None)
    driver.add(ask("first", "Count from 1 to 30."))
    driver.step()
    orders.obey(Change(pressure=4))
    driver.add(ask("second", "Count from 1 to 20."))
    while driver.engine.busy:
        driver.step()

    assert driver.answers["first"].text == count(30)
    assert driver.answers["second"].text == ""
    assert len(driver.engine.waiting) == 1
    orders.obey(Change(pressure=1))
    while driver.engine.busy:
        driver.step()
    assert driver.answers["second"].text == count(20)


def test_one_who_waits_under_critical_pressure_can_be_cancelled(tiny: Model) -> None:
    driver = Driver(tiny)
    Orders(driver.engine, 0, None).obey(Change(pressure=4))
    driver.add(ask("only", "Count from 1 to 20."))
    assert not driver.engine.busy
    driver.engine.cancel("only")
    assert driver.engine.busy
    driver.step()
    assert driver.answers["only"].reason == "cancelled"


def test_less_memory_drops_prefixes_then_rows_which_start_again_and_say_the_same(tiny: Model) -> None:
    driver = stored(tiny)
    asks = [ask(f"r{i}", f"Count from 1 to {40 + i}.") for i in range(6)]
    driver.add(*asks)
    for _ in range(20):
        driver.step()
    assert driver.engine.running == 6
    # Room for two rows as they are, and for a third that computes a prompt.
    limit = tiny.weight_bytes + QUIET + 3 * tiny.kv.bytes(KV_STEP) + (6 << 20)
    Orders(driver.engine, 0, None).obey(Change(memory_bytes=limit))
    try:
        assert driver.engine._admission.budget.limit == limit
        while driver.engine.busy:
            driver.step()
    finally:
        memory.set_limits(8 * GIB)

    assert [driver.answers[a.id].text for a in asks] == [count(40 + i) for i in range(6)]


def test_rows_that_no_longer_fit_leave_in_the_next_step(tiny: Model) -> None:
    driver = Driver(tiny)
    asks = [ask(f"r{i}", f"Count from 1 to {40 + i}.") for i in range(6)]
    driver.add(*asks)
    for _ in range(20):
        driver.step()
    try:
        Orders(driver.engine, 0, None).obey(Change(memory_bytes=tiny.weight_bytes + QUIET + 2 * tiny.kv.bytes(KV_STEP)))
        driver.step()
        assert driver.engine.running == 2
        assert len(driver.engine.waiting) == 4
        Orders(driver.engine, 0, None).obey(Change(memory_bytes=8 * GIB))
        while driver.engine.busy:
            driver.step()
    finally:
        memory.set_limits(8 * GIB)
    assert [driver.answers[a.id].text for a in asks] == [count(40 + i) for i in range(6)]


def test_fewer_rows_let_those_that_run_finish(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.add(*[ask(f"r{i}", f"Count from 1 to {20 + i}.") for i in range(4)])
    driver.step()
    Orders(driver.engine, 0, None).obey(Change(max_rows=1))
    late = ask("late", "Count from 1 to 9.")
    driver.add(late)
    driver.step()
    assert driver.engine.running == 4
    driver.run()
    assert driver.answers["late"].text == count(9)
    driver.add(*[ask(f"s{i}", "Count from 1 to 9.") for i in range(3)])
    driver.step()
    assert driver.engine.running == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("pressure", 3), ("pressure", 5), ("memory_bytes", 0), ("memory_bytes", -1), ("max_rows", 0), ("n", "x")],
)
def test_an_order_out_of_range_is_refused_and_names_the_field(field: str, value: object) -> None:
    with pytest.raises(RequestError) as refused:
        protocol.parse_set({"type": "set", field: value})
    assert refused.value.field == field


def test_a_worker_obeys_between_two_steps_and_says_so() -> None:
    worker = Process()
    try:
        worker.load(TINY, memory_bytes=1 << 30)
        worker.send({"type": "set", "n": 1, "pressure": 4})
        worker.wait("obeyed", n=1)
        worker.send({"type": "gen", "id": "a", "messages": [{"role": "user", "content": "Count from 1 to 20."}]})
        worker.send({"type": "set", "pressure": 3}, {"type": "ping", "n": 7})
        assert worker.wait("error")["field"] == "pressure"
        worker.wait("pong", n=7)
        assert worker.wait("stats", waiting=1)["running"] == 0
        worker.send({"type": "set", "n": 2, "pressure": 1, "memory_bytes": 2 << 30, "max_rows": 3})
        worker.wait("obeyed", n=2)
        assert worker.collect(["a"])["a"].text == count(20)
    finally:
        worker.close()


def test_only_weights_are_wired_and_again_after_every_generator(
    api: Api, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired: list[int] = []
    monkeypatch.setattr(memory, "wire_weights", wired.append)
    lane.Lane(tiny)
    off = model.load(api, protocol.parse_load({"dir": str(TINY), "options": {"wired": "off"}}))
    lane.Lane(off)

    assert wired == [tiny.weight_bytes, 0, 0]


def test_wiring_stays_below_what_the_machine_recommends(monkeypatch: pytest.MonkeyPatch) -> None:
    wired: list[int] = []
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 100})
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    for weights in (0, 60, 300):
        memory.wire_weights(weights)
    assert wired == [0, 60, 100]


def test_a_context_can_be_made_shorter_but_not_longer(api: Api, tiny: Model) -> None:
    def context(wanted: int) -> int:
        return model.load(api, protocol.parse_load({"dir": str(TINY), "options": {"context": wanted}})).context

    assert context(512) == 512
    assert context(tiny.context * 2) == tiny.context


@pytest.mark.parametrize("options", [{"wired": "max"}, {"wired": 1}, {"context": -1}])
def test_options_that_are_wrong_refuse_the_model(options: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        protocol.parse_load({"dir": str(Path("/x")), "options": options})
