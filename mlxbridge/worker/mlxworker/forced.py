"""A tool call that must come, as a grammar, for models that write calls as JSON between two markers."""

from __future__ import annotations

import json
from typing import Any

from mlxworker.constraint import WHITESPACE, Grammar, check_size, functions
from mlxworker.errors import INVALID, UNSUPPORTED, RequestError

# More calls than that in one answer are a model that cannot stop.
MAX_CALLS = 8
# mlx-lm's name for the format {"name": …, "arguments": …} between markers.
_JSON_FORMAT = "mlx_lm.tool_parsers.json_tools"


def grammar(tokenizer: Any, tools: list[dict[str, Any]], name: str | None) -> Grammar:
    """Return the grammar of one call of the named tool, or of some calls of any. Raises RequestError."""
    if getattr(tokenizer.tool_parser, "__module__", "") != _JSON_FORMAT:
        claim = "this model cannot be made to call a tool: it writes calls in a format that is not JSON between markers"
        if not tokenizer.has_tool_calling:
            claim = "this model cannot be made to call a tool: it knows no tool calls"
        raise RequestError(UNSUPPORTED, claim, "tool_choice")
    wanted = [f for f in functions(tools) if name is None or f[0] == name]
    if not wanted:
        raise RequestError(INVALID, "tools must be functions with a name", "tools")
    first, last = (_marker(tokenizer, m) for m in (tokenizer.tool_call_start, tokenizer.tool_call_end))
    lines = [
        f"start: call (line? call){{0,{MAX_CALLS - 1}}}" if name is None else "start: call",
        f"call: {first} line? ({' | '.join(f't{i}' for i in range(len(wanted)))}) line? {last}",
        r'line: "\n"',
    ]
    for i, (called, parameters) in enumerate(wanted):
        head = json.dumps('{"name": ' + json.dumps(called, ensure_ascii=False) + ', "arguments": ', ensure_ascii=False)
        lines.append(f't{i}: {head} a{i} "}}"')
        lines.append(f"a{i}: %json {json.dumps(_arguments(called, parameters), ensure_ascii=False)}")
    return check_size(Grammar("lark", "\n".join(lines), "tools"))


def _arguments(called: str, parameters: Any) -> dict[str, Any]:
    """Return the schema of a call's arguments, which are an object. Raises RequestError where they could be none."""
    schema = {} if parameters is None else parameters
    kinds = schema.get("type", "object") if isinstance(schema, dict) else None
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        claim = f"parameters of {called[:60]!r} must be the JSON schema of an object"
        raise RequestError(INVALID, claim, "tools")
    own = schema.get("x-guidance")
    options = {**own, "whitespace_pattern": WHITESPACE} if isinstance(own, dict) else {"whitespace_pattern": WHITESPACE}
    return {**schema, "type": "object", "x-guidance": options}


def _marker(tokenizer: Any, text: str) -> str:
    """Return a marker as a terminal: as its token where it is one, since models were trained on that alone."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return f"<[{int(tokens[0])}]>" if len(tokens) == 1 else json.dumps(text)
