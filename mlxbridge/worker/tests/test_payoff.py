"""Whether guessing pays, on clocks that are made up."""

from __future__ import annotations

import itertools

from mlxworker.payoff import Choice, Offer, Payoff

LOOKUP = Offer("lookup", 8, 32)
DRAFT = Offer("draft", 1, 32)


def settled(passes: dict[int, float], right: float = 0.5, source: str = "lookup") -> Payoff:
    """Return what is known after many measurements; a plain step takes 1 s."""
    payoff = Payoff()
    for _ in range(50):
        payoff.learn_plain(1.0)
        for width, seconds in passes.items():
            payoff.learn_pass(width, seconds)
    for i in range(400):
        for strength in (1, 2, 4, 8, 16, 32):
            payoff.learn_guess(source, strength, i % 10 < 10 * right)
    return payoff


def test_nothing_is_chosen_before_a_plain_step_was_measured() -> None:
    assert Payoff().choose([LOOKUP]) is None


def test_a_copy_is_tried_step_by_step_and_taken_as_wide_as_it_pays() -> None:
    payoff, widths = Payoff(), []
    payoff.learn_plain(1.0)
    for _ in range(40):
        choice = payoff.choose([LOOKUP])
        assert choice is not None
        widths.append(choice.width)
        payoff.learn_pass(choice.width, 1.0 + 0.02 * choice.width)
        for i in range(choice.width):
            payoff.learn_guess("lookup", 8 + i, True)

    assert widths[:6] == [1, 2, 4, 8, 16, 32]
    assert widths[-1] == 32


def test_guesses_that_are_wrong_are_not_made() -> None:
    cheap = {1: 1.05, 2: 1.1, 4: 1.2, 8: 1.4}

    assert settled(cheap, right=0.0).choose([LOOKUP]) is None
    assert settled(cheap, right=1.0).choose([LOOKUP]) is not None


def test_passes_that_cost_as_much_as_their_steps_are_not_made() -> None:
    assert settled({1: 2.0, 2: 3.0, 4: 5.0}, right=0.9).choose([LOOKUP]) is None


def test_no_more_is_guessed_than_there_is() -> None:
    payoff = settled({1: 1.05, 2: 1.1, 4: 1.2, 8: 1.4}, right=1.0)

    assert payoff.choose([Offer("lookup", 8, 5)]) == Choice("lookup", 4)
    assert payoff.choose([]) is None


def test_a_draft_has_to_pay_for_its_own_time() -> None:
    payoff = settled({1: 1.05, 2: 1.1, 4: 1.2}, right=0.8, source="draft")
    payoff.learn_drafting(4, 0.4)
    assert payoff.choose([DRAFT]) is not None

    for _ in range(50):
        payoff.learn_drafting(4, 8.0)
    assert payoff.choose([DRAFT]) is None


def test_of_two_sources_the_better_one_guesses() -> None:
    payoff = settled({1: 1.05, 2: 1.1, 4: 1.2}, right=0.95, source="draft")
    payoff.learn_drafting(1, 0.01)
    for strength in (1, 2, 4, 8, 16):
        for _ in range(300):
            payoff.learn_guess("lookup", strength, False)

    choice = payoff.choose([LOOKUP, DRAFT])

    assert choice is not None
    assert choice.source == "draft"


def test_what_did_not_pay_is_tried_again_now_and_then_and_more_and_more_seldom() -> None:
    payoff = settled({1: 9.0}, right=0.9, source="draft")
    tries = []
    for step in range(3000):
        choice = payoff.choose([DRAFT])
        if choice is not None:
            tries.append(step)
            payoff.learn_pass(choice.width, 9.0)
            payoff.learn_drafting(choice.width, 9.0)

    assert 2 <= len(tries) <= 6
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)


def test_the_first_pass_is_not_held_against_the_next() -> None:
    payoff = Payoff()
    for _ in range(5):
        payoff.learn_plain(1.0)
    payoff.learn_pass(1, 60.0)
    payoff.learn_pass(1, 1.1)

    assert payoff.choose([Offer("lookup", 32, 1)]) == Choice("lookup", 1)
