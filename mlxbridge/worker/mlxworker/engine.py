"""The scheduler: rows come in, every step gives each of them a token, rows leave. It does no I/O."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlxworker import borders, policy, prefix, rows, spill
from mlxworker.admission import Admission, most_padding
from mlxworker.answers import Answers
from mlxworker.blame import Blame
from mlxworker.curve import Curve
from mlxworker.errors import (
    BUSY,
    INTERNAL,
    INVALID,
    RequestError,
    describe,
    is_out_of_memory,
)
from mlxworker.lanes import Lanes
from mlxworker.memory import Budget
from mlxworker.model import Model
from mlxworker.protocol import DEFAULT_ROWS, Generate
from mlxworker.report import Counters, Output
from mlxworker.rows import Reason, Row
from mlxworker.sampling import OrderError
from mlxworker.sharing import Sharing
from mlxworker.solo import AnyLane
from mlxworker.speculation import Speculation

MOST_WAITING = 4096
_PROGRESS_SECONDS = 0.1
_CLEAR_TURNS = 512
_TIDY_TURNS = 16
# What a cancelled row has computed is kept from this many tokens on.
_KEEP_TOKENS = 256
_LANES = 2

log = logging.getLogger("mlxworker")


@dataclass(frozen=True)
class Options:
    """How an engine runs. Zero prefill_chunk and gap_seconds let it choose, zero memory_bytes is no limit."""

    max_rows: int = DEFAULT_ROWS
    prefix_bytes: int = 0
    prefill_chunk: int = 0
    gap_seconds: float = 0.0
    memory_bytes: int = 0
    lanes: int = _LANES
    speculate: bool = True
    session_seconds: float = prefix.SESSION_SECONDS
    stored_bits: int = 0
    spill_dir: str = ""
    spill_bytes: int = 0
    adapter: str = ""


class Engine:
    """Continuous batching over one model. Everything happens on the thread that calls it."""

    def __init__(self, model: Model, options: Options) -> None:
        self.model = model
        self.options = options
        self.max_rows = options.max_rows
        self.admitting = True  # else only running rows go on
        self.counters = Counters()
        self.prefix = prefix.PrefixStore(
            options.prefix_bytes, session_seconds=options.session_seconds, bits=options.stored_bits
        )
        self.waiting: list[Row] = []
        self.pace = policy.Pace(model.device == "gpu", options.prefill_chunk, options.gap_seconds)
        self.curve = Curve()
        self._spill = spill.of_model(
            model, options.adapter, options.spill_dir, options.spill_bytes, self.prefix, options.stored_bits
        )
        self._sharing = Sharing(model, self.prefix, self.pace, self._spill)
        self._answers = Answers(model, self.prefix, self.counters)
        self._cancelled: list[str] = []
        self._instant: list[tuple[Row, Reason]] = []
        self._alone = False
        self._turns = 0
        self._untidy = False
        self.speculation = Speculation(model, options.speculate)
        self._all = Lanes(model, self.speculation, options.lanes)
        self._lanes = self._all.taking
        self._blame = Blame(self._all)
        budget, forms = model.budget(options.memory_bytes), model.grammars.shelf
        self._admission = Admission(budget, self.prefix, most_padding(model), forms)

    @property
    def running(self) -> int:
        """Return how many rows are in a batch."""
        return len(self._all.rows())

    @property
    def budget(self) -> Budget:
        """Return the memory plan."""
        return self._admission.budget

    @property
    def busy(self) -> bool:
        """Say whether a step has something to do."""
        return bool((self.waiting and self.admitting) or self._cancelled or self._instant or self.running)

    def count_beside(self, used: Callable[[], int]) -> None:
        """Leave room for what used returns: bytes of something beside the rows, as long as it is under way."""
        self._admission.beside = used

    def room_for(self, more: int) -> bool:
        """Say whether so many bytes are free for something beside the rows, more than it is counted with."""
        return self._admission.room_for(self._all.every(), more)

    def plan_padding(self, tokens: int) -> None:
        """Plan lanes with so many tokens of padding that cost as much as another lane."""
        self._admission.most_padding = tokens

    def forget(self) -> None:
        """Count from zero, with nothing stored: what was done to get ready is nobody's."""
        self.counters = self._answers.counters = Counters()
        self.prefix.clear()

    def is_live(self, request: str) -> bool:
        """Say whether a request of this id has not ended."""
        return request in self._answers.live

    def add(self, ask: Generate) -> Row:
        """Take a request in. Raises RequestError for one that this model cannot answer."""
        if ask.id in self._answers.live:
            raise RequestError(INVALID, f"id {ask.id} is in use", "id")
        if len(self.waiting) >= MOST_WAITING:
            raise RequestError(BUSY, f"{len(self.waiting)} requests are waiting already")
        row = rows.make_row(self.model, ask)
        row.borders = borders.of_prompt(self.model, ask.source, row.prompt)
        ended = row.replay(self.model.eos)
        self._answers.live[row.id] = row
        if ended is None:
            self.waiting.append(row)
        else:
            self._instant.append((row, ended))
        return row

    def resize(self, memory_bytes: int) -> None:
        """Set another memory limit: stored prefixes are dropped for it at once, rows in the next step."""
        self._admission.budget = dataclasses.replace(self._admission.budget, limit=memory_bytes)
        self._untidy = self._admission.overloaded(self._all.every())

    def cancel(self, request: str) -> None:
        """End a request before the next step. An id that is not live is ignored."""
        if request in self._answers.live:
            self._cancelled.append(request)

    def fail(self, request: str, error: RequestError) -> RequestError:
        """End a request that is live, between two steps, and return its error."""
        row, out = self._answers.live[request], Output()
        lane = self._all.of(row)
        if lane is not None:
            self._answers.take_out(lane, row, keep=False)
        elif row in self.waiting:
            self.waiting.remove(row)
        self._answers.fail(row, error, out)
        return error

    def poll(self) -> None:
        """Take in what was written to disk or read from there. A step does that too."""
        if self._spill is not None:
            self._spill.poll()

    def close(self, seconds: float) -> None:
        """Write what is worth most to a next worker of this model, for at most that long. The engine is done then."""
        if self._spill is not None:
            self._spill.close(seconds)

    def step(self) -> Output:
        """Give every row its next token. Raises FatalError when the model cannot go on."""
        out = Output()
        self.poll()
        self._apply_cancels(out)
        for row, reason in self._instant:
            if row.id in self._answers.live:
                row.accepted = True
                out.accepted.append(row)
                self._answers.end(row, reason, out)
        self._instant.clear()
        moving = self._all.advise(bool(self.waiting))
        if moving is not None:
            self._move(*moving, out)
        self._admit(out)
        every = self._all.every()
        decoding = sum(len(lane.decoding) for lane in every)
        pure = decoding == self.running
        for lane in every:
            if len(lane):
                self._run(lane, decoding > 0, out)
        # A guessed step gives more than a token a row: it says nothing of plain ones.
        self.curve.stepped(decoding if pure and not self._all.guessed else 0)
        self._turns += 1
        if self._untidy or self._turns % _TIDY_TURNS == 0:
            self._untidy = False
            self._tidy(out)
        if self._turns % _CLEAR_TURNS == 0:
            mx.clear_cache()
        return out

    def _apply_cancels(self, out: Output) -> None:
        for request in self._cancelled:
            row = self._answers.live.get(request)
            if row is None:
                continue
            lane = self._all.of(row)
            if lane is not None:
                done = row.length - row.remaining if row.remaining else row.length
                self._answers.take_out(lane, row, keep=done >= _KEEP_TOKENS)
            elif row in self.waiting:
                self.waiting.remove(row)
            self._answers.end(row, Reason.CANCELLED, out)
        self._cancelled.clear()

    def _admit(self, out: Output) -> None:
        """Let waiting rows join: similar lengths together, one group at a time in a lane."""
        while self.admitting and self.waiting and self.running < self.max_rows:
            ready = self._ready()
            found = self._admission.next_in_line(self._lanes, ready)
            if found is None:
                return
            first, into = found
            decoding = any(lane.decoding for lane in self._lanes)
            chunk = self.pace.chunk(decoding)
            wanted = self._admission.group(ready[first:], self.max_rows - self.running, chunk, decoding)
            joining = self._admission.fitting(self._lanes, into, wanted, chunk)
            if not joining and (self.running or self._admission.beside()):
                return  # what takes its room ends
            taken = set(joining or wanted[:1])
            self.waiting = [r for r in self.waiting if r not in taken]
            if joining:
                self._insert(self._lanes[into], joining, out)
            elif wanted[0].accepted:
                self._answers.end(wanted[0], Reason.LENGTH, out)
            else:
                self._answers.fail(wanted[0], self._admission.refusal(wanted[0], chunk), out)

    def _ready(self) -> list[Row]:
        """Return the waiting rows that may join. Where steps failed, one at a time shows that it is not at fault."""
        suspect = next((row for row in self.waiting if row.is_suspect), None)
        if suspect is None:
            return self._sharing.ready(self.waiting, self._all.every())
        return [] if any(row.is_suspect for row in self._all.rows()) else [suspect]

    def _tidy(self, out: Output) -> None:
        """Put rows together that need no lanes of their own; relieve memory that running rows have outgrown."""
        if self._admission.mergeable(self._lanes):
            small, large = sorted(self._lanes, key=len)[-2:]
            self._move(small, large, out)
        while self._admission.overloaded(self._all.every()) and self.running:
            running = self._all.rows()
            row = max(running, key=lambda r: r.admitted)
            lane = self._all.of(row)
            if lane is not None:
                self._answers.take_out(lane, row, keep=False)
            if len(running) == 1 and not self._admission.beside():
                self._answers.end(row, Reason.LENGTH, out)
            else:
                # It starts again from its tokens when there is room; its reader sees a pause and no more.
                row.remaining = 0
                self.waiting.insert(0, row)

    def _move(self, source: AnyLane, target: AnyLane, out: Output) -> None:
        moving, caches = list(source.decoding), []
        for row in moving:
            kept = source.remove(row, keep=True)
            whole = kept is not None and len(kept[1]) >= row.length - 1 and all(c.is_trimmable() for c in kept[0])
            # The last token is computed again: what follows it was not drawn yet, as far as anybody knows.
            caches.append(prefix.cut(kept[0], len(kept[1]), row.length - 1) if kept is not None and whole else None)
        known = [0 if c is None else r.length - 1 for r, c in zip(moving, caches, strict=True)]
        self._start(target, moving, caches, known, out)

    def _insert(self, lane: AnyLane, joining: list[Row], out: Output) -> None:
        now = time.perf_counter()
        caches, known = [], []
        for row in joining:
            self._sharing.prepare(row, self.waiting)
            cache, n = self.prefix.fetch(row.sequence(), row.session)
            caches.append(cache)
            known.append(n)
            if not row.accepted:
                row.accepted, row.admitted, row.cached = True, now, n
                self.counters.cached_tokens += n
                out.accepted.append(row)
        self._start(lane, joining, caches, known, out)

    def _start(
        self, lane: AnyLane, joining: list[Row], caches: list[list[Any] | None], known: list[int], out: Output
    ) -> None:
        try:
            lane.insert(joining, caches, known)
        except Exception as e:  # nothing was inserted
            log.exception("rows could not be inserted")
            for row in joining:
                self._answers.fail(row, RequestError(INTERNAL, f"row could not be started: {describe(e)}"), out)

    def _run(self, lane: AnyLane, decoding: bool, out: Output) -> None:
        before = [(r, r.remaining) for r in lane.prefilling]
        alone = not decoding and all(n > 1 for _, n in before)
        started = time.perf_counter()
        try:
            tokens = lane.next(self.pace.chunk(decoding, len(before)))
        except Exception as e:
            self._recover(lane, e, out)
            return
        self.counters.steps += 1
        computed = sum(remaining - row.remaining for row, remaining in before)
        self._all.learn(lane, computed, time.perf_counter() - started)
        if computed:
            # What a row was given last is computed again where it moved: no token of a prompt.
            moved = sum(remaining == 1 and row.first_token > 0 for row, remaining in before)
            self.counters.prompt_tokens += computed - moved
            took = time.perf_counter() - started
            self.pace.learn(computed, took, decoding)
            if alone:
                known = sum(row.length - remaining for row, remaining in before) // len(before)
                self.curve.computed(known, computed, took, len(before))
            self._report_progress(lane, out)
            self._sharing.collect(lane)
        if tokens:
            self._blame.succeeded()
        self._answers.absorb(lane, tokens, out)

    def _report_progress(self, lane: AnyLane, out: Output) -> None:
        now = time.perf_counter()
        for row in lane.prefilling:
            if now - row.last_progress >= _PROGRESS_SECONDS:
                row.last_progress = now
                out.progress.append((row, row.length - row.remaining, row.length))

    def _recover(self, old: AnyLane, error: Exception, out: Output) -> None:
        """Start a lane's rows again from their tokens: after an exception their keys and values are not to be used."""
        verdict = self._blame.judge([row for row in old.rows() if row.fault is None], error)
        log.warning("a step failed, its rows start again: %s", describe(error))
        self._alone = self._alone or isinstance(error, OrderError)
        stranded = old.rows()
        lane = self._all.replace(old, self._alone)
        if is_out_of_memory(error):
            self.prefix.clear()
            mx.clear_cache()
        if verdict.culprit is not None:
            verdict.culprit.fault = error
        for row in stranded:
            if row.fault is not None:
                self._answers.fault(row, out)
        for row in verdict.later:
            row.remaining = 0
        self.waiting[:0] = verdict.later
        if verdict.again:
            self._insert(lane, verdict.again, out)
