"""Reasoning and tool calls on real models, and every seam where another worker may go on."""

from __future__ import annotations

import json
from typing import Any

import mlx.core as mx
import pytest
from conftest import THINK, TINY
from harness import Answer, Driver, Process, answer, ask

from mlxworker import channels, protocol, rows
from mlxworker.engine import Engine
from mlxworker.errors import RequestError
from mlxworker.model import Model
from mlxworker.toolcalls import Call

QUESTION = "What is the weather in Oslo?"


def tool(name: str, *arguments: str) -> dict[str, Any]:
    properties = {a: {"type": "string"} for a in arguments}
    doc = {"get_weather": "Get the weather of a city.", "get_time": "Get the time in a city."}[name]
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "description": doc, "parameters": parameters}}


TOOLS = [tool("get_weather", "city"), tool("get_time", "city")]


def called(a: Answer) -> list[tuple[str, Any]]:
    return [(c["name"], json.loads(c["arguments"])) for c in a.calls]


def forced(model: Model, text: str, **fields: Any) -> Answer:
    """Return an answer whose tokens are those of text, drawn by the real engine."""
    script = [int(t) for t in model.tokenizer.encode(text, add_special_tokens=False)] + [model.eos[0]]
    driver = Driver(model)
    driver.answers["x"] = Answer()
    row = driver.engine.add(ask("x", "Hi.", request="r", **fields))

    def script_only(tokens: Any, logits: Any) -> Any:
        wanted = script[min(len(tokens) - len(row.prompt), len(script) - 1)]
        return mx.where(mx.arange(logits.shape[-1]) == wanted, mx.array(50.0), mx.array(-50.0))[None]

    row.processors.append(rows.guard(row, script_only))
    driver.run()
    return driver.answers["x"]


def test_a_tool_is_called_and_its_result_answered(small: Model) -> None:
    first = answer(small, QUESTION, tools=TOOLS)
    assert called(first) == [("get_weather", {"city": "Oslo"})]
    assert (first.text, first.reason) == ("", "tool_calls")
    assert len(first.pieces) > 3

    call = {"id": first.calls[0]["id"], "type": "function", "function": {"name": "get_weather"}}
    call["function"]["arguments"] = first.calls[0]["arguments"]
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"sky": "sunny", "degrees": 20}', "tool_call_id": call["id"]},
    ]
    frame = {"type": "gen", "id": "x", "messages": messages, "tools": TOOLS}
    second = Driver(small).run(protocol.parse_generate(frame))[0]
    assert (second.text, second.reason, second.calls) == ("It is sunny in Oslo with 20 degrees.", "stop", [])


def test_rows_with_and_without_tools_share_a_batch(tiny: Model) -> None:
    driver = Driver(tiny)

    got = driver.run(
        *[ask(f"r{i}", QUESTION if i % 2 else "Count from 1 to 20.", tools=TOOLS[: i % 2]) for i in range(8)]
    )

    assert [called(a) for a in got[1::2]] == [[("get_weather", {"city": "Oslo"})]] * 4
    assert [a.text for a in got[::2]] == [", ".join(map(str, range(1, 21)))] * 4
    assert len({a.calls[0]["id"] for a in got[1::2]}) == 4


def test_a_row_without_channels_has_no_parser(tiny: Model, thinker: Model) -> None:
    def parser(model: Model, **fields: Any) -> object:
        frame = {"type": "gen", "id": "x", **fields}
        return rows.make_row(model, protocol.parse_generate(frame)).channels

    chat = {"messages": [{"role": "user", "content": "Hi."}]}
    assert parser(tiny, **chat) is None
    assert parser(tiny, **chat, tools=TOOLS, tool_choice="none") is None
    assert parser(tiny, **chat, tools=TOOLS) is not None
    assert parser(thinker, **chat) is not None
    assert parser(thinker, prompt="<think>") is None
    assert parser(thinker, tokens=[THINK]) is None


def test_raw_prompts_are_never_parsed(tiny: Model) -> None:
    prompt = tiny.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tools=TOOLS, add_generation_prompt=True, tokenize=False
    )

    got = Driver(tiny).run(protocol.parse_generate({"type": "gen", "id": "x", "prompt": prompt}))[0]

    assert got.text == '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    assert (got.calls, got.reason) == ([], "stop")


def test_tool_choice_none_offers_no_tools(tiny: Model) -> None:
    plain, none = answer(tiny, QUESTION), answer(tiny, QUESTION, tools=TOOLS, tool_choice="none")

    assert none.usage["prompt_tokens"] == plain.usage["prompt_tokens"]
    assert none.text == plain.text
    assert none.calls == []


@pytest.mark.parametrize("choice", ["often", 7, {}])
def test_tool_choice_that_cannot_be_kept_is_refused(choice: object) -> None:
    with pytest.raises(RequestError) as e:
        ask("x", QUESTION, tool_choice=choice)
    assert e.value.field == "tool_choice"


def test_reasoning_and_answer_come_apart(thinker: Model) -> None:
    got = forced(thinker, "<think>\nI count.\n</think>\n\n1, 2, 3", template_args={"enable_thinking": False})
    assert (got.reasoning, got.text, got.reason) == ("I count.", "1, 2, 3", "stop")

    opened = forced(thinker, "I count.\n</think>\n\n1, 2, 3")
    assert (opened.reasoning, opened.text) == ("I count.", "1, 2, 3")
    never = forced(thinker, "I count.")
    assert (never.reasoning, never.text, never.reason) == ("I count.", "", "stop")


def test_calls_in_a_row_after_reasoning(thinker: Model) -> None:
    oslo = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    text = "I ask.</think>\nWell.\n" + oslo + "\n" + oslo.replace("Oslo", "Rome")

    got = forced(thinker, text, tools=TOOLS, stop=["Oslo", "ask"])

    assert (got.reasoning, got.text, got.reason) == ("I ask.", "Well.", "tool_calls")
    assert called(got) == [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    stopped = forced(thinker, text, tools=TOOLS, stop=["ell"])
    assert (stopped.text, stopped.calls, stopped.reason, stopped.stop) == ("W", [], "stop", "ell")


@pytest.mark.parametrize("between", ["", "\n"])
def test_an_answer_may_end_with_its_first_call(thinker: Model, between: str) -> None:
    oslo = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    text = "I ask.</think>" + oslo + between + oslo.replace("Oslo", "Rome") + "Done."

    got = forced(thinker, text, tools=TOOLS, single_tool_call=True)

    assert called(got) == [("get_weather", {"city": "Oslo"})]
    assert (got.text, got.reasoning, got.reason, got.stop) == ("", "I ask.", "tool_calls", None)
    assert got.tokens[-1] == 4  # the end of the call
    again = forced(thinker, text, tools=TOOLS, single_tool_call=True, **{"continue": got.tokens})
    assert (again.tokens, again.text, again.calls, again.reason) == ([], "", [], "tool_calls")


def test_what_an_attempt_gave_and_what_the_next_gives_is_the_whole(thinker: Model) -> None:
    oslo = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'
    text = "I ask.\n</think>\n\nWell.\n" + oslo + "\n" + oslo.replace("Oslo", "Rome") + "\nDone."
    whole = forced(thinker, text, tools=TOOLS)
    parts = _by_token(thinker, text)

    for cut in range(1, len(whole.tokens), 3):
        rest = forced(thinker, text, tools=TOOLS, **{"continue": whole.tokens[:cut]})
        got = Answer()
        for part in parts[:cut]:
            got.take(*part)
        assert (rest.tokens, rest.reason) == (whole.tokens[cut:], "tool_calls")
        got.text, got.reasoning = got.text + rest.text, got.reasoning + rest.reasoning
        for piece in rest.pieces:
            got.take("", None, {"calls": [piece]})
        assert (got.text, got.reasoning, got.calls) == (whole.text, whole.reasoning, whole.calls)


def _by_token(model: Model, text: str) -> list[list[Any]]:
    """Return what each token of an answer gave."""
    driver = Driver(model)
    row = driver.engine.add(ask("x", "Hi.", request="r", tools=TOOLS))
    out = []
    for token in model.tokenizer.encode(text, add_special_tokens=False):
        row.feed(int(token))
        (made,) = channels.rows_of(row.id, row.pieces, [], None)
        out.append([made[1], None, made[4] if len(made) > 4 else None])
    return out


def test_a_parser_that_breaks_costs_only_its_row(thinker: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(thinker)
    driver.add(
        ask("bad", QUESTION, tools=TOOLS, template_args={"enable_thinking": False}),
        ask("good", "Count from 1 to 20.", max_tokens=9),
    )

    def broken(self: Call, text: str) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(Call, "feed", broken)
    driver.run()
    assert driver.answers["bad"].error is not None
    assert driver.answers["good"].reasoning + driver.answers["good"].text != ""


@pytest.mark.parametrize(
    ("args", "opens"),
    [
        ({}, True),
        ({"enable_thinking": True}, True),
        ({"enable_thinking": False}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
    ],
)
def test_thinking_is_controlled_as_the_template_has_it(thinker: Model, args: dict[str, Any], opens: bool) -> None:
    row = rows.make_row(thinker, ask("x", "Hi.", template_args=args))

    assert (THINK in row.prompt) == opens


@pytest.mark.parametrize(
    ("args", "code", "field"),
    [
        ({"enable_thinking": False}, "invalid_request", "template_args"),
        ({"thinking_budget": 7}, "invalid_request", "template_args"),
        ({"reasoning_effort": "low"}, "unsupported", "reasoning_effort"),
        ({"reasoning_effort": "lots"}, "invalid_request", "reasoning_effort"),
        ({"one": 1}, "invalid_request", "template_args"),  # a word of the template's text
    ],
)
def test_a_control_that_the_template_does_not_read_is_refused(
    tiny: Model, args: dict[str, Any], code: str, field: str
) -> None:
    with pytest.raises(RequestError) as e:
        Engine(tiny, Driver(tiny).engine.options).add(ask("x", "Hi.", template_args=args))
    assert (e.value.code, e.value.field) == (code, field)


def test_calls_over_the_wire_and_from_a_long_prompt() -> None:
    process = Process()
    try:
        loaded = process.load(TINY)
        assert loaded["features"]["tools"] == "json_tools"
        assert loaded["features"]["thinking"] is False
        long = [{**TOOLS[1], "function": {**TOOLS[1]["function"], "description": "x " * 20_000}}]
        gen = {"type": "gen", "messages": [{"role": "user", "content": QUESTION}], "tools": TOOLS}
        process.send({**gen, "id": "a", "request": "q"}, {**gen, "id": "b", "request": "q"})
        process.send({**gen, "id": "c", "tools": long, "tool_choice": "none"})
        got = process.collect(["a", "b", "c"])
        assert called(got["a"]) == [("get_weather", {"city": "Oslo"})]
        assert got["a"].calls == got["b"].calls
        assert got["a"].reason == "tool_calls"
        assert got["c"].calls == []
    finally:
        process.close()
