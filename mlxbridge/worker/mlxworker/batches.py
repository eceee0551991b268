"""mlx-lm's batches with less to compute and to launch: what follows once from the rows is done once, not per layer.

Every kernel costs its launch, which on a GPU is most of a small model's step. So layers share the positions of their
rows, which are the same for all; log probabilities are split by row only where a row asked for them; and a prompt that
is complete moves on as it is, without a copy. What rows are given stays the same, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.generate import GenerationBatch, PromptProcessingBatch
from mlx_lm.models.cache import BatchKVCache

from mlxworker.rounding import round_up


def refine(generator: Any, wanted: Callable[[], bool], rounded: bool) -> Any:
    """Change the two batches of a new batch generator, and return it.

    wanted says whether a row that decodes asked for log probabilities. With rounded, pieces of prompts are computed in
    few sizes: what is added is masked and cut off again.
    """
    prompts, answers = generator._prompt_batch, generator._generation_batch
    prompts.__class__ = _RoundedPrompts if rounded else _Prompts
    prompts.answers = answers
    answers.__class__ = _Answers
    answers.wanted = wanted
    return generator


class _Shared:
    """The positions of a batch's rows, computed for the first layer that needs them and kept for the others."""

    def __init__(self) -> None:
        self._moved: tuple[Any, int, Any] = (None, 0, None)
        self._kept: tuple[Any, ...] = (None,) * 7

    def after(self, offset: Any, tokens: int) -> Any:
        """Return the positions after so many tokens more."""
        before, count, after = self._moved
        if before is not offset or count != tokens:
            after = offset + tokens
            self._moved = (offset, tokens, after)
        return after

    def keep(self, offset: Any, padding: Any, rows: list[int]) -> tuple[Any, Any, Any, int]:
        """Return the rows as an array, their positions and padding, and how much padding all of them have."""
        known = self._kept
        if known[0] is not offset or known[1] is not padding or known[2] is not rows:
            index = mx.array(rows)
            left = padding[index]
            least = min(left.tolist())
            known = self._kept = (offset, padding, rows, index, offset[index], left - least if least else left, least)
        return known[3], known[4], known[5], known[6]


class _Layer(BatchKVCache):  # type: ignore[misc]
    """One layer's keys and values. It is never made: those of mlx-lm become such ones."""

    shared: _Shared
    keys: Any
    values: Any
    offset: Any
    left_padding: Any
    _idx: int

    def update_and_fetch(self, keys: Any, values: Any) -> Any:
        before, start, tokens = self.offset, self._idx, keys.shape[2]
        if self.keys is not None and start + tokens <= self.keys.shape[2]:
            self._idx = end = start + tokens
            self.keys[..., start:end, :] = keys
            self.values[..., start:end, :] = values
            found = self.keys[..., :end, :], self.values[..., :end, :]
        else:
            found = super().update_and_fetch(keys, values)
        self.offset = self.shared.after(before, tokens)
        return found

    def filter(self, batch_indices: list[int]) -> None:
        index, offset, padding, least = self.shared.keep(self.offset, self.left_padding, batch_indices)
        if self.keys is not None:
            self.keys = self.keys[index][..., least:, :]
            self.values = self.values[index][..., least:, :]
        self.offset, self.left_padding = offset, padding
        self._idx -= least


def _share(layers: list[Any]) -> None:
    """Let layers share the positions of their rows, where all are of the kind that can and hold the same tokens."""
    if not layers or not all(type(c) in (BatchKVCache, _Layer) and c._idx == layers[0]._idx for c in layers):
        return
    first, shared = layers[0], _Shared()
    for layer in layers:
        layer.__class__ = _Layer
        layer.shared, layer.offset, layer.left_padding = shared, first.offset, first.left_padding


class _Answers(GenerationBatch):  # type: ignore[misc]
    """Rows that decode."""

    wanted: Callable[[], bool]
    _next_tokens: Any
    _next_logprobs: list[Any]
    _current_logprobs: list[Any]

    def extend(self, batch: Any) -> None:
        super().extend(batch)
        _share(self.prompt_cache)

    def _step(self) -> tuple[list[int], list[Any]]:
        shared = self.samplers.count(self.fallback_sampler) == len(self.uids)
        if not shared or any(self.logits_processors) or self.wanted():
            found: tuple[list[int], list[Any]] = super()._step()
            return found
        inputs, self._current_logprobs = self._next_tokens, self._next_logprobs
        self._current_tokens = inputs
        logits = self.model(inputs[:, None], cache=self.prompt_cache)[:, -1, :]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        self._next_tokens = self.fallback_sampler(logprobs)
        self._next_logprobs = [None] * len(self.uids)
        mx.async_eval(self._next_tokens)
        tokens: list[int] = inputs.tolist()
        for all_of_row, token in zip(self.tokens, tokens, strict=True):
            all_of_row.append(token)
        return tokens, self._current_logprobs


class _Prompts(PromptProcessingBatch):  # type: ignore[misc]
    """Prompts that are computed."""

    def split(self, indices: list[int]) -> Any:
        if len(indices) < len(self.uids) or not self._is_tight():
            return super().split(indices)
        moving = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, list):
                setattr(self, name, [])
        return moving

    def _is_tight(self) -> bool:
        """Say whether there is no padding that all rows have: a split cuts such off."""
        layers = self.prompt_cache
        if not layers or not all(type(c) is BatchKVCache for c in layers):
            return False
        return bool(min(layers[0].left_padding.tolist()) == 0)


class _RoundedPrompts(_Prompts):
    """Prompts that are computed in few sizes. Beside rows that decode nothing waits for them but the next step."""

    answers: _Answers

    def prompt(self, tokens: list[list[int]]) -> None:
        if not tokens or not all(type(c) is BatchKVCache for c in self.prompt_cache):
            super().prompt(tokens)
            return
        lengths = [len(piece) for piece in tokens]
        longest = max(lengths)
        size = round_up(longest)
        for all_of_row, piece in zip(self.tokens, tokens, strict=True):
            all_of_row += piece
        self.model(mx.array([piece + [0] * (size - len(piece)) for piece in tokens]), cache=self.prompt_cache)
        for layer in self.prompt_cache:
            layer.trim(size - longest)
            if min(lengths) < longest:
                layer.prepare(lengths=lengths, right_padding=[longest - n for n in lengths])
                layer.finalize()
        compute = mx.async_eval if len(self.answers) else mx.eval
        compute([layer.state for layer in self.prompt_cache])
