"""How much text one token can hold at most: what tells that a prompt is too long before it is tokenised."""

from __future__ import annotations

import importlib
import json
from typing import Any

from mlxworker.detok import Vocabulary
from mlxworker.plain import Tokenizer

# Canonical composition makes a text at most three times shorter, in UTF-8: the jamo of a syllable.
_NFC_SHRINKS = 3
_KEEPING_SPLITS = frozenset(("ByteLevel", "Digits", "Metaspace"))


def most_token_bytes(tokenizer: Any, words: Vocabulary) -> int | None:
    """Return the most bytes of a text that become one token.

    None where that is not certain: a tokenizer may drop text, or swallow any amount of it in one token.
    """
    longest = words.longest()
    inner: Any = getattr(tokenizer, "_tokenizer", None)
    backend = getattr(inner, "backend_tokenizer", None)
    if longest is None or backend is None or type(backend.model).__name__ != "BPE":
        return None
    if not isinstance(inner, Tokenizer):
        kind: Any = type(inner)
        usual = importlib.import_module("transformers").PreTrainedTokenizerBase
        if kind.apply_chat_template is not usual.apply_chat_template:
            return None  # its templates may be no texts
    if any(t.lstrip or t.rstrip for t in inner.added_tokens_decoder.values()):
        return None
    shrinks = _shrinks(_parts(backend.normalizer, "normalizers"))
    splits = _parts(backend.pre_tokenizer, "pretokenizers")
    bytewise = any(p.get("type") == "ByteLevel" for p in splits) or backend.model.byte_fallback
    if shrinks is None or not bytewise or not all(_keeps(p) for p in splits):
        return None
    return longest * shrinks


def _parts(component: Any, inside: str) -> list[dict[str, Any]]:
    """Return what a part of a tokenizer does, step by step."""
    if component is None:
        return []
    described = json.loads(component.__getstate__())
    steps = described.get(inside) if described.get("type") == "Sequence" else [described]
    return list(steps or [])


def _shrinks(normalizers: list[dict[str, Any]]) -> int | None:
    """Return how many times shorter a text may become, None for any number."""
    factor = 1
    for step in normalizers:
        kind = step.get("type")
        spaces = kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == "\u2581"
        if kind == "NFC":
            factor = _NFC_SHRINKS
        elif kind != "Prepend" and not spaces:
            return None
    return factor


def _keeps(split: dict[str, Any]) -> bool:
    kind = split.get("type")
    return kind in _KEEPING_SPLITS or (kind == "Split" and split.get("behavior") != "Removed")
