"""What a request may tell a chat template besides messages and tools: only what the template reads.

A template ignores what it does not know, so that a client would believe that a model does not think, and it thinks.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from mlxworker.errors import INVALID, UNSUPPORTED, RequestError

EFFORT = "reasoning_effort"
THINKING = "enable_thinking"
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
# Read by mlx-lm or by the tokenizer, before the template.
_KNOWN = frozenset(("sanitize_control_tokens",))


def arguments(tokenizer: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for a template. Raises RequestError for one that it does not read.

    A template without degrees of effort, but with thinking that can be turned off, takes "none" as off and every other
    degree as on.
    """
    names = _names(tokenizer)
    if names is None or not asked:
        return asked
    out = dict(asked)
    effort = out.get(EFFORT)
    if effort is not None and EFFORT not in names:
        if effort not in EFFORTS:
            raise RequestError(INVALID, f"{EFFORT} must be one of {', '.join(EFFORTS)}", EFFORT)
        if THINKING not in names:
            raise RequestError(
                UNSUPPORTED, f"this model's chat template has no control of its thinking: {EFFORT}", EFFORT
            )
        del out[EFFORT]
        out.setdefault(THINKING, effort != "none")
    for name in out:
        if name not in _KNOWN and name not in names:
            claim = f"template_args sets {name[:40]!r}, which this model's chat template does not read"
            raise RequestError(INVALID, claim, "template_args")
    return out


def _names(tokenizer: Any) -> frozenset[str] | None:
    """Return the names in a tokenizer's templates; None where they are no text, but code, which nobody looks into."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = "\n".join(v for v in found.values() if isinstance(v, str))
    return _names_in(found) if isinstance(found, str) and found else None


@functools.lru_cache(maxsize=4)
def _names_in(template: str) -> frozenset[str] | None:
    jinja = importlib.import_module("jinja2")
    try:
        return frozenset(str(value) for _, kind, value in jinja.Environment().lex(template) if kind == "name")
    except jinja.TemplateError:
        return None  # the renderer will say what is wrong with it
