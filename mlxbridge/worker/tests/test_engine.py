"""The engine against whole, exact answers."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driver, answer, ask, ask_frame, count

from mlxworker.model import Model

QUESTIONS = [
    "Count from 1 to 60.",
    "Count from 5 to 40.",
    "What is the capital of Norway?",
    "Count from 1 to 20.",
]


def test_counts_to_300_whole_and_exact(tiny: Model) -> None:
    got = answer(tiny, "Count from 1 to 300.")

    assert got.text == count(1, 300)
    assert got.reason == "stop"
    assert got.usage["completion_tokens"] == len(got.tokens) == got.steps


def test_32_at_once_are_all_exact(tiny: Model) -> None:
    driver = Driver(tiny)

    got = driver.run(*[ask(f"r{n}", f"Count from 1 to {n}.") for n in range(20, 52)])

    assert [a.text for a in got] == [count(1, n) for n in range(20, 52)]
    assert driver.engine.counters.finished == 32
    assert driver.engine.counters.generated_tokens == sum(len(a.tokens) + 1 for a in got)


def test_more_rows_than_fit_wait_their_turn(tiny: Model) -> None:
    driver = Driver(tiny, max_rows=2)
    driver.add(*[ask(f"r{n}", f"Count from 1 to {n}.") for n in range(20, 26)])
    most = 0
    while driver.engine.busy:
        driver.step()
        most = max(most, driver.engine.running)

    assert most == 2
    assert [driver.answers[f"r{n}"].text for n in range(20, 26)] == [count(1, n) for n in range(20, 26)]


def test_a_row_passes_those_that_wait_for_another_lane(tiny: Model) -> None:
    driver = Driver(tiny, prefill_chunk=64)
    driver.add(ask("a", "Count from 1 to 60."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 5)
    driver.add(*[ask_frame(id=f"l{i}", tokens=[30 + j % 900 for j in range(3000)], max_tokens=1) for i in range(2)])
    driver.add(ask("b", "Count from 1 to 9."))
    driver.until(lambda: driver.answers["b"].reason != "")

    assert driver.answers["b"].text == count(1, 9)
    assert driver.answers["l0"].reason == driver.answers["l1"].reason == ""
    driver.run()
    assert driver.answers["a"].text == count(1, 60)


def test_a_row_in_a_batch_gives_the_tokens_that_it_gives_alone(small: Model) -> None:
    alone = [answer(small, q).tokens for q in QUESTIONS]

    together = Driver(small).run(*[ask(f"q{i}", q) for i, q in enumerate(QUESTIONS)])

    assert [a.tokens for a in together] == alone


def test_seeded_rows_draw_the_same_alone_and_in_any_company(tiny: Model) -> None:
    how: dict[str, Any] = {"temperature": 8.0, "max_tokens": 40}
    alone = [answer(tiny, "Tell me something.", seed=s, **how).tokens for s in range(4)]
    driver = Driver(tiny)
    driver.add(ask("other", "Count from 1 to 100."))
    driver.until(lambda: len(driver.answers["other"].tokens) > 3)
    asks = [ask(f"s{s}", "Tell me something.", seed=s, **how) for s in range(4)]
    shaped = [ask(f"p{s}", "Tell me something.", seed=s, top_p=0.9, top_k=50, min_p=0.01, **how) for s in range(3)]

    got = driver.run(*asks, *shaped)

    assert [a.tokens for a in got[:4]] == alone
    assert len({tuple(t) for t in alone}) == 4
    assert driver.answers["other"].text == count(1, 100)


def test_rows_without_a_seed_differ(tiny: Model) -> None:
    driver = Driver(tiny)

    got = driver.run(*[ask(f"r{i}", "Tell me.", temperature=30, max_tokens=30) for i in range(4)])

    assert len({tuple(a.tokens) for a in got}) == 4


@pytest.mark.parametrize("top_k", [2047, 2048, 2049, 10**12])
def test_top_k_of_the_vocabulary_or_more_is_no_limit(tiny: Model, top_k: int) -> None:
    how: dict[str, Any] = {"temperature": 1.5, "seed": 7, "max_tokens": 20}

    got = answer(tiny, "Tell me something.", top_k=top_k, **how)

    assert got.tokens == answer(tiny, "Tell me something.", **how).tokens


def test_top_k_of_one_takes_the_likeliest_at_any_temperature(tiny: Model) -> None:
    assert answer(tiny, "Count from 1 to 40.", temperature=5, top_k=1, seed=1).text == count(1, 40)
    assert answer(tiny, "Count from 1 to 40.", temperature=5, top_p=0, seed=1).text == count(1, 40)
    assert answer(tiny, "Count from 1 to 40.", temperature=5, min_p=1, seed=1).text == count(1, 40)


@pytest.mark.parametrize(
    ("stop", "text", "found"),
    [
        (["12"], "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ", "12"),
        ([", 3, 4"], "1, 2", ", 3, 4"),
        (["9, 1", "0, 1"], "1, 2, 3, 4, 5, 6, 7, 8, ", "9, 1"),
        ([" 5,", "4, 5"], "1, 2, 3, ", "4, 5"),
        (["nothing", "20, 21"], count(1, 20), None),
        ([count(1, 19) + ", 2"], "", count(1, 19) + ", 2"),
    ],
)
def test_stop_sequences_are_found_in_the_text_across_tokens(
    tiny: Model, stop: list[str], text: str, found: str | None
) -> None:
    got = answer(tiny, "Count from 1 to 20.", stop=stop)

    assert (got.text, got.reason, got.stop) == (text, "stop", found)


def test_stop_inside_a_word(tiny: Model) -> None:
    whole = answer(tiny, "What is the capital of Norway?").text

    got = answer(tiny, "What is the capital of Norway?", stop=["pita"])

    assert "capital" in whole
    assert got.text == whole[: whole.index("pita")]


def test_max_tokens_cuts_and_flushes_what_was_held_back(tiny: Model) -> None:
    whole = answer(tiny, "Count from 1 to 20.")

    got = answer(tiny, "Count from 1 to 20.", max_tokens=8, stop=["2, 3, never"])

    assert got.tokens == whole.tokens[:8]
    assert got.text == "1, 2, 3,"
    assert got.reason == "length"
    assert got.usage["completion_tokens"] == 8


def test_an_answer_ends_at_the_end_of_the_context(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "context", 40)

    got = answer(tiny, "Count from 1 to 300.", max_tokens=10**9)

    assert (got.reason, got.usage) == ("length", {"prompt_tokens": 18, "cached_tokens": 0, "completion_tokens": 22})


@pytest.mark.parametrize("k", [1, 2, 20, 57])
def test_continue_after_k_tokens_gives_the_exact_rest(small: Model, k: int) -> None:
    whole = answer(small, "Count from 1 to 30.", stop=["zzz"])
    first = answer(small, "Count from 1 to 30.", max_tokens=k)

    rest = answer(small, "Count from 1 to 30.", **{"continue": whole.tokens[:k]})

    assert whole.text == count(1, 30)
    assert first.text + rest.text == whole.text
    assert rest.tokens == whole.tokens[k:]
    assert rest.usage == whole.usage


def test_continue_keeps_seed_stop_and_limit(tiny: Model) -> None:
    how: dict[str, Any] = {"temperature": 1.2, "seed": 11, "max_tokens": 40}
    whole = answer(tiny, "Tell me.", **how)
    rest = answer(tiny, "Tell me.", **how, **{"continue": whole.tokens[:9]})
    assert rest.tokens == whole.tokens[9:]

    counted = answer(tiny, "Count from 1 to 20.")
    cut = next(i for i in range(len(counted.tokens)) if tiny.tokenizer.decode(counted.tokens[:i]).endswith("1"))
    stopped = answer(tiny, "Count from 1 to 20.", stop=["1, 2, 3"], **{"continue": counted.tokens[:cut]})
    assert (stopped.text, stopped.stop) == ("", "1, 2, 3")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"max_tokens": 3}, "length"), ({"stop": ["2"]}, "stop"), ({}, "stop")],
)
def test_continue_of_what_had_ended_ends_at_once(tiny: Model, fields: dict[str, Any], reason: str) -> None:
    done = answer(tiny, "Count from 1 to 20.").tokens
    already = done[:3] if fields.get("max_tokens") else [*done, tiny.eos[0]]
    driver = Driver(tiny)

    got = driver.run(ask("x", "Count from 1 to 20.", **fields, **{"continue": already}))[0]

    assert (got.reason, got.text, got.tokens) == (reason, "", [])
    assert driver.engine.counters.steps == 0


def test_text_is_sent_in_whole_characters(tiny: Model) -> None:
    text = "héllo → 世界 🎉 done"
    tokens = tiny.tokenizer.encode(text)
    detokenizer = tiny.words.detokenizer()

    pieces = [detokenizer.feed(t) for t in tokens]

    assert "".join(pieces) == text
    assert not any("\ufffd" in p for p in pieces)
    assert detokenizer.flush() == ""
    assert b"".join(tiny.words.token_bytes(t) for t in tokens) == text.encode()


def test_broken_bytes_at_the_end_become_replacements(tiny: Model) -> None:
    detokenizer = tiny.words.detokenizer()
    tokens = tiny.tokenizer.encode("世")
    assert len(tokens) > 1

    assert "".join(detokenizer.feed(t) for t in tokens[:-1]) + detokenizer.flush() == "\ufffd"


def test_logprobs_come_only_when_asked_and_rank_the_chosen_first(tiny: Model) -> None:
    driver = Driver(tiny)

    plain, chosen, top = driver.run(
        ask("plain", "Count from 1 to 9."),
        ask("chosen", "Count from 1 to 9.", logprobs=True),
        ask("top", "Count from 1 to 9.", logprobs=True, top_logprobs=3),
    )

    assert plain.logprobs == []
    assert [e["t"] for e in chosen.logprobs] == chosen.tokens
    assert all("top" not in e for e in chosen.logprobs)
    assert [e["top"][0]["t"] for e in top.logprobs] == top.tokens
    assert all(len(e["top"]) == 3 and e["top"][0]["l"] >= e["top"][1]["l"] >= e["top"][2]["l"] for e in top.logprobs)
    assert all(-0.5 < e["l"] <= 0 for e in top.logprobs)
    assert b"".join(bytes(e["b"]) for e in chosen.logprobs).decode() == chosen.text


def test_logit_bias_rules_tokens_in_and_out(tiny: Model) -> None:
    (five,) = tiny.tokenizer.encode("5")

    forced = answer(tiny, "Count from 1 to 9.", logit_bias={str(five): 100}, max_tokens=6)
    banned = answer(tiny, "Count from 1 to 9.", logit_bias={str(five): -100}, max_tokens=60)

    assert forced.text == "555555"
    assert "5" not in banned.text


def test_penalties_keep_a_row_from_repeating(tiny: Model) -> None:
    driver = Driver(tiny)
    frequent, present, plain = driver.run(
        ask("f", "Count from 1 to 40.", frequency_penalty=100, max_tokens=50, logit_bias={"2": -100}),
        ask("p", "Count from 1 to 40.", presence_penalty=100, max_tokens=50, logit_bias={"2": -100}),
        ask("n", "Count from 1 to 40."),
    )

    assert len(set(frequent.tokens)) == 50
    assert len(set(present.tokens)) == 50
    assert plain.text == count(1, 40)


def test_repetition_penalty_counts_the_prompt(tiny: Model) -> None:
    plain = answer(tiny, "Count from 1 to 9.", max_tokens=1, logprobs=True)
    damped = answer(tiny, "Count from 1 to 9.", max_tokens=1, logprobs=True, repetition_penalty=2)

    assert plain.tokens == tiny.tokenizer.encode("1")
    assert damped.tokens != plain.tokens or damped.logprobs[0]["l"] < plain.logprobs[0]["l"]
