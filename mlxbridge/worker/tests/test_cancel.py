"""Cancelling, at every stage."""

from __future__ import annotations

import pytest
from harness import Driver, ask, ask_frame, count

from mlxworker.errors import RequestError
from mlxworker.model import Model


def test_cancel_while_queued(tiny: Model) -> None:
    driver = Driver(tiny, max_rows=1)
    driver.add(ask("a", "Count from 1 to 30."), ask("b", "Count from 1 to 30."))
    driver.step()
    driver.engine.cancel("b")
    out = driver.step()

    assert [(r.id, str(why)) for r, why in out.ended] == [("b", "cancelled")]
    assert driver.run() == []
    assert driver.answers["a"].text == count(1, 30)
    assert driver.answers["b"].text == ""


def test_cancel_in_prefill_computes_nothing_more_of_it(tiny: Model) -> None:
    driver = Driver(tiny, prefill_chunk=64)
    driver.add(ask_frame(id="long", tokens=[7] * 2000))
    driver.step()
    driver.step()
    driver.engine.cancel("long")
    out = driver.step()

    assert [(r.id, str(why)) for r, why in out.ended] == [("long", "cancelled")]
    assert driver.engine.running == 0
    assert driver.engine.counters.prompt_tokens == 128
    assert not driver.engine.busy


def test_cancel_in_decode_takes_effect_before_the_next_step(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.add(ask("a", "Count from 1 to 300."), ask("b", "Count from 1 to 60."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 20)
    driver.engine.cancel("a")
    out = driver.step()

    assert [(r.id, str(why)) for r, why in out.ended] == [("a", "cancelled")]
    assert all(id_ != "a" for id_, *_ in out.texts)
    assert driver.engine.running == 1
    driver.run()
    assert len(driver.answers["a"].tokens) == 20
    assert driver.answers["b"].text == count(1, 60)


def test_cancel_after_the_end_and_twice_is_nothing(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.run(ask("a", "Count from 1 to 20."))
    driver.engine.cancel("a")
    assert not driver.engine.busy
    driver.add(ask("b", "Count from 1 to 20."))
    driver.engine.cancel("b")
    driver.engine.cancel("b")
    driver.run()
    assert driver.answers["b"].reason == "cancelled"
    assert driver.engine.counters.cancelled == 1


def test_an_id_may_be_used_again_after_its_end(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.run(ask("a", "Count from 1 to 20."))
    with pytest.raises(RequestError):
        driver.add(ask("b", "x"), ask("b", "y"))

    assert driver.run(ask("a", "Count from 1 to 21."))[0].text == count(1, 21)
