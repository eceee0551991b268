"""What requests have in common is computed once; whatever becomes of the one that computes it."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driver, ask, ask_frame

from mlxworker.lane import Lane
from mlxworker.model import Model
from mlxworker.prefix import PrefixStore
from mlxworker.protocol import Generate
from mlxworker.rows import Row

ROOM = 1 << 26
FILL = [30 + (7 * j) % 900 for j in range(1000)]


def question(model: Model, n: int) -> list[int]:
    tokens: list[int] = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": f"Count from 1 to {n}."}], add_generation_prompt=True
    )
    return tokens


def count(n: int) -> str:
    return ", ".join(str(i) for i in range(1, n + 1))


def test_eight_of_one_prompt_compute_it_once(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM)
    asks = [ask_frame(id=f"r{i}", tokens=FILL + question(tiny, 20), max_tokens=30) for i in range(8)]

    got = driver.run(*asks)

    alone = Driver(tiny).run(ask_frame(id="x", tokens=FILL + question(tiny, 20), max_tokens=30))[0]
    assert [a.tokens for a in got] == [alone.tokens] * 8
    assert driver.engine.counters.prompt_tokens <= len(FILL) + 80
    assert sorted(a.usage["cached_tokens"] for a in got)[:2] == [0, len(FILL) + len(question(tiny, 20)) - 1]


def test_prompts_that_part_after_a_common_beginning_compute_that_once(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM, prefill_chunk=256)
    prompts = [FILL + question(tiny, n) for n in range(20, 28)]

    got = driver.run(*[ask_frame(id=f"r{i}", tokens=p, max_tokens=60) for i, p in enumerate(prompts)])

    for i, p in enumerate(prompts):
        assert got[i].tokens == Driver(tiny).run(ask_frame(id="x", tokens=p, max_tokens=60))[0].tokens
    assert driver.engine.counters.prompt_tokens <= len(FILL) + 8 * 40


@pytest.mark.parametrize("steps", [1, 2])
def test_when_the_first_is_cancelled_the_next_one_leads(tiny: Model, steps: int) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM, prefill_chunk=100)
    asks = [ask_frame(id=f"r{i}", tokens=FILL + question(tiny, 20), max_tokens=5) for i in range(5)]
    driver.add(*asks)
    for _ in range(steps):
        driver.step()
    assert driver.engine.running == 1
    driver.engine.cancel("r0")
    driver.run()

    alone = Driver(tiny).run(ask_frame(id="x", tokens=FILL + question(tiny, 20), max_tokens=5))[0]
    assert driver.answers["r0"].reason == "cancelled"
    assert all(driver.answers[f"r{i}"].tokens == alone.tokens for i in range(1, 5))
    assert driver.engine.counters.prompt_tokens <= len(FILL) + 100 * steps + 100


def test_a_failed_step_of_the_leader_delays_nobody_for_ever(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM, prefill_chunk=100)
    driver.add(*[ask_frame(id=f"r{i}", tokens=FILL, max_tokens=5) for i in range(3)])
    driver.step()
    lane = next(lane for lane in driver.engine._lanes if len(lane))

    def broken(chunk: int) -> None:
        raise RuntimeError("broken once")

    monkeypatch.setattr(lane, "next", broken)
    driver.run()

    assert {a.reason for a in driver.answers.values()} == {"length"}
    assert driver.engine.counters.failed == 0


def test_others_do_not_wait_for_it(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM, prefill_chunk=16)
    driver.add(*[ask_frame(id=f"r{i}", tokens=FILL * 3, max_tokens=5) for i in range(3)])
    driver.step()
    driver.add(ask("other", "Count from 1 to 9."))
    driver.until(lambda: driver.answers["other"].reason != "")

    assert driver.answers["other"].text == count(9)
    assert driver.answers["r0"].tokens == []
    driver.run()
    assert len({tuple(driver.answers[f"r{i}"].tokens) for i in range(3)}) == 1


def test_one_that_comes_while_another_answers_starts_from_its_prompt(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM)
    driver.add(ask_frame(id="a", tokens=FILL + question(tiny, 60), max_tokens=300))
    driver.until(lambda: len(driver.answers["a"].tokens) > 10)
    driver.add(ask_frame(id="b", tokens=FILL + question(tiny, 20), max_tokens=60))
    driver.run()

    for id_, n in (("a", 60), ("b", 20)):
        alone = Driver(tiny).run(ask_frame(id="x", tokens=FILL + question(tiny, n), max_tokens=300 if n == 60 else 60))
        assert driver.answers[id_].tokens == alone[0].tokens
    assert driver.answers["b"].usage["cached_tokens"] >= len(FILL)


def test_hundreds_of_one_prompt_keep_no_slot_from_those_behind_them(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=ROOM, prefill_chunk=16, max_rows=4)
    driver.add(*[ask_frame(id=f"r{i}", tokens=FILL * 3, max_tokens=2) for i in range(400)])
    driver.add(ask("other", "Count from 1 to 9."))
    driver.until(lambda: driver.answers["other"].reason != "", most=150)  # their prompt is 188 pieces

    assert driver.answers["other"].text == count(9)
    driver.run()
    assert len({tuple(driver.answers[f"r{i}"].tokens) for i in range(400)}) == 1
    assert driver.engine.counters.prompt_tokens < 3 * len(FILL) + 400 * 20


def test_what_the_store_cannot_hold_is_not_waited_for(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Driver(tiny, prefix_bytes=100 * 2048)
    assert len({tuple(a.tokens) for a in small.run(*_same(4))}) == 1

    monkeypatch.setattr(PrefixStore, "insert", lambda *_: False)
    taken: list[Row] = []
    snapshot = Lane.snapshot

    def counted(lane: Lane, row: Row) -> tuple[list[Any], list[int]]:
        taken.append(row)
        return snapshot(lane, row)

    monkeypatch.setattr(Lane, "snapshot", counted)
    refusing = Driver(tiny, prefix_bytes=ROOM, prefill_chunk=100)
    assert len({tuple(a.tokens) for a in refusing.run(*_same(4))}) == 1
    # None of them is copied in vain a second time.
    assert len(taken) == len(set(taken)) > 0


def _same(n: int) -> list[Generate]:
    return [ask_frame(id=f"r{i}", tokens=FILL, max_tokens=5) for i in range(n)]
