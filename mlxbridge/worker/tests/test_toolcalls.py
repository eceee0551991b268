"""Tool calls of every notation, and what is none: nothing is lost, and nothing depends on where the text is split."""

from __future__ import annotations

import importlib
import json
import random
import time
from types import SimpleNamespace
from typing import Any

import pytest
from harness import PATIENCE

from mlxworker import channels, toolcalls
from mlxworker.channels import CALLS, REASONING, TEXT, Channels, Format
from mlxworker.stopping import StopMatcher, StopSet
from mlxworker.toolcalls import Numbering

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]
THINK = ("<think>", "</think>")
OSLO = '<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'


def form(kind: str = "json_tools", think: tuple[str, str] | None = THINK) -> Format:
    parsers = importlib.import_module(f"mlx_lm.tool_parsers.{kind}")
    found = toolcalls.notation(
        SimpleNamespace(
            has_tool_calling=True,
            tool_call_start=parsers.tool_call_start,
            tool_call_end=parsers.tool_call_end,
            tool_parser=parsers.parse_tool_call,
        )
    )
    return Format(think, found)


class Heard:
    """What a client has of an answer."""

    def __init__(self, pieces: list[channels.Piece]) -> None:
        self.kinds = [p.kind for p in pieces]
        self.text = "".join(p.text for p in pieces if p.kind == TEXT)
        self.reasoning = "".join(p.text for p in pieces if p.kind == REASONING)
        self.calls: list[dict[str, Any]] = []
        for delta in (d for p in pieces for d in p.calls or []):
            if "id" in delta:
                assert delta["index"] == len(self.calls)
                self.calls.append(dict(delta))
            else:
                self.calls[delta["index"]]["arguments"] += delta["arguments"]

    def all(self) -> tuple[Any, ...]:
        return self.text, self.reasoning, [tuple(c.values()) for c in self.calls]

    def called(self) -> list[tuple[str, Any]]:
        return [(c["name"], json.loads(c["arguments"])) for c in self.calls]


def hear(parts: list[str], how: Format, complete: bool = True, **options: Any) -> Heard:
    sorter = Channels(how, TOOLS, Numbering("r", [1]), **options)
    pieces = [p for part in parts for p in sorter.feed(part)]
    return Heard(pieces + sorter.finish(complete))


ANSWERS = [
    "plain text, a < b <t <tool <thin </think",
    "<think>\nI think.\n</think>\n\nIt is so.",
    "<think>never closed <tool",
    "Look:\n" + OSLO,
    OSLO + "\n" + OSLO.replace("Oslo", "Rome") + "\nDone.",
    "<think>I call.\n" + OSLO + "\nStill thinking.</think>Text",
    '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> \\" { [", "b": [1, {"c": 2}]}}</tool_call>x',
    '<tool_call>\n{"arguments": {"a": 1}, "name": "f"}\n</tool_call>',
    '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
    '<tool_call>{"name": "f"}</tool_call>',
    '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a": null}}]</tool_call>',
    '<tool_call>{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {"a": 1}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": 1}, "id": "x"}</tool_call> rest',
    '<tool_call>{"name": "f", "arguments": {"a": 1}} and so on</tool_call> rest',
    '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call> rest',
    "so: <tool_call> no call </tool_call> rest",
    '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "f", "argu',
    '<tool_call>{"name": "f", "arguments": {"a": "b<tool_call>',
    '<tool_call>{"name": "f", "arguments": {"a": "line\nbreak"}}</tool_call>',
]


@pytest.mark.parametrize("text", ANSWERS)
def test_the_result_does_not_depend_on_where_the_text_is_split(text: str) -> None:
    rng = random.Random(text)
    whole = hear([text], form())

    for n in range(40):
        cuts = sorted(rng.sample(range(1, len(text)), min(n, len(text) - 1)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert hear(parts, form()).all() == whole.all()
    assert hear(list(text), form()).all() == whole.all()


def test_calls_in_json_are_streamed() -> None:
    sorter = Channels(form(), TOOLS, Numbering("r", [1]))

    got = [[d for p in sorter.feed(char) for d in p.calls or []] for char in OSLO]

    deltas = [d for step in got for d in step]
    assert deltas[0]["name"] == "get_weather"
    assert deltas[0]["arguments"] == "{"
    assert got[OSLO.index('{"city')] == deltas[:1]
    assert len(deltas) == len('{"city": "Oslo"}')
    assert all(set(d) == {"index", "arguments"} for d in deltas[1:])


def test_answer_reasoning_and_calls_come_apart() -> None:
    heard = hear(["<think>\nHm.\n</think>\n\nYes.\n" + OSLO + "\n" + OSLO.replace("Oslo", "Rome") + "\n"], form())

    assert (heard.text, heard.reasoning) == ("Yes.", "Hm.")
    assert heard.called() == [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Rome"})]
    assert heard.kinds == [REASONING, TEXT, CALLS]


def test_white_space_that_is_not_next_to_a_marker_stays() -> None:
    heard = hear(["a \n\n", "b\n", " <b> \n"], form())

    assert heard.text == "a \n\nb\n <b> \n"


def test_a_prompt_that_opened_the_block_starts_in_reasoning() -> None:
    assert hear(["\nI am", " thinking"], form(), reasons=True).all() == ("", "I am thinking", [])
    assert hear(["\nHm\n</think>\n\nSo."], form(), reasons=True).all() == ("So.", "Hm", [])


@pytest.mark.parametrize(
    "text",
    [
        "so: \n<tool_call> no call \n</tool_call> rest",
        '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call> ',
        '<tool_call>{"name": "f", "argu',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_what_is_no_call_comes_back_as_text(text: str) -> None:
    assert hear([text], form()).all() == (text, "", [])


def test_a_call_cut_in_its_arguments_keeps_what_came() -> None:
    heard = hear(['<tool_call>{"name": "f", "arguments": {"a": "bc'], form(), complete=False)

    assert [c["arguments"] for c in heard.calls] == ['{"a": "bc']
    assert heard.text == ""


def test_a_line_break_inside_of_a_string_becomes_json() -> None:
    heard = hear(['<tool_call>{"name": "f", "arguments": {"a": "x\n\ty"}}</tool_call>'], form())

    assert heard.called() == [("f", {"a": "x\n\ty"})]


def test_a_model_may_end_its_answer_in_place_of_the_call() -> None:
    text = '<tool_call>{"arguments": {"a": 1}, "name": "f"}'

    assert hear([text], form()).called() == [("f", {"a": 1})]
    assert hear([text], form(), complete=False).text == text


# What each notation looks like is that of the models' own templates.
NOTATIONS = [
    ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\nx < y\n</parameter>\n</function>\n</tool_call>"),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "x < y"}'),
    ("pythonic", '<|tool_call_start|>[f(a="x < y")]<|tool_call_end|>'),
    ("glm47", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x < y</arg_value>\n</tool_call>"),
    (
        "kimi_k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
        '{"a": "x < y"}<|tool_call_end|><|tool_calls_section_end|>',
    ),
]


@pytest.mark.parametrize(("kind", "text"), NOTATIONS, ids=[k for k, _ in NOTATIONS])
def test_other_notations_give_whole_calls(kind: str, text: str) -> None:
    for parts in ([f"Well. {text}"], list(f"Well. {text}")):
        heard = hear(parts, form(kind))
        assert heard.called() == [("f", {"a": "x < y"})]
        assert heard.text == "Well."


def test_the_first_call_of_several_is_the_only_one() -> None:
    for how, text in (
        (form("mistral"), '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}'),
        (form(), '<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]</tool_call> more'),
        (form(), '<tool_call>{"name": "f", "arguments": {"a": 1}}\n{"name": "g", "arguments": {}}</tool_call> more'),
    ):
        heard = hear(list(text), how, single=True)
        assert (heard.called(), heard.text) == ([("f", {"a": 1})], "")


def test_mistral_makes_several_calls_until_the_end() -> None:
    heard = hear(list('[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}'), form("mistral"))

    assert heard.called() == [("f", {"a": 1}), ("g", {})]


def test_a_parser_may_raise_anything_and_has_bounded_work() -> None:
    def bad(text: str, tools: Any) -> Any:
        raise RecursionError(text[:10])

    how = Format(None, toolcalls.Notation("<c>", "</c>", bad, "bad", 100))
    assert hear(["a <c>b</c> d"], how).text == "a <c>b</c> d"
    long = "a <c>" + "x" * 200 + "</c> d"
    assert hear([long], how).text == hear(list(long), how).text == long
    results: list[Any] = [None, 7, {"name": ""}, {"name": "f", "arguments": {"a": {1}}}, [], [{}]]
    left = len(results)
    how = Format(None, toolcalls.Notation("<c>", "</c>", lambda _, __: results.pop(), "odd", 100))
    for _ in range(left):
        assert hear(["<c>b</c>"], how).text == "<c>b</c>"


def test_an_endless_call_takes_linear_time() -> None:
    def took(pieces: int) -> float:
        sorter = Channels(form("qwen3_coder"), TOOLS, Numbering("r", [1]))
        began = time.process_time()
        sorter.feed("<tool_call>")
        heard = [p for _ in range(pieces) for p in sorter.feed("xyz<")]
        seconds = time.process_time() - began
        assert len("".join(p.text for p in heard)) > 3 * pieces
        return seconds

    # Sixteen times as much takes about sixteen times as long, where each piece looks at all before it 256 times.
    assert took(960_000) < 64 * min(took(60_000) for _ in range(3))


def test_stop_sequences_end_the_answer_proper_only() -> None:
    def stops() -> StopMatcher:
        return StopMatcher(StopSet(["END", "Oslo"]))

    text = "<think>END</think>Yes. " + OSLO + "a ENDb"
    heard = hear([text], form(), stops=stops())
    assert heard.called() == [("get_weather", {"city": "Oslo"})]
    assert (heard.text, heard.reasoning) == ("Yes.a ", "END")
    heard = hear(list("see EN" + OSLO + "D"), form(), stops=stops())
    assert heard.text == "see END"
    assert heard.kinds[0] == TEXT
    assert heard.kinds[-1] == TEXT


def test_ids_are_those_of_every_attempt_and_of_no_other_answer() -> None:
    def ids(request: str, prompt: list[int]) -> list[str]:
        numbers = Numbering(request, prompt)
        return [numbers.first("f", "{}")["id"] for _ in range(2)]

    assert ids("r", [1]) == ids("r", [1])
    made = [i for args in (("r", [1]), ("r", [2]), ("s", [1]), ("", [1]), ("", [1])) for i in ids(*args)]
    assert len(set(made)) == len(made)
    assert all(i.startswith("call_") for i in made)
    assert hear([NOTATIONS[-1][1]], form("kimi_k2")).calls[0]["id"] == "functions.f:0"


def test_the_rows_of_a_step_keep_the_order_of_the_channels() -> None:
    text, think = channels.Piece(TEXT, "t"), channels.Piece(REASONING, "r")
    call = channels.Piece(CALLS, calls=[{"index": 0, "arguments": "{"}])

    assert channels.rows_of("x", [], [1], None) == [["x", "", [1]]]
    assert channels.rows_of("x", [text], [1], ["l"]) == [["x", "t", [1], ["l"]]]
    assert channels.rows_of("x", [think, text, call], [1], None) == [
        ["x", "t", [1], None, {"reasoning": "r", "calls": call.calls}]
    ]
    assert channels.rows_of("x", [text, think, call, text], [1], ["l"]) == [
        ["x", "t", []],
        ["x", "", [], None, {"reasoning": "r", "calls": call.calls}],
        ["x", "t", [1], ["l"]],
    ]


@pytest.mark.parametrize("kind", ["gemma4", "function_gemma", "laguna", "glm47", "pythonic", "qwen3_coder"])
@pytest.mark.parametrize("part", ["call:f{", "[f(", "<function=f>", "a,"])
def test_no_parser_stops_the_others_for_long(kind: str, part: str) -> None:
    how = form(kind).tools
    assert how is not None
    text = how.start + part * (200_000 // len(part)) + how.end
    began = time.process_time()

    heard = hear([text[: how.most // 2], text[how.most // 2 : how.most], text[how.most :]], Format(None, how))
    whole = hear([how.start + part * ((how.most - 8) // len(part)) + how.end], Format(None, how))

    assert time.process_time() - began < PATIENCE
    assert heard.text or heard.calls
    assert whole.text or whole.calls
