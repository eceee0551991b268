"""A radix trie over tokens: finds what shares the longest beginning with a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Held(Protocol):
    """What a trie holds: something of a sequence, as long as that, of use for a beginning of it or only whole."""

    length: int
    trimmable: bool


T = TypeVar("T", bound=Held)


@dataclass(eq=False)
class Node(Generic[T]):
    """A point in the trie, reached from the root by depth tokens."""

    label: list[int]  # tokens on the way from the parent
    parent: Node[T] | None
    depth: int  # tokens from the root to the end of label
    children: dict[int, Node[T]] = field(default_factory=dict)
    entry: T | None = None

    def below(self) -> Iterator[T]:
        """Return the entries at and under this node, nearest first."""
        level = [self]
        while level:
            yield from (n.entry for n in level if n.entry is not None)
            level = [c for n in level for c in n.children.values()]

    def above(self) -> Iterator[T]:
        """Return the entries on the way from this node's parent to the root."""
        node = self.parent
        while node is not None:
            if node.entry is not None:
                yield node.entry
            node = node.parent

    def tokens(self) -> list[int]:
        """Return the tokens that lead here."""
        labels: list[list[int]] = []
        node: Node[T] | None = self
        while node is not None:
            labels.append(node.label)
            node = node.parent
        return [t for label in reversed(labels) for t in label]


class Trie(Generic[T]):
    """Not safe for concurrent use."""

    def __init__(self) -> None:
        self.root: Node[T] = Node([], None, 0)

    def walk(self, tokens: list[int]) -> tuple[Node[T], int]:
        """Return the deepest node that tokens lead into, and how many of them lead there."""
        node, depth = self.root, 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                break
            same = common(child.label, tokens, depth)
            depth += same
            node = child
            if same < len(child.label):
                break
        return node, depth

    def find(self, tokens: list[int], least: int, cuttable: bool) -> tuple[T | None, int]:
        """Return the entry that has the longest beginning to give, and that length: less than all, at least least.

        What parts from tokens later is cut, where it can be; so the deepest node with a use for it is sought upwards.
        cuttable says whether there may be entries of that kind.
        """
        limit = len(tokens) - 1
        at, depth = self.walk(tokens)
        node: Node[T] | None = at
        while node is not None and (best := min(depth, limit)) >= least:
            if node.entry is not None and (node.entry.trimmable or node.entry.length <= best):
                return node.entry, min(best, node.entry.length)
            if cuttable:
                entry = next((e for e in node.below() if e.trimmable), None)
                if entry is not None:
                    return entry, best
            node = node.parent
            depth = node.depth if node is not None else 0
        return None, 0

    def covering(self, tokens: list[int]) -> T | None:
        """Return an entry that has all that one of exactly these tokens would have."""
        node, depth = self.walk(tokens)
        if depth < len(tokens):
            return None
        return next((e for e in node.below() if e.trimmable or e.length == depth), None)

    def place(self, tokens: list[int]) -> Node[T]:
        """Return the node of exactly these tokens, made if need be."""
        node, depth = self.root, 0
        while depth < len(tokens):
            child = node.children.get(tokens[depth])
            if child is None:
                child = Node(tokens[depth:], node, len(tokens))
                node.children[tokens[depth]] = child
                return child
            same = common(child.label, tokens, depth)
            if same < len(child.label):
                child = self._split(child, same)
            node, depth = child, depth + same
        return node

    def clear(self, node: Node[T], prune: bool) -> None:
        """Take a node's entry away; with prune also the nodes that led only there."""
        node.entry = None
        at: Node[T] | None = node
        while prune and at is not None and at.parent and not at.children and at.entry is None:
            del at.parent.children[at.label[0]]
            at = at.parent

    def _split(self, node: Node[T], at: int) -> Node[T]:
        parent = node.parent
        upper: Node[T] = Node(node.label[:at], parent, node.depth - len(node.label) + at)
        if parent is not None:
            parent.children[upper.label[0]] = upper
        node.label, node.parent = node.label[at:], upper
        upper.children[node.label[0]] = node
        return upper


def common(label: list[int], tokens: list[int], start: int = 0) -> int:
    """Return how many tokens of label are the same as those from start on."""
    most = min(len(label), len(tokens) - start)
    if label[:most] == tokens[start : start + most]:
        return most
    least = 0  # so many are the same, and not all of most
    while most - least > 1:
        middle = (least + most) // 2
        if label[least:middle] == tokens[start + least : start + middle]:
            least = middle
        else:
            most = middle
    return least
