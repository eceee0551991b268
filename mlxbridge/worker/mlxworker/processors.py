"""Changes to a row's logits before a token is drawn: bias and penalties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

Processor = Callable[[Any, Any], Any]  # (tokens so far, logits [1, vocabulary]) -> logits


def logit_bias(bias: dict[int, float], vocabulary: int) -> Processor:
    """Return a processor that adds to the logits of some tokens."""
    line = [0.0] * vocabulary
    for token, value in bias.items():
        line[token] = value
    dense = mx.array([line])
    return lambda _, logits: logits + dense.astype(logits.dtype)


def penalties(repetition: float, presence: float, frequency: float, prompt_tokens: int) -> Processor:
    """Return a processor that makes tokens less likely that were there before.

    repetition counts prompt and answer and divides (1: off); presence and frequency count the answer and subtract.
    """

    def process(tokens: Any, logits: Any) -> Any:
        vocabulary = logits.shape[-1]
        if repetition != 1:
            seen = _count(tokens, vocabulary) > 0
            logits = mx.where(seen, mx.where(logits < 0, logits * repetition, logits / repetition), logits)
        answer = tokens[prompt_tokens:]
        if (presence or frequency) and answer.shape[0]:
            counts = _count(answer, vocabulary)
            logits = logits - (counts * frequency + (counts > 0) * presence).astype(logits.dtype)
        return logits

    return process


def _count(tokens: Any, vocabulary: int) -> Any:
    return mx.zeros((vocabulary,), mx.float32).at[tokens].add(1.0)


def guarded(processor: Processor, failed: Callable[[Exception], None]) -> Processor:
    """Return a processor that never raises: it reports the error and leaves the logits as they are."""

    def process(tokens: Any, logits: Any) -> Any:
        try:
            return processor(tokens, logits)
        except Exception as e:  # a row's own fault must not stop the batch
            failed(e)
            return logits

    return process
