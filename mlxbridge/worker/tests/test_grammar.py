"""Answers that must have a form, among answers that are free."""

from __future__ import annotations

import dataclasses
import json
import queue
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from conftest import THINK
from forms import CLOSED, QUESTION, any_schema, regex, schema
from harness import PATIENCE, Driver, answer, ask, ask_frame, count

from mlxworker import channels, constraint, grammar, processors, template
from mlxworker.errors import RequestError
from mlxworker.lane import Lane
from mlxworker.model import Model
from mlxworker.protocol import Generate
from mlxworker.tokenizing import Job, Tokenizing


def test_32_schemas_at_once_beside_free_rows(tiny: Model) -> None:
    made = [any_schema(seed) for seed in range(32)]
    bound = [
        ask(f"s{i}", QUESTION, grammar=schema(s), max_tokens=300, temperature=(i % 3) * 1.0, seed=i)
        for i, (s, _) in enumerate(made)
    ]
    free = [ask(f"f{n}", f"Count from 1 to {n}.") for n in (20, 40, 60)]

    got = Driver(tiny, max_rows=64).run(*free, *bound)

    assert [a.text for a in got[:3]] == [count(1, n) for n in (20, 40, 60)]
    for a, (s, fits) in zip(got[3:], made, strict=True):
        assert a.error is None
        assert a.reason == "stop", a.text
        assert fits(json.loads(a.text)), (a.text, s)


def test_each_kind_of_grammar(tiny: Model) -> None:
    assert isinstance(json.loads(answer(tiny, QUESTION, grammar={"kind": "json_object"}).text), dict)
    assert answer(tiny, "Count from 1 to 20.", grammar=regex("1, 2, 4(, 5)?")).text.startswith("1, 2, 4")
    assert answer(tiny, QUESTION, grammar={"kind": "lark", "value": 'start: "b" "c"? "d"'}).text in ("bd", "bcd")


def test_what_the_grammar_allows_is_what_the_model_says_anyway(tiny: Model) -> None:
    free = answer(tiny, "Count from 1 to 20.")

    got = answer(tiny, "Count from 1 to 20.", grammar=regex("[0-9, ]+"))

    assert (got.text, got.tokens, got.reason) == (free.text, free.tokens, "stop")


def test_only_the_end_is_left_when_the_grammar_is_complete(tiny: Model) -> None:
    got = answer(tiny, "Count from 1 to 20.", grammar=regex("1, 2, 3"), logprobs=True, top_logprobs=3)

    assert (got.text, got.reason) == ("1, 2, 3", "stop")
    assert got.usage["completion_tokens"] == len(got.tokens)


def test_max_tokens_ends_it_early_with_a_valid_prefix(tiny: Model) -> None:
    whole = answer(tiny, "Count from 1 to 20.", grammar=regex('"1, 2, [0-9, ]+"'), max_tokens=40)

    got = answer(tiny, "Count from 1 to 20.", grammar=regex('"1, 2, [0-9, ]+"'), max_tokens=5)

    assert got.reason == "length"
    assert len(got.tokens) == 5
    assert whole.text.startswith(got.text)
    assert got.text.startswith('"1, 2')


def test_a_bias_does_not_get_past_the_grammar(tiny: Model) -> None:
    liked = tiny.tokenizer.encode("7", add_special_tokens=False)[0]

    got = answer(tiny, "Count from 1 to 20.", grammar=regex("1, [24], [37]"), logit_bias={str(liked): 100})

    assert got.text in ("1, 2, 7", "1, 4, 7")


@pytest.mark.parametrize("k", [1, 3, 9, 15])
def test_continue_leaves_no_seam(tiny: Model, k: int) -> None:
    form = schema(any_schema(5)[0])
    whole = answer(tiny, QUESTION, grammar=form)
    assert len(whole.tokens) > 15

    rest = answer(tiny, QUESTION, grammar=form, **{"continue": whole.tokens[:k]})

    assert whole.tokens[:k] + rest.tokens == whole.tokens
    assert rest.reason == "stop"


def test_continue_that_contradicts_the_grammar_is_refused(tiny: Model) -> None:
    with pytest.raises(RequestError, match="a token does not go with grammar") as e:
        answer(tiny, QUESTION, grammar=regex("[a-f]+"), **{"continue": [21, 30]})

    assert (e.value.code, e.value.field) == ("invalid_request", "continue")


def test_rows_that_start_again_keep_to_the_grammar(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [schema(any_schema(s)[0]) for s in range(4)]
    alone = [answer(tiny, QUESTION, grammar=f, temperature=1.0, seed=3).text for f in forms]
    steps = iter(range(1, 10_000))
    real = Lane.next

    def fails_now_and_then(lane: Lane, chunk: int) -> Any:
        if next(steps) % 5 == 0:
            inner = lane._generator.next

            def breaks() -> None:
                inner()  # what this step gave is lost, and drawn again
                raise ValueError("injected")

            lane._generator.next = breaks
        return real(lane, chunk)

    monkeypatch.setattr(Lane, "next", fails_now_and_then)
    asks = [ask(f"r{i}", QUESTION, grammar=f, temperature=1.0, seed=3) for i, f in enumerate(forms)]

    got = Driver(tiny).run(*asks)

    assert [a.text for a in got] == alone
    assert [(a.reason, a.error) for a in got] == [("stop", None)] * 4


def test_a_grammar_that_fails_in_a_step_fails_its_row_only(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tiny)
    driver.add(ask("bad", QUESTION, grammar=regex("[a-f]{30}")), ask("good", "Count from 1 to 30."))
    driver.add(ask("bound", "Count from 1 to 20.", grammar=regex("1, 2, 4")))
    driver.until(lambda: len(driver.answers["bad"].tokens) == 4)
    row = driver.engine._answers.live["bad"]

    class Broken:
        def consume_token(self, _: int) -> bool:
            return False

        def get_error(self) -> str:
            return "lexer error: too many states: 50000 >= 50000\nmore of it"

    inner = next(
        c.cell_contents
        for c in row.processors[-1].__closure__ or ()
        if callable(c.cell_contents) and isinstance(c.cell_contents, grammar.Constrained)
    )
    monkeypatch.setattr(inner, "_matcher", Broken())
    driver.run()

    error = driver.answers["bad"].error
    assert error is not None
    assert "it is too complex" in error.message
    assert "more of it" not in error.message
    assert (error.code, error.field) == ("invalid_request", "grammar")
    assert driver.answers["good"].text == count(1, 30)
    assert driver.answers["bound"].text == "1, 2, 4"


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"kind": "xml", "value": "a"}, "json_object, json_schema, regex, lark"),
        ("json", "json_object, json_schema, regex, lark"),
        ({"kind": "json_schema"}, "must be a JSON schema"),
        ({"kind": "json_schema", "value": [1]}, "must be a JSON schema"),
        ({"kind": "regex", "value": ""}, "source of a regex"),
        ({"kind": "lark", "value": {}}, "source of a lark"),
        ({"kind": "regex", "value": "(ab"}, "unclosed group"),
        ({"kind": "lark", "value": "start: nothing"}, 'unknown name: "nothing"'),
        ({"kind": "json_schema", "value": {"type": "objekt"}}, "Invalid type: objekt"),
        ({"kind": "json_schema", "value": {"not": {}}}, "Unimplemented keys"),
        ({"kind": "json_schema", "value": {"enum": []}}, "Unsatisfiable schema"),
        ({"kind": "json_schema", "value": {"$ref": "http://127.0.0.1:9/x"}}, "retriev"),
        ({"kind": "json_schema", "value": {"$ref": "#"}}, "refers to itself"),
        ({"kind": "json_schema", "value": {"allOf": [{"$ref": "#"}]}}, "refers to itself"),
        ({"kind": "regex", "value": "a" * 70_000}, "at most 65536"),
        ({"kind": "lark", "value": "start: " + "(" * 30_000 + '"a"' + ")" * 30_000}, "too deeply nested"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_in_one_line(tiny: Model, given: Any, part: str) -> None:
    with pytest.raises(RequestError) as e:
        answer(tiny, QUESTION, grammar=given, max_tokens=2)

    assert e.value.code == "invalid_request"
    assert (e.value.field or "").startswith("grammar")
    assert part in e.value.message
    assert "\n" not in e.value.message


@pytest.mark.parametrize("text", ["a</tool_call>b", "<|im_end|>", "see <|im_start|>system"])
def test_the_name_of_a_special_token_may_be_in_the_text_of_a_form(tiny: Model, text: str) -> None:
    got = answer(tiny, QUESTION, grammar=schema({"const": text}), max_tokens=60)

    assert (json.loads(got.text), got.reason) == (text, "stop")


def test_a_large_schema_works(tiny: Model) -> None:
    large = {
        "type": "object",
        "properties": {f"p{i}": {"type": "string", "maxLength": 3} for i in range(1200)},
        **CLOSED,
    }

    got = answer(tiny, QUESTION, grammar=schema(large), max_tokens=60)

    assert got.error is None
    assert got.text.startswith("{")


def test_long_chains_of_references_do_no_harm(tiny: Model) -> None:
    n = 1000
    links: dict[str, Any] = {f"a{i}": {"properties": {"p": {"$ref": f"#/$defs/a{i + 1}"}}} for i in range(n)}
    chain = {"$ref": "#/$defs/a0", "$defs": {**links, f"a{n}": {"type": "integer"}}}
    rules = "start: a0\n" + "".join(f"a{i}: a{i + 1}\n" for i in range(4500)) + 'a4500: "x"'

    assert answer(tiny, QUESTION, grammar=schema(chain), max_tokens=5).error is None
    assert answer(tiny, QUESTION, grammar={"kind": "lark", "value": rules}).text == "x"


def test_a_compiled_grammar_is_used_again(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = grammar.Grammars(tiny.folder, tiny.vocabulary, tiny.eos)
    compiled: list[str] = []
    real = grammar.Grammars._compile

    def counting(self: grammar.Grammars, given: constraint.Grammar) -> Any:
        compiled.append(given.value)
        return real(self, given)

    monkeypatch.setattr(grammar.Grammars, "_compile", counting)
    first, other = constraint.Grammar("regex", "a+"), constraint.Grammar("regex", "b+")
    for g in (first, other, first):
        assert not grammars.hold(g).start().is_error()

    assert compiled == ["a+", "b+"]


def test_a_matcher_made_ahead_is_not_made_again(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: queue.Queue[Job] = queue.Queue()
    made = ask("r", QUESTION, grammar=regex("[xyz]{3}"))
    Tokenizing(tiny, jobs.put).submit(Job("r", made.source, made))
    job = jobs.get(timeout=PATIENCE)
    assert job.form is not None
    tiny.grammars.shelf.drop(job.form.form)  # as many others do that come meanwhile
    monkeypatch.setattr(grammar.Grammars, "_compile", lambda *_: pytest.fail("compiled again"))

    got = Driver(tiny).run(dataclasses.replace(made, form=job.form))[0]

    assert got.error is None
    assert len(got.text) == 3


def test_what_was_tokenised_holds_no_grammar(tiny: Model) -> None:
    jobs: queue.Queue[Job] = queue.Queue()
    made = ask("r", QUESTION, grammar=regex("[xyz]{3}"))
    Tokenizing(tiny, jobs.put).submit(Job("r", made.source, made))
    form = weakref.ref(jobs.get(timeout=PATIENCE).form)

    until = time.monotonic() + PATIENCE
    while form() is not None:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_model_that_cannot_be_bound_says_so(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = dataclasses.replace(tiny, grammars=grammar.Grammars(tmp_path, tiny.vocabulary, tiny.eos))
    endless = dataclasses.replace(tiny, grammars=grammar.Grammars(tiny.folder, tiny.vocabulary, []))
    for model, part in ((without, "tokenizer.json"), (endless, "ends an answer")):
        assert not model.grammars.available
        with pytest.raises(RequestError, match=part) as e:
            answer(model, QUESTION, grammar=regex("a"))
        assert (e.value.code, e.value.field) == ("unsupported", "grammar")

    unbuilt = dataclasses.replace(tiny, grammars=grammar.Grammars(tiny.folder, tiny.vocabulary, tiny.eos))
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(RequestError, match="cannot force the form") as e:
        answer(unbuilt, QUESTION, grammar=regex("a"))
    assert e.value.code == "unsupported"


@pytest.mark.parametrize("wide", [2000, 2048, 2112])
def test_logits_of_another_width_than_the_vocabulary(tiny: Model, wide: int) -> None:
    import mlx.core as mx

    holding = grammar.Grammars(tiny.folder, wide, tiny.eos).hold(constraint.Grammar("regex", "[12]"))

    got = grammar.Constrained(holding, 1, tiny.eos)(mx.array([5]), mx.zeros((1, wide), mx.bfloat16))

    allowed = [i for i, v in enumerate(got[0].tolist()) if v == 0]
    assert got.shape == (1, wide)
    assert got.dtype == mx.bfloat16
    assert [tiny.tokenizer.decode([t]) for t in allowed] == ["1", "2"]


def test_thoughts_are_free_and_the_answer_is_bound(tiny: Model) -> None:
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tiny.tokenizer.encode(text, add_special_tokens=False))

    holding = grammar.Grammars(tiny.folder, tiny.vocabulary, tiny.eos).hold(constraint.Grammar("regex", "[xyz]{3}"))
    # The model counts, and here that is thinking until it says 7: what then comes is bound.
    thinking = grammar.Thinking(is_open=True, start=tokens("Count"), end=tokens("7"))
    driver = Driver(tiny)
    driver.add(ask("r", "Count from 1 to 20."))
    row = driver.engine._answers.live["r"]
    made = grammar.Constrained(holding, len(row.prompt), tiny.eos, thinking)
    row.processors = [processors.guarded(made, lambda e: pytest.fail(str(e)))]

    got = driver.run() or driver.answers["r"]

    assert isinstance(got, type(driver.answers["r"]))
    assert got.text.startswith(count(1, 7))
    assert set(got.text.removeprefix(count(1, 7))) <= set("xyz")
    assert len(got.text) == len(count(1, 7)) + 3


MARKED = ["Say <think>", "Say <think>\n", "<think> and </think>", "What does </think> mean?", "</think>"]


@pytest.mark.parametrize("text", ["Hi.", *MARKED])
def test_only_what_the_template_puts_at_the_end_opens_or_closes_thoughts(thinker: Model, text: str) -> None:
    def states(made: Generate, more: str = "") -> tuple[bool, bool]:
        prompt = template.tokens_of(thinker, made.source)
        prompt += thinker.tokenizer.encode(more, add_special_tokens=False) if more else []
        got = grammar._thinking(thinker, made, prompt)
        sorter = channels.for_request(thinker, made, prompt)
        assert sorter is None or (sorter._state == channels.REASONING) == got.is_open
        return got.is_open, got.may_open

    free = ask("r", text, template_args={"enable_thinking": False})
    assert states(ask("r", text)) == (True, False)
    assert states(free) == (False, True)
    assert states(free, "<think>\n\n</think>\n\n") == (False, False)  # closed for the model, which is not to think
    assert not states(ask_frame(id="r", prompt="Hi. " + text + "."))[1]


@pytest.mark.parametrize("text", MARKED)
def test_a_marker_in_a_message_does_not_free_the_answer(thinker: Model, text: str) -> None:
    silent = {"template_args": {"enable_thinking": False}, "logit_bias": {str(THINK): -100}}

    got = answer(thinker, text, grammar=regex("[xyz]{3}"), max_tokens=30, **silent)

    assert got.error is None
    assert (len(got.text), got.reasoning) == (3, "")
    assert set(got.text) <= set("xyz")
