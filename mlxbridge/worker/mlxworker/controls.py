"""What a request may tell a chat template besides messages and tools: only what the template reads.

A template ignores what it does not know, so that a client would believe that a model does not think, and it thinks.
"""

from __future__ import annotations

import re
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
    source = _source(tokenizer)
    if source is None or not asked:
        return asked
    out = dict(asked)
    effort = out.get(EFFORT)
    if effort is not None and not _reads(source, EFFORT):
        if effort not in EFFORTS:
            raise RequestError(INVALID, f"{EFFORT} must be one of {', '.join(EFFORTS)}", EFFORT)
        if not _reads(source, THINKING):
            raise RequestError(
                UNSUPPORTED, f"this model's chat template has no control of its thinking: {EFFORT}", EFFORT
            )
        del out[EFFORT]
        out.setdefault(THINKING, effort != "none")
    for name in out:
        if name not in _KNOWN and not _reads(source, name):
            claim = f"template_args sets {name[:40]!r}, which this model's chat template does not read"
            raise RequestError(INVALID, claim, "template_args")
    return out


def _source(tokenizer: Any) -> str | None:
    """Return the text of a tokenizer's templates; None where they are no text, but code, which nobody can look into."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        found = "\n".join(v for v in found.values() if isinstance(v, str))
    return found if isinstance(found, str) and found else None


def _reads(source: str, name: str) -> bool:
    # Inside of an expression or a statement: what stands elsewhere is text.
    return any(
        re.search(rf"\b{re.escape(name)}\b", code) for code in re.findall(r"\{[{%](.*?)[%}]\}", source, re.DOTALL)
    )
