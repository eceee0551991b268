"""The scheduler: rows come in, every step gives each of them a token, rows leave. It does no I/O."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import mlx.core as mx

from mlxworker import logprobs, policy, rows
from mlxworker.errors import (
    BUSY,
    EXIT_INTERNAL,
    EXIT_OUT_OF_MEMORY,
    INTERNAL,
    INVALID,
    FatalError,
    RequestError,
    describe,
    is_out_of_memory,
)
from mlxworker.lane import Lane, Token
from mlxworker.model import Model
from mlxworker.prefix import PrefixStore
from mlxworker.protocol import DEFAULT_ROWS, Generate
from mlxworker.rows import Reason, Row
from mlxworker.sampling import OrderError

MOST_WAITING = 4096
_PROGRESS_SECONDS = 0.1
_CLEAR_STEPS = 512
# What a cancelled row has computed is kept from this many tokens on.
_KEEP_TOKENS = 256
_LANES = 2

log = logging.getLogger("mlxworker")


@dataclass
class Counters:
    """They only grow."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0

    def as_frame(self) -> dict[str, int]:
        """Return them as they go out."""
        return asdict(self)


@dataclass
class Output:
    """What one step has to say, in this order."""

    accepted: list[Row] = field(default_factory=list)
    progress: list[tuple[Row, int, int]] = field(default_factory=list)
    texts: list[list[Any]] = field(default_factory=list)  # [id, text, tokens] or [id, text, tokens, logprobs]
    ended: list[tuple[Row, Reason]] = field(default_factory=list)
    failed: list[tuple[Row, RequestError]] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """How an engine runs. Zero prefill_chunk and gap_seconds let it choose."""

    max_rows: int = DEFAULT_ROWS
    prefix_bytes: int = 0
    prefill_chunk: int = 0
    gap_seconds: float = 0.0
    lanes: int = _LANES


class Engine:
    """Continuous batching over one model. Everything happens on the thread that calls it."""

    def __init__(self, model: Model, options: Options) -> None:
        self.model = model
        self.options = options
        self.counters = Counters()
        self.prefix = PrefixStore(options.prefix_bytes)
        self.waiting: list[Row] = []
        self.pace = policy.Pace(model.device == "gpu", options.prefill_chunk, options.gap_seconds)
        self._live: dict[str, Row] = {}
        self._cancelled: list[str] = []
        self._instant: list[tuple[Row, Reason]] = []
        self._alone = False
        self._strikes = 0
        self._lanes = [Lane(model) for _ in range(options.lanes)]

    @property
    def running(self) -> int:
        """Return how many rows are in a batch."""
        return sum(len(lane) for lane in self._lanes)

    @property
    def busy(self) -> bool:
        """Say whether a step has something to do."""
        return bool(self.waiting or self._cancelled or self._instant or self.running)

    def is_live(self, request: str) -> bool:
        """Say whether a request of this id has not ended."""
        return request in self._live

    def add(self, ask: Generate) -> Row:
        """Take a request in. Raises RequestError for one that this model cannot answer."""
        if ask.id in self._live:
            raise RequestError(INVALID, f"id {ask.id} is in use", "id")
        if len(self.waiting) >= MOST_WAITING:
            raise RequestError(BUSY, f"{len(self.waiting)} requests are waiting already")
        row = rows.make_row(self.model, ask)
        self._live[row.id] = row
        ended = self._replay(row)
        if ended is None:
            self.waiting.append(row)
        else:
            self._instant.append((row, ended))
        return row

    def cancel(self, request: str) -> None:
        """End a request before the next step. An id that is not live is ignored."""
        if request in self._live:
            self._cancelled.append(request)

    def step(self) -> Output:
        """Give every row its next token. Raises FatalError when the model cannot go on."""
        out = Output()
        self._apply_cancels(out)
        for row, reason in self._instant:
            if row.id in self._live:
                out.accepted.append(row)
                self._end(row, reason, out)
        self._instant.clear()
        self._admit(out)
        decoding = any(lane.decoding for lane in self._lanes)
        for i, lane in enumerate(self._lanes):
            if len(lane):
                self._run(i, lane, self.pace.chunk(decoding), out)
        if self.counters.steps % _CLEAR_STEPS == 0:
            mx.clear_cache()
        return out

    def _replay(self, row: Row) -> Reason | None:
        """Bring a continued row's text to where the earlier attempt left it; say if that was the end already."""
        for i, token in enumerate(row.tokens):
            if token in self.model.eos:
                del row.tokens[i:]
                return Reason.STOP
            _, stopped = row.feed(token)
            if stopped:
                del row.tokens[i + 1 :]
                return Reason.STOP
        return Reason.LENGTH if len(row.tokens) >= row.max_tokens else None

    def _apply_cancels(self, out: Output) -> None:
        for request in self._cancelled:
            row = self._live.get(request)
            if row is None:
                continue
            lane = self._lane_of(row)
            if lane is not None:
                done = row.length - row.remaining if row.remaining else row.length
                self._take_out(lane, row, keep=done >= _KEEP_TOKENS)
            elif row in self.waiting:
                self.waiting.remove(row)
            self._end(row, Reason.CANCELLED, out)
        self._cancelled.clear()

    def _admit(self, out: Output) -> None:
        """Let waiting rows join: similar lengths together, one group at a time in a lane."""
        room = self.options.max_rows - self.running
        while self.waiting and room > 0:
            lane = self._choose(self.waiting[0])
            if lane.prefilling:
                return
            decoding = any(other.decoding for other in self._lanes)
            chunk = self.pace.chunk(decoding)
            chosen = policy.group([r.length for r in self.waiting], room, chunk if decoding else 8 * chunk)
            joining = [self.waiting[i] for i in chosen]
            taken = set(chosen)
            self.waiting = [r for i, r in enumerate(self.waiting) if i not in taken]
            self._insert(lane, joining, out)
            room -= len(joining)

    def _choose(self, row: Row) -> Lane:
        lengths = [[r.length for r in lane.rows()] for lane in self._lanes]
        each = max(self.model.kv.for_one_token(), 1)
        return self._lanes[policy.choose_lane(lengths, row.length, self.model.weight_bytes // (2 * each))]

    def _insert(self, lane: Lane, joining: list[Row], out: Output) -> None:
        now = time.perf_counter()
        caches, known = [], []
        for row in joining:
            cache, n = self.prefix.fetch(row.sequence(), row.session)
            caches.append(cache)
            known.append(n)
            if not row.accepted:
                row.accepted, row.admitted, row.cached = True, now, n
                self.counters.cached_tokens += n
                out.accepted.append(row)
        try:
            lane.insert(joining, caches, known)
        except Exception as e:  # nothing was inserted
            log.exception("rows could not be inserted")
            for row in joining:
                self._fail(row, RequestError(INTERNAL, f"row could not be started: {describe(e)}"), out)

    def _run(self, i: int, lane: Lane, chunk: int, out: Output) -> None:
        before = [(r, r.remaining) for r in lane.prefilling]
        started = time.perf_counter()
        try:
            tokens = lane.next(chunk)
        except Exception as e:
            self._recover(i, e, out)
            return
        self._strikes = 0
        self.counters.steps += 1
        computed = sum(remaining - row.remaining for row, remaining in before)
        if computed:
            self.counters.prompt_tokens += computed
            self.pace.learn(computed, time.perf_counter() - started)
            self._report_progress(lane, out)
        self._absorb(lane, tokens, out)

    def _report_progress(self, lane: Lane, out: Output) -> None:
        now = time.perf_counter()
        for row in lane.prefilling:
            if now - row.last_progress >= _PROGRESS_SECONDS:
                row.last_progress = now
                out.progress.append((row, row.length - row.remaining, row.length))

    def _absorb(self, lane: Lane, tokens: list[Token], out: Output) -> None:
        """Turn tokens into text and find out which rows ended."""
        now = time.perf_counter()
        asked = [t for t in tokens if t.row.logprobs is not None and t.ended != Reason.STOP]
        details: dict[str, dict[str, Any]] = {}
        if asked:
            wanted = [t.row.logprobs or 0 for t in asked]
            found = logprobs.gather(self.model.words, [t.logprobs for t in asked], [t.token for t in asked], wanted)
            details = {t.row.id: entry for t, entry in zip(asked, found, strict=True)}
        self.counters.generated_tokens += len(tokens)
        for t in tokens:
            row = t.row
            row.first_token = row.first_token or now
            reason = self._take(t, details.get(row.id), out)
            if reason is not None:
                self._keep(lane, t)
                self._end(row, reason, out)
        for row in [r for r in lane.rows() if r.fault is not None]:
            self._take_out(lane, row, keep=False)
            self._fail(row, RequestError(INTERNAL, f"row failed: {describe(row.fault or Exception())}"), out)

    def _take(self, t: Token, detail: dict[str, Any] | None, out: Output) -> Reason | None:
        """Add a token to its row; return why the row ended, if it did."""
        row = t.row
        if t.ended == Reason.STOP:
            return Reason.STOP
        row.tokens.append(t.token)
        text, stopped = row.feed(t.token)
        entry = [row.id, text, [t.token]]
        if detail is not None:
            entry.append([detail])
        out.texts.append(entry)
        if stopped:
            return Reason.STOP
        return Reason.LENGTH if t.ended is not None else None

    def _keep(self, lane: Lane, t: Token) -> None:
        """Store what an ended row computed; take it out of the batch where the generator has not."""
        if t.ended is None:
            self._take_out(lane, t.row, keep=True)
        elif t.cache is not None and t.sequence is not None and self.prefix.budget:
            self.prefix.insert(list(t.sequence), t.cache, t.row.session)

    def _take_out(self, lane: Lane, row: Row, keep: bool) -> None:
        kept = lane.remove(row, keep and self.prefix.budget > 0)
        if kept is not None:
            cache, tokens = kept
            self.prefix.insert(tokens, cache, row.session)

    def _lane_of(self, row: Row) -> Lane | None:
        return next((lane for lane in self._lanes if row in lane.decoding or row in lane.prefilling), None)

    def _end(self, row: Row, reason: Reason, out: Output) -> None:
        text = row.flush()
        if text:
            out.texts.append([row.id, text, []])
        if row.stop is not None:
            reason = Reason.STOP
        del self._live[row.id]
        if reason is Reason.CANCELLED:
            self.counters.cancelled += 1
        else:
            self.counters.finished += 1
        out.ended.append((row, reason))

    def _fail(self, row: Row, error: RequestError, out: Output) -> None:
        del self._live[row.id]
        self.counters.failed += 1
        out.failed.append((row, error))

    def _recover(self, i: int, error: Exception, out: Output) -> None:
        """Start a lane's rows again from their tokens: after an exception their keys and values are not to be used."""
        self._strikes += 1
        exhausted = is_out_of_memory(error)
        if self._strikes >= 2:
            raise FatalError(
                f"two steps in a row failed: {describe(error)}",
                EXIT_OUT_OF_MEMORY if exhausted else EXIT_INTERNAL,
            ) from error
        log.warning("a step failed, its rows start again: %s", describe(error))
        self._alone = self._alone or isinstance(error, OrderError)
        old = self._lanes[i]
        old.close()
        self._lanes[i] = lane = Lane(self.model, self._alone)
        if exhausted:
            self.prefix.clear()
            mx.clear_cache()
        again = []
        for row in old.rows():
            if row.fault is not None:
                self._fail(row, RequestError(INTERNAL, f"row failed: {describe(row.fault)}"), out)
            else:
                again.append(row)
        if again:
            self._insert(lane, again, out)
