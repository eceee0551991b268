"""The engine against whole, exact answers."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driver, answer, ask, ask_frame

from mlxworker import rows
from mlxworker.errors import FatalError, RequestError
from mlxworker.lane import Lane
from mlxworker.model import Model
from mlxworker.report import Output

QUESTIONS = [
    "Count from 1 to 60.",
    "Count from 5 to 40.",
    "What is the capital of Norway?",
    "Count from 1 to 20.",
]


def count(first: int, last: int) -> str:
    return ", ".join(str(n) for n in range(first, last + 1))


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


# -- cancel, at every stage ------------------------------------------------------------------------------------------


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


# -- faults ----------------------------------------------------------------------------------------------------------


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
    assert not driver.engine._live


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
    lost = next(iter(driver.engine._live[i] for i in ("a", "b") if driver.engine._live[i] not in lane.rows()))
    lane.decoding.extend([lost, lost])
    monkeypatch.setattr(lane, "rows", lambda: list(driver.engine._live.values()))
    driver.run()

    assert driver.engine._alone
    assert driver.answers["a"].text == count(1, 40)
    assert driver.answers["b"].tokens == alone


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_tools_and_calls_reach_the_template(tiny: Model) -> None:
    from mlxworker.protocol import parse_source
    from mlxworker.template import tokens_of

    call = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    source = parse_source(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1"}]},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "2", "tool_call_id": "c1"},
            ],
            "tools": [{"type": "function", "function": {"name": "add"}}],
        }
    )

    text = tiny.tokenizer.decode(tokens_of(tiny, source))

    assert '"name": "add"' in text
    assert "<|im_start|>user\n1+1<|im_end|>" in text
    assert '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' in text
    assert text.endswith("<|im_start|>assistant\n")


def test_a_template_that_raises_is_the_requests_fault(tiny: Model) -> None:
    with pytest.raises(RequestError) as e:
        answer(tiny, "x", template_args={"messages": 1})
    assert e.value.field == "template_args"

    with pytest.raises(RequestError) as e:
        answer(tiny, "x", messages=[{"role": "assistant", "tool_calls": [{"function": {}}]}])
    assert e.value.code == "invalid_request"


def test_an_image_part_is_refused(tiny: Model) -> None:
    image = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]
    with pytest.raises(RequestError) as e:
        answer(tiny, "x", messages=[{"role": "user", "content": image}])
    assert e.value.code == "unsupported"
