"""Where prompts are likely to part from later ones: the ends of turns.

A model whose state cannot be cut is of use to a later prompt only where that state was kept, so the engine keeps it
at these places.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mlxworker import template
from mlxworker.errors import RequestError
from mlxworker.model import Model
from mlxworker.prefix import LEAST_TOKENS
from mlxworker.protocol import Source
from mlxworker.trie import common

# A prompt that is longer is kept in between as well: what a cancelled or failed row computed is not lost whole.
EVERY_TOKENS = 4096


def is_cuttable(model: Model) -> bool:
    """Say whether the state of a row can always be cut to any beginning."""
    return not (model.kv.windows or model.kv.fixed)


def of_prompt(model: Model, source: Source, tokens: list[int]) -> list[int]:
    """Return the lengths of the beginnings of a prompt that later ones may share; none for a model that can cut.

    They are the end of what comes before the last user message, and the end of all messages: what opens the answer
    may look different once the answer is known. Both are found by making the shorter prompt.
    """
    if source.borders is not None:
        return list(source.borders)
    if is_cuttable(model):
        return []
    found = set(range(EVERY_TOKENS, len(tokens), EVERY_TOKENS))
    messages = source.messages or []
    users = [i for i, m in enumerate(messages) if m.get("role") == "user"]
    ends = {len(messages), users[-1]} if users else {len(messages)}
    for end in ends - {0}:
        found.add(_shared(model, dataclasses.replace(source, messages=messages[:end]), tokens))
    if not found or max(found) < len(tokens) - LEAST_TOKENS:
        found.add(len(tokens) - 1)
    return sorted(n for n in found if LEAST_TOKENS <= n < len(tokens))


def _shared(model: Model, source: Source, tokens: list[int]) -> int:
    try:
        shorter: list[Any] = template.tokens_of(model, source, answering=False)
    except RequestError:
        return 0  # a template may insist on a message that is not there
    return common(shorter, tokens)
