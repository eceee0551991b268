"""Rows that nobody asked for, in a lane of their own: no counter, store or reader of the engine ever sees them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from mlxworker.engine import Engine
from mlxworker.lane import Lane
from mlxworker.protocol import Generate, Sampling, Source
from mlxworker.rows import make_row


class Trial:
    """Makes such rows for an engine's model. They take the same path as any other, and end at no token."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._model = dataclasses.replace(engine.model, stop=engine.model.api.make_stop([]))

    @contextlib.contextmanager
    def lane(self, rows: int, length: int, steps: int, known: int = 0) -> Iterator[Lane]:
        """Give a lane that holds so many rows with prompts of a length, for so many steps after those.

        The first known tokens of each are not computed: their keys and values are zeros, which takes as long to read.
        """
        lane = Lane(self._model)
        try:
            self.join(lane, rows, length, steps, known)
            yield lane
        finally:
            lane.close()

    def join(self, lane: Lane, rows: int, length: int, steps: int, known: int = 0) -> None:
        """Let more such rows join a lane."""
        words = self._model.vocabulary
        asks = [
            Generate(
                id=f"trial {i}",
                source=Source(tokens=[(i + 7 * j) % words for j in range(length)]),
                sampling=Sampling(temperature=0, repetition_penalty=1),
                max_tokens=steps + 2,  # the first token is drawn one step early, and the last step is to end no row
            )
            for i in range(rows)
        ]
        caches = [self._zeros(known) if known else None for _ in range(rows)]
        lane.insert([make_row(self._model, ask) for ask in asks], caches, [known] * rows)

    def _zeros(self, tokens: int) -> list[Any]:
        cache = self._model.new_cache()
        self._model.net(mx.array([[0]]), cache=cache)  # says what shapes they have
        for layer in cache:
            for name in ("keys", "values"):
                batch, heads, _, width = getattr(layer, name).shape
                setattr(layer, name, mx.zeros((batch, heads, tokens, width), layer.keys.dtype))
            layer.offset = tokens
        return cache

    def fits(self, rows: int, length: int, steps: int, chunk: int) -> bool:
        """Say whether there is room for that beside all that is in memory, without dropping any of it."""
        most = length + steps + 2
        budget = self._engine.budget
        used = budget.peak([[most] * rows], 0, chunk, rows) + self._engine.prefix.nbytes
        return most <= self._model.context and budget.surplus(used) <= 0
