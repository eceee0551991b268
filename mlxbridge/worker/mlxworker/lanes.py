"""The lanes of one engine: those that take rows in, and the one where a row goes whose tokens are guessed."""

from __future__ import annotations

from mlxworker.alone import Alone
from mlxworker.lane import Lane
from mlxworker.model import Model
from mlxworker.protocol import Generate, Sampling, Source
from mlxworker.rows import Row, make_row
from mlxworker.solo import AnyLane, SoloLane
from mlxworker.speculation import Speculation

_PROBE_CHUNK = 16


class Lanes:
    """All lanes. Not safe for concurrent use."""

    def __init__(self, model: Model, speculation: Speculation, count: int) -> None:
        """Make that many lanes that take rows in; quantised keys and values have no batch, and so one lane only."""
        self._model = model
        self._speculation = speculation
        self._row_by_row = False
        self.taking = [self._new() for _ in range(1 if model.kv_bits else count)]
        self._solo = SoloLane(model, speculation)
        self._watch = None if model.kv_bits else Alone(speculation, self._solo)

    def every(self) -> list[AnyLane]:
        """Return all lanes."""
        return [*self.taking, self._solo]

    @property
    def guessing(self) -> bool:
        """Say whether a row runs where tokens are guessed."""
        return len(self._solo) > 0

    @property
    def guessed(self) -> bool:
        """Say whether the last steps gave a row more than plain ones would."""
        return self.guessing or any(isinstance(lane, SoloLane) and lane.guessed for lane in self.taking)

    def of(self, row: Row) -> AnyLane | None:
        """Return the lane that a row is in."""
        return next((lane for lane in self.every() if row in lane.decoding or row in lane.prefilling), None)

    def rows(self) -> list[Row]:
        """Return the rows of all lanes."""
        return [row for lane in self.every() for row in lane.rows()]

    def advise(self, waiting: bool) -> tuple[AnyLane, AnyLane] | None:
        """Return from where to where a row should move before the next step, if one should."""
        return self._watch.advise(self.taking, waiting) if self._watch is not None else None

    def learn(self, lane: AnyLane, computed: int, seconds: float) -> None:
        """Take in what a step of a lane took, which computed so many tokens of prompts."""
        if self._watch is not None:
            self._watch.learn(lane, computed, seconds)

    def replace(self, failed: AnyLane, row_by_row: bool) -> AnyLane:
        """Put a lane away whose step raised; return where its rows start again, drawn row by row if need be."""
        self._row_by_row = row_by_row
        failed.close()
        if failed is self._solo:
            self._speculation.stop()
            return self.taking[0]
        lane = self._new()
        self.taking[self.taking.index(failed)] = lane
        return lane

    def probe(self) -> None:
        """Give a row that nobody asked for a token, in a lane of its own. What that raises is no request's fault."""
        ask = Generate(id="probe", source=Source(tokens=[0, 0]), sampling=Sampling(temperature=0), max_tokens=2)
        lane = self._new()
        try:
            lane.insert([make_row(self._model, ask)], [None], [0])
            while len(lane) and not lane.next(_PROBE_CHUNK):
                pass
        finally:
            lane.close()

    def _new(self) -> AnyLane:
        return SoloLane(self._model, self._speculation) if self._model.kv_bits else Lane(self._model, self._row_by_row)
