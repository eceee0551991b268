"""Whether guessing ahead pays: by what was measured, and by nothing else.

A pass over w guesses gives 1 + a + a² + … + a^w tokens on average when each guess is right with probability a after a
right one (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023, eq. 1); here a grows
with what has been right before. It pays when
that many tokens a second are more than one a plain step. What a pass takes is measured for each width, what a guess is
worth for each source.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# How many tokens are guessed. A width is first tried when the one below it has been measured.
WIDTHS = (1, 2, 4, 8, 16, 32)
# Until it has been measured, a token more in a pass is thought to cost this share of a plain step.
_EACH = 0.1
# Guessing has to be this much better: what it measures is not exact.
_MARGIN = 1.05
# After so many steps without guesses that could have had some, all is tried anew; then after twice as many.
_PATIENCE, _MOST_PATIENCE = 256, 8192
_TIME_WEIGHT, _GUESS_WEIGHT = 0.2, 0.06
# What a guess of a source is worth before one was checked, by strength.
_PRIOR = {"lookup": (0.2, 0.4, 0.7, 0.8, 0.9), "draft": (0.7,)}


@dataclass
class Mean:
    """A mean that forgets. Its first value is not believed once there is a second: it may hold a compilation."""

    value: float
    count: int = 1

    def add(self, value: float) -> None:
        """Take a measurement in."""
        self.count += 1
        if self.count == 2:
            self.value = min(self.value, value)
        else:
            self.value += _TIME_WEIGHT * (value - self.value)


@dataclass(frozen=True)
class Offer:
    """A source that has guesses. strength says how much speaks for them, most is how many it has."""

    source: str
    strength: int
    most: int


@dataclass(frozen=True)
class Choice:
    """Who guesses, and how many tokens."""

    source: str
    width: int


@dataclass
class Payoff:
    """What was measured, and what follows from it. Times are in seconds."""

    plain: Mean | None = None
    drafting: Mean | None = None  # for each guess of a draft model
    _passes: dict[int, Mean] = field(default_factory=dict)
    _right: dict[tuple[str, int], float] = field(default_factory=dict)
    _declined: int = 0
    _patience: int = _PATIENCE

    def learn_plain(self, seconds: float) -> None:
        """Take in what a step without guesses took."""
        self.plain = _added(self.plain, seconds)

    def learn_pass(self, width: int, seconds: float) -> None:
        """Take in what checking that many guesses took."""
        width = next((w for w in WIDTHS if w >= width), WIDTHS[-1])
        self._passes[width] = _added(self._passes.get(width), seconds)

    def learn_drafting(self, width: int, seconds: float) -> None:
        """Take in what a draft model took to guess that many."""
        self.drafting = _added(self.drafting, seconds / width)

    def learn_guess(self, source: str, strength: int, right: bool) -> None:
        """Take in whether a guess was right that came after right ones only."""
        key = source, _class(source, strength)
        before = self._right.get(key, _PRIOR[source][key[1]])
        self._right[key] = before + _GUESS_WEIGHT * (right - before)

    def chance(self, source: str, strength: int) -> float:
        """Return how likely a guess is right."""
        kind = _class(source, strength)
        return self._right.get((source, kind), _PRIOR[source][kind])

    def choose(self, offers: list[Offer]) -> Choice | None:
        """Return what gives the most tokens a second, None for a plain step."""
        if self.plain is None or not offers:
            return None
        best, most = None, _MARGIN / self.plain.value
        for offer in offers:
            each = 0.0 if offer.source != "draft" else self._drafting()
            tokens, power = 1.0, 1.0
            done = 0  # guesses that are in tokens
            for width in WIDTHS:
                if width > offer.most:
                    break
                for i in range(done, width):
                    power *= self.chance(offer.source, offer.strength + i)
                    tokens += power
                done = width
                measured = self._passes.get(width)
                seconds = self._guessed(width) if measured is None else measured.value
                rate = tokens / (seconds + width * each)
                if rate > most:
                    best, most = Choice(offer.source, width), rate
                if measured is None:
                    break
        self._remember(best)
        return best

    def _guessed(self, width: int) -> float:
        below = max((w for w in self._passes if w < width), default=0)
        if below:
            return self._passes[below].value * (1 + _EACH)
        return self._plain() * (1 + _EACH * width)

    def _plain(self) -> float:
        return self.plain.value if self.plain is not None else 0.0

    def _drafting(self) -> float:
        return self.drafting.value if self.drafting is not None else _EACH * self._plain()

    def _remember(self, best: Choice | None) -> None:
        """Forget what speaks against guessing when it has for long: machines and texts change."""
        if best is not None:
            self._declined = 0
            known = self._passes.get(best.width)
            if known is not None and known.count > 8:
                self._patience = _PATIENCE
            return
        self._declined += 1
        if self._declined >= self._patience:
            self._declined, self._patience = 0, min(2 * self._patience, _MOST_PATIENCE)
            self._passes.clear()
            # What a draft is worth is known only while it is used; a lookup is checked by every token that comes.
            self._right = {key: p for key, p in self._right.items() if key[0] != "draft"}
            self.drafting = None


def _added(mean: Mean | None, value: float) -> Mean:
    if mean is None:
        return Mean(value)
    mean.add(value)
    return mean


def _class(source: str, strength: int) -> int:
    """Return which of the source's classes that strength is in: each is twice as strong as the one before."""
    return min(max(strength, 1).bit_length(), len(_PRIOR[source])) - 1
