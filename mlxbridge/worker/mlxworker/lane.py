"""One batch generator, and which row is where in it.

The generator itself says only which rows it answered for. A lane keeps their order, because all rows share one
sampler that draws for the whole batch at once and has to know whose line is whose.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from mlxworker import memory
from mlxworker.model import Model
from mlxworker.rows import Row
from mlxworker.sampling import BatchSampler, Draw, OrderError, sample_alone


class Token(NamedTuple):
    """What one step gave to one row. cache covers sequence, and is there only for a row that the generator ended."""

    row: Row
    token: int
    logprobs: Any
    ended: str | None
    cache: list[Any] | None
    sequence: list[int] | None


class Lane:
    """Rows that share one padded batch. Not safe for concurrent use."""

    def __init__(self, model: Model, alone: bool = False) -> None:
        """Make an empty lane; alone draws row by row, which needs no order but is slower."""
        self._model = model
        self._alone = alone
        self.decoding: list[Row] = []
        self.prefilling: list[Row] = []
        self._sampler = BatchSampler()
        self._generator = model.api.make_generator(model.net, self._sampler, self._wants_logprobs)
        memory.wire_weights(model.wired_bytes)

    def _wants_logprobs(self) -> bool:
        return any(r.logprobs is not None for r in self.decoding)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.decoding) + len(self.prefilling)

    def rows(self) -> list[Row]:
        """Return all rows."""
        return self.decoding + self.prefilling

    def lengths(self) -> list[int]:
        """Return the lengths of all rows; each is padded to the longest."""
        return [r.length for r in self.rows()]

    def close(self) -> None:
        """Let the generator go."""
        self._generator.close()

    def insert(self, rows: list[Row], caches: list[list[Any] | None], known: list[int]) -> None:
        """Take rows in; known[i] tokens of row i are in caches[i]."""
        sequences = [r.sequence() for r in rows]
        for row, tokens, n in zip(rows, sequences, known, strict=True):
            row.draw.count = len(row.tokens)
            row.remaining = len(tokens) - n
        arguments: dict[str, Any] = {
            "max_tokens": [r.max_tokens - len(r.tokens) for r in rows],
            "caches": caches,
            "all_tokens": [t[:n] for t, n in zip(sequences, known, strict=True)],
            "logits_processors": [r.processors for r in rows],
            self._model.api.stop_keyword: [self._model.stop] * len(rows),
        }
        if self._alone:
            arguments["samplers"] = [_alone(r.draw) for r in rows]
        segments = [_segments(t, n, r.borders) for r, t, n in zip(rows, sequences, known, strict=True)]
        uids = self._generator.insert_segments(segments, **arguments)
        for row, uid in zip(rows, uids, strict=True):
            row.uid = uid
        self.prefilling.extend(rows)

    def remove(self, row: Row, keep: bool) -> tuple[list[Any], list[int]] | None:
        """Take a row out, at any stage. With keep, return its keys and values and the tokens that they cover."""
        kept = self._generator.remove([row.uid], return_prompt_caches=keep)
        if row in self.decoding:
            self.decoding.remove(row)
        else:
            self.prefilling.remove(row)
        if not keep or row.uid not in kept:
            return None
        cache, tokens = kept[row.uid]
        return cache, list(tokens)

    def snapshot(self, row: Row) -> tuple[list[Any], list[int]]:
        """Return a copy of a row's keys and values, and the tokens that they cover. The row goes on."""
        cache, tokens = self._generator.extract_cache([row.uid])[row.uid]
        return cache, list(tokens)  # the generator's own list grows with the row

    def next(self, chunk: int) -> list[Token]:
        """Run one decode step of all rows, then at most chunk prompt tokens of each row that is prefilling.

        After any exception the lane must not be used again: keys and values no longer fit the tokens.
        """
        joining = [r for r in self.prefilling if r.remaining == 1]
        if not self._alone:
            calls = [[r.draw for r in group] for group in (self.decoding, joining) if group]
            self._sampler.expect(calls)
        self._generator.prefill_step_size = chunk
        _, answers = self._generator.next()
        if [a.uid for a in answers] != [r.uid for r in self.decoding] or not (self._alone or self._sampler.done()):
            raise OrderError("the batch generator answered for other rows than expected")
        out = [
            Token(r, int(a.token), a.logprobs, a.finish_reason, a.prompt_cache, a.all_tokens)
            for r, a in zip(self.decoding, answers, strict=True)
        ]
        self.decoding = [t.row for t in out if t.ended is None] + joining
        self.prefilling = [r for r in self.prefilling if r.remaining > 1]
        for row in joining:
            row.remaining = 0
        for row in self.prefilling:
            row.remaining -= min(chunk, _to_border(row))
        return out


def _segments(tokens: list[int], known: int, borders: list[int]) -> list[list[int]]:
    """Return what is still to be computed, in parts that end at borders; the generator stops at the end of each."""
    at = [known, *(b for b in borders if known < b < len(tokens)), len(tokens)]
    return [tokens[a:b] for a, b in itertools.pairwise(at)]


def _to_border(row: Row) -> int:
    """Return how many tokens the generator takes of a row before it stops: the last one always stands alone."""
    position = row.length - row.remaining
    return min([row.remaining - 1, *(b - position for b in row.borders if b > position)])


def _alone(draw: Draw) -> Any:
    return lambda logprobs: sample_alone(draw, logprobs)
