"""Layers as the prefix store holds them: cut to what they cover, on request with fewer bits, free of their batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

# Numbers that share a scale, the largest that divides the head dimension; mx.quantize knows these.
_GROUPS = (64, 32)


@dataclass(frozen=True)
class Quantised:
    """Keys and values of one KVCache layer in few bits; each is (numbers, scales, biases)."""

    keys: tuple[mx.array, ...]
    values: tuple[mx.array, ...]
    offset: int
    groups: tuple[int, int]  # of keys, of values
    bits: int
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """Return what it takes."""
        return sum(int(a.nbytes) for a in (*self.keys, *self.values))

    @property
    def state(self) -> list[mx.array]:
        """Return its arrays."""
        return [*self.keys, *self.values]

    def is_trimmable(self) -> bool:
        """Say that it can be cut: each token was quantised by itself."""
        return True

    def cut(self, wanted: int) -> Any:
        """Return the first wanted tokens as the layer that it was."""
        from mlx_lm.models.cache import KVCache

        out = KVCache()
        out.offset = wanted
        out.keys, out.values = self._whole(0, wanted), self._whole(1, wanted)
        return out

    def _whole(self, which: int, wanted: int) -> mx.array:
        numbers, scales, biases = (a[..., :wanted, :] for a in (self.keys, self.values)[which])
        group = self.groups[which]
        return mx.dequantize(numbers, scales, biases, group_size=group, bits=self.bits).astype(self.dtype)


def pack(cache: list[Any], bits: int) -> list[Any]:
    """Return layers to keep: those of kind KVCache in that many bits, all of them if that is 0 as they are.

    What is kept owns its memory; the layers of an extracted row may be views that keep their whole batch alive.
    """
    return [_pack(layer, bits) for layer in cache]


def _pack(layer: Any, bits: int) -> Any:
    inner = getattr(layer, "cache", None)
    if isinstance(inner, list):
        layer.cache = [None if a is None else mx.contiguous(a) for a in inner]
        return layer
    if type(layer).__name__ != "KVCache" or layer.keys is None:
        return layer
    groups = tuple(_group(a.shape[-1]) for a in (layer.keys, layer.values))
    if not bits or 0 in groups or not mx.issubdtype(layer.keys.dtype, mx.floating):
        layer.keys, layer.values = (mx.contiguous(a[..., : layer.offset, :]) for a in (layer.keys, layer.values))
        return layer
    packed = [
        mx.quantize(a[..., : layer.offset, :], group_size=g, bits=bits)
        for a, g in zip((layer.keys, layer.values), groups, strict=True)
    ]
    return Quantised(tuple(packed[0]), tuple(packed[1]), layer.offset, (groups[0], groups[1]), bits, layer.keys.dtype)


def _group(dimension: int) -> int:
    return next((g for g in _GROUPS if dimension % g == 0), 0)


def cut(cache: list[Any], length: int, wanted: int) -> list[Any]:
    """Return a copy of a cache of that length that ends after the wanted tokens."""
    return [_cut_layer(layer, length - wanted) for layer in cache]


def _cut_layer(layer: Any, surplus: int) -> Any:
    if isinstance(layer, Quantised):
        return layer.cut(layer.offset - surplus)
    if type(layer).__name__ != "KVCache":
        out = copy.deepcopy(layer)
        if surplus:
            out.trim(surplus)
        return out
    # A view costs nothing; the batch that it goes into copies it.
    out = type(layer)()
    out.offset = layer.offset - surplus
    out.keys, out.values = layer.keys[..., : out.offset, :], layer.values[..., : out.offset, :]
    return out
