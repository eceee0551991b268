"""What the other side changes while the worker runs: its memory, its rows, and how the machine's memory fares."""

from __future__ import annotations

import mlx.core as mx

from mlxworker import compiled, memory
from mlxworker.engine import Engine, Options
from mlxworker.protocol import CRITICAL, NORMAL, WARNING, Change, Load


class Orders:
    """Has an engine keep to what was ordered last. prefix_bytes of None follows the memory limit."""

    def __init__(self, engine: Engine, memory_bytes: int, prefix_bytes: int | None) -> None:
        self._engine = engine
        self._memory = memory_bytes
        self._prefix = prefix_bytes
        self._pressure = NORMAL
        engine.model.grammars.shelf.most = forms_budget(memory_bytes)

    @property
    def is_tight(self) -> bool:
        """Say whether the machine is short of memory: nothing is to be done then that nobody asked for."""
        return self._pressure > NORMAL

    def obey(self, change: Change) -> None:
        """Apply a change. What can be dropped is given back to the machine before this returns."""
        engine = self._engine
        before, calm = self._memory, not self.is_tight
        self._memory = change.memory_bytes or before
        if change.prefix_bytes is not None:
            self._prefix = change.prefix_bytes
        self._pressure = change.pressure or self._pressure
        if change.max_rows is not None:
            engine.max_rows = change.max_rows
        engine.admitting = self._pressure < CRITICAL
        engine.prefix.budget = self._prefix_budget()
        engine.prefix.trim_to(engine.prefix.budget)
        if change.memory_bytes is not None:
            memory.set_limits(change.memory_bytes)
            engine.resize(change.memory_bytes)
            engine.model.grammars.shelf.most = forms_budget(change.memory_bytes)
        # A limit of 0 is none.
        shrunk = self._memory != before and (not before or self._memory < before)
        if shrunk or (calm and self.is_tight) or change.pressure == CRITICAL:
            mx.clear_cache()
            engine.model.grammars.shelf.tidy(engine.busy, everything=True)

    def _prefix_budget(self) -> int:
        if self._pressure >= CRITICAL:
            return 0
        whole = prefix_budget(self._memory, self._prefix)
        return whole // 2 if self._pressure >= WARNING else whole


def prefix_budget(memory_bytes: int, wanted: int | None) -> int:
    """Return how many bytes of prefixes a worker keeps: what is wanted, or an eighth of its memory, at most 1 GiB."""
    if wanted is not None:
        return wanted
    return min(memory.GIB, memory_bytes // 8) if memory_bytes else memory.GIB


def forms_budget(memory_bytes: int) -> int:
    """Return how many bytes of compiled grammars a worker holds: an eighth of its memory at most."""
    return min(compiled.MOST_BYTES, memory_bytes // 8) if memory_bytes else compiled.MOST_BYTES


def options(order: Load) -> Options:
    """Return how an engine runs that a load frame orders."""
    return Options(
        max_rows=order.max_rows,
        prefix_bytes=prefix_budget(order.memory_bytes, order.prefix_bytes),
        prefill_chunk=order.prefill_chunk,
        memory_bytes=order.memory_bytes,
        gap_seconds=order.gap_ms / 1000,
        lanes=order.lanes or Options.lanes,
        session_seconds=order.session_seconds or Options.session_seconds,
        stored_bits=order.stored_bits,
        spill_dir=order.spill_dir,
        spill_bytes=order.spill_bytes,
        adapter=order.adapter or "",
        speculate=order.speculate,
    )
