"""Measures the curve of a model while nobody asks for anything, one step at a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator

import mlx.core as mx

from mlxworker import admission, borders
from mlxworker.curve import LENGTHS, ROWS
from mlxworker.engine import Engine
from mlxworker.errors import describe
from mlxworker.lane import Lane
from mlxworker.trial import Trial

# Nothing is measured until the worker was idle for this long: who has just had an answer often asks again.
QUIET_SECONDS = 0.5
# All that is spent, what one level may take, and one step: a request that comes waits for a step.
_MOST_SECONDS = {"cpu": 3.0, "gpu": 6.0}
_LEVEL_SECONDS = 0.5
_STEP_SECONDS = 0.25
# A prompt whose rate says that it takes this long is not begun.
_PROMPT_SECONDS = 2.0
_MOST_ROWS, _MOST_TOKENS = 32, 2048
_PROMPT, _LEAST_CHUNK = 2, 16
# Rows, and tokens that each of them has, when what padding costs is measured.
_PADDED_ROWS, _PADDED_TOKENS = 8, 512
# Steps that are not counted, those that are at the least, and at the most.
_SETTLING, _LEAST_STEPS, _MOST_STEPS = 2, 3, 9
# A measured point counts as much as this many later steps.
_WORTH = 10

log = logging.getLogger("mlxworker")


class Calibration:
    """Fills the curve of an engine with what trials took. It takes a level up again that had to give way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._trial = Trial(engine)
        rows = [n for n in ROWS if n <= min(_MOST_ROWS, engine.max_rows)]
        lengths = [n for n in LENGTHS if n <= _MOST_TOKENS]
        # What is quick and says most comes first, and each rests on what smaller ones took.
        self._levels = [
            *(("decode", n) for n in rows[:1]),
            *(("prefill", n) for n in lengths[:2]),
            *(("decode", n) for n in rows[1:]),
            *(("prefill", n) for n in lengths[2:]),
        ]
        # Rows with quantised keys and values share no batch, which is what trials measure.
        if engine.model.kv_bits:
            self._levels = []
        # On a CPU padding costs arithmetic, and what is planned with is as good as what could be measured.
        if engine.model.device == "gpu" and borders.is_cuttable(engine.model) and self._levels:
            self._levels.append(("padding", _PADDED_ROWS))
        self._left = _MOST_SECONDS[engine.model.device]
        self._work: Generator[None] | None = None
        self._quiet_since = time.monotonic()

    def wait_seconds(self) -> float:
        """Return how much more silence it takes until there is a step to do; infinity when there is none."""
        if not self._levels:
            return math.inf
        return max(self._quiet_since + QUIET_SECONDS - time.monotonic(), 0.0)

    def turn(self, occupied: bool) -> None:
        """Drop what is under way when there is work, else do a little of it once it was quiet for long enough.

        It never raises: a model serves without a curve as well.
        """
        if occupied:
            self._drop()
            self._quiet_since = time.monotonic()
        elif self.wait_seconds() <= 0:
            self._step()

    def _step(self) -> None:
        started = time.perf_counter()
        try:
            if self._work is None:
                kind, size = self._levels[0]
                self._work = {"decode": self._decode, "prefill": self._prefill, "padding": self._padding}[kind](size)
            next(self._work)
        except StopIteration:
            self._drop()
            self._levels = self._levels[1:]
        except Exception as e:  # no memory, most likely
            log.warning("the speed cannot be measured: %s", describe(e))
            self._end()
        self._left -= time.perf_counter() - started
        if self._left <= 0:
            self._end()

    def _end(self) -> None:
        self._levels = []
        self._drop()

    def _drop(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.close()
            mx.clear_cache()

    def _leave_out(self, kind: str) -> None:
        """Leave out what is left of a kind, for all of it takes longer. The level under way stays at the front."""
        self._levels = self._levels[:1] + [level for level in self._levels[1:] if level[0] != kind]

    def _decode(self, rows: int) -> Generator[None]:
        """Measure steps of so many rows."""
        curve, steps = self._engine.curve.decode, _SETTLING + _MOST_STEPS
        if curve.seen(rows) >= _WORTH:
            return  # by answers, which know better what is asked here
        half = curve.value(rows // 2) or 0.0
        if 2 * half > _STEP_SECONDS * 1000 or not self._trial.fits(rows, _PROMPT, steps, _PROMPT):
            self._leave_out("decode")
            return
        with self._trial.lane(rows, _PROMPT, steps) as lane:
            took = yield from _steps_of(lane, steps)
            curve.put(rows, took, _WORTH)

    def _padding(self, rows: int) -> Generator[None]:
        """Measure what tokens cost that rows have before them, and plan lanes with that."""
        curve, steps, tokens = self._engine.curve.decode, _SETTLING + _MOST_STEPS, _PADDED_TOKENS
        alone, short = curve.value(1), curve.value(rows)
        fits = self._trial.fits(rows, tokens + _PROMPT, steps, _PROMPT)
        if not alone or not short or not fits:
            return
        with self._trial.lane(rows, tokens + _PROMPT, steps, known=tokens) as lane:
            long = yield from _steps_of(lane, steps)
        self._engine.plan_padding(admission.measured_padding(alone, short, long, rows * tokens))

    def _prefill(self, length: int) -> Generator[None]:
        """Measure a prompt of a length, in pieces that keep no request waiting."""
        curve, pace = self._engine.curve.prefill, self._engine.pace
        if curve.seen(length) >= _WORTH:
            return
        rate = curve.value(length) or 0.0
        whole = min(pace.chunk(decoding=False), length)
        if (rate and length / rate > _PROMPT_SECONDS) or not self._trial.fits(1, length + 1, 0, whole):
            self._leave_out("prefill")
            return
        with self._trial.lane(1, length + 1, 0) as lane:
            row, felt, spent = lane.prefilling[0], 0, 0.0
            while row.remaining > 1:
                left, started = row.remaining, time.perf_counter()
                lane.next(min(whole, max(int(rate * _STEP_SECONDS), _LEAST_CHUNK)))
                took = time.perf_counter() - started
                if rate:
                    spent += took
                else:
                    felt = left - row.remaining  # the very first piece only says how long the next one may be
                rate = (left - row.remaining) / took
                if spent > _LEVEL_SECONDS:
                    self._leave_out("prefill")
                    break
                yield
            done = length + 1 - row.remaining
            if done == length:
                curve.put(length, (done - felt) / spent, _WORTH)
            else:
                curve.learn(done, done / spent)
            if not pace.rate:
                pace.learn(done - felt, spent)


def _steps_of(lane: Lane, steps: int) -> Generator[None, None, float]:
    """Run steps of a lane, one at a time; return the milliseconds of the middle one."""
    while lane.prefilling:
        lane.next(_PROMPT)
        yield
    times: list[float] = []
    began = ended = time.perf_counter()
    while len(times) < steps and (ended - began < _LEVEL_SECONDS or len(times) < _LEAST_STEPS):
        yield
        lane.next(_PROMPT)
        now = time.perf_counter()
        times.append(now - ended)
        ended = now
    counted = sorted(times[_SETTLING:])
    return counted[len(counted) // 2] * 1000
