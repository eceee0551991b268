"""Schemas, tools and questions for answers that must have a form."""

from __future__ import annotations

import random
from typing import Any

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
