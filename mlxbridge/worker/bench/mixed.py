"""Long and short prompts at once: the worker against mlx-lm's server, and against itself with one length bucket.

`python -m bench.mixed --model DIR`. Every round sends the same prompts to all three, one after the other in an order
that turns, and compares tokens a second from the first request to the last token; figures are medians of the ratios.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench import loads, part
from bench.answer import Answer, Ask, Endpoint, answer, rate
from bench.figure import BenchError, Figure, median
from bench.models import float32_copy
from bench.process import Worker
from bench.server import Server

ANSWER_TOKENS = 100
_BUCKETS = 1.3


@dataclass(frozen=True)
class Load:
    """So many long prompts with so many short ones, and what is asked of the ratio to mlx-lm's server."""

    name: str
    longs: int
    tokens: int
    shorts: int
    target: float


LOADS = (Load("1x3000_7", 1, 3000, 7, 3.0), Load("2x2000_14", 2, 2000, 14, 2.5))
_WARM_UP = Load("warm-up", 1, 600, 3, 0)
_SMALL_LOADS = (Load("1x200_2", 1, 200, 2, 3.0),)


def run(setting: part.Setting) -> None:
    """Measure all loads."""
    # On small models of little width the server's own work per token is what is compared, so only `small` is judged.
    judged = setting.name == "small"
    with ExitStack() as stack:
        copied = float32_copy(setting.model, setting.scratch)
        ends: dict[str, Endpoint] = {
            "server": stack.enter_context(closing(Server(copied))),
            "worker": stack.enter_context(closing(Worker(setting.model))),
            "one": stack.enter_context(closing(Worker(setting.model, options={"lanes": 1}))),
        }
        tokens = 8 if setting.small else ANSWER_TOKENS
        measure(ends, _WARM_UP, 1, 8)
        for load in _SMALL_LOADS if setting.small else LOADS:
            rates = measure(ends, load, setting.rounds, tokens)
            label = f"{setting.name}_{load.name}"
            by_server, by_one = ratios(rates, "server"), ratios(rates, "one")
            setting.emit(Figure(f"mixed_vs_server_{label}", by_server, "ratio", load.target if judged else None))
            setting.emit(Figure(f"mixed_vs_one_bucket_{label}", by_one, "ratio", _BUCKETS if judged else None))
            for who, values in rates.items():
                setting.emit(Figure(f"mixed_{who}_{label}", median(values), "tok/s"))


def measure(ends: Mapping[str, Endpoint], load: Load, rounds: int, tokens: int) -> dict[str, list[float]]:
    """Return the tokens a second of each, round by round."""
    rates: dict[str, list[float]] = {who: [] for who in ends}
    names = list(ends)
    for number in range(rounds):
        turn = number % len(names)
        for who in names[turn:] + names[:turn]:
            asks = loads.mixed(f"{load.name}-{number}", number, load.longs, load.tokens, load.shorts, tokens)
            found = answer(ends[who], asks)
            check(found, asks)
            rates[who].append(rate(found))
    return rates


def check(answers: list[Answer], asks: list[Ask]) -> None:
    """Raise BenchError unless nearly all was answered at length: an answer that ends early is no load."""
    got, wanted = sum(a.completion_tokens for a in answers), sum(a.max_tokens for a in asks)
    if got < 0.95 * wanted:
        raise BenchError(f"{got} tokens were generated where {wanted} were asked for")


def ratios(rates: Mapping[str, list[float]], other: str) -> float:
    """Return the median of worker ÷ other, round by round."""
    return median(w / o for w, o in zip(rates["worker"], rates[other], strict=True))


if __name__ == "__main__":
    sys.exit(part.main("bench.mixed", __doc__, run))
