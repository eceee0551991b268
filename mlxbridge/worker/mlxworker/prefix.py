"""The prefix store: keys and values of what was computed before, found by the longest common beginning.

A radix trie over tokens. Its bytes are bounded; what was least recently used goes first, what a session used lately
goes last. What is handed out is a copy, so an entry may be dropped while a request still uses it.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

# Shorter beginnings cost less to compute than to keep.
LEAST_TOKENS = 8
SESSION_SECONDS = 300.0


@dataclass(eq=False)
class _Entry:
    cache: list[Any]
    length: int
    nbytes: int
    trimmable: bool
    used: int
    node: _Node
    pinned_until: float = 0.0


@dataclass(eq=False)
class _Node:
    label: list[int]  # tokens on the way from the parent
    parent: _Node | None
    depth: int  # tokens from the root to the end of label
    children: dict[int, _Node] = field(default_factory=dict)
    entry: _Entry | None = None

    def below(self) -> Iterator[_Entry]:
        """Return the entries at and under this node, nearest first."""
        level = [self]
        while level:
            yield from (n.entry for n in level if n.entry is not None)
            level = [c for n in level for c in n.children.values()]


class PrefixStore:
    """Not safe for concurrent use. A budget of 0 bytes keeps nothing."""

    def __init__(self, budget: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self.nbytes = 0
        self._root = _Node([], None, 0)
        self._entries: set[_Entry] = set()
        self._clock = clock
        self._ticks = itertools.count(1)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def fetch(self, tokens: list[int], session: str = "") -> tuple[list[Any] | None, int]:
        """Return the keys and values of the longest known beginning, and its length in tokens.

        It is always shorter than tokens: the last one has to be computed again to know what follows it.
        """
        limit = len(tokens) - 1
        node, depth = self._walk(tokens)
        entry = next(node.below(), None)
        best = min(depth, limit)
        if entry is None or not (entry.trimmable or entry.length <= best):
            entry = self._exact(node, limit)
            best = entry.length if entry is not None else 0
        if entry is None or best < LEAST_TOKENS:
            return None, 0
        best = min(best, entry.length)
        self._touch(entry, session)
        return cut(entry.cache, entry.length, best), best

    def insert(self, tokens: list[int], cache: list[Any], session: str = "") -> bool:
        """Keep a row's keys and values, which must cover exactly these tokens. Say whether they were kept."""
        nbytes = sum(int(layer.nbytes) for layer in cache)
        if len(tokens) < LEAST_TOKENS or nbytes > self.budget:
            return False
        node, depth = self._walk(tokens)
        if depth == len(tokens):
            covering = next(node.below(), None)
            if covering is not None and (covering.trimmable or covering.length == depth):
                self._touch(covering, session)
                return True
        trimmable = all(layer.is_trimmable() for layer in cache)
        node = self._place(tokens)
        if node.entry is not None:
            self._drop(node.entry, prune=False)
        entry = _Entry(cache, len(tokens), nbytes, trimmable, 0, node)
        node.entry = entry
        self._entries.add(entry)
        self.nbytes += nbytes
        self._touch(entry, session)
        # Without this the entry would keep the whole batch alive that it was cut from.
        mx.async_eval([layer.state for layer in cache])
        if trimmable:
            self._drop_covered(entry)
        self._shrink(self.budget, keep=entry)
        return entry in self._entries

    def trim_to(self, nbytes: int) -> None:
        """Drop entries until the store holds at most that many bytes."""
        self._shrink(nbytes, keep=None)

    def clear(self) -> None:
        """Drop everything."""
        self._root = _Node([], None, 0)
        self._entries.clear()
        self.nbytes = 0

    def _touch(self, entry: _Entry, session: str) -> None:
        entry.used = next(self._ticks)
        if session:
            entry.pinned_until = self._clock() + SESSION_SECONDS

    def _walk(self, tokens: list[int]) -> tuple[_Node, int]:
        """Return the deepest node that tokens lead into, and how many of them lead there."""
        node, depth = self._root, 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                break
            same = _common(child.label, tokens, depth)
            depth += same
            node = child
            if same < len(child.label):
                break
        return node, depth

    def _exact(self, node: _Node | None, limit: int) -> _Entry | None:
        """Return the deepest entry on the way to node that can be used whole."""
        while node is not None:
            if node.entry is not None and node.depth <= limit:
                return node.entry
            node = node.parent
        return None

    def _place(self, tokens: list[int]) -> _Node:
        """Return the node of exactly these tokens, made if need be."""
        node, depth = self._root, 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                child = _Node(tokens[depth:], node, len(tokens))
                node.children[tokens[depth]] = child
                return child
            same = _common(child.label, tokens, depth)
            if same < len(child.label):
                child = self._split(child, same)
            node, depth = child, depth + same
        return node

    def _split(self, node: _Node, at: int) -> _Node:
        parent = node.parent
        upper = _Node(node.label[:at], parent, node.depth - len(node.label) + at)
        if parent is not None:
            parent.children[upper.label[0]] = upper
        node.label, node.parent = node.label[at:], upper
        upper.children[node.label[0]] = node
        return upper

    def _drop_covered(self, entry: _Entry) -> None:
        """Drop what is a beginning of a new entry: the new one can be cut to it."""
        node = entry.node.parent
        while node is not None:
            if node.entry is not None:
                entry.pinned_until = max(entry.pinned_until, node.entry.pinned_until)
                self._drop(node.entry, prune=False)
            node = node.parent

    def _shrink(self, budget: int, keep: _Entry | None) -> None:
        if self.nbytes <= budget:
            return
        now = self._clock()
        order = sorted(self._entries, key=lambda e: (e is keep, e.pinned_until > now, e.used))
        for entry in order:
            if self.nbytes <= budget:
                return
            self._drop(entry, prune=True)

    def _drop(self, entry: _Entry, prune: bool) -> None:
        self._entries.discard(entry)
        self.nbytes -= entry.nbytes
        node: _Node | None = entry.node
        entry.node.entry = None
        while prune and node is not None and node.parent and not node.children and node.entry is None:
            del node.parent.children[node.label[0]]
            node = node.parent


def _common(label: list[int], tokens: list[int], start: int) -> int:
    """Return how many tokens of label are the same as those from start on."""
    most = min(len(label), len(tokens) - start)
    if label[:most] == tokens[start : start + most]:
        return most
    return next(i for i in range(most) if label[i] != tokens[start + i])


def cut(cache: list[Any], length: int, wanted: int) -> list[Any]:
    """Return a copy of a cache that ends after the wanted tokens."""
    return [_cut_layer(layer, length - wanted) for layer in cache]


def _cut_layer(layer: Any, surplus: int) -> Any:
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
