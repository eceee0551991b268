"""Prompts for measurements, in what the test models know: counting. A model with random weights takes them as well.

A number of three digits and its comma are five tokens, so that lengths can be chosen. No two prompts of a run begin
alike for longer than the template's head: what was answered once is in a prefix store.
"""

from __future__ import annotations

from bench.answer import Ask, Message

# What a conversation of one counted answer costs beside the numbers.
_FRAME_TOKENS = 45
_NUMBER_TOKENS = 5
# Answers end later than any measurement takes tokens.
_AHEAD = 300
# From these both test models copy 200 numbers without a slip.
_COPIED_FROM = (100, 110, 140, 160, 170, 210, 220)


def numbers(first: int, last: int) -> str:
    """Return the right answer to the order to count."""
    return ", ".join(str(i) for i in range(first, last + 1))


def count(first: int, last: int) -> Message:
    """Return the order to count."""
    return {"role": "user", "content": f"Count from {first} to {last}."}


def short(first: int) -> list[Message]:
    """Return a prompt of about 20 tokens whose answer is long."""
    return [count(first, first + _AHEAD)]


def long(first: int, tokens: int) -> list[Message]:
    """Return a prompt of about so many tokens whose answer is long: a conversation in which much was counted."""
    last = first + max(1, (tokens - _FRAME_TOKENS) // _NUMBER_TOKENS)
    return [count(first, last), {"role": "assistant", "content": numbers(first, last)}, count(first, first + _AHEAD)]


def copying(round_: int, words: int) -> list[Message]:
    """Return a prompt whose answer is so many words that stand in it already."""
    first = _COPIED_FROM[round_ % len(_COPIED_FROM)]
    last = first + words - 1
    again = count(first, last)
    return [again, {"role": "assistant", "content": numbers(first, last)}, again]


def mixed(name: str, number: int, longs: int, tokens: int, shorts: int, answer: int) -> list[Ask]:
    """Return a load of long and short prompts; number makes it unlike the others of a run."""
    begin = 100 + (37 * number) % 300
    asks = [Ask(f"{name}-long{i}", long(begin + 11 * i, tokens), answer) for i in range(longs)]
    return asks + [Ask(f"{name}-short{i}", short(begin + 13 * i + 5), answer) for i in range(shorts)]
