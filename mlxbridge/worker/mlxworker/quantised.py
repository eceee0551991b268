"""Keys and values of running rows in 4 or 8 bits.

mlx-lm has no batch of them, so such rows run one beside the other, not in one batch: less memory a row, and less speed
for many of them.
"""

from __future__ import annotations

import importlib
from typing import Any

from mlxworker.errors import UNSUPPORTED, LoadError

# The sizes of a group of numbers with one scale that MLX knows, the most compact first.
_GROUPS = (64, 32)


def quantised(cache: list[Any], bits: int, group: int) -> list[Any]:
    """Return an empty cache of that many bits in place of an empty one."""
    made = importlib.import_module("mlx_lm.models.cache").QuantizedKVCache
    return [made(group_size=group, bits=bits) for _ in cache]


def group_size(cache: list[Any], bits: int) -> int:
    """Return how many numbers share a scale, from a cache that holds some tokens.

    Raises LoadError for a model whose state is more than keys and values, or not of a size that can be quantised.
    """
    names = sorted({type(layer).__name__ for layer in cache if type(layer).__name__ != "KVCache"})
    if names:
        raise _refused(bits, f"its state is not only keys and values ({', '.join(names)})")
    widths = sorted({int(a.shape[-1]) for layer in cache for a in (layer.keys, layer.values)})
    for group in _GROUPS:
        if all(width % group == 0 for width in widths):
            return group
    raise _refused(bits, f"its heads are {widths[-1]} numbers wide, not a multiple of {_GROUPS[-1]}")


def does_not_run(bits: int, why: str) -> LoadError:
    """Return why a model that does not run with such keys and values cannot be loaded."""
    return _refused(bits, why)


def _refused(bits: int, why: str) -> LoadError:
    return LoadError(UNSUPPORTED, f"kv_bits {bits} is not possible for this model: {why}; load it without kv_bits")
