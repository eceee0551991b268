"""What is proposed from a row's own text, against a search that looks at all of it."""

from __future__ import annotations

import random

from mlxworker.lookup import Lookup


def longest(tokens: list[int]) -> list[int]:
    """Return the places after the earlier runs of 4, else 3, else 2 tokens that are as the last ones."""
    for n in (4, 3, 2):
        found = [i for i in range(n, len(tokens)) if tokens[i - n : i] == tokens[-n:]]
        if found:
            return found
    return []


def test_what_followed_last_time_is_proposed() -> None:
    lookup = Lookup()
    lookup.extend([1, 2, 3, 4, 5, 6, 7, 9, 2, 3])

    assert lookup.propose(4) == [4, 5, 6, 7]
    assert lookup.strength == 2


def test_the_longest_ending_decides_not_the_latest() -> None:
    lookup = Lookup()
    lookup.extend([1, 2, 3, 4, 50, 8, 3, 4, 60, 1, 2, 3, 4])

    assert lookup.propose(1) == [50]
    assert lookup.strength == 4


def test_nothing_is_proposed_where_nothing_repeats() -> None:
    lookup = Lookup()
    lookup.extend(list(range(50)))

    assert lookup.propose(5) == []
    assert lookup.strength == 0


def test_what_repeats_without_end_is_proposed_without_end() -> None:
    lookup = Lookup()
    lookup.extend([9, 1, 2, 3, 1, 2])

    assert lookup.propose(8) == [3, 1, 2, 3, 1, 2, 3, 1]


def test_a_token_says_whether_it_was_expected() -> None:
    lookup = Lookup()
    lookup.extend([1, 2, 3, 4, 5, 1, 2])

    assert lookup.feed(3) is True
    assert lookup.strength == 3
    assert lookup.feed(9) is False
    assert lookup.strength == 0
    assert lookup.feed(8) is None


def test_random_texts_give_what_a_whole_search_gives() -> None:
    draw = random.Random(4)
    for _ in range(50):
        lookup, tokens = Lookup(), []
        start = [draw.randrange(4) for _ in range(draw.randrange(6))]
        lookup.extend(start)
        tokens += start
        for _ in range(60):
            places = longest(tokens)
            proposed = lookup.propose(1)
            assert bool(proposed) == bool(places), tokens
            if proposed:
                # A copy that was followed so far is followed on, however often its last tokens stood elsewhere.
                n = lookup.strength
                after = [tokens[i] for i in range(n, len(tokens)) if tokens[i - n : i] == tokens[len(tokens) - n :]]
                assert proposed[0] in after, tokens
            token = draw.randrange(4)
            lookup.feed(token)
            tokens.append(token)
            assert len(lookup) == len(tokens)
