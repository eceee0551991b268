"""Tokens to text, one at a time, holding back what is not yet a whole character."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any, Protocol

_SPM_SPACE = "\u2581"


class Detokenizer(Protocol):
    """Turns the tokens of one answer into text."""

    def feed(self, token: int) -> str:
        """Return the text that this token completes."""

    def flush(self) -> str:
        """Return what was held back, with replacement characters for broken bytes."""


class ByteDetokenizer:
    """Decodes with a table of the bytes behind every token: constant work a token."""

    def __init__(self, table: list[bytes], strip_first_space: bool) -> None:
        self._table = table
        self._strip = strip_first_space
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, token: int) -> str:
        """Return the text that this token completes."""
        text = self._decode(self._table[token] if token < len(self._table) else b"")
        return self._trim(text) if self._strip and text else text

    def flush(self) -> str:
        """Return what was held back, with replacement characters for broken bytes."""
        text = self._decode(b"", True)
        return self._trim(text) if self._strip and text else text

    def _trim(self, text: str) -> str:
        self._strip = False
        return text.removeprefix(" ")


class LibraryDetokenizer:
    """Uses mlx-lm's own detokenizer, for tokenizers without a byte table."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def feed(self, token: int) -> str:
        """Return the text that this token completes."""
        self._inner.add_token(token)
        return str(self._inner.last_segment)

    def flush(self) -> str:
        """Return what was held back, with replacement characters for broken bytes."""
        self._inner.finalize()
        return str(self._inner.last_segment)


class Vocabulary:
    """What is behind each token of one tokenizer."""

    def __init__(self, tokenizer: Any, decoder: object) -> None:
        self._tokenizer = tokenizer
        self._table: list[bytes] | None = None
        self._strip_first_space = False
        kind = _kind(decoder)
        if kind is not None:
            size = max(tokenizer.get_vocab().values()) + 1
            names = tokenizer.convert_ids_to_tokens(list(range(size)))
            added = set(tokenizer.get_added_vocab())
            to_bytes = _byte_level() if kind == "bytes" else _sentencepiece
            self._table = [b"" if n is None else n.encode() if n in added else to_bytes(n) for n in names]
            self._strip_first_space = kind == "spm-strip"

    def longest(self) -> int | None:
        """Return the bytes behind the longest token; None where some bytes have no token, or nobody knows."""
        if self._table is None or len({b for b in self._table if len(b) == 1}) < 256:
            return None
        return max(map(len, self._table))

    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for one answer."""
        if self._table is not None:
            return ByteDetokenizer(self._table, self._strip_first_space)
        return LibraryDetokenizer(self._tokenizer.detokenizer)

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes behind a token: they may be a part of a character."""
        if self._table is not None:
            return self._table[token] if token < len(self._table) else b""
        return str(self._tokenizer.decode([token])).encode("utf-8", "replace")


def _kind(decoder: object) -> str | None:
    if not isinstance(decoder, dict):
        return None
    if decoder.get("type") == "ByteLevel":
        return "bytes"
    if decoder.get("type") != "Sequence":
        return None
    steps = [d.get("type") for d in decoder.get("decoders", []) if isinstance(d, dict)]
    if steps == ["Replace", "ByteFallback", "Fuse"]:
        return "spm"
    if steps == ["Replace", "ByteFallback", "Fuse", "Strip"]:
        return "spm-strip"
    return None


def _byte_level() -> Callable[[str], bytes]:
    """Return the decoder of GPT-2's alphabet, in which printable characters stand for themselves."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = {chr(b): b for b in printable}
    for n, b in enumerate(b for b in range(256) if b not in set(printable)):
        alphabet[chr(256 + n)] = b

    def to_bytes(name: str) -> bytes:
        try:
            return bytes(alphabet[c] for c in name)
        except KeyError:
            return name.encode()

    return to_bytes


def _sentencepiece(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return bytes([int(name[3:5], 16)])
    return name.replace(_SPM_SPACE, " ").encode()
