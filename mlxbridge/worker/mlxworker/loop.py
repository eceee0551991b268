"""Frames in, steps, frames out: the life of the worker's main thread, which owns MLX."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlxworker import adapter, asides, blas, embedding, frames, grammar, orders, protocol, tokenizing, warmup
from mlxworker import model as models
from mlxworker.asides import Asides
from mlxworker.calibration import Calibration
from mlxworker.engine import Engine
from mlxworker.errors import (
    INTERNAL,
    INVALID,
    FatalError,
    RequestError,
    unforeseen,
)
from mlxworker.frames import Frame, Writer
from mlxworker.inbox import Inbox
from mlxworker.telling import Telling
from mlxworker.tokenizing import Job, Tokenizing

CAPS = [
    "continue",
    "detokenize",
    "embed",
    "grammar",
    "logit_bias",
    "logprobs",
    "min_p",
    "penalties",
    "prefix",
    "seed",
    "stop",
    "thinking",
    "tokenize",
    "tool_calls",
    "tools_in_template",
]
STATS_SECONDS = 1.0
STATS_LEAST_SECONDS = 0.1
# The other side waits longer than this before it ends the process.
_FAREWELL_SECONDS = 1.0
# The type of the frame that brings a prompt back whose tokens were made on another thread. No peer sends it.
_TOKENIZED = "tokenized\0"

log = logging.getLogger("mlxworker")


class Shutdown(Exception):  # noqa: N818 - it is no error
    """The other side asked the worker to end."""


class Loop:
    """Serves one model until it is told to end. Without an api it imports what the model needs of mlx-lm."""

    def __init__(self, api: adapter.Api | None, inbox: Inbox, writer: Writer, pid: int) -> None:
        self._api = api
        self._inbox = inbox
        self._writer = writer
        self._tell = Telling(writer)
        self._pid = pid
        self._engine: Engine | None = None
        self._calibration: Calibration | None = None
        self._tokenizing: Tokenizing | None = None
        self._orders: orders.Orders | None = None
        self._asides: Asides | None = None
        self._long: dict[str, Job] = {}  # requests whose prompts are being tokenised
        self._stats_at = 0.0
        self._stats_rows = (0, 0, 0)
        self._handlers: dict[str, Callable[[Frame], None]] = {
            "hello": self._hello,
            "load": self._load,
            "gen": self._generate,
            "cancel": self._cancel,
            "set": self._set,
            "tokenize": self._aside,
            "embed": self._aside,
            "detokenize": self._aside,
            "ping": lambda frame: self._writer.put({"type": "pong", "n": frame.get("n")}),
            "shutdown": self._shutdown,
            frames.UNREADABLE: self._unreadable,
            _TOKENIZED: self._tokenized,
        }

    @property
    def engine(self) -> Engine | None:
        """Return what serves the model, None before one is loaded."""
        return self._engine

    def run(self) -> None:
        """Serve. Returns by exception only: Shutdown, LoadError, FatalError, FrameError, OSError."""
        self._writer.put(
            {
                "type": "ready",
                "proto": protocol.VERSION,
                "versions": {**adapter.versions(), "blas": blas.running()},
                "device": models.device(),
                "pid": self._pid,
                "caps": CAPS,
            }
        )
        self._writer.flush()
        while True:
            self.turn()

    def turn(self) -> None:
        """Handle what came, take one step, say what happened."""
        engine = self._engine
        busy = engine is not None and (engine.busy or self._is_aside_busy())
        frames_in = self._inbox.take(0 if busy else self._idle_seconds())
        if frames_in and not busy and engine is not None:
            self._inbox.gather(frames_in, self._handle)
        else:
            for frame in frames_in:
                self._handle(frame)
        engine = self._engine
        if engine is not None:
            if self._calibration is not None:
                self._calibration.turn(self._is_occupied(engine))
            if engine.busy:
                self._tell.step(engine.step(), engine.fail)
            else:
                engine.poll()
            failed = self._asides.step() if self._asides is not None and self._asides.busy else None
            if failed is not None:
                self._tell.error(*failed)
            self._stats(engine)
            engine.model.grammars.shelf.tidy(busy=engine.busy)
        self._writer.flush()

    def _is_occupied(self, engine: Engine) -> bool:
        tight = self._orders is not None and self._orders.is_tight
        return tight or engine.busy or self._is_aside_busy() or bool(self._long)

    def _is_aside_busy(self) -> bool:
        return self._asides is not None and self._asides.busy

    def _idle_seconds(self) -> float:
        engine = self._engine
        if engine is None:
            return STATS_SECONDS
        due = self._stats_at + (STATS_SECONDS if self._rows(engine) == self._stats_rows else STATS_LEAST_SECONDS)
        wait = max(due - time.monotonic(), 0.001)
        return wait if self._calibration is None else min(wait, self._calibration.wait_seconds())

    def _handle(self, frame: Frame) -> None:
        handler = self._handlers.get(frame["type"])
        if handler is None:
            self._tell.error(None, RequestError(INVALID, f"unknown frame type {frame['type'][:40]!r}", "type"))
            return
        handler(frame)

    def _hello(self, frame: Frame) -> None:
        if frame.get("proto") != protocol.VERSION:
            raise FatalError(f"the other side speaks protocol {frame.get('proto')}, this worker {protocol.VERSION}")

    def _load(self, frame: Frame) -> None:
        if self._engine is not None:
            self._tell.error(None, RequestError(INVALID, "a model is loaded already", "type"))
            return
        order = protocol.parse_load(frame)
        api = self._api or adapter.load_for(*(Path(f) for f in (order.folder, order.draft) if f))
        started = time.perf_counter()
        model = models.load(api, order)
        loaded = time.perf_counter()
        engine = Engine(model, orders.options(order))
        warmup.produce_token(engine)
        warmup.compile_kernels(engine)
        engine.forget()
        self._engine = engine
        self._orders = orders.Orders(engine, order.memory_bytes, order.prefix_bytes)
        self._calibration = Calibration(engine)
        self._tokenizing = Tokenizing(model, lambda job: self._inbox.put({"type": _TOKENIZED, "job": job}))
        self._asides = Asides(engine, self._tokenizing, self._writer)
        tokenizer = model.tokenizer
        self._writer.put(
            {
                "type": "loaded",
                "weight_bytes": model.weight_bytes + (model.draft.weight_bytes if model.draft is not None else 0),
                "kv_bytes_per_token": model.kv.for_one_token(),
                "context": model.context,
                "vocabulary": model.vocabulary,
                "architecture": model.architecture,
                "has_tools": bool(tokenizer.has_tool_calling),
                "has_thinking": bool(tokenizer.has_thinking),
                "max_rows": order.max_rows,
                "load_ms": round((loaded - started) * 1000, 3),
                "warm_ms": round((time.perf_counter() - loaded) * 1000, 3),
                "eos": model.eos,
                "features": {
                    "grammar": model.grammars.available,
                    "embeddings": embedding.hidden_part(model.net) is not None,
                    "tools": model.channels.tools.kind if model.channels.tools is not None else None,
                    "thinking": model.channels.think is not None,
                    "draft": model.draft is not None,
                },
            }
        )

    def _set(self, frame: Frame) -> None:
        try:
            change = protocol.parse_set(frame)
            if self._orders is None:
                raise RequestError(INVALID, "no model is loaded")
        except RequestError as e:
            self._tell.error(None, e)
            return
        self._orders.obey(change)
        self._writer.put({"type": "obeyed", "n": change.number})

    def _generate(self, frame: Frame) -> None:
        request: str | None = None
        try:
            request = protocol.frame_id(frame)
            engine = self._need_engine()
            if self._is_live(request):
                request = None
                raise RequestError(INVALID, f"id {frame['id']} is in use", "id")
            ask = protocol.parse_generate(frame)
            slow = tokenizing.is_long(ask.source) or grammar.is_slow(engine.model, ask)
            if self._tokenizing is None or not slow:
                engine.add(ask)
                return
            job = Job(request, ask.source, ask)
            self._tokenizing.submit(job)
            self._long[request] = job
        except RequestError as e:
            self._tell.error(request, e)
        except Exception as e:  # one request's fault must not end the others
            self._unforeseen(request, e, "the request could not be taken in")

    def _unforeseen(self, request: str | None, error: Exception, claim: str) -> None:
        refused = unforeseen(error, claim)
        if refused.code == INTERNAL:
            log.error("%s", claim, exc_info=error)
        self._tell.error(request, refused)

    def _unreadable(self, frame: Frame) -> None:
        """Refuse a request whose frame was whole, but holds more than a JSON parser can take."""
        request: str | None = None
        with contextlib.suppress(RequestError):
            request = protocol.frame_id(frame)
        if request is not None and self._is_live(request):
            request = None
        self._tell.error(request, RequestError(INVALID, f"the request cannot be read: {frame.get('why')}"))

    def _cancel(self, frame: Frame) -> None:
        try:
            request = protocol.frame_id(frame)
        except RequestError as e:
            self._tell.error(None, e)
            return
        job = self._long.pop(request, None)
        if job is not None:
            self._cancel_long(job)
        elif self._asides is not None and self._asides.cancel(request):
            return
        elif self._engine is not None:
            self._engine.cancel(request)

    def _cancel_long(self, job: Job) -> None:
        """End a request that has no row yet."""
        job.cancelled = True
        self._need_engine().counters.cancelled += 1
        self._writer.put(asides.cancelled(job.id, job.added))

    def _tokenized(self, frame: Frame) -> None:
        """Go on with a prompt that was tokenised on another thread."""
        job = frame.get("job")
        if not isinstance(job, Job) or job.cancelled:
            return
        try:
            if job.ask is None:
                if self._asides is not None:
                    self._asides.tokenized(job)
                return
            del self._long[job.id]
            if job.error is not None:
                raise job.error
            source = protocol.Source(tokens=job.tokens, borders=job.borders)
            row = self._need_engine().add(dataclasses.replace(job.ask, source=source, form=job.form))
            row.added = job.added
        except RequestError as e:
            self._tell.error(job.id, e)
        except Exception as e:  # as above
            self._unforeseen(job.id, e, "the request could not be taken in")

    def _aside(self, frame: Frame) -> None:
        """Answer what is no generation."""
        request: str | None = None
        try:
            request = protocol.frame_id(frame)
            self._need_engine()
            if self._is_live(request):
                request = None
                raise RequestError(INVALID, f"id {frame['id']} is in use", "id")
            if self._asides is not None:
                self._asides.handle(frame)
        except RequestError as e:
            self._tell.error(request, e)
        except Exception as e:  # one request's fault must not end the others
            self._unforeseen(request, e, "the request could not be answered")

    def _is_live(self, request: str) -> bool:
        aside = self._asides is not None and self._asides.is_live(request)
        return aside or request in self._long or (self._engine is not None and self._engine.is_live(request))

    def _shutdown(self, _: Frame) -> None:
        if self._engine is not None:
            self._engine.close(_FAREWELL_SECONDS)
        raise Shutdown

    def _need_engine(self) -> Engine:
        if self._engine is None:
            raise RequestError(INVALID, "no model is loaded")
        return self._engine

    def _stats(self, engine: Engine) -> None:
        """Say how things are: every second, and soon after rows came or went."""
        now = time.monotonic()
        current = self._rows(engine)
        since = now - self._stats_at
        if since < STATS_LEAST_SECONDS or (since < STATS_SECONDS and current == self._stats_rows):
            return
        self._stats_at, self._stats_rows = now, current
        self._writer.put(
            {
                "type": "stats",
                "running": current[0],
                "waiting": current[1],
                "counters": engine.counters.as_frame(),
                "active_bytes": mx.get_active_memory(),
                "cache_bytes": mx.get_cache_memory(),
                "peak_bytes": mx.get_peak_memory(),
                "prefix_bytes": engine.prefix.nbytes,
                "prefix_entries": len(engine.prefix),
                "prefixes": engine.prefix.known(),
                "curve": engine.curve.as_frame(),
                "speculation": {"proposed": engine.speculation.proposed, "accepted": engine.speculation.accepted},
            }
        )

    def _rows(self, engine: Engine) -> tuple[int, int, int]:
        """Return how many rows run, wait and have ended."""
        counters = engine.counters
        ended = counters.finished + counters.cancelled + counters.failed
        return engine.running, len(engine.waiting) + len(self._long), ended
