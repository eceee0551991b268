"""One request in the worker, from its arrival to its end."""

from __future__ import annotations

import enum
import os
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from mlxworker import grammar, processors, template
from mlxworker.channels import Channels, Piece, for_request
from mlxworker.detok import Detokenizer
from mlxworker.errors import INVALID, RequestError
from mlxworker.model import Model
from mlxworker.protocol import Generate, Sampling
from mlxworker.sampling import Draw, Policy
from mlxworker.stopping import StopMatcher, StopSet


class Reason(enum.StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TOOL_CALLS = "tool_calls"


@dataclass(eq=False)
class Row:
    """One answer in the making. tokens holds all that was generated, by an earlier attempt as well."""

    id: str
    prompt: list[int]
    tokens: list[int]
    max_tokens: int
    draw: Draw
    text: Detokenizer
    stops: StopMatcher | None
    processors: list[processors.Processor]
    logprobs: int | None  # None: not asked for; else how many alternatives
    session: str
    added: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    first_token: float = 0.0
    last_progress: float = 0.0
    cached: int = 0
    remaining: int = 0  # tokens still to be computed before the first one can be drawn
    uid: int = -1
    stop: str | None = None  # the sequence that ended it
    fault: Exception | None = None  # raised by one of its processors
    accepted: bool = False
    flushed: bool = False  # nothing is held back any more
    strikes: int = 0  # failed steps since its last token
    exhausted: int = 0  # those of them that were out of memory
    struck_at: int = -1  # tokens it had then
    borders: list[int] = field(default_factory=list)  # lengths at which its state is kept
    channels: Channels | None = None  # where reasoning or calls may come; stops is None then
    pieces: list[Piece] = field(default_factory=list)  # what the last token gave, where there are channels

    @property
    def length(self) -> int:
        """Return prompt and answer together, in tokens."""
        return len(self.prompt) + len(self.tokens)

    def sequence(self) -> list[int]:
        """Return prompt and answer so far."""
        return self.prompt + self.tokens

    @property
    def is_suspect(self) -> bool:
        """Say whether steps of this row failed in a row: it has to show that they are not its fault."""
        return self.strikes > 1 and self.struck_at == len(self.tokens)

    def strike(self, exhausted: bool) -> None:
        """Take note of a failed step, and whether it was out of memory."""
        if self.struck_at != len(self.tokens):
            self.strikes, self.exhausted, self.struck_at = 0, 0, len(self.tokens)
        self.strikes += not exhausted
        self.exhausted += exhausted

    def replay(self, ends: list[int]) -> Reason | None:
        """Bring a continued row's text to where an earlier attempt left it; say if that was the end already."""
        for i, token in enumerate(self.tokens):
            if token in ends:
                del self.tokens[i:]
                return Reason.STOP
            _, stopped = self.feed(token)  # what it gave, the reader has
            if stopped:
                del self.tokens[i + 1 :]
                return Reason.STOP
        if len(self.tokens) < self.max_tokens:
            return None
        self.flushed = True  # what was held back came with the last token
        return Reason.LENGTH

    def feed(self, token: int) -> tuple[str, bool]:
        """Take a token that is part of the text; return the text to send, and whether a stop sequence ended it."""
        text = self.text.feed(token)
        if self.channels is not None:
            self.pieces, self.stop = self.channels.feed(text), self.channels.stop
            return "", self.stop is not None or self.channels.over
        if self.stops is None:
            return text, False
        text, self.stop = self.stops.feed(text)
        return text, self.stop is not None

    def feed_end(self) -> str:
        """Return what is held back, to go out with the token that the limit makes the last.

        So whoever has the token has all that came of it, and an attempt that continues after it has nothing to say.
        """
        pieces = self.pieces
        try:
            return self.flush(complete=False)
        finally:
            self.pieces = pieces + self.pieces

    def flush(self, complete: bool) -> str:
        """Return the text that was held back, at the end of an answer; complete says that the model ended it."""
        self.pieces = []
        if self.stop is not None or self.flushed:
            return ""
        self.flushed = True
        text = self.text.flush()
        if self.channels is not None:
            self.pieces = self.channels.feed(text)
            if self.channels.stop is None:
                self.pieces += self.channels.finish(complete)
            self.stop = self.channels.stop
            return ""
        if self.stops is None:
            return text
        text, self.stop = self.stops.feed(text)
        return text if self.stop is not None else text + self.stops.flush()

    def usage(self) -> dict[str, int]:
        """Return the counts for the final frame."""
        return {
            "prompt_tokens": len(self.prompt),
            "cached_tokens": min(self.cached, len(self.prompt)),
            "completion_tokens": len(self.tokens),
        }

    def timing(self, now: float) -> dict[str, float]:
        """Return the durations for the final frame, in milliseconds."""
        admitted = self.admitted or now
        first = self.first_token or now
        return {
            "queue_ms": _ms(admitted - self.added),
            "prefill_ms": _ms(first - admitted) if self.admitted else 0.0,
            "decode_ms": _ms(now - first),
        }


def make_row(model: Model, ask: Generate) -> Row:
    """Return the row of a request. Raises RequestError for what this model cannot do."""
    prompt = template.tokens_of(model, ask.source)
    template.check_ids(ask.already, model.vocabulary, "continue")
    room = model.context - len(prompt)
    if room < 1:
        raise template.context_exceeded(model, len(prompt))
    sampling = ask.sampling
    _check_bias(sampling, model.vocabulary)
    seed = sampling.seed if sampling.seed is not None else int.from_bytes(os.urandom(8), "little")
    sorter = for_request(model, ask, prompt)
    row = Row(
        id=ask.id,
        prompt=prompt,
        tokens=list(ask.already),
        max_tokens=min(ask.max_tokens or room, room),
        draw=Draw(_policy(sampling, model.defaults), seed & ((1 << 64) - 1), len(ask.already)),
        text=model.words.detokenizer(),
        stops=StopMatcher(StopSet(ask.stop)) if ask.stop and sorter is None else None,
        processors=[],
        logprobs=max(ask.top_logprobs, 0) if ask.logprobs or ask.top_logprobs else None,
        session=ask.session,
        channels=sorter,
    )
    made = _processors(sampling, model, len(prompt))
    constrained = grammar.processor(model, ask, row)
    if constrained is not None:
        made.append(constrained)  # last: nothing may make likelier again what it ruled out
    guard = _Guard(row)
    row.processors = [processors.guarded(p, guard) for p in made]
    return row


class _Guard:
    """Remembers the first error of a row's processors. It keeps no row: what a row holds goes when that ends."""

    def __init__(self, row: Row) -> None:
        self._row = weakref.ref(row)

    def __call__(self, error: Exception) -> None:
        row = self._row()
        if row is not None:
            row.fault = row.fault or error


def guard(row: Row, processor: processors.Processor) -> processors.Processor:
    """Return a processor whose errors fail this row and no other."""
    return processors.guarded(processor, _Guard(row))


def _policy(asked: Sampling, defaults: dict[str, Any]) -> Policy:
    sampled = bool(defaults.get("do_sample"))
    temperature = asked.temperature
    if temperature is None:
        temperature = _default(defaults, "temperature", 1.0) if sampled else 0.0
    if temperature < 1e-5:
        return Policy()
    return Policy(
        temperature=temperature,
        top_p=asked.top_p if asked.top_p is not None else _default(defaults, "top_p", 1.0),
        top_k=asked.top_k if asked.top_k is not None else int(_default(defaults, "top_k", 0)),
        min_p=asked.min_p if asked.min_p is not None else _default(defaults, "min_p", 0.0),
    )


def _default(defaults: dict[str, Any], name: str, otherwise: float) -> float:
    value = defaults.get(name)
    return float(value) if isinstance(value, (int, float)) and value >= 0 else otherwise


def _check_bias(sampling: Sampling, vocabulary: int) -> None:
    for token in sampling.logit_bias:
        if not 0 <= token < vocabulary:
            claim = f"logit_bias names token {token}, but this model's token ids are 0 to {vocabulary - 1}"
            raise RequestError(INVALID, claim, "logit_bias")


def _processors(asked: Sampling, model: Model, prompt_tokens: int) -> list[processors.Processor]:
    made: list[processors.Processor] = []
    if asked.logit_bias:
        made.append(processors.logit_bias(asked.logit_bias, model.vocabulary))
    repetition = asked.repetition_penalty
    if repetition is None:
        repetition = _default(model.defaults, "repetition_penalty", 1.0) or 1.0
    presence, frequency = asked.presence_penalty or 0.0, asked.frequency_penalty or 0.0
    if repetition != 1 or presence or frequency:
        made.append(processors.penalties(repetition, presence, frequency, prompt_tokens))
    return made


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
