"""Log probabilities of chosen tokens and of their alternatives, for the rows that asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlxworker.detok import Vocabulary

# JSON has neither infinity nor NaN: a token that was ruled out, or has no number, is as unlikely as can be written.
UNLIKELIEST = -9999.0


def gather(words: Vocabulary, lines: Sequence[Any], tokens: Sequence[int], most: Sequence[int]) -> list[dict[str, Any]]:
    """Return one entry a row: the token, its log probability, and the most[i] likeliest instead of it."""
    table = mx.stack(list(lines)).astype(mx.float32)
    chosen = mx.take_along_axis(table, mx.array([[t] for t in tokens]), axis=-1)
    ids, values = _likeliest(table, min(max(most), table.shape[-1]))
    mx.eval(chosen, ids, values)
    columns: tuple[Any, Any, Any] = chosen.tolist(), ids.tolist(), values.tolist()
    out = []
    for token, n, (value,), best, odds in zip(tokens, most, *columns, strict=True):
        entry = _entry(words, token, _written(value))
        if n:
            ordered = sorted(zip(map(_written, odds), best, strict=True), key=lambda pair: (-pair[0], pair[1]))
            entry["top"] = [_entry(words, i, v) for v, i in ordered[:n]]
        out.append(entry)
    return out


def _likeliest(table: Any, width: int) -> tuple[Any, Any]:
    """Return ids and values of the highest in each line, in no order."""
    kth = table.shape[-1] - width
    ids = mx.argpartition(table, kth=min(kth, table.shape[-1] - 1), axis=-1)[:, kth:]
    return ids, mx.take_along_axis(table, ids, axis=-1)


def _written(value: float) -> float:
    return max(round(value, 6), UNLIKELIEST) if math.isfinite(value) else UNLIKELIEST


def _entry(words: Vocabulary, token: int, value: float) -> dict[str, Any]:
    raw = words.token_bytes(token)
    return {
        "t": token,
        "s": raw.decode("utf-8", "replace"),
        "b": list(raw),
        "l": value,
    }
