"""Prompt lookup: what followed the last time that a text ended as it does now is likely to follow again.

No model is needed for that, and it is right for long stretches where an answer copies: code that is edited, names,
quotes. Taking a token in costs the same however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence

# An ending of this many tokens is looked for, the longest first.
_LENGTHS = (4, 3, 2)


class Lookup:
    """All tokens of one row, and where each short run of them stood last."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # a run of tokens -> where it was last followed by a token
        self._next = 0  # the copy goes on there; 0 is nowhere
        self.strength = 0  # how many tokens before that are known to be the same

    def __len__(self) -> int:
        """Return how many tokens were taken in."""
        return len(self._tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in what came since."""
        for token in tokens:
            self._add(token)
        if tokens and not self._next:
            self._find()

    def feed(self, token: int) -> bool | None:
        """Take one token in; return whether it is the one that was expected, None where none was."""
        expected = self._next
        hit = self._tokens[expected] == token if expected else None
        self._add(token)
        if not self._next:
            self._find()
        return hit

    def propose(self, most: int) -> list[int]:
        """Return up to that many tokens that may come next."""
        start = self._next
        if not start:
            return []
        out = self._tokens[start : start + most]
        while len(out) < most:  # the copy has come to its own beginning: what repeats goes on repeating
            out += out[: most - len(out)]
        return out

    def _add(self, token: int) -> None:
        """Take a token in; the copy goes on where it was as expected, and ends where it was not."""
        tokens = self._tokens
        end = len(tokens)
        for n in _LENGTHS:
            if n <= end:
                self._after[tuple(tokens[end - n :])] = end
        if self._next and tokens[self._next] == token:
            self._next += 1
            self.strength += 1
        else:
            self._next = self.strength = 0
        tokens.append(token)

    def _find(self) -> None:
        end = len(self._tokens)
        for n in _LENGTHS:
            at = self._after.get(tuple(self._tokens[end - n :])) if n <= end else None
            if at is not None:
                self._next, self.strength = at, n
                return
