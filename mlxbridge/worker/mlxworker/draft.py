"""A smaller model that guesses what a larger one will say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxworker import memory
from mlxworker.errors import UNSUPPORTED, LoadError

# A draft reads a long text in pieces of this many tokens, one a step, so that nobody waits for it.
_PIECE = 512
_SHOWN_TOKENS = 3


@dataclass(frozen=True)
class Draft:
    """A draft model in memory. Its vocabulary is that of the model that it drafts for."""

    net: Any
    vocabulary: int  # width of the logits
    weight_bytes: int
    kv: memory.KVPlan


class Reader:
    """What a draft model has read of one row. Not safe for concurrent use."""

    def __init__(self, draft: Draft, cache: list[Any], vocabulary: int) -> None:
        """Make a reader that has read nothing; vocabulary is that of the model that checks."""
        self._draft = draft
        self._cache = cache
        self._vocabulary = vocabulary
        self._read: list[int] = []
        self._sure = 0  # so many of them are no guesses
        self.lost = False  # there is a token that the draft model does not know

    def catch_up(self, tokens: Sequence[int]) -> bool:
        """Read some of the tokens that it has not; say whether all but the last are read.

        What it has read beyond them, or differently, is forgotten.
        """
        self._forget(tokens)
        last = len(tokens) - 1
        piece = list(tokens[len(self._read) : min(last, len(self._read) + _PIECE)])
        self.lost = any(t >= self._draft.vocabulary for t in (*piece, tokens[last]))
        if self.lost:
            return False
        if piece:
            self._step(mx.array([piece]))
            mx.eval([layer.state for layer in self._cache])
            self._read += piece
            self._sure = len(self._read)
        return len(self._read) == last

    def guess(self, last: int, count: int) -> list[int]:
        """Return the tokens that it thinks likeliest after what it has read and this last one."""
        token, drawn = mx.array([[last]]), []
        for _ in range(count):
            token = mx.argmax(self._step(token)[:, -1, :], axis=-1)[:, None]
            mx.async_eval(token)
            drawn.append(token)
        line: Any = mx.concatenate(drawn, axis=1)[0].tolist()
        guesses = [int(t) for t in line]
        self._sure += 1
        self._read += [last, *guesses[:-1]]
        # Widths of logits are padded, not always to the same.
        return guesses[: next((i for i, t in enumerate(guesses) if t >= self._vocabulary), count)]

    def _step(self, tokens: Any) -> Any:
        return self._draft.net(tokens, cache=self._cache)

    def _forget(self, tokens: Sequence[int]) -> None:
        """Forget guesses that did not come true."""
        same, most = self._sure, min(len(self._read), len(tokens) - 1)
        while same < most and self._read[same] == tokens[same]:
            same += 1
        surplus = len(self._read) - same
        if surplus:
            for layer in self._cache:
                layer.trim(surplus)
            del self._read[same:]
        self._sure = same


def check_vocabulary(drafted: dict[str, int], words: dict[str, int]) -> None:
    """Raise LoadError when a draft model's tokens are not those of the model that it drafts for."""
    if drafted == words:
        return
    other = sorted({t for t, i in words.items() if drafted.get(t) != i} | (drafted.keys() - words.keys()))
    shown = ", ".join(repr(t) for t in other[:_SHOWN_TOKENS])
    claim = f"another vocabulary than the model, {len(other)} tokens differ ({shown}); use a draft of the same family"
    raise LoadError(UNSUPPORTED, claim)


def refused(folder: str, error: LoadError) -> LoadError:
    """Return an error that says which of the two models it is about."""
    return LoadError(error.code, f"draft {Path(folder).name}: {error.message}")
