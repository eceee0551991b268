"""A stream alone that copies 200 words of its prompt: the worker against mlx-lm's stream_generate.

`python -m bench.copying --model DIR`. Both answer the same prompts at temperature 0, in turns, and must say the
same. The figure is the ratio of tokens a second from the first token to the last: what is compared is decoding.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bench import loads, part
from bench.answer import Ask, Message, answer
from bench.figure import BenchError, Figure, median
from bench.process import Worker

WORDS = 200
_MOST_TOKENS = 1500
_ROUNDS = 5
_TARGET = 1.5


@dataclass(frozen=True)
class Copy:
    """An answer and its speed in tokens a second."""

    text: str
    rate: float


def run(setting: part.Setting) -> None:
    """Measure answers of both, in turns."""
    words = 20 if setting.small else WORDS
    bare = Bare(setting)
    ours: list[Copy] = []
    theirs: list[Copy] = []
    same = 0
    with closing(Worker(setting.model)) as worker:

        def ask(label: str, messages: list[Message]) -> Copy:
            (found,) = answer(worker, [Ask(label, messages, _MOST_TOKENS)])
            return Copy(found.text, decode_rate(found.completion_tokens, found.times[0], found.times[-1]))

        ask("warm-up", loads.copying(0, 10))
        bare.answer(loads.copying(0, 10))
        for number in range(setting.rounds):
            messages = loads.copying(number, words)
            for who in ("worker", "bare") if number % 2 else ("bare", "worker"):
                if who == "worker":
                    ours.append(ask(f"copy{number}", messages))
                else:
                    theirs.append(bare.answer(messages))
            if len(theirs[-1].text.split()) < words:
                raise BenchError(f"the model does not copy {words} words: {theirs[-1].text[-40:]!r}")
            same += ours[-1].text == theirs[-1].text
    name = setting.name
    ratio = median(o.rate / t.rate for o, t in zip(ours, theirs, strict=True))
    setting.emit(Figure(f"copy_vs_bare_{name}", ratio, "ratio", _TARGET))
    setting.emit(Figure(f"copy_same_text_{name}", same / setting.rounds, "share", 1.0))
    setting.emit(Figure(f"copy_worker_{name}", median(o.rate for o in ours), "tok/s"))
    setting.emit(Figure(f"copy_bare_{name}", median(t.rate for t in theirs), "tok/s"))


def decode_rate(tokens: int, first: float, last: float) -> float:
    """Return the tokens a second after the first one."""
    if tokens < 2 or last <= first:
        raise BenchError(f"an answer of {tokens} tokens has no speed")
    return (tokens - 1) / (last - first)


class Bare:
    """mlx-lm as it is, in this process, with weights of the worker's type."""

    def __init__(self, setting: part.Setting) -> None:
        import mlx.core as mx
        from mlx_lm.utils import load

        net, tokenizer = load(str(setting.model))
        if mx.default_device().type == mx.cpu:
            net.set_dtype(mx.float32)
            mx.eval(net.parameters())
        self._net: Any = net
        self._tokenizer: Any = tokenizer

    def answer(self, messages: list[Message]) -> Copy:
        """Answer with stream_generate."""
        from mlx_lm.generate import stream_generate

        prompt = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        text, times = "", []
        for piece in stream_generate(self._net, self._tokenizer, prompt, max_tokens=_MOST_TOKENS):
            times.append(time.perf_counter())
            text += piece.text
        return Copy(text, decode_rate(len(times), times[0], times[-1]))


if __name__ == "__main__":
    sys.exit(part.main("bench.copying", __doc__, run, _ROUNDS))
