"""An answer that breaks off and goes on elsewhere: what came before and what comes then is the whole, with no seam."""

from __future__ import annotations

from typing import Any

import pytest
from forms import ADD, CITY, QUESTION, WEATHER, regex, schema
from harness import Answer, Driver, ask

from mlxworker.model import Model

LOGPROBS: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("Count from 1 to 12.", LOGPROBS),
    "drawn": ("Tell me.", {"temperature": 5, "seed": 3, "max_tokens": 60}),
    "characters of several tokens": (QUESTION, {"grammar": regex("(世界🎉é){3}")}),
    "half a character at the limit": (QUESTION, {"grammar": regex("(世界){9}"), "max_tokens": 10}),
    "a stop sequence": ("Count from 1 to 30.", {"stop": ["7, 8, 9", "x"]}),
    "held back until the limit": ("Count from 1 to 30.", {"stop": ["6, 7, 9"], "max_tokens": 20}),
    "penalties": ("Count from 1 to 30.", {"repetition_penalty": 1.3, "presence_penalty": 1, "max_tokens": 40}),
    "a call": ("What is the weather in Oslo?", {"tools": [WEATHER]}),
    "a forced call": (
        "Count from 1 to 20.",
        {"tools": [WEATHER, ADD], "tool_choice": {"name": "add"}, "max_tokens": 99},
    ),
    "a tool cut by the limit": ("What is the weather in Oslo?", {"tools": [WEATHER], "max_tokens": 9}),
    "arguments of a call cut by the limit": ("What is the weather in Oslo?", {"tools": [WEATHER], "max_tokens": 20}),
    "any forced call": (QUESTION, {"tools": [WEATHER, ADD], "tool_choice": "required", "max_tokens": 99}),
    "a form": (QUESTION, {"grammar": schema(CITY), "max_tokens": 60}),
    "a form, drawn": (QUESTION, {"grammar": schema(CITY), "max_tokens": 60, "temperature": 2, "seed": 11}),
}


def in_steps(model: Model, text: str, fields: dict[str, Any]) -> tuple[Answer, list[Answer]]:
    """Return an answer, and what of it had come with each of its tokens."""
    driver = Driver(model)
    came: list[Answer] = []
    driver.add(ask("whole", text, request="r", **fields))
    whole = driver.answers["whole"]
    while driver.engine.busy:
        driver.step()
        while len(came) < len(whole.tokens):
            came.append(Answer(text=whole.text, pieces=list(whole.pieces), logprobs=list(whole.logprobs)))
    return whole, came


def joined(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls that pieces make."""
    out = Answer()
    for piece in pieces:
        out.take("", None, {"calls": [piece]})
    return out.calls


@pytest.mark.parametrize("case", CASES)
def test_wherever_it_breaks_the_rest_joins_without_a_seam(tiny: Model, case: str) -> None:
    text, fields = CASES[case]
    whole, came = in_steps(tiny, text, fields)
    assert len(whole.tokens) > 8
    assert bool(whole.calls) == ("call" in case)

    # One engine for all of them: prompts are found in its store, as on a node that knows the conversation.
    driver = Driver(tiny, prefix_bytes=1 << 24)
    for cut in range(1, len(whole.tokens) + 1):
        before = came[cut - 1]
        asked = ask(f"from {cut}", text, request="r", **fields, **{"continue": whole.tokens[:cut]})
        rest = driver.run(asked)[0]

        assert whole.tokens[:cut] + rest.tokens == whole.tokens
        assert before.text + rest.text == whole.text
        assert joined(before.pieces + rest.pieces) == whole.calls
        assert (rest.reason, rest.stop) == (whole.reason, whole.stop)
        assert [p["t"] for p in before.logprobs + rest.logprobs] == [p["t"] for p in whole.logprobs]
        assert rest.usage["completion_tokens"] == whole.usage["completion_tokens"]
