"""What several requests have in common is computed once, and kept while it is there to be kept.

A waiting row that shares a beginning with one whose prompt is being computed waits for it and starts from there. It
waits for rows only that are in a batch or before it in line, so it never waits for itself; when its leader ends in any
way, the next of them leads.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary, WeakSet

from mlxworker import borders
from mlxworker.errors import describe
from mlxworker.model import Model
from mlxworker.policy import Pace
from mlxworker.prefix import PrefixStore
from mlxworker.rows import Row
from mlxworker.solo import AnyLane
from mlxworker.spill import Spill
from mlxworker.stored import cut
from mlxworker.trie import common

# To wait, or to copy out of a running batch, pays from this many tokens on.
LEAST_SHARED = 64
# How many rows that may start are wanted, with how many of those ahead each is compared, and how many leaders one row
# may wait for in its life.
_MOST_LOOKED_AT = 256
# So many rows of one beginning are looked at while they wait for others; those behind them wait for them.
_MOST_ALIKE = 32
_MOST_COMPARED = 8
_MOST_LEADERS = 8
_MOST_READS = 2
# A disk that has not answered by then does not answer.
MOST_READ_SECONDS = 10.0
# Copying tokens is so much cheaper than computing them, at the least.
_WORTH = 8

log = logging.getLogger("mlxworker")


@dataclass
class _Waiting:
    """What is known of a row that has not started."""

    tokens: list[int]
    head: int  # rows with different ones share nothing worth it
    known_at: int = -1  # version of the store
    known: int = 0  # tokens that the store has
    common: WeakKeyDictionary[Row, int] = field(default_factory=WeakKeyDictionary)
    leaders: int = 0
    leader: str = ""  # id of the last
    on_disk: bool = False  # it waits for what is read
    reads: int = 0
    tried: set[str] = field(default_factory=set)  # files that were read for it
    since: float = 0.0  # when that began
    asked_at: tuple[int, int] = (-1, -1)  # versions of store and disk


class Sharing:
    """Decides which waiting rows start from what others compute. Belongs to the engine's thread."""

    def __init__(self, model: Model, store: PrefixStore, pace: Pace, spill: Spill | None = None) -> None:
        self._model = model
        self._pace = pace
        self._spill = spill
        self._store = store
        self._cuttable = borders.is_cuttable(model)
        self._states: WeakKeyDictionary[Row, _Waiting] = WeakKeyDictionary()
        self._wanted: WeakKeyDictionary[Row, int] = WeakKeyDictionary()  # leader: least tokens that someone waits for
        self._futile: WeakSet[Row] = WeakSet()  # what they computed was not kept

    def ready(self, waiting: list[Row], lanes: Sequence[AnyLane]) -> list[Row]:
        """Return those of the waiting rows, in order, that have nothing to wait for."""
        self._wanted.clear()
        alone = len(waiting) == 1 and not any(len(lane) for lane in lanes)
        if not self._store.budget or (alone and self._spill is None):
            return waiting
        leaders: dict[int, list[tuple[Row, AnyLane | None]]] = {}
        for lane in lanes:
            for row in lane.prefilling + lane.decoding:
                leaders.setdefault(self._state(row).head, []).append((row, lane))
        out: list[Row] = []
        held: Counter[int] = Counter()
        for row in waiting:
            if len(out) >= _MOST_LOOKED_AT:
                break
            state = self._state(row)
            if held[state.head] >= _MOST_ALIKE:
                continue
            ahead = leaders.setdefault(state.head, [])
            if self._reads(state) or self._follows(row, state, ahead):
                held[state.head] += 1
            else:
                out.append(row)
                ahead.append((row, None))
        if self._spill is not None and not out and not any(len(lane) for lane in lanes):
            self._spill.poll(wait=True)
        return out

    def prepare(self, row: Row, waiting: Iterable[Row]) -> None:
        """Note, before a row starts whose state cannot be cut, where others that wait part from it."""
        if self._cuttable or not self._store.budget:
            row.borders = []
            return
        state, found = self._state(row), set(row.borders)
        for other in list(waiting)[:_MOST_LOOKED_AT]:
            if other is not row and self._state(other).head == state.head:
                found.add(min(self._common(other, row), len(state.tokens) - 1))
        row.borders = sorted(n for n in found if n > 0)

    def collect(self, lane: AnyLane) -> None:
        """Keep what a step of a lane has computed, where somebody waits for it or later prompts may share it."""
        for row in lane.prefilling:
            position = row.length - row.remaining
            wanted = self._wanted.get(row)
            if position in row.borders or (self._cuttable and wanted is not None and position >= wanted):
                self._wanted.pop(row, None)
                self._keep(lane, row, position)

    def _reads(self, state: _Waiting) -> bool:
        """Say whether a row waits for what is read from disk."""
        if self._spill is None or state.reads >= _MOST_READS:
            return False
        asked_at = (self._store.version, self._spill.version)
        if asked_at == state.asked_at:
            waits = state.on_disk
        else:
            waits = self._spill.wants(state.tokens, self._known(state), self._pace.rate, state.tried)
            state.asked_at = (self._store.version, self._spill.version)
        if waits and not state.on_disk:
            state.since = time.monotonic()
        elif waits and time.monotonic() - state.since > MOST_READ_SECONDS:
            waits, state.reads = False, _MOST_READS
            self._spill.despair(MOST_READ_SECONDS)
        elif state.on_disk and not waits:
            state.reads += 1
        state.on_disk = waits
        return waits

    def _known(self, state: _Waiting) -> int:
        if state.known_at != self._store.version:
            state.known_at, state.known = self._store.version, self._store.match(state.tokens)
        return state.known

    def _follows(self, row: Row, state: _Waiting, ahead: list[tuple[Row, AnyLane | None]]) -> bool:
        """Say whether a row waits for one of those ahead. What a batch already holds is kept at once."""
        known = self._known(state)
        if row.length - 1 - known < LEAST_SHARED:
            return False
        best, leader, place = 0, None, None
        for other, lane in ahead[:_MOST_COMPARED]:
            if other in self._futile:
                continue
            n = self._usable(row, other, lane)
            if n > best:
                best, leader, place = n, other, lane
        if leader is None or best - known < LEAST_SHARED:
            return False
        if self._model.kv.bytes(best) > self._store.budget:
            return False
        if leader.id != state.leader:
            state.leader, state.leaders = leader.id, state.leaders + 1
        if state.leaders > _MOST_LEADERS:
            return False
        if place is not None and leader in place.decoding:
            # All of that row is copied for it, which a little of it is not worth.
            if _WORTH * (best - known) >= leader.length:
                self._keep(place, leader, best)
            return False
        self._wanted[leader] = min(best, self._wanted.get(leader, best))
        return True

    def _usable(self, row: Row, leader: Row, lane: AnyLane | None) -> int:
        """Return how many tokens of a row come from a leader, once that has computed its prompt."""
        n = min(self._common(row, leader), row.length - 1, leader.length - 1)
        if lane is None or self._cuttable:
            return n
        if leader in lane.decoding:
            return 0
        position = leader.length - leader.remaining
        return max((b for b in leader.borders if position < b <= n), default=0)

    def _common(self, row: Row, other: Row) -> int:
        found = self._state(row).common
        if other not in found:
            found[other] = common(self._state(other).tokens, self._state(row).tokens)
        return found[other]

    def _state(self, row: Row) -> _Waiting:
        state = self._states.get(row)
        if state is None:
            tokens = row.sequence()
            self._states[row] = state = _Waiting(tokens, hash(tuple(tokens[:LEAST_SHARED])))
        return state

    def _keep(self, lane: AnyLane, row: Row, length: int) -> None:
        kept = False
        try:
            cache, tokens = lane.snapshot(row)
            if len(tokens) > length:
                cache = cut(cache, len(tokens), length)
            kept = self._store.insert(tokens[:length], cache, row.session)
        except Exception as e:  # the row itself is not touched by this
            log.warning("what a row computed could not be kept: %s", describe(e))
        if not kept:
            self._futile.add(row)
