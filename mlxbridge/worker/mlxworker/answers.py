"""What rows are given becomes text, and rows end: answered, cancelled or failed."""

from __future__ import annotations

import time
from typing import Any

from mlxworker import logprobs
from mlxworker.errors import INTERNAL, RequestError, describe
from mlxworker.lane import Token
from mlxworker.model import Model
from mlxworker.prefix import PrefixStore
from mlxworker.report import Counters, Output, joined
from mlxworker.rows import Reason, Row
from mlxworker.solo import AnyLane, SoloLane


class Answers:
    """The answers of one engine. What rows computed that ended goes into the prefix store."""

    def __init__(self, model: Model, store: PrefixStore, counters: Counters) -> None:
        self.live: dict[str, Row] = {}  # rows that have not ended, by the id of their request
        self._model = model
        self._store = store
        self.counters = counters

    def absorb(self, lane: AnyLane, tokens: list[Token], out: Output) -> None:
        """Turn tokens into text and find out which rows ended."""
        now = time.perf_counter()
        asked = [t for t in tokens if t.row.logprobs is not None and t.ended != Reason.STOP]
        details: dict[int, dict[str, Any]] = {}
        if asked:
            wanted = [t.row.logprobs or 0 for t in asked]
            found = logprobs.gather(self._model.words, [t.logprobs for t in asked], [t.token for t in asked], wanted)
            details = {id(t): entry for t, entry in zip(asked, found, strict=True)}
        for t in tokens:
            row = t.row
            if row.id not in self.live:
                continue  # it ended with a token before, of the same step
            self.counters.generated_tokens += 1
            row.first_token = row.first_token or now
            reason = self._take(t, details.get(id(t)), out)
            if row.fault is not None and isinstance(lane, SoloLane):
                lane.remove(row, keep=False)  # at once: more tokens of this row may follow
                self.fault(row, out)
            elif reason is None and t.ended is not None:
                self.fault(row, out)
            elif reason is not None:
                self._keep(lane, t)
                self.end(row, reason, out)
        out.texts = joined(out.texts) if isinstance(lane, SoloLane) else out.texts
        for row in [r for r in lane.rows() if r.fault is not None]:
            self.take_out(lane, row, keep=False)
            self.fault(row, out)

    def _take(self, t: Token, detail: dict[str, Any] | None, out: Output) -> Reason | None:
        """Add a token to its row; return why the row ended, if it did. A row that cannot take it has a fault then."""
        row = t.row
        if t.ended == Reason.STOP:
            return Reason.STOP
        row.tokens.append(t.token)
        failed = False
        try:
            text, stopped = row.feed(t.token)
        except Exception as e:  # a tokenizer's own code, on what only this row holds
            row.fault = row.fault or e
            return None
        try:
            text += row.feed_end() if t.ended is not None and not stopped else ""
        except Exception as e:  # as above
            row.fault, failed = row.fault or e, True
        out.add(row, text, [t.token], detail)
        if failed:
            return None
        if stopped:
            return Reason.STOP
        return Reason.LENGTH if t.ended is not None else None

    def _keep(self, lane: AnyLane, t: Token) -> None:
        """Store what an ended row computed; take it out of the batch where the generator has not."""
        if t.ended is None:
            self.take_out(lane, t.row, keep=True)
        elif t.cache is not None and t.sequence is not None and self._store.budget:
            self._store.insert(list(t.sequence), t.cache, t.row.session)

    def take_out(self, lane: AnyLane, row: Row, keep: bool) -> None:
        """Take a row out of its lane; with keep, store what it computed."""
        kept = lane.remove(row, keep and self._store.budget > 0)
        if kept is not None:
            cache, tokens = kept
            self._store.insert(tokens, cache, row.session)

    def end(self, row: Row, reason: Reason, out: Output) -> None:
        """End a row that is in no lane any more, and give what was held back of its text."""
        try:
            text = row.flush(reason is Reason.STOP) if row.accepted else ""
        except Exception as e:  # as above
            row.fault = row.fault or e
            self.fault(row, out)
            return
        if row.accepted and (text or row.pieces):
            out.add(row, text, [])
        if row.stop is not None:
            reason = Reason.STOP
        elif reason is Reason.STOP and row.channels is not None and row.channels.calls:
            reason = Reason.TOOL_CALLS
        del self.live[row.id]
        if reason is Reason.CANCELLED:
            self.counters.cancelled += 1
        else:
            self.counters.finished += 1
        out.ended.append((row, reason))

    def fault(self, row: Row, out: Output) -> None:
        """End a row with the error that is its own."""
        fault = row.fault or Exception()
        known = fault if isinstance(fault, RequestError) else RequestError(INTERNAL, f"row failed: {describe(fault)}")
        self.fail(row, known, out)

    def fail(self, row: Row, error: RequestError, out: Output) -> None:
        """End a row with an error."""
        del self.live[row.id]
        self.counters.failed += 1
        out.failed.append((row, error))
