"""Rows with quantised keys and values: several at once, right, and smaller."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from conftest import SMALL, TINY
from guessing import eager
from harness import Driver, ask, ask_frame

from mlxworker import memory, protocol, quantised
from mlxworker import model as models
from mlxworker.adapter import Api
from mlxworker.errors import LoadError
from mlxworker.model import Model
from mlxworker.solo import SoloLane


def count(first: int, last: int) -> str:
    return ", ".join(str(n) for n in range(first, last + 1))


@pytest.fixture(scope="module")
def eight(api: Api) -> Model:
    return models.load(api, protocol.Load(folder=str(TINY), name="tiny", kv_bits=8))


def test_several_rows_at_once_are_right(eight: Model) -> None:
    driver = Driver(eight, max_rows=3)
    driver.add(*[ask(f"r{n}", f"Count from 1 to {n}.") for n in (20, 31, 25, 12, 17)])
    most = 0
    while driver.engine.busy:
        driver.step()
        most = max(most, driver.engine.running)

    assert most == 3
    assert {k: a.text for k, a in driver.answers.items()} == {f"r{n}": count(1, n) for n in (20, 31, 25, 12, 17)}
    assert isinstance(driver.engine._lanes[0], SoloLane)


def test_rows_take_turns(eight: Model) -> None:
    driver = Driver(eight)
    driver.add(ask("a", "Count from 1 to 40."), ask("b", "Count from 1 to 40."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 10)

    assert len(driver.answers["b"].tokens) == 10


def test_the_state_is_as_much_smaller_as_its_bits_say(api: Api, eight: Model, tiny: Model) -> None:
    four = models.load(api, protocol.Load(folder=str(TINY), name="tiny", kv_bits=4))
    heads = 2 * 2 * 2 * 64  # layers, keys and values, heads, width
    scales = 2 * 4 * heads // 64  # a scale and a bias for 64 numbers

    assert tiny.kv.per_token == 4 * heads
    assert eight.kv.per_token == heads + scales
    assert four.kv.per_token == heads // 2 + scales
    assert eight.budget(0).live([[100, 2000]]) == eight.kv.bytes(100) + eight.kv.bytes(2000)


def test_a_long_prompt_does_not_stop_who_decodes(eight: Model) -> None:
    driver = Driver(eight, prefill_chunk=64)
    driver.add(ask("a", "Count from 1 to 60."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 5)
    driver.add(ask_frame(id="l", tokens=[30 + j % 900 for j in range(1000)], max_tokens=2))
    driver.until(lambda: driver.answers["l"].reason != "")

    assert len(driver.answers["a"].tokens) >= 5 + 1000 // 64
    driver.run()
    assert driver.answers["a"].text == count(1, 60)


def test_cancel_and_continue(eight: Model) -> None:
    driver = Driver(eight, prefix_bytes=1 << 24)
    driver.add(ask("a", "Count from 1 to 50."), ask("b", "Count from 1 to 30."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 60)
    driver.engine.cancel("a")
    driver.step()
    assert driver.answers["a"].reason == "cancelled"
    rest = driver.run(ask("c", "Count from 1 to 50.", **{"continue": driver.answers["a"].tokens}))[0]

    assert driver.answers["a"].text + rest.text == count(1, 50)
    assert driver.answers["b"].text == count(1, 30)


def test_what_is_stored_is_stored_quantised_and_found_again(eight: Model) -> None:
    driver = Driver(eight, prefix_bytes=1 << 24)
    first = driver.run(ask("a", "Count from 1 to 50."))[0]
    stored = driver.engine.prefix.nbytes

    again = driver.run(ask("b", "Count from 1 to 50."), ask("c", "Count from 1 to 51."))

    assert first.text == again[0].text == count(1, 50)
    assert again[1].text == count(1, 51)
    assert all(a.usage["cached_tokens"] > 8 for a in again)
    assert 0 < stored <= eight.kv.bytes(first.usage["prompt_tokens"] + first.usage["completion_tokens"])


def test_penalties_and_seeds_work_there_too(eight: Model, tiny: Model) -> None:
    bias: dict[str, Any] = {"logit_bias": {"5": 100.0}, "max_tokens": 5}
    assert Driver(eight).run(ask("a", "Count from 1 to 30.", **bias))[0].tokens == [5] * 5

    how: dict[str, Any] = {"temperature": 0.7, "seed": 4, "max_tokens": 40}
    got = [Driver(eight).run(ask("a", "Tell me something.", **how))[0].tokens for _ in range(2)]
    assert got[0] == got[1]


def test_guessing_ahead_gives_the_same(eight: Model) -> None:
    driver = eager(eight)
    got = driver.run(*[ask(f"r{n}", f"Count from 1 to {n}.") for n in (20, 41)])

    assert [a.text for a in got] == [count(1, 20), count(1, 41)]
    assert driver.engine.speculation.accepted > 0


def test_rows_start_again_after_a_step_that_raised(eight: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(eight)
    driver.add(ask("a", "Count from 1 to 40."), ask("b", "Count from 1 to 25."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 10)

    def fails(*_: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(driver.engine._lanes[0], "_draw", fails)
    driver.run()

    assert driver.answers["a"].text == count(1, 40)
    assert driver.answers["b"].text == count(1, 25)


class _Layer:
    def __init__(self, width: int) -> None:
        self.keys = self.values = mx.zeros((1, 2, 4, width))


def test_models_whose_state_cannot_be_quantised_are_refused() -> None:
    odd = type("KVCache", (_Layer,), {})
    with pytest.raises(
        LoadError, match=r"kv_bits 8 is not possible .* not only keys and values \(RotatingKVCache\)"
    ) as e:
        quantised.group_size([type("RotatingKVCache", (_Layer,), {})(64)], 8)
    assert e.value.code == "unsupported"
    with pytest.raises(LoadError, match="its heads are 80 numbers wide, not a multiple of 32"):
        quantised.group_size([odd(80)], 4)
    assert quantised.group_size([odd(96)], 4) == 32
    assert quantised.group_size([odd(128)], 4) == 64


def test_memory_of_a_worker_that_quantises_admits_more_rows(api: Api, small: Model) -> None:
    room = small.weight_bytes + (8 << 20) + small.kv.bytes(4096)
    loaded = models.load(api, protocol.Load(folder=str(SMALL), name="small", kv_bits=8))
    lengths = [[4096, 4096, 4096]]

    assert small.budget(room).surplus(small.weight_bytes + small.budget(room).live(lengths)) > 0
    assert loaded.budget(room).surplus(loaded.weight_bytes + loaded.budget(room).live(lengths)) <= 0
    assert isinstance(loaded.kv, memory.KVPlan)
