"""The second turn of a conversation: how much of the first one's work is still there.

`python -m bench.turns --model DIR`. A conversation of 2,000 tokens is answered, then goes on with one more message. The
figure is the second time to first token ÷ the first; how much of the history was computed again is counted as well.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass

from bench import loads, part
from bench.answer import Ask, Endpoint, answer
from bench.figure import Figure, median
from bench.process import Worker

_HISTORY_TOKENS = 2000
_ANSWER_TOKENS = 32
_TARGET = 0.08


@dataclass(frozen=True)
class Turns:
    """Seconds to the first token of both turns, and the tokens of history that the second one computed again."""

    first: float
    second: float
    again: int


def run(setting: part.Setting) -> None:
    """Measure some conversations."""
    tokens = 400 if setting.small else _HISTORY_TOKENS
    with closing(Worker(setting.model)) as worker:
        converse(worker, 0, tokens // 4)  # to warm up
        found = [converse(worker, n + 1, tokens) for n in range(setting.rounds)]
    name = setting.name
    setting.emit(Figure(f"turn_{name}", median(f.second / f.first for f in found), "ratio", _TARGET, at_most=True))
    setting.emit(Figure(f"turn_again_{name}", max(f.again for f in found), "tokens", 0, at_most=True))
    setting.emit(Figure(f"turn_first_{name}", 1000 * median(f.first for f in found), "ms"))
    setting.emit(Figure(f"turn_second_{name}", 1000 * median(f.second for f in found), "ms"))


def converse(worker: Endpoint, number: int, tokens: int) -> Turns:
    """Take two turns of a conversation that no other one resembles."""
    session = f"conversation-{number}"
    messages = loads.long(100 + 53 * number % 300, tokens)
    (first,) = answer(worker, [Ask(f"{session}-1", messages, _ANSWER_TOKENS, session)])
    messages = [
        *messages,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "What is 12 + 30?"},
    ]
    (second,) = answer(worker, [Ask(f"{session}-2", messages, _ANSWER_TOKENS, session)])
    # The answer's last token was sent, not computed on; it may be cut differently when its text is read again.
    history = first.prompt_tokens + first.completion_tokens - 1
    return Turns(first.first_seconds, second.first_seconds, max(0, history - second.cached_tokens))


if __name__ == "__main__":
    sys.exit(part.main("bench.turns", __doc__, run))
