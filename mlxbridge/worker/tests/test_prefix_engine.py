"""Stored prefixes in the engine: they are used, and change no answer."""

from __future__ import annotations

import mlx.core as mx
import pytest
from harness import Driver, answer, ask, ask_frame

from mlxworker.model import Model
from mlxworker.prefix import LEAST_TOKENS


def test_an_exact_hit_gives_the_same_answer(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24)
    first, second = (driver.run(ask(i, "Count from 1 to 40."))[0] for i in "ab")

    assert second.tokens == first.tokens
    assert first.usage["cached_tokens"] == 0
    assert second.usage["cached_tokens"] == second.usage["prompt_tokens"] - 1
    assert driver.engine.counters.prompt_tokens == first.usage["prompt_tokens"] + 1


def test_a_prompt_that_is_an_earlier_prompt_and_its_answer(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24)
    prompt = tiny.tokenizer.encode("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,")
    first = driver.run(ask_frame(id="a", tokens=prompt, max_tokens=20))[0]
    whole = prompt + first.tokens

    again = driver.run(ask_frame(id="b", tokens=whole, max_tokens=10))[0]

    assert again.usage["cached_tokens"] == len(whole) - 1
    assert again.tokens == Driver(tiny).run(ask_frame(id="c", tokens=whole, max_tokens=10))[0].tokens


def test_a_prompt_that_parts_in_the_middle_uses_the_beginning(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24)
    driver.run(ask("a", "Count from 1 to 40."))

    other = driver.run(ask("b", "Count from 1 to 25."))[0]

    assert other.text == answer(tiny, "Count from 1 to 25.").text
    assert LEAST_TOKENS <= other.usage["cached_tokens"] < other.usage["prompt_tokens"] - 1


def test_the_second_turn_computes_only_what_is_new(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24)
    turns = [{"role": "user", "content": "Count from 1 to 60."}]
    first = driver.run(ask("a", "", messages=turns, session="s"))[0]
    turns += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "Count from 1 to 20."}]

    second = driver.run(ask("b", "", messages=turns, session="s"))[0]

    assert second.text == answer(tiny, "", messages=turns).text
    new = second.usage["prompt_tokens"] - second.usage["cached_tokens"]
    assert new < 25 < first.usage["prompt_tokens"] + len(first.tokens)


def test_eviction_under_running_requests_changes_no_answer(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=40 * 2048)
    asks = [ask(f"r{i}", f"Count from 1 to {20 + i % 5}.", stop=["19"] if i % 3 == 0 else None) for i in range(20)]
    driver.add(*asks[:10])
    driver.until(lambda: driver.engine.counters.finished >= 4)
    got = driver.run(*asks[10:])
    got = [driver.answers[a.id] for a in asks]

    for i, a in enumerate(got):
        whole = ", ".join(str(n) for n in range(1, 21 + i % 5))
        assert a.text == (whole[: whole.index("19")] if i % 3 == 0 else whole)
    assert driver.engine.prefix.nbytes <= 40 * 2048


def test_a_cancelled_long_prompt_is_not_computed_twice(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24, prefill_chunk=256)
    driver.add(ask_frame(id="a", tokens=[7, 8, 9, 10] * 300))
    driver.step()
    driver.step()
    driver.engine.cancel("a")
    driver.step()

    got = driver.run(ask_frame(id="b", tokens=[7, 8, 9, 10] * 300, max_tokens=1))[0]

    assert got.usage["cached_tokens"] == 512


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_prefixes_serve_in_the_engine(tiny: Model, bits: int) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24, stored_bits=bits)
    driver.run(ask("a", "Count from 1 to 40."))

    again = driver.run(ask("b", "Count from 1 to 40."))[0]

    assert again.usage["cached_tokens"] == again.usage["prompt_tokens"] - 1
    assert again.text == answer(tiny, "Count from 1 to 40.").text
    assert driver.engine.prefix.nbytes < 0.4 * driver.engine.model.kv.for_one_token() * 150


def test_eviction_while_what_was_fetched_is_in_a_batch(tiny: Model) -> None:
    driver = Driver(tiny, prefix_bytes=1 << 24)
    driver.run(ask("a", "Count from 1 to 60."))
    driver.add(*[ask(f"r{i}", f"Count from 1 to {60 + i}.") for i in range(4)])
    driver.until(lambda: all(len(driver.answers[f"r{i}"].tokens) > 5 for i in range(4)))
    driver.engine.prefix.clear()
    mx.clear_cache()
    driver.run()

    for i in range(4):
        assert driver.answers[f"r{i}"].text == ", ".join(str(n) for n in range(1, 61 + i))
