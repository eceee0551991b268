"""What raises costs its own row, and no other row a token."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driver, answer, ask, count

from mlxworker import rows
from mlxworker.errors import FatalError
from mlxworker.lane import Lane
from mlxworker.model import Model
from mlxworker.report import Output


@pytest.mark.parametrize("after", [0, 1, 12])
def test_a_raising_processor_fails_its_row_and_no_other(tiny: Model, after: int) -> None:
    driver = Driver(tiny)
    driver.add(ask("bad", "Count from 1 to 60."), ask("good", "Count from 1 to 80."))
    calls = 0

    def poison(_: Any, logits: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise ValueError("poison")
        return logits

    bad = driver.engine.waiting[0]
    bad.processors.append(rows.guard(bad, poison))
    driver.run()

    error = driver.answers["bad"].error
    assert error is not None
    assert (error.code, error.message) == ("internal", "row failed: poison")
    assert len(driver.answers["bad"].tokens) == after
    assert driver.answers["good"].text == count(1, 80)
    assert driver.engine.counters.failed == 1


class _BrokenText:
    """A detokenizer that raises, at a token or at the end."""

    def __init__(self, after: int) -> None:
        self.left = after

    def feed(self, token: int) -> str:
        self.left -= 1
        if self.left < 0:
            raise KeyError(token)
        return "x"

    def flush(self) -> str:
        raise KeyError("flush")


@pytest.mark.parametrize(("after", "limit", "text"), [(5, 100, "xxxxx"), (5, 6, "xxxxx"), (100, 4, "xxxx")])
def test_a_tokenizer_that_raises_fails_its_row_and_no_other(tiny: Model, after: int, limit: int, text: str) -> None:
    driver = Driver(tiny)
    driver.add(ask("bad", "Count from 1 to 60.", max_tokens=limit), ask("good", "Count from 1 to 80."))
    driver.engine.waiting[0].text = _BrokenText(after)
    driver.run()

    error = driver.answers["bad"].error
    assert error is not None
    assert error.code == "internal"
    assert driver.answers["bad"].text == text
    assert driver.answers["good"].text == count(1, 80)
    assert driver.engine.counters.failed == 1
    assert not driver.engine._answers.live


def test_a_request_that_raises_when_it_is_taken_in_leaves_its_id_free(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(tiny)
    with monkeypatch.context() as broken:
        broken.setattr(rows.Row, "feed", lambda *_: [][0])
        with pytest.raises(IndexError):
            driver.add(ask("a", "Count from 1 to 20.", **{"continue": [21]}))

    assert driver.run(ask("a", "Count from 1 to 20."))[0].text == count(1, 20)


@pytest.mark.parametrize("offset", [0, 1])
def test_an_engine_tidies_up_however_many_lanes_run(tiny: Model, monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    tidied: list[Output] = []
    driver = Driver(tiny)
    monkeypatch.setattr(driver.engine, "_tidy", tidied.append)
    driver.engine.counters.steps = offset
    driver.add(ask("a", "Count from 1 to 300."))
    driver.step()
    driver.add(ask("b", "Count from 1 to 300."))
    other = next(lane for lane in driver.engine._lanes if not len(lane))
    driver.engine._insert(other, [driver.engine.waiting.pop()], Output())
    for _ in range(95):
        driver.step()

    assert all(len(lane) for lane in driver.engine._lanes)
    assert len(tidied) == 6


def test_rows_go_on_exactly_after_a_step_that_raised(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 60}
    alone = answer(tiny, "Tell me.", **how).tokens
    driver = Driver(tiny)
    driver.add(ask("a", "Count from 1 to 80."), ask("b", "Count from 1 to 40."), ask("c", "Tell me.", **how))
    driver.until(lambda: len(driver.answers["a"].tokens) == 17)
    driver.add(ask("late", "Count from 1 to 25."))
    net = _raises_in_call(tiny, 2)
    monkeypatch.setattr(tiny, "net", net)
    for lane in driver.engine._lanes:
        assert isinstance(lane, Lane)
        monkeypatch.setattr(lane._generator._generation_batch, "model", net)
        monkeypatch.setattr(lane._generator, "model", net)
    driver.run()

    assert net.raised
    assert driver.answers["a"].text == count(1, 80)
    assert driver.answers["b"].text == count(1, 40)
    assert driver.answers["late"].text == count(1, 25)
    assert driver.answers["c"].tokens == alone


class _Net:
    """The real model, but one of its calls raises after the forward pass, as a failed command buffer would."""

    def __init__(self, inner: Any, at: int) -> None:
        self.inner, self.at, self.calls, self.raised = inner, at, 0, False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        out = self.inner(*arguments, **keywords)
        self.calls += 1
        if self.calls == self.at:
            self.raised = True
            raise RuntimeError("command buffer failed")
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _raises_in_call(model: Model, at: int) -> _Net:
    return _Net(model.net, at)


def test_two_failed_steps_in_a_row_are_fatal(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tiny)
    driver.add(ask("a", "Count from 1 to 80."))
    monkeypatch.setattr(Lane, "next", lambda *_: (_ for _ in ()).throw(RuntimeError("[metal::malloc] no memory")))
    driver.step()

    with pytest.raises(FatalError) as e:
        driver.step()
    assert e.value.exit_code == 71


def test_rows_that_come_in_an_unexpected_order_are_drawn_one_by_one(
    tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 30}
    alone = answer(tiny, "Tell me.", **how).tokens
    driver = Driver(tiny)
    driver.add(ask("a", "Count from 1 to 40."), ask("b", "Tell me.", **how))
    driver.until(lambda: len(driver.answers["a"].tokens) == 10)
    lane = next(lane for lane in driver.engine._lanes if len(lane))
    lane.decoding.pop()
    lane.decoding.insert(0, lane.decoding.pop())
    live = driver.engine._answers.live
    lost = next(iter(live[i] for i in ("a", "b") if live[i] not in lane.rows()))
    lane.decoding.extend([lost, lost])
    monkeypatch.setattr(lane, "rows", lambda: list(live.values()))
    driver.run()

    assert driver.engine._alone
    assert driver.answers["a"].text == count(1, 40)
    assert driver.answers["b"].tokens == alone
