"""What a long prompt does to others: the longest gap in four streams while it arrives, worker against mlx-lm's server.

`python -m bench.gap --model DIR`. Four streams are under way when a prompt of 4,000 tokens comes. The gap is the
longest time between two pieces of one of them from then until that prompt's first token; its time to first token is
compared as well, since a gap is easily kept small by letting the prompt wait.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench import loads, part
from bench.answer import Ask, Endpoint, answer, longest_gap, wait
from bench.figure import BenchError, Figure, median
from bench.models import float32_copy
from bench.process import Worker
from bench.server import Server

STREAMS = 4
PROMPT_TOKENS = 4000
# Each stream has this many pieces before the prompt comes, and room for what it gets meanwhile: mlx-lm's server looks
# at new requests twice a second, the worker's streams go on while the prompt is computed.
_WARM_PIECES = 16
_STREAM_TOKENS = 1200
_GAP = {"tiny": 0.08, "small": 0.12}
_FIRST = 0.95


@dataclass(frozen=True)
class Arrival:
    """Seconds: the longest gap of the streams, and the prompt's time to first token."""

    gap: float
    first: float


def run(setting: part.Setting) -> None:
    """Measure arrivals at both, in turns."""
    tokens = 300 if setting.small else PROMPT_TOKENS
    with ExitStack() as stack:
        copied = float32_copy(setting.model, setting.scratch)
        server = stack.enter_context(closing(Server(copied)))
        worker = stack.enter_context(closing(Worker(setting.model)))
        compare(setting.emit, setting.name, server, worker, setting.rounds, tokens, _GAP.get(setting.name))


def compare(
    emit: part.Emit, name: str, server: Endpoint, worker: Endpoint, rounds: int, tokens: int, target: float | None
) -> None:
    """Measure arrivals at both, in turns, and say what came."""
    theirs: list[Arrival] = []
    ours: list[Arrival] = []
    for number in range(-1, rounds):
        length = tokens if number >= 0 else tokens // 8  # the first is to warm up
        for who in (server, worker) if number % 2 else (worker, server):
            (theirs if who is server else ours).append(arrive(who, f"{name}{number}", number + 1, length))
            end(who, f"{name}{number}")
    theirs, ours = theirs[1:], ours[1:]
    gap = median(o.gap / t.gap for o, t in zip(ours, theirs, strict=True))
    first = median(o.first / t.first for o, t in zip(ours, theirs, strict=True))
    emit(Figure(f"gap_vs_server_{name}", gap, "ratio", target, at_most=True))
    emit(Figure(f"gap_first_vs_server_{name}", first, "ratio", _FIRST, at_most=True))
    for label, found in (("server", theirs), ("worker", ours)):
        emit(Figure(f"gap_{label}_{name}", 1000 * median(f.gap for f in found), "ms"))
        emit(Figure(f"gap_first_{label}_{name}", 1000 * median(f.first for f in found), "ms"))


def arrive(endpoint: Endpoint, name: str, number: int, tokens: int) -> Arrival:
    """Have a long prompt arrive at streams that are under way."""
    begin = 100 + (41 * number) % 300
    asks = [Ask(f"{name}-stream{i}", loads.short(begin + 17 * i), _STREAM_TOKENS) for i in range(STREAMS)]
    endpoint.send(asks)
    streams = [endpoint.answers[a.id] for a in asks]
    wait(endpoint, lambda: all(len(s.times) >= _WARM_PIECES for s in streams), "four streams")
    long = Ask(f"{name}-long", loads.long(begin + 3, tokens), 2)
    endpoint.send([long])
    arrival = endpoint.answers[long.id]
    wait(endpoint, lambda: bool(arrival.times), "the first token of a long prompt")
    after = [len(s.times) for s in streams]
    # The gap that the row's joining makes is over with the next piece of each.
    wait(
        endpoint,
        lambda: all(s.ended or len(s.times) > n for s, n in zip(streams, after, strict=True)),
        "the streams' next tokens",
    )
    if any(s.ended for s in streams):
        raise BenchError("a stream ended while the prompt arrived: too few tokens to measure gaps by")
    return Arrival(longest_gap(streams, arrival.sent, arrival.times[0]), arrival.first_seconds)


def end(endpoint: Endpoint, name: str) -> None:
    """Give up what is under way, and wait until it is gone: the other side has the machine for itself then."""
    for request, found in endpoint.answers.items():
        if not found.ended:
            endpoint.cancel(request)
    wait(endpoint, lambda: all(a.ended for a in endpoint.answers.values()), "the end of all answers")
    # The server notices a closed connection at a row's next token, and takes such rows out before it looks at requests
    # again: the first of these may have been taken in before that, the second is not.
    for probe in range(2):
        answer(endpoint, [Ask(f"{name}-probe{probe}", loads.short(500 + probe), 1)])


if __name__ == "__main__":
    sys.exit(part.main("bench.gap", __doc__, run))
