"""A thousand joins, leaves, cancels, stops and seeds: every row's answer is what it gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from guessing import eager
from harness import Answer, Driver, ask, ask_frame

from mlxworker import rows
from mlxworker.model import Model
from mlxworker.protocol import Generate

EVENTS = 1000


def kinds(draw: random.Random) -> list[dict[str, Any]]:
    """Return the requests that are drawn from; few enough that each is computed alone once."""
    out: list[dict[str, Any]] = []
    for n in (3, 8, 12, 20, 33):
        out.append({"text": f"Count from 1 to {n}."})
        out.append({"text": f"Count from 1 to {n}.", "stop": [str(n - 1), ", 15"]})
        out.append({"text": f"Count from {n} to {n + 9}.", "max_tokens": draw.randint(1, 30)})
    for seed in range(12):
        how = {"temperature": draw.choice([0.8, 3.0, 12.0]), "seed": seed, "max_tokens": draw.randint(5, 40)}
        shape: dict[str, Any] = draw.choice([{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.05}, {"top_k": 4000}])
        out.append({"text": f"Tell me about {seed}.", **how, **shape})
    out.append({"text": "Count from 1 to 30.", "logit_bias": {"5": 3.0}, "max_tokens": 25})
    out.append({"text": "Count from 1 to 30.", "presence_penalty": 2.0, "max_tokens": 25})
    out.append({"text": "Count from 1 to 9.", "logprobs": True, "top_logprobs": 2})
    for n in (150, 400):
        out.append({"tokens": [30 + (i * i) % 900 for i in range(n)], "max_tokens": 12})
    # Tokens that a row may guess right, and others after them.
    out.append({"tokens": [40, 41, 42, 43, 44] * 8, "max_tokens": 60})
    out.append({"text": "Count from 95 to 118.", "stop": ["7, 1"]})
    return out


def make(id_: str, kind: dict[str, Any]) -> Generate:
    if "tokens" in kind:
        return ask_frame(id=id_, **kind)
    return ask(id_, **kind)


def expected(model: Model, kind: dict[str, Any]) -> Answer:
    return Driver(model).run(make("alone", kind))[0]


class Churn:
    """Does random things to a driver and remembers what should come of them."""

    def __init__(self, driver: Driver, draw: random.Random, wanted: Callable[[int], Answer], n: int) -> None:
        self.driver, self.draw, self.wanted, self.n = driver, draw, wanted, n
        self.made: dict[str, tuple[int, int]] = {}  # id -> kind, tokens that an earlier attempt had
        self.cancelled: set[str] = set()
        self.poisoned: set[str] = set()
        self.kinds = kinds(random.Random(7))

    def event(self) -> None:
        roll = self.draw.random()
        live = list(self.driver.engine._answers.live)
        if roll < 0.14 and live:
            target = self.draw.choice(live)
            self.cancelled.add(target)
            self.driver.engine.cancel(target)
        elif roll < 0.15 and self.driver.engine.waiting:
            self.poison(self.draw.choice(self.driver.engine.waiting))
        else:
            self.join()

    def leave_one(self) -> None:
        """Let all but one row end, and that one go on alone for some steps."""
        engine = self.driver.engine
        self.driver.until(lambda: engine.running + len(engine.waiting) <= 1)
        for _ in range(self.draw.randint(1, 12)):
            self.driver.step()

    def join(self) -> None:
        id_, which = f"r{len(self.made)}", self.draw.randrange(self.n)
        kind, already = dict(self.kinds[which]), 0
        whole = self.wanted(which).tokens
        if self.draw.random() < 0.1 and len(whole) > 2:
            already = self.draw.randint(1, len(whole) - 1)
            kind["continue"] = whole[:already]
        self.made[id_] = (which, already)
        self.driver.add(make(id_, kind))

    def poison(self, row: rows.Row) -> None:
        left = self.draw.randint(0, 5)

        def process(_: Any, logits: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise ValueError("poison")
            return logits

        self.poisoned.add(row.id)
        row.processors.append(rows.guard(row, process))

    def check(self) -> None:
        for id_, (which, already) in self.made.items():
            got, want = self.driver.answers[id_], self.wanted(which)
            if got.error is not None:
                assert id_ in self.poisoned, id_
            elif got.reason == "cancelled":
                assert id_ in self.cancelled, id_
            else:
                assert (got.reason, got.stop) == (want.reason, want.stop), (id_, which)
                assert got.tokens == want.tokens[already:], (id_, which)
                assert want.text.endswith(got.text), (id_, which)
                assert got.text == want.text or already, (id_, which)
                assert got.logprobs == [] or [e["t"] for e in got.logprobs] == got.tokens
                continue
            assert got.tokens == want.tokens[already : already + len(got.tokens)], (id_, which)


def test_a_thousand_random_events_leave_every_row_exact(tiny: Model) -> None:
    draw = random.Random(20261124)
    driver = eager(tiny, max_rows=12, prefix_bytes=600 * 2048, prefill_chunk=64)
    answers: dict[int, Answer] = {}

    def wanted(which: int) -> Answer:
        if which not in answers:
            answers[which] = expected(tiny, churn.kinds[which])
        return answers[which]

    churn = Churn(driver, draw, wanted, len(kinds(random.Random(7))))
    for _ in range(EVENTS):
        churn.event()
        if draw.random() < 0.06:
            churn.leave_one()
        for _ in range(draw.choice([0, 0, 1, 1, 2, 6])):
            driver.step()
    driver.run()

    churn.check()
    counters = driver.engine.counters
    assert counters.finished + counters.cancelled + counters.failed == len(churn.made)
    assert counters.finished > 500
    assert counters.cancelled > 80
    assert counters.failed >= 1
    assert counters.cached_tokens > 1000
    assert 20 < driver.engine.speculation.accepted < driver.engine.speculation.proposed
    for entry in driver.engine.prefix._entries:
        assert {layer.offset for layer in entry.cache} == {entry.length}
    assert driver.engine.running == 0
    assert not driver.engine._answers.live
    assert not driver.engine._alone
