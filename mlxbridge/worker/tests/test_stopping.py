"""Stop sequences, cut anywhere."""

from __future__ import annotations

import random

import pytest

from mlxworker.stopping import StopMatcher, StopSet


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(StopSet(stops))
    out = ""
    for piece in pieces:
        text, found = matcher.feed(piece)
        out += text
        if found is not None:
            return out, found
    return out + matcher.flush(), None


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """Return what the first complete sequence leaves; of two that end together, the longer."""
    for end in range(1, len(text) + 1):
        here = [s for s in stops if text[:end].endswith(s)]
        if here:
            longest = max(here, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("seed", range(300))
def test_any_cut_of_the_text_gives_the_same_end(seed: int) -> None:
    draw = random.Random(seed)
    stops = ["".join(draw.choices("ab", k=draw.randint(1, 5))) for _ in range(draw.randint(1, 4))]
    text = "".join(draw.choices("abc", k=draw.randint(0, 25)))
    pieces, rest = [], text
    while rest:
        n = draw.randint(1, 4)
        pieces.append(rest[:n])
        rest = rest[n:]

    assert run(stops, pieces) == expected(stops, text)


def test_text_that_cannot_become_a_stop_is_sent_at_once() -> None:
    matcher = StopMatcher(StopSet(["END"]))

    assert matcher.feed("abcE") == ("abc", None)
    assert matcher.feed("N") == ("", None)
    assert matcher.feed("x") == ("ENx", None)


def test_nothing_of_a_stop_or_after_it_is_sent() -> None:
    matcher = StopMatcher(StopSet(["\n\n"]))

    assert matcher.feed("one\n") == ("one", None)
    assert matcher.feed("\ntwo") == ("", "\n\n")
