"""Rows that share no batch: each has a cache of its own, so that one step may give a row several tokens.

This is where a row runs while it is alone and guessing ahead pays, and where all rows run whose keys and values are
quantised. What a row has in its cache is always all but its last token.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlxworker import sampling
from mlxworker.lane import Lane, Token
from mlxworker.model import Model
from mlxworker.rows import Reason, Row
from mlxworker.speculation import Speculation
from mlxworker.stored import cut


@dataclass
class _Seat:
    """One row's keys and values, and how many tokens they cover."""

    cache: list[Any]
    covered: int


class SoloLane:
    """Rows that run one after the other. To the engine it is a lane like any other. Not safe for concurrent use."""

    def __init__(self, model: Model, speculation: Speculation) -> None:
        """Make an empty lane."""
        self._model = model
        self._speculation = speculation
        self._eos = frozenset(model.eos)
        # A row that a step ended is in no list any more, but its seat is there for as long as somebody has it.
        self._seats: weakref.WeakKeyDictionary[Row, _Seat] = weakref.WeakKeyDictionary()
        self.decoding: list[Row] = []
        self.prefilling: list[Row] = []
        self.plain = 0  # steps in a row that had no guesses
        self.guessed = False  # the last step had some

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.decoding) + len(self.prefilling)

    def rows(self) -> list[Row]:
        """Return all rows."""
        return self.decoding + self.prefilling

    def lengths(self) -> list[int]:
        """Return the lengths of all rows."""
        return [r.length for r in self.rows()]

    def close(self) -> None:
        """Let all rows go. The lane is as good as new then."""
        self._seats.clear()
        self.decoding, self.prefilling = [], []

    def insert(self, rows: list[Row], caches: list[list[Any] | None], known: list[int]) -> None:
        """Take rows in; known[i] tokens of row i are in caches[i], which is the lane's from then on."""
        seats = [
            _Seat(self._model.new_cache() if cache is None else cache, n)
            for cache, n in zip(caches, known, strict=True)
        ]
        for row, seat in zip(rows, seats, strict=True):
            self._seats[row] = seat
            row.remaining = row.length - seat.covered
            self.prefilling.append(row)
        self._settle()
        self.plain = 0

    def remove(self, row: Row, keep: bool) -> tuple[list[Any], list[int]] | None:
        """Take a row out, at any stage. With keep, return its keys and values and the tokens that they cover."""
        seat = self._seats.pop(row)
        for rows in (self.decoding, self.prefilling):
            if row in rows:
                rows.remove(row)
        if not keep:
            return None
        # A row may have ended before the last token that it was given.
        covered = min(seat.covered, row.length)
        _trim(seat.cache, seat.covered - covered)
        return seat.cache, row.sequence()[:covered]

    def snapshot(self, row: Row) -> tuple[list[Any], list[int]]:
        """Return a copy of a row's keys and values, and the tokens that they cover. The row goes on."""
        seat = self._seats[row]
        return cut(seat.cache, seat.covered, seat.covered), row.sequence()[: seat.covered]

    def next(self, chunk: int) -> list[Token]:
        """Give every decoding row a token or more, then compute at most chunk prompt tokens of each other row.

        After any exception the lane must not be used again: keys and values no longer fit the tokens.
        """
        alone, self.guessed = len(self) == 1, False
        out: list[Token] = []
        for row in list(self.decoding):
            out += self._advance(row, alone)
        for row in self.prefilling:
            self._prefill(row, self._seats[row], chunk)
        self._settle()
        return out

    def _settle(self) -> None:
        """Let rows decode that have all but their last token in their caches."""
        for row in [r for r in self.prefilling if r.remaining <= 1]:
            row.remaining = 0
            self.prefilling.remove(row)
            self.decoding.append(row)

    def _prefill(self, row: Row, seat: _Seat, chunk: int) -> None:
        count = min(chunk, row.remaining - 1)
        tokens = row.sequence()[seat.covered : seat.covered + count]
        self._model.net(mx.array([tokens]), cache=seat.cache)
        mx.eval([layer.state for layer in seat.cache])
        seat.covered += count
        row.remaining -= count

    def _advance(self, row: Row, alone: bool) -> list[Token]:
        """Give a row what the model draws next: one token, and one more for each guess that was right."""
        speculation, seat = self._speculation, self._seats[row]
        choice, guesses = None, []
        if speculation.allowed(row) and speculation.watch(row):
            choice = speculation.choose(row, alone)
            guesses = speculation.guess(row, choice) if choice is not None else []
        self.guessed = self.guessed or len(guesses) > 0
        started = time.perf_counter()
        drawn, logprobs = self._draw(row, seat, guesses)
        seconds = time.perf_counter() - started
        right = next((i for i, guess in enumerate(guesses) if guess != drawn[i]), len(guesses))
        given = drawn[: right + 1]
        stop = next((i for i, token in enumerate(given) if token in self._eos), None)
        if stop is not None:
            given = given[: stop + 1]
        _trim(seat.cache, len(guesses) + 1 - len(given))
        seat.covered += len(given)
        if guesses and choice is not None:
            speculation.payoff.learn_pass(len(guesses), seconds)
            speculation.learn(choice, len(guesses), right)
            self.plain = 0
        else:
            speculation.payoff.learn_plain(seconds)
            self.plain += choice is None
        speculation.tokens_came(row, given)
        return self._tokens(row, seat, given, logprobs)

    def _draw(self, row: Row, seat: _Seat, guesses: list[int]) -> tuple[list[int], Any]:
        """Return what the model draws after the last token and after each guess, and the log probabilities."""
        last = row.tokens[-1] if row.tokens else row.prompt[-1]
        logits = self._model.net(mx.array([[last, *guesses]]), cache=seat.cache)[0]
        if row.processors:
            context = mx.array(row.sequence())
            for process in row.processors:
                logits = process(context, logits)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        row.draw.count = len(row.tokens)
        drawn = sampling.sample_ahead(row.draw, logprobs)
        return [int(t) for t in drawn.tolist()], logprobs

    def _tokens(self, row: Row, seat: _Seat, given: list[int], logprobs: Any) -> list[Token]:
        """Return the tokens that a row was given; the row is out of the lane when the last of them ends it."""
        wanted = row.logprobs is not None
        out = [Token(row, token, logprobs[i] if wanted else None, None, None, None) for i, token in enumerate(given)]
        ended = None
        if given[-1] in self._eos:
            ended = Reason.STOP
        elif len(row.tokens) + len(given) >= row.max_tokens:
            ended = Reason.LENGTH
        if ended is not None:
            self.decoding.remove(row)
            sequence = row.sequence() + given[:-1]
            out[-1] = Token(row, given[-1], out[-1].logprobs, ended, seat.cache, sequence)
        return out


AnyLane = Lane | SoloLane


def _trim(cache: list[Any], tokens: int) -> None:
    if tokens > 0:
        for layer in cache:
            layer.trim(tokens)
