"""A stored prefix as a file: safetensors, with what is needed to know whether it fits the model that asks for it.

Writing and reading touch no MLX, so they may run on any thread; arrays are taken apart and put together again on the
thread that owns MLX.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from mlxworker.stored import Quantised

SUFFIX, NEW = ".prefix", ".prefix-new"
FORMAT = "mlxctl-prefix-1"
# Of a header; one of 100 layers takes 60 KiB.
_MOST_HEADER = 16 << 20
_TYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "uint8": "U8",
}


Outline = tuple[str, str, list[int]]


class BrokenError(Exception):
    """A file that is not what it should be: cut off, changed, of another model or format."""


@dataclass(frozen=True)
class Layout:
    """The layers of an entry: how to make each again, and the arrays of all of them by name."""

    layers: list[dict[str, Any]]
    arrays: dict[str, mx.array]

    def outlines(self) -> list[Outline]:
        """Return name, type and shape of each array."""
        return [(name, _TYPES[_name(a.dtype)], list(a.shape)) for name, a in self.arrays.items()]


@dataclass(frozen=True)
class Sheet:
    """An entry that is to be written: pieces are the bytes of its tokens and of each array."""

    identity: str
    tokens: list[int]
    trimmable: bool
    layers: list[dict[str, Any]]
    outlines: list[Outline]
    pieces: list[memoryview]


@dataclass(frozen=True)
class Found:
    """What a file says of itself. body is empty where only that was read."""

    tokens: list[int]
    trimmable: bool
    size: int
    used: float  # time of last use, in seconds
    layers: list[dict[str, Any]]
    body: dict[str, tuple[str, list[int], memoryview]]  # array: type, shape, bytes


def take_apart(cache: list[Any]) -> Layout | None:
    """Return the layout of a cache; None when it has a layer that is not known here."""
    layers: list[dict[str, Any]] = []
    arrays: dict[str, mx.array] = {}
    for i, layer in enumerate(cache):
        kind = type(layer).__name__
        if kind == "KVCache":
            parts, how = [layer.keys, layer.values], {"offset": layer.offset}
        elif kind == "RotatingKVCache":
            parts = [layer.keys, layer.values]
            how = {"offset": layer.offset, "keep": layer.keep, "max_size": layer.max_size, "_idx": layer._idx}
        elif kind == "ArraysCache":
            parts, how = list(layer.cache), {}
        elif isinstance(layer, Quantised):
            parts = layer.state
            how = {"offset": layer.offset, "groups": list(layer.groups), "bits": layer.bits}
            how["dtype"] = _name(layer.dtype)
        else:
            return None
        if any(p is None or _name(p.dtype) not in _TYPES for p in parts):
            return None
        layers.append({"kind": kind, "parts": len(parts), **how})
        arrays |= {f"{i}.{j}": p for j, p in enumerate(parts)}
    return Layout(layers, arrays)


def put_together(layers: list[dict[str, Any]], arrays: dict[str, mx.array]) -> list[Any]:
    """Return the cache of a layout."""
    caches = importlib.import_module("mlx_lm.models.cache")
    out: list[Any] = []
    for i, how in enumerate(layers):
        parts = [arrays[f"{i}.{j}"] for j in range(how["parts"])]
        kind = how["kind"]
        if kind == "Quantised":
            groups = (int(how["groups"][0]), int(how["groups"][1]))
            dtype = getattr(mx, how["dtype"])
            out.append(Quantised(tuple(parts[:3]), tuple(parts[3:]), how["offset"], groups, how["bits"], dtype))
        elif kind == "ArraysCache":
            layer = caches.ArraysCache(len(parts))
            layer.cache = parts
            out.append(layer)
        else:
            layer = caches.KVCache() if kind == "KVCache" else caches.RotatingKVCache(how["max_size"], how["keep"])
            layer.keys, layer.values = parts
            layer.offset = how["offset"]
            if kind == "RotatingKVCache":
                layer._idx = how["_idx"]
            out.append(layer)
    return out


def as_bytes(arrays: Iterable[mx.array]) -> list[memoryview]:
    """Return the bytes of arrays. They are an array's own where it lies in memory in one piece."""
    flat = [mx.contiguous(a).view(mx.uint8) for a in arrays]
    mx.eval(flat)
    return [memoryview(a).cast("B") for a in flat]  # type: ignore[arg-type] # arrays are buffers, says no stub


def as_array(dtype: str, shape: list[int], body: memoryview) -> mx.array:
    """Return the array of these bytes, as a copy."""
    name = next(k for k, v in _TYPES.items() if v == dtype)
    return mx.array(body).view(getattr(mx, name)).reshape(shape)  # type: ignore[arg-type] # as above


def _header(sheet: Sheet) -> bytes:
    """Return what stands before the bytes of tokens and arrays."""
    checksum = 0
    for piece in sheet.pieces:
        checksum = zlib.crc32(piece, checksum)
    described: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "model": sheet.identity,
            "trimmable": str(int(sheet.trimmable)),
            "layers": json.dumps(sheet.layers),
            "checksum": str(checksum),
        }
    }
    at = 0
    outlines = [("tokens", "U32", [len(sheet.tokens)]), *sheet.outlines]
    for (name, dtype, shape), piece in zip(outlines, sheet.pieces, strict=True):
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(piece)]}
        at += len(piece)
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def token_bytes(tokens: list[int]) -> memoryview:
    """Return tokens as they stand in a file."""
    return memoryview(struct.pack(f"<{len(tokens)}I", *tokens))


def write(file: Path, sheet: Sheet) -> None:
    """Write a file whole or not at all. Raises OSError."""
    new = file.with_suffix(NEW)
    try:
        new.unlink(missing_ok=True)
        with new.open("xb") as f:
            f.write(_header(sheet))
            for piece in sheet.pieces:
                f.write(piece)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def read(file: Path, identity: str, whole: bool) -> Found:
    """Return what a file holds, with the arrays' bytes if whole. Raises BrokenError, OSError."""
    try:
        # Another kind of file could be waited for without an end.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise BrokenError("it is no regular file")
            return _read(f, identity, whole)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, struct.error) as e:
        raise BrokenError(f"it cannot be read: {e}") from e


def _read(f: BinaryIO, identity: str, whole: bool) -> Found:
    about = os.fstat(f.fileno())
    (length,) = struct.unpack("<Q", f.read(8))
    if length > min(about.st_size, _MOST_HEADER):
        raise BrokenError("its header is cut off")
    described = json.loads(f.read(length))
    meta = described.pop("__metadata__")
    if meta["format"] != FORMAT:
        raise BrokenError(f"its format is {str(meta['format'])[:40]}, not {FORMAT}")
    if meta["model"] != identity:
        raise BrokenError("it is of another model or version")
    size = 8 + length + max(int(d["data_offsets"][1]) for d in described.values())
    if size != about.st_size:
        raise BrokenError(f"it has {about.st_size} bytes, not {size}")
    tokens = described.pop("tokens")
    count = int(tokens["shape"][0])
    body = bytearray(about.st_size - 8 - length if whole else 4 * count)
    if f.readinto(body) != len(body):  # type: ignore[attr-defined] # a file opened for bytes has it
        raise BrokenError("it is cut off")
    if whole and zlib.crc32(body) != int(meta["checksum"]):
        raise BrokenError("its bytes have changed")
    view = memoryview(body)
    arrays = {
        name: (str(d["dtype"]), [int(n) for n in d["shape"]], view[d["data_offsets"][0] : d["data_offsets"][1]])
        for name, d in described.items()
        if whole
    }
    numbers = list(struct.unpack_from(f"<{count}I", body))
    return Found(numbers, meta["trimmable"] == "1", size, about.st_mtime, json.loads(meta["layers"]), arrays)


def name_of(tokens: list[int]) -> str:
    """Return the name of the file for these tokens."""
    return hashlib.blake2b(token_bytes(tokens), digest_size=16).hexdigest() + SUFFIX


def identity(folders: list[Path], extra: list[str]) -> str:
    """Return what tells a model from all others, as far as that is known without reading its weights.

    Files that were written again are others, whatever they hold. extra is what else makes keys and values differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (p for folder in folders for p in _parts(folder)):
        digest.update(part)
    for text in extra:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _parts(folder: Path) -> Iterator[bytes]:
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
        about = file.stat()
        yield f"{file.name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode()
        with file.open("rb") as f:
            yield f.read(1 << 16)


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]
