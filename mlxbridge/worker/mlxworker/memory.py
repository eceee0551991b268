"""Bytes: what a model folder will take, what a row's keys and values take, and the limits that MLX is given."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxworker.errors import BAD_MODEL, LoadError

GIB = 1 << 30
# Keys and values grow in steps of this many tokens.
KV_STEP = 256
_HALF = ("F16", "BF16")


def weight_bytes(folder: Path, as_float32: bool) -> int:
    """Return what the weights of a folder will take in memory, from the headers of its files.

    Raises LoadError for a folder without weights, and for files that are cut off or are none.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise LoadError(BAD_MODEL, f"no model*.safetensors in {folder}")
    return sum(_file_bytes(file, as_float32) for file in files)


def _file_bytes(file: Path, as_float32: bool) -> int:
    try:
        size = file.stat().st_size
        with file.open("rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > size:
                raise LoadError(BAD_MODEL, f"{file.name} is not a safetensors file")
            header = json.loads(f.read(length))
        entries = [v for k, v in header.items() if k != "__metadata__"]
        end = max((int(e["data_offsets"][1]) for e in entries), default=0)
        total = sum(_tensor_bytes(e, as_float32) for e in entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error) as e:
        raise LoadError(BAD_MODEL, f"{file.name} cannot be read: {e}") from e
    if size < 8 + length + end:
        raise LoadError(BAD_MODEL, f"{file.name} is cut off: {size} of {8 + length + end} bytes")
    return total


def _tensor_bytes(entry: dict[str, Any], as_float32: bool) -> int:
    start, end = entry["data_offsets"]
    size = int(end) - int(start)
    return 2 * size if as_float32 and entry["dtype"] in _HALF else size


@dataclass(frozen=True)
class KVPlan:
    """What the state of one row takes. per_token grows with the row, window only up to its length, fixed never."""

    per_token: int
    windows: tuple[tuple[int, int], ...] = ()  # (bytes for a token, most tokens)
    fixed: int = 0

    def bytes(self, tokens: int) -> int:
        """Return what a row of that many tokens takes."""
        steps = -(-tokens // KV_STEP) * KV_STEP
        windowed = sum(each * min(steps, most) for each, most in self.windows)
        return self.per_token * steps + windowed + self.fixed

    def for_one_token(self) -> int:
        """Return what one more token of a short row takes, in all layers."""
        return self.per_token + sum(each for each, _ in self.windows)


def measure_kv(cache: list[Any]) -> KVPlan:
    """Return the plan of a model, from a cache that holds some tokens."""
    per_token, fixed = 0, 0
    windows: list[tuple[int, int]] = []
    for layer in _flat(cache):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            fixed += int(layer.nbytes)
            continue
        if isinstance(keys, (list, tuple)):  # quantised: numbers, scales, biases
            per_token += sum(int(part.nbytes) for part in (*keys, *values)) // keys[0].shape[2]
            continue
        each = (keys.nbytes + values.nbytes) // keys.shape[2]
        most = getattr(layer, "max_size", None)
        if most:
            windows.append((each, int(most)))
        else:
            per_token += each
    return KVPlan(per_token, tuple(windows), fixed)


def _flat(cache: list[Any]) -> list[Any]:
    out: list[Any] = []
    for layer in cache:
        inner = getattr(layer, "caches", None)
        out.extend(_flat(list(inner)) if inner is not None else [layer])
    return out


@dataclass(frozen=True)
class Budget:
    """What one worker may use, and what it would use. A limit of 0 bytes is none."""

    limit: int
    weights: int
    kv: KVPlan
    vocabulary: int
    hidden: int
    spare: int  # for what is not counted: buffers, kernels
    padded: bool = True  # rows share batches, each padded to the longest
    drafted: KVPlan | None = None  # of a draft model, which reads one row at most

    def live(self, lanes: Sequence[Sequence[int]]) -> int:
        """Return what rows of these lengths take: each is padded to the longest of its lane."""
        longest = max((max(lane) for lane in lanes if lane), default=0)
        drafted = self.drafted.bytes(longest) if self.drafted is not None else 0
        if not self.padded:
            return drafted + sum(self.kv.bytes(length) for lane in lanes for length in lane)
        return drafted + sum(len(lane) * self.kv.bytes(max(lane)) for lane in lanes if lane)

    def peak(self, lanes: Sequence[Sequence[int]], joined: int, chunk: int, joining: int) -> int:
        """Return the most that is in use while rows join a lane, which is copied by that unless it was empty."""
        copied = self.live([lanes[joined]]) if self.padded and len(lanes[joined]) > joining else 0
        scratch = chunk * joining * (self.vocabulary * 4 + 48 * self.hidden)
        return self.weights + self.live(lanes) + copied + scratch + self.spare

    def surplus(self, used: int) -> int:
        """Return by how many bytes the limit is exceeded; 0 or less when it is not."""
        return used - self.limit if self.limit else 0


def set_limits(memory_bytes: int) -> None:
    """Give MLX the worker's memory limit (0: none), and keep its pool of freed buffers small."""
    pool = 2 * GIB
    if memory_bytes:
        mx.set_memory_limit(memory_bytes)
        pool = min(pool, max(memory_bytes // 8, 32 << 20))
    mx.set_cache_limit(pool)


def wire_weights(weights: int) -> None:
    """Wire that many bytes of weights and no more, nothing for 0.

    To be called after every BatchGenerator(), which wires all that it can get.
    """
    most = mx.device_info().get("max_recommended_working_set_size")
    if most is not None and mx.metal.is_available():
        mx.set_wired_limit(min(weights, int(most)))
