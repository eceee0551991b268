"""The prefix store: keys and values of what was computed before, found by the longest common beginning.

Its bytes are bounded; what was least recently used goes first, what a session used lately goes last. What is handed
out is a copy, so an entry may be dropped while a request still uses it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlxworker import digests, stored
from mlxworker.stored import cut as cut
from mlxworker.trie import Node, Trie

# Shorter beginnings cost less to compute than to keep.
LEAST_TOKENS = 8
SESSION_SECONDS = 300.0
# What is told of the contents: so many digests, and of one entry so many (16,384 tokens).
MOST_DIGESTS = 256
_MOST_OF_ONE = 64


@dataclass(eq=False)
class Entry:
    """Keys and values of one sequence of tokens, which is the way to node."""

    cache: list[Any]
    length: int
    nbytes: int
    trimmable: bool
    node: Node[Entry]
    used: int = 0
    session: str = ""
    pinned_until: float = 0.0
    digests: list[str] | None = None

    def chain(self) -> list[str]:
        """Return the digests by which others can know of it: of what can only be used whole, the last."""
        if self.digests is None:
            if self.trimmable:
                self.digests = digests.chain(self.node.tokens(), _MOST_OF_ONE)
            else:
                self.digests = digests.chain(self.node.tokens(), self.length)[-1:]
        return self.digests


@dataclass
class PrefixStore:
    """Not safe for concurrent use. A budget of 0 bytes keeps nothing.

    bits is 0, or what keys and values are quantised to while they are kept. evicted is told of an entry that the
    budget pushes out, before it is gone.
    """

    budget: int
    clock: Callable[[], float] = time.monotonic
    session_seconds: float = SESSION_SECONDS
    bits: int = 0
    evicted: Callable[[Entry], object] | None = None
    nbytes: int = 0
    outside: int = 0  # bytes on their way to disk or from there, beside nbytes
    version: int = 0  # changes with the contents
    _used: int = 0  # last of _ticks
    _cuttable: int = 0  # entries that are
    _trie: Trie[Entry] = field(default_factory=Trie)
    _entries: set[Entry] = field(default_factory=set)
    _told: tuple[tuple[int, int], list[str]] = ((0, 0), [])
    _ticks: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    @property
    def held(self) -> int:
        """Return the bytes that the store is the reason for."""
        return self.nbytes + self.outside

    def match(self, tokens: list[int]) -> int:
        """Return how many tokens fetch would give, without using them."""
        return self._find(tokens)[1]

    def fetch(self, tokens: list[int], session: str = "") -> tuple[list[Any] | None, int]:
        """Return the keys and values of the longest known beginning, and its length in tokens.

        It is always shorter than tokens: the last one has to be computed again to know what follows it.
        """
        entry, best = self._find(tokens)
        if entry is None:
            return None, 0
        self._touch(entry, session)
        return cut(entry.cache, entry.length, best), best

    def insert(self, tokens: list[int], cache: list[Any], session: str = "") -> bool:
        """Keep a row's keys and values, which must cover exactly these tokens. Say whether they were kept."""
        if len(tokens) < LEAST_TOKENS or not self.budget:
            return False
        covering = self._trie.covering(tokens)
        if covering is not None:
            self._touch(covering, session)
            return True
        cache = stored.pack(cache, self.bits)
        nbytes = sum(int(layer.nbytes) for layer in cache)
        if nbytes > self.budget:
            return False
        node = self._trie.place(tokens)
        if node.entry is not None:
            self._drop(node.entry, prune=False)
        entry = Entry(cache, len(tokens), nbytes, all(layer.is_trimmable() for layer in cache), node)
        node.entry = entry
        self._entries.add(entry)
        self.version += 1
        self._cuttable += entry.trimmable
        self.nbytes += nbytes
        self._touch(entry, session)
        # Without this the entry would keep the whole batch alive that it was cut from.
        mx.async_eval([layer.state for layer in cache])
        if entry.trimmable:
            self._drop_covered(entry)
        self._shrink(self.budget, keep=entry)
        return entry in self._entries

    def recent(self) -> list[Entry]:
        """Return the entries, those that are to be kept longest first: pinned ones, then by last use."""
        return list(reversed(self._order(None)))

    def known(self) -> list[str]:
        """Return digests of the contents, most recently used first, at most MOST_DIGESTS."""
        now = (self.version, self._used)
        if self._told[0] != now:
            seen: dict[str, None] = {}
            for entry in sorted(self._entries, key=lambda e: -e.used)[:MOST_DIGESTS]:
                seen.update(dict.fromkeys(entry.chain()))
                if len(seen) >= MOST_DIGESTS:
                    break
            self._told = (now, list(seen)[:MOST_DIGESTS])
        return self._told[1]

    def trim_to(self, nbytes: int) -> None:
        """Drop entries until the store holds at most that many bytes, with what is outside."""
        self._shrink(nbytes - self.outside, keep=None)

    def clear(self) -> None:
        """Drop everything."""
        self._trie = Trie()
        self._entries.clear()
        self.nbytes = self._cuttable = 0
        self.version += 1

    def _find(self, tokens: list[int]) -> tuple[Entry | None, int]:
        return self._trie.find(tokens, LEAST_TOKENS, self._cuttable > 0)

    def _touch(self, entry: Entry, session: str) -> None:
        self._used = entry.used = next(self._ticks)
        if session:
            entry.session, entry.pinned_until = session, self.clock() + self.session_seconds

    def _drop_covered(self, entry: Entry) -> None:
        """Drop what is a beginning of a new entry: the new one can be cut to it."""
        for other in list(entry.node.above()):
            if other.pinned_until > entry.pinned_until:
                entry.session, entry.pinned_until = other.session, other.pinned_until
            self._drop(other, prune=False)

    def _shrink(self, budget: int, keep: Entry | None) -> None:
        if self.nbytes <= budget:
            return
        for entry in self._order(keep):
            if self.nbytes <= budget:
                return
            if keep is not None and self.evicted is not None:
                self.evicted(entry)
            self._drop(entry, prune=True)

    def _order(self, keep: Entry | None) -> list[Entry]:
        """Return the entries in the order in which they may go.

        Pins of one session hold for half of the budget, or its latest entry: no session has the whole store.
        """
        now, held, pinned = self.clock(), dict[str, int](), set[Entry]()
        for entry in sorted(self._entries, key=lambda e: -e.used):
            if entry.pinned_until > now:
                before = held.get(entry.session, 0)
                held[entry.session] = before + entry.nbytes
                if not before or 2 * held[entry.session] <= self.budget:
                    pinned.add(entry)
        return sorted(self._entries, key=lambda e: (e is keep, e in pinned, e.used))

    def _drop(self, entry: Entry, prune: bool) -> None:
        self._entries.discard(entry)
        self._cuttable -= entry.trimmable
        self.nbytes -= entry.nbytes
        self.version += 1
        self._trie.clear(entry.node, prune)
