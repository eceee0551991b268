"""Chat templates are rendered as transformers renders them: the same sandbox, filters and functions."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import ext, nodes, parser, sandbox

# What a message may call its reasoning. Templates read the first.
_REASONING = ("reasoning_content", "thinking", "reasoning")


class Renderer:
    """One model's template. It is compiled at its first use, which raises what is wrong with it."""

    def __init__(self, template: str, special: Mapping[str, str]) -> None:
        self._source = template
        self._special = dict(special)
        self._compiled: jinja2.Template | None = None

    def render(
        self, messages: Iterable[dict[str, Any]], tools: list[dict[str, Any]] | None, variables: Mapping[str, Any]
    ) -> str:
        """Return the text of a conversation. The template sees these variables, and special tokens by name."""
        plain = [{k: v for k, v in m.items() if v is not None} for m in messages]
        if not plain:
            raise ValueError("a conversation needs a message")
        if tools is not None and not all(isinstance(t, dict) for t in tools):
            raise ValueError("each tool must be a JSON schema")
        if self._compiled is None:
            self._compiled = _environment().from_string(self._source)
        return self._compiled.render(
            messages=[_with_reasoning(m) for m in plain],
            tools=tools,
            **{"documents": None, "add_generation_prompt": False, **self._special, **variables},
        )


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Give a message its reasoning under the names that templates read."""
    reasoning = next((message[k] for k in _REASONING if message.get(k) is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


class _Generation(ext.Extension):
    """Takes {% generation %}, which marks what the model wrote for training, as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: parser.Parser) -> nodes.Node:
        """Return the block's content, rendered as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    @staticmethod
    def _content(caller: Any) -> str:
        return str(caller())


class _Dict:
    """The function dict, without the class's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a dict with these keys."""
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """A namespace that takes no name which could reach Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # Without named parameters a template may set any name, "self" too.
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template may not store {name!r} in a namespace")


def _environment() -> sandbox.ImmutableSandboxedEnvironment:
    made = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(raise_exception=_refuse, strftime_now=_now, dict=_Dict(), namespace=_Namespace)
    return made


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as models know it: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
