"""Prompts become tokens: chat templates, raw text, or tokens as they came."""

from __future__ import annotations

import json
from typing import Any

from mlxworker import controls
from mlxworker.errors import CONTEXT, INVALID, UNSUPPORTED, RequestError, describe
from mlxworker.model import Model
from mlxworker.protocol import Source

# What the template function takes for itself; a request may not set it.
# fmt: off
_RESERVED = frozenset((
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents",
    "max_length", "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
    "tokenize", "tokenizer_kwargs", "tools", "truncation",
))
# fmt: on


def tokens_of(model: Model, source: Source, answering: bool = True) -> list[int]:
    """Return the prompt's tokens. Raises RequestError for one that this model's template cannot make.

    Without answering, messages end where they end: nothing opens an answer.
    """
    if source.tokens is not None:
        check_ids(source.tokens, model.vocabulary, "tokens")
        return source.tokens
    if source.prompt is not None:
        tokens = _encode(model, source.prompt)
    else:
        tokens = _apply_template(model, source, answering)
    if not tokens:
        raise RequestError(INVALID, "the prompt is empty", "messages" if source.messages else "prompt")
    check_ids(tokens, model.vocabulary, "prompt")
    return tokens


def check_ids(tokens: list[int], vocabulary: int, field: str) -> None:
    """Raise RequestError when a token id is not one of the model's."""
    if tokens and not (min(tokens) >= 0 and max(tokens) < vocabulary):
        bad = next(t for t in tokens if not 0 <= t < vocabulary)
        raise RequestError(INVALID, f"{field} holds {bad}, but this model's token ids are 0 to {vocabulary - 1}", field)


def context_exceeded(model: Model, tokens: int | str) -> RequestError:
    """Return the refusal of a prompt that leaves no room for an answer."""
    claim = f"the prompt has {tokens} tokens: the model's context of {model.context} has to hold prompt and answer"
    return RequestError(CONTEXT, claim)


def _check_size(model: Model, text: str) -> None:
    """Raise RequestError for a text that cannot fit, which costs far less than to count its tokens."""
    if model.most_token_bytes is None:
        return
    most = model.context * model.most_token_bytes
    if len(text) > most or (4 * len(text) > most and len(text.encode("utf-8", "surrogatepass")) > most):
        raise context_exceeded(model, f"more than {model.context}")


def _encode(model: Model, text: str) -> list[int]:
    _check_size(model, text)
    try:
        return [int(t) for t in model.tokenizer.encode(text)]
    except Exception as e:
        raise RequestError(INVALID, f"prompt cannot be tokenised: {describe(e)}", "prompt") from e


def _apply_template(model: Model, source: Source, answering: bool) -> list[int]:
    if not model.tokenizer.has_chat_template:
        raise RequestError(
            UNSUPPORTED, "this model has no chat template, so it takes a prompt, not messages", "messages"
        )
    reserved = sorted(_RESERVED.intersection(source.template_args))
    if reserved:
        raise RequestError(INVALID, f"template_args may not set {reserved[0]}", "template_args")
    wanted = controls.arguments(model.tokenizer, source.template_args)
    messages = [_plain(i, m) for i, m in enumerate(source.messages or [])]
    apply = model.tokenizer.apply_chat_template
    # Whoever wants control tokens kept apart needs both steps as one.
    as_text = model.most_token_bytes is not None and not wanted.get("sanitize_control_tokens")
    try:
        made = apply(messages, tools=source.tools, add_generation_prompt=answering, tokenize=not as_text, **wanted)
        if isinstance(made, str):
            _check_size(model, made)
            made = model.tokenizer.encode(made, add_special_tokens=False)
        return [int(t) for t in made]
    except RequestError:
        raise
    except Exception as e:  # a template is a program of the model's, and may raise anything
        raise RequestError(
            INVALID, f"the model's chat template refuses these messages: {describe(e)}", "messages"
        ) from e


def _plain(i: int, message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as templates expect it: text content, arguments of tool calls as objects."""
    out = {k: v for k, v in message.items() if v is not None}
    out["content"] = _content(i, message.get("content"))
    calls = message.get("tool_calls")
    if calls is None:
        return out
    if not isinstance(calls, list) or not all(isinstance(c, dict) for c in calls):
        raise RequestError(INVALID, f"messages[{i}].tool_calls must be a list of objects", f"messages[{i}].tool_calls")
    out["tool_calls"] = [_call(c) for c in calls]
    return out


def _content(i: int, content: object) -> str:
    field = f"messages[{i}].content"
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(INVALID, f"{field} must be a text", field)
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise RequestError(UNSUPPORTED, f"{field} holds a part that is not text", field)
        texts.append(part["text"])
    return "".join(texts)


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    target = function if isinstance(function, dict) else call
    arguments = target.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return call
        target = {**target, "arguments": arguments}
    return {**call, "function": target} if isinstance(function, dict) else target
