"""Messages and tools become a prompt, or are refused."""

from __future__ import annotations

import pytest
from harness import answer, ask

from mlxworker import template
from mlxworker.errors import RequestError, unforeseen
from mlxworker.model import Model


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


@pytest.mark.parametrize("arguments", ["{not json", "[" * 100_000, '{"a":' * 100_000])
def test_arguments_of_a_call_that_are_no_json_are_handed_through(tiny: Model, arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}

    found = template._plain(1, {"role": "assistant", "content": None, "tool_calls": [call]})

    assert found["tool_calls"] == [call]


def test_what_is_nested_too_deeply_is_the_clients_mistake() -> None:
    got = unforeseen(RecursionError("maximum recursion depth exceeded"), "the request could not be taken in")

    assert got.code == "invalid_request"
    assert got.message == "the request could not be taken in: something in it is nested too deeply"


@pytest.mark.parametrize("key", ["00", "+1", "1_0", " 1", "01", "-0", "٣", "1.0", ""])
def test_a_token_has_one_name_in_logit_bias(key: str) -> None:
    with pytest.raises(RequestError, match="token ids") as e:
        ask("r", "x", logit_bias={key: 1})

    assert e.value.field == "logit_bias"
    assert ask("r", "x", logit_bias={"0": 1, "10": 2}).sampling.logit_bias == {0: 1.0, 10: 2.0}
