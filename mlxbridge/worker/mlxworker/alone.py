"""When a row that is alone leaves its batch to have its tokens guessed, and when it comes back.

In a batch it costs nothing but the watching. It moves when guessing promises more, and moves back when somebody wants
to join it, or when no guess was worth checking for a while.
"""

from __future__ import annotations

from mlxworker.rows import Row
from mlxworker.solo import AnyLane, SoloLane
from mlxworker.speculation import Speculation

# Moving costs about a step, so a row has been alone for this many, and stays for that many steps without guesses.
_SETTLED = 4
_IDLE = 16


class Alone:
    """Watches the one row of an engine, where there is but one."""

    def __init__(self, speculation: Speculation, solo: SoloLane) -> None:
        self._speculation = speculation
        self._solo = solo
        self._row: Row | None = None
        self._start = 0

    def advise(self, lanes: list[AnyLane], waiting: bool) -> tuple[AnyLane, AnyLane] | None:
        """Return from where to where the row is to be moved, None to leave all as it is."""
        if len(self._solo):
            if waiting or self._solo.plain >= _IDLE:
                self._row = None
                return self._solo, lanes[0]
            return None
        row = self._only(lanes)
        if row is None or waiting or not self._speculation.allowed(row):
            self._row = None
            return None
        if not row.first_token:
            return None  # it waits for that, and reading a long prompt for a lookup takes longer than a step
        if row is not self._row:
            self._row, self._start = row, len(row.tokens)
        if not self._speculation.watch(row) or len(row.tokens) - self._start < _SETTLED:
            return None
        if self._speculation.choose(row, alone=True) is None:
            return None
        return next(lane for lane in lanes if len(lane)), self._solo

    def learn(self, lane: AnyLane, computed: int, seconds: float) -> None:
        """Take in what a step of a lane took."""
        if self._row is not None and not computed and lane is not self._solo:
            self._speculation.payoff.learn_plain(seconds)

    def _only(self, lanes: list[AnyLane]) -> Row | None:
        if sum(map(len, lanes)) != 1:
            return None
        return next((lane.decoding[0] for lane in lanes if lane.decoding), None)
