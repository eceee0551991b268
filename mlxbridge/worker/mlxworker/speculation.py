"""Guessing ahead: who guesses for a row, how many tokens, and what came of it.

A row's next tokens are proposed, one pass of the model checks them all, and what it would have drawn itself is kept. A
row draws its n-th token with a number that follows from its seed and n alone, so the answer is the same at any
temperature. Rows whose logits are changed before the draw (bias, penalties, grammar) are left alone: the change
depends on tokens that are not there yet.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass, field

from mlxworker.draft import Reader
from mlxworker.lookup import Lookup
from mlxworker.model import Model
from mlxworker.payoff import Choice, Offer, Payoff
from mlxworker.rows import Row

_CUTTABLE = frozenset(("KVCache", "QuantizedKVCache"))
_DRAFT_STRENGTH = 1
# A lookup reads at most so many tokens of a long text a step, so that nobody waits for it.
_PIECE = 4096
_MOST_GUESSES = 32


@dataclass(eq=False)
class _Seat:
    """What is known of one row."""

    lookup: Lookup = field(default_factory=Lookup)
    reader: Reader | None = None


class Speculation:
    """Guesses for the rows of one engine. Not safe for concurrent use."""

    def __init__(self, model: Model, enabled: bool) -> None:
        """Make it; a model whose state cannot be cut off never speculates."""
        self._model = model
        self._possible = enabled and all(type(layer).__name__ in _CUTTABLE for layer in model.new_cache())
        self._seats: weakref.WeakKeyDictionary[Row, _Seat] = weakref.WeakKeyDictionary()
        self.payoff = Payoff()
        self.proposed = 0
        self.accepted = 0

    def stop(self) -> None:
        """Guess no more: a pass over guesses failed, and it may again."""
        self._possible = False

    def allowed(self, row: Row) -> bool:
        """Say whether tokens of a row may be guessed."""
        return self._possible and not row.processors

    def watch(self, row: Row) -> bool:
        """Take in what a row has got since the last time; say whether all of it is known now."""
        seat = self._seat(row)
        lookup, known = seat.lookup, len(seat.lookup)
        if row.length - known == 1 and row.tokens:
            self._feed(lookup, row.tokens[-1])
            return True
        if known < len(row.prompt):
            new = row.prompt[known : known + _PIECE]
        else:
            at = known - len(row.prompt)
            new = row.tokens[at : at + _PIECE]
        lookup.extend(new)
        return len(lookup) == row.length

    def choose(self, row: Row, alone: bool) -> Choice | None:
        """Return what to guess for a row that is watched. A draft model guesses only for one that is alone."""
        most = min(row.max_tokens - len(row.tokens) - 1, _MOST_GUESSES)
        if most < 1:
            return None
        offers = []
        seat = self._seat(row)
        if seat.lookup.strength:
            offers.append(Offer("lookup", seat.lookup.strength, most))
        if alone and self._model.draft is not None and not (seat.reader is not None and seat.reader.lost):
            offers.append(Offer("draft", _DRAFT_STRENGTH, most))
        return self.payoff.choose(offers)

    def guess(self, row: Row, choice: Choice) -> list[int]:
        """Return guesses for a row, none while a draft model is still reading."""
        seat = self._seat(row)
        if choice.source == "lookup":
            return seat.lookup.propose(choice.width)
        draft = self._model.draft
        if draft is None:
            return []
        if seat.reader is None:
            seat.reader = Reader(draft, self._model.new_draft_cache(), self._model.vocabulary)
        if not seat.reader.catch_up(row.sequence()):
            return []
        started = time.perf_counter()
        guesses = seat.reader.guess(row.tokens[-1] if row.tokens else row.prompt[-1], choice.width)
        self.payoff.learn_drafting(choice.width, time.perf_counter() - started)
        return guesses

    def learn(self, choice: Choice, guesses: int, right: int) -> None:
        """Take in that the first so many of some guesses were right."""
        self.proposed += guesses
        self.accepted += right
        if choice.source == "draft":
            for i in range(min(right + 1, guesses)):
                self.payoff.learn_guess("draft", _DRAFT_STRENGTH, i < right)

    def tokens_came(self, row: Row, tokens: list[int]) -> None:
        """Take in what a row has got before it has it."""
        lookup = self._seat(row).lookup
        if len(lookup) == row.length:
            for token in tokens:
                self._feed(lookup, token)

    def _feed(self, lookup: Lookup, token: int) -> None:
        strength = lookup.strength
        hit = lookup.feed(token)
        if hit is not None:
            self.payoff.learn_guess("lookup", strength, hit)

    def _seat(self, row: Row) -> _Seat:
        seat = self._seats.get(row)
        if seat is None:
            seat = self._seats[row] = _Seat()
        return seat
