"""Answers that must have a form, among answers that are free."""

from __future__ import annotations

import dataclasses
import json
import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import THINK, TINY
from harness import PATIENCE, Driver, Process, answer, ask, ask_frame
from test_engine import count

from mlxworker import channels, constraint, grammar, processors, template
from mlxworker.errors import RequestError
from mlxworker.lane import Lane
from mlxworker.model import Model
from mlxworker.protocol import Generate
from mlxworker.tokenizing import Job, Tokenizing

QUESTION = "What is the capital of Norway?"
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
CLOSED = {"additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {**CITY, **CLOSED}}}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/small"}},
            "required": ["a"],
            "$defs": {"small": {"type": "integer", "minimum": 40, "maximum": 42}},
            **CLOSED,
        },
    },
}


def schema(value: object) -> dict[str, Any]:
    return {"kind": "json_schema", "value": value}


def regex(value: str) -> dict[str, Any]:
    return {"kind": "regex", "value": value}


def any_schema(seed: int) -> tuple[dict[str, Any], Any]:
    """Return a schema, and what says whether a value follows it."""
    rng = random.Random(seed)
    fields: dict[str, Any] = {}
    checks: dict[str, Any] = {}
    for name in rng.sample(["kind", "count", "mark", "ready", "nested"], rng.randint(2, 4)):
        if name == "kind":
            words = [f"w{rng.randint(0, 999)}" for _ in range(3)]
            fields[name], checks[name] = {"enum": words}, words.__contains__
        elif name == "count":
            low = rng.randint(-50, 900)
            fields[name] = {"type": "integer", "minimum": low, "maximum": low + 7}
            checks[name] = lambda v, low=low: type(v) is int and low <= v <= low + 7
        elif name == "mark":
            mark = rng.choice([None, 17, "é", "x y"])
            fields[name], checks[name] = {"const": mark}, lambda v, mark=mark: v == mark
        elif name == "ready":
            fields[name], checks[name] = {"type": "boolean"}, lambda v: isinstance(v, bool)
        else:
            fields[name] = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 3}
            checks[name] = lambda v: isinstance(v, list) and len(v) in (2, 3) and set(v) <= {1, 2}
    made = {"type": "object", "properties": fields, "required": list(fields), **CLOSED}
    return made, lambda v: set(v) == set(fields) and all(checks[k](v[k]) for k in fields)


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
    row = driver.engine._live["bad"]

    class Broken:
        def consume_token(self, _: int) -> bool:
            return False

        def get_error(self) -> str:
            return "lexer too complex\nmore of it"

    inner = next(
        c.cell_contents
        for c in row.processors[-1].__closure__ or ()
        if callable(c.cell_contents) and isinstance(c.cell_contents, grammar.Constrained)
    )
    monkeypatch.setattr(inner, "_matcher", Broken())
    driver.run()

    error = driver.answers["bad"].error
    assert error is not None
    assert "lexer too complex" in error.message
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
        assert not grammars.matcher(g).is_error()
    assert compiled == ["a+", "b+"]
    for i in range(64):
        grammars.matcher(constraint.Grammar("regex", f"c{i}"))

    assert not grammars.is_ready(first)
    assert grammars.is_ready(constraint.Grammar("regex", "c1"))


def test_a_matcher_made_ahead_is_not_made_again(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: queue.Queue[Job] = queue.Queue()
    made = ask("r", QUESTION, grammar=regex("[xyz]{3}"))
    Tokenizing(tiny, jobs.put).submit(Job("r", made.source, made))
    job = jobs.get(timeout=PATIENCE)
    tiny.grammars._compiled.clear()  # as many others do that come meanwhile
    monkeypatch.setattr(grammar.Grammars, "_compile", lambda *_: pytest.fail("compiled again"))

    got = Driver(tiny).run(dataclasses.replace(made, matcher=job.matcher))[0]

    assert got.error is None
    assert len(got.text) == 3


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

    matcher = grammar.Grammars(tiny.folder, wide, tiny.eos).matcher(constraint.Grammar("regex", "[12]"))

    got = grammar.Constrained(matcher, 1, tiny.eos)(mx.array([5]), mx.zeros((1, wide), mx.bfloat16))

    allowed = [i for i, v in enumerate(got[0].tolist()) if v == 0]
    assert got.shape == (1, wide)
    assert got.dtype == mx.bfloat16
    assert [tiny.tokenizer.decode([t]) for t in allowed] == ["1", "2"]


def test_thoughts_are_free_and_the_answer_is_bound(tiny: Model) -> None:
    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tiny.tokenizer.encode(text, add_special_tokens=False))

    matcher = grammar.Grammars(tiny.folder, tiny.vocabulary, tiny.eos).matcher(constraint.Grammar("regex", "[xyz]{3}"))
    # The model counts, and here that is thinking until it says 7: what then comes is bound.
    thinking = grammar.Thinking(is_open=True, start=tokens("Count"), end=tokens("7"))
    driver = Driver(tiny)
    driver.add(ask("r", "Count from 1 to 20."))
    row = driver.engine._live["r"]
    made = grammar.Constrained(matcher, len(row.prompt), tiny.eos, thinking)
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


@pytest.mark.parametrize(("choice", "names"), [("required", {"get_weather", "add"}), ({"name": "add"}, {"add"})])
def test_a_forced_call_is_a_call_of_a_tool_with_its_arguments(tiny: Model, choice: Any, names: set[str]) -> None:
    got = answer(tiny, "Count from 1 to 20.", tools=[WEATHER, ADD], tool_choice=choice, max_tokens=400)

    assert (got.reason, got.text) == ("tool_calls", "")
    assert got.tokens[0] == 3  # the marker is its token, not its letters
    assert got.calls
    for call in got.calls:
        assert call["name"] in names
        if call["name"] == "add":
            assert json.loads(call["arguments"])["a"] in (40, 41, 42)


def test_a_forced_call_may_have_the_name_of_a_special_token_in_its_arguments(tiny: Model) -> None:
    text = {"enum": ["a</tool_call>b"]}
    made = {"type": "object", "properties": {"text": text}, "required": ["text"], **CLOSED}
    tool = {"type": "function", "function": {"name": "send", "parameters": made}}
    got = answer(tiny, QUESTION, tools=[tool], tool_choice={"name": "send"}, max_tokens=60)

    assert got.reason == "tool_calls"
    assert json.loads(got.calls[0]["arguments"]) == {"text": "a</tool_call>b"}


def test_a_forced_call_has_no_more_whitespace_than_other_json(tiny: Model) -> None:
    wanted = ask("r", QUESTION, tools=[ADD], tool_choice={"name": "add"})
    made = grammar.demanded(tiny, wanted)
    assert made is not None

    def fits(arguments: str) -> bool:
        text = '{"name": "add", "arguments": ' + arguments + "}"
        tokens = [3, *tiny.tokenizer.encode(text, add_special_tokens=False), 4]
        return bool(tiny.grammars.matcher(made).try_consume_tokens(tokens) == len(tokens))

    assert fits('{"a": 41}')
    assert fits('{\n  "a": 41}')
    assert not fits('{"a":  41}')
    assert not fits('{\n\n"a": 41}')


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": ["array", "null"]}, [1], True, "text"])
def test_a_call_whose_arguments_are_no_object_cannot_be_forced(tiny: Model, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "send", "parameters": parameters}}
    with pytest.raises(RequestError) as e:
        answer(tiny, QUESTION, tools=[tool], tool_choice="required", max_tokens=60)

    assert (e.value.code, e.value.field) == ("invalid_request", "tools")
    assert "parameters of 'send' must be" in e.value.message


@pytest.mark.parametrize("parameters", [None, {}, {"anyOf": [{"type": "integer"}, CITY]}, {"$ref": "#/$defs/x"}])
def test_the_arguments_of_a_forced_call_are_an_object(tiny: Model, parameters: Any) -> None:
    defs = {"$defs": {"x": {**CITY, **CLOSED}}} if parameters else {}
    tool = {"type": "function", "function": {"name": "send", "parameters": parameters and {**parameters, **defs}}}
    got = answer(tiny, QUESTION, tools=[tool], tool_choice="required", max_tokens=200)

    assert got.calls
    assert got.calls[0]["arguments"].startswith("{")


def test_tool_choice_auto_and_none_force_nothing(tiny: Model) -> None:
    for choice in ("auto", "none", None):
        made = ask("r", "Count from 1 to 9.", tools=[WEATHER], tool_choice=choice)
        assert made.tool_choice == (choice or "auto")
        assert grammar.demanded(tiny, made) is None


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": {"name": "add"}}, "none of the tools"),
        ({"tool_choice": {"name": "sub"}, "tools": [ADD]}, "'sub', which is none"),
        ({"tool_choice": "always", "tools": [ADD]}, "auto, none, required"),
        ({"tool_choice": {}, "tools": [ADD]}, "auto, none, required"),
        ({"tool_choice": "required", "tools": [ADD], "grammar": {"kind": "json_object"}}, "exclude each other"),
    ],
)
def test_a_tool_choice_that_cannot_be_is_refused(tiny: Model, fields: dict[str, Any], part: str) -> None:
    with pytest.raises(RequestError) as e:
        answer(tiny, QUESTION, **fields)

    assert (e.value.code, e.value.field) == ("invalid_request", "tool_choice")
    assert part in e.value.message


def test_a_model_with_another_format_of_calls_cannot_be_forced(tiny: Model) -> None:
    class Other:
        tool_parser = staticmethod(lambda *_: None)
        has_tool_calling = True

    class Without:
        tool_parser = None
        has_tool_calling = False

    for tokenizer, part in ((Other(), "not JSON between markers"), (Without(), "knows no tool calls")):
        model = dataclasses.replace(tiny, tokenizer=tokenizer)
        with pytest.raises(RequestError, match=part) as e:
            grammar.demanded(model, ask("r", "x", tools=[ADD], tool_choice="required"))
        assert (e.value.code, e.value.field) == ("unsupported", "tool_choice")


@pytest.fixture
def worker() -> Iterator[Process]:
    process = Process()
    process.load(TINY)
    yield process
    process.close()


def gen(id_: str, text: str, **fields: object) -> dict[str, object]:
    return {"type": "gen", "id": id_, "messages": [{"role": "user", "content": text}], **fields}


def test_a_worker_compiles_beside_its_streams(worker: Process) -> None:
    # Determining that nothing fits all of these takes the compiler more than a second.
    slow = schema({"allOf": [{"type": "string", "pattern": f"a.*b{i}.*"} for i in range(18)]})
    worker.send(gen("slow", QUESTION, grammar=slow), gen("free", "Count from 1 to 100."))
    got = worker.collect(["slow", "free"])
    kinds = [f["type"] for f in worker.seen]
    assert kinds.index("step") < kinds.index("error")
    assert got["free"].text == count(1, 100)
    assert got["slow"].error is not None
    assert (got["slow"].error.code, got["slow"].error.field) == ("invalid_request", "grammar")

    made, fits = any_schema(7)
    worker.send(gen("a", QUESTION, grammar=schema(made)), gen("b", QUESTION, grammar=regex("b(")))
    got = worker.collect(["a", "b"])

    assert fits(json.loads(got["a"].text))
    worker.send(gen("c", "Count from 1 to 20.", tools=[WEATHER, ADD], tool_choice={"name": "add"}))
    assert [call["name"] for call in worker.collect(["c"])["c"].calls] == ["add"]
    assert got["b"].error is not None


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled(worker: Process) -> None:
    slow = schema({"allOf": [{"type": "string", "pattern": f"a.*b{i}.*"} for i in range(18)]})
    worker.send(gen("slow", QUESTION, grammar=slow), {"type": "cancel", "id": "slow"})

    assert worker.wait("done", id="slow")["reason"] == "cancelled"
    worker.send(gen("after", "Count from 1 to 9."))
    assert worker.collect(["after"])["after"].text == count(1, 9)
