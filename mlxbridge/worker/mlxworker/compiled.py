"""Compiled grammars: which are kept for the next request, and what they take, which grows while they are followed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from mlxworker import heap
from mlxworker.constraint import Grammar
from mlxworker.errors import INVALID, RequestError

MOST_BYTES = 256 << 20
# One request's grammar may make memory grow by as much. What real schemas take is below 1 MiB.
MOST_GROWTH = 64 << 20
# What is counted for a grammar before it grows.
_LEAST_BYTES = 256 << 10
# From here on it is the fault of a request's grammar when all of them take too much.
_BLAMED_BYTES = 8 << 20
# A large one that nobody has asked for since is not kept.
_LARGE_BYTES, IDLE_SECONDS = 1 << 20, 60.0
_TIDY_SECONDS = 1.0
# Less is counted later, together with what comes then.
_COUNTED_BYTES = 64 << 10
# As much has to be free before the allocator is told to give it back, while rows wait for their next token and not.
_TRIM_BUSY, _TRIM_IDLE = 64 << 20, 2 << 20


class Form:
    """A compiled grammar. Its matchers share what the compiler finds out while one of them is used."""

    def __init__(self, grammar: Grammar, matcher: Any, nbytes: int) -> None:
        self.grammar = grammar
        self.matcher = matcher
        self.nbytes = nbytes + _LEAST_BYTES
        self.used = time.monotonic()


class Holding:
    """A form in the hands of one request. It counts for as long as it is referred to."""

    def __init__(self, shelf: Shelf, form: Form) -> None:
        self.form = form
        self.grown = 0  # bytes, since this request began
        self._uncounted = 0
        self._shelf = shelf

    def start(self) -> Any:
        """Return a matcher at the start of the grammar."""
        return self.form.matcher.deep_copy()

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what a use of a matcher leaves behind. Raises RequestError when that is more than there may be."""
        with heap.measured() as growth:
            yield
        self._uncounted += growth.nbytes
        if self._uncounted >= _COUNTED_BYTES:
            more, self._uncounted = self._uncounted, 0
            self._shelf.grow(self, more)

    def spoilt(self) -> None:
        """Take note that a matcher has failed, which all of its form do from then on: the next request compiles it."""
        self._shelf.drop(self.form)


class Shelf:
    """Bounded by bytes, least recently used out first. Those in use count, and go when they are used no more.

    Safe for concurrent use.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self._lock = threading.Lock()  # never held for long
        self._kept: OrderedDict[Grammar, Form] = OrderedDict()
        self._live: WeakSet[Holding] = WeakSet()
        self._peak = 0  # bytes, since memory was given back
        self._tidied = 0.0

    @property
    def nbytes(self) -> int:
        """Return what all of them take, in bytes."""
        with self._lock:
            return self._nbytes()

    def find(self, grammar: Grammar) -> Holding | None:
        """Return what is kept for a grammar."""
        with self._lock:
            form = self._kept.get(grammar)
            if form is None:
                return None
            self._kept.move_to_end(grammar)
            form.used = time.monotonic()
            return self._hold(form)

    def keep(self, grammar: Grammar, matcher: Any, nbytes: int) -> Holding:
        """Take in what was compiled."""
        with self._lock:
            form = self._kept[grammar] = Form(grammar, matcher, nbytes)
            self._kept.move_to_end(grammar)
            holding = self._hold(form)
            self._make_room(self.most)
            return holding

    def grow(self, holding: Holding, nbytes: int) -> None:
        """Count more bytes for a grammar. Raises RequestError where that is too much."""
        form = holding.form
        with self._lock:
            holding.grown += nbytes
            form.nbytes += nbytes
            most = min(MOST_GROWTH, self.most // 2)
            if form.nbytes > most:
                self._drop(form)  # whatever it knows, it can find out again
            self._make_room(self.most)
            is_largest = all(holding.grown >= other.grown for other in self._live)
            together = self._nbytes() > self.most and holding.grown > _BLAMED_BYTES and is_largest
            if holding.grown <= most and not together:
                return
            self._drop(form)
        field = form.grammar.field
        claim = "as much as a worker has for all of them" if together else f"more than {most >> 20} MiB"
        raise RequestError(INVALID, f"{field} is too complex: to follow it takes memory, {claim}", field)

    def drop(self, form: Form) -> None:
        """Keep a form no longer."""
        with self._lock:
            self._drop(form)

    def release(self, nbytes: int) -> int:
        """Drop forms that nobody uses until as many bytes are free; return how many are."""
        with self._lock:
            before = self._nbytes()
            self._make_room(max(before - nbytes, 0))
            return before - self._nbytes()

    def tidy(self, busy: bool, everything: bool = False) -> None:
        """Drop what is large and was not used for a while, or everything, and give memory back once it is free."""
        now = time.monotonic()
        if now - self._tidied < _TIDY_SECONDS and not everything:
            return
        self._tidied = now
        with self._lock:
            due = now - IDLE_SECONDS
            live = self._in_use()
            for form in list(self._kept.values()):
                old = form.nbytes > _LARGE_BYTES and form.used < due
                if form not in live and (old or everything):
                    self._drop(form)
            left = self._nbytes()
            free = self._peak - left
        if free > (_TRIM_BUSY if busy else _TRIM_IDLE) or (everything and free > 0):
            self._peak = left
            heap.give_back()

    def _hold(self, form: Form) -> Holding:
        holding = Holding(self, form)
        self._live.add(holding)
        return holding

    def _in_use(self) -> set[Form]:
        return {holding.form for holding in self._live}

    def _nbytes(self) -> int:
        total = sum(form.nbytes for form in {*self._kept.values(), *self._in_use()})
        self._peak = max(self._peak, total)
        return total

    def _make_room(self, most: int) -> None:
        surplus = self._nbytes() - most
        if surplus <= 0:
            return
        live = self._in_use()
        for form in list(self._kept.values()):
            if surplus <= 0:
                break
            if form not in live:
                self._drop(form)
                surplus -= form.nbytes

    def _drop(self, form: Form) -> None:
        if self._kept.get(form.grammar) is form:
            del self._kept[form.grammar]
