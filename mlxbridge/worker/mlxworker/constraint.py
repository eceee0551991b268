"""What form a request demands of its answer: the fields grammar and tool_choice, checked before they are compiled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlxworker.errors import INVALID, RequestError
from mlxworker.frames import Frame

KINDS = ("json_object", "json_schema", "regex", "lark")
# A longer grammar takes longer to compile than a request may take from the others.
MAX_GRAMMAR_BYTES = 64 << 10
# JSON allows any amount of whitespace between two tokens, and weak models never get out of it. This is what printers of
# JSON write: a space, or a new line and its indentation.
WHITESPACE = r" |\n[ \t]{0,32}"


@dataclass(frozen=True)
class Grammar:
    """A language of texts. value is JSON for json_schema, the source for regex and lark, empty for json_object."""

    kind: str
    value: str = ""
    field: str = "grammar"  # what is named when it is refused


def parse_grammar(frame: Frame) -> Grammar | None:
    """Return the grammar of a gen frame. Raises RequestError that names the field."""
    given = frame.get("grammar")
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("kind") not in KINDS:
        raise RequestError(INVALID, f"grammar must be an object whose kind is one of {', '.join(KINDS)}", "grammar")
    kind, value = given["kind"], given.get("value")
    if kind == "json_object":
        return Grammar(kind)
    if kind == "json_schema":
        if not isinstance(value, dict):
            raise RequestError(INVALID, "grammar.value must be a JSON schema, which is an object", "grammar.value")
        # The order of the properties is the order in the answer, so it is kept, and part of what is cached.
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str) or not value:
        raise RequestError(INVALID, f"grammar.value must be the source of a {kind}", "grammar.value")
    return check_size(Grammar(kind, value))


def check_size(grammar: Grammar) -> Grammar:
    """Return the grammar. Raises RequestError for one that is too long."""
    size = len(grammar.value.encode("utf-8", "surrogatepass"))
    if size > MAX_GRAMMAR_BYTES:
        claim = f"{grammar.field} has {size} bytes, at most {MAX_GRAMMAR_BYTES} are compiled"
        raise RequestError(INVALID, claim, grammar.field)
    return grammar


def parse_tool_choice(frame: Frame) -> str | dict[str, Any]:
    """Return what a gen frame says of its tools: "auto", "none", "required" or {"name": …}.

    Raises RequestError that names the field.
    """
    given = frame.get("tool_choice")
    if given is None or given in ("auto", "none"):
        return given or "auto"
    tools = frame.get("tools")
    if given == "required":
        if not tools:
            raise RequestError(INVALID, "tool_choice is required, but there are no tools", "tool_choice")
        return "required"
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name:
        claim = "tool_choice must be auto, none, required or an object with the name of a tool"
        raise RequestError(INVALID, claim, "tool_choice")
    known = [n for n, _ in functions(tools)]
    if name not in known:
        raise RequestError(INVALID, f"tool_choice names {name[:60]!r}, which is none of the tools", "tool_choice")
    return {"name": name}


def functions(tools: object) -> list[tuple[str, Any]]:
    """Return the name of each tool and the schema of its arguments, as far as they can be read."""
    found = []
    for tool in tools if isinstance(tools, list) else []:
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            found.append((inner["name"], inner.get("parameters")))
    return found
