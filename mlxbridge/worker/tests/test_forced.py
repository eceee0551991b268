"""Answers that have to be calls of tools."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from forms import ADD, CITY, CLOSED, QUESTION, WEATHER
from harness import answer, ask

from mlxworker import grammar
from mlxworker.errors import RequestError
from mlxworker.model import Model


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
        return bool(tiny.grammars.hold(made).start().try_consume_tokens(tokens) == len(tokens))

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
