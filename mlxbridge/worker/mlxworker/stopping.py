"""Text-level stop sequences: Aho-Corasick over characters, with hold-back of what may become one."""

from __future__ import annotations

from collections import deque


class StopSet:
    """The automaton of one set of stop sequences. Immutable: many rows may share it."""

    def __init__(self, stops: list[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail: list[int] = [0]
        self._depth: list[int] = [0]
        self._match: list[str | None] = [None]
        for stop in stops:
            self._insert(stop)
        self._link()

    def _insert(self, stop: str) -> None:
        node = 0
        for char in stop:
            child = self._next[node].get(char)
            if child is None:
                child = len(self._next)
                self._next[node][char] = child
                self._next.append({})
                self._fail.append(0)
                self._depth.append(self._depth[node] + 1)
                self._match.append(None)
            node = child
        self._match[node] = stop

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self._next[node].items():
                self._fail[child] = self.advance(self._fail[node], char)
                # The longest match that ends here starts earliest; a shorter one counts only where there is none.
                self._match[child] = self._match[child] or self._match[self._fail[child]]
                queue.append(child)

    def advance(self, node: int, char: str) -> int:
        """Return the state after char."""
        while node and char not in self._next[node]:
            node = self._fail[node]
        return self._next[node].get(char, 0)

    def match(self, node: int) -> str | None:
        """Return the sequence that ends in this state."""
        return self._match[node]

    def depth(self, node: int) -> int:
        """Return how many of the last characters may be the beginning of a sequence."""
        return self._depth[node]


class StopMatcher:
    """Follows one answer. The sequence that is complete first ends it; of two that end together, the longer."""

    def __init__(self, stops: StopSet) -> None:
        self._stops = stops
        self._state = 0
        self._held = ""

    def feed(self, text: str) -> tuple[str, str | None]:
        """Take the next text; return what is safe to send and the sequence that was found, if one was.

        Text before the sequence is returned, the sequence and all after it is dropped.
        """
        for i, char in enumerate(text):
            self._state = self._stops.advance(self._state, char)
            found = self._stops.match(self._state)
            if found is not None:
                out = (self._held + text[: i + 1])[: -len(found)]
                self._held, self._state = "", 0
                return out, found
        text = self._held + text
        hold = self._stops.depth(self._state)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """Return what was held back: the answer ended without a sequence."""
        held, self._held, self._state = self._held, "", 0
        return held
