"""What a worker is asked beside answers: the tokens of a prompt, the text of tokens, and the vectors of texts."""

from __future__ import annotations

import time
from typing import Any

from mlxworker import embedding, protocol, template, tokenizing
from mlxworker.embedding import Embedder
from mlxworker.engine import Engine
from mlxworker.errors import INVALID, RequestError, describe
from mlxworker.frames import Frame, FrameError, Writer
from mlxworker.rows import Reason
from mlxworker.tokenizing import Job, Tokenizing

# Vectors are computed in pieces of this many tokens at least.
_LEAST_TOKENS = 16


def cancelled(request: str, added: float) -> Frame:
    """Return the last frame of a request that was cancelled before it had a row."""
    return {
        "type": "done",
        "id": request,
        "reason": Reason.CANCELLED,
        "stop": None,
        "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
        "timing": {
            "queue_ms": round((time.perf_counter() - added) * 1000, 3),
            "prefill_ms": 0.0,
            "decode_ms": 0.0,
        },
    }


class Asides:
    """Belongs to one engine, takes its turns after the engine's, and says itself what came of them."""

    def __init__(self, engine: Engine, thread: Tokenizing, writer: Writer) -> None:
        self._engine = engine
        self._tokenizing = thread
        self._writer = writer
        self._embedder = Embedder(engine.model)
        engine.count_beside(self._embedder.held_bytes)
        self._jobs: dict[str, Job] = {}  # embeddings whose inputs are being tokenised
        self._started: dict[str, tuple[float, int]] = {}  # when they came, and the tokens of their inputs

    @property
    def busy(self) -> bool:
        """Say whether step has something to do."""
        return self._embedder.busy

    def is_live(self, request: str) -> bool:
        """Say whether vectors of this id are under way."""
        return request in self._jobs or self._embedder.is_live(request)

    def handle(self, frame: Frame) -> None:
        """Answer a frame, or begin to. Raises RequestError."""
        {"tokenize": self._tokenize, "detokenize": self._detokenize, "embed": self._embed}[frame["type"]](frame)

    def _tokenize(self, frame: Frame) -> None:
        request, source = protocol.frame_id(frame), protocol.parse_source(frame)
        if tokenizing.is_long(source):
            self._tokenizing.submit(Job(request, source))
        else:
            self._put_tokens(request, template.tokens_of(self._engine.model, source))

    def _put_tokens(self, request: str, tokens: list[int]) -> None:
        try:
            self._writer.put({"type": "tokens", "id": request, "tokens": tokens})
        except FrameError as e:
            raise RequestError(INVALID, f"the tokens cannot be sent: {describe(e)}") from e

    def _embed(self, frame: Frame) -> None:
        ask = embedding.parse_embed(frame)
        self._embedder.check()
        job = Job(ask.id, protocol.Source(), embed=ask)
        self._tokenizing.submit(job)
        self._jobs[ask.id] = job

    def tokenized(self, job: Job) -> None:
        """Go on with what was tokenised on another thread. Raises RequestError."""
        self._jobs.pop(job.id, None)
        if job.error is not None:
            raise job.error
        if job.embed is None:
            self._put_tokens(job.id, job.tokens)
        else:
            self._embedder.add(job.id, job.inputs, job.embed.pooling)
            self._started[job.id] = (job.added, sum(map(len, job.inputs)))

    def cancel(self, request: str) -> bool:
        """End a request for vectors; say whether there was one."""
        job = self._jobs.pop(request, None)
        if job is not None:
            job.cancelled = True
        elif not self._embedder.cancel(request):
            return False
        added, _ = self._started.pop(request, (job.added if job else time.perf_counter(), 0))
        self._engine.counters.cancelled += 1
        self._writer.put(cancelled(request, added))
        return True

    def step(self) -> tuple[str, RequestError] | None:
        """Compute one piece; return what failed, and why."""
        engine = self._engine
        most = engine.pace.chunk(engine.running > 0)
        while most > _LEAST_TOKENS and not engine.room_for(self._embedder.next_bytes(most)):
            most //= 2  # fewer at once take less memory
        if not engine.room_for(self._embedder.next_bytes(most)):
            if engine.running:
                return None  # answers end, and then there is room
            task, error = self._embedder.refuse()
        else:
            started = time.perf_counter()
            task, computed, failed = self._embedder.step(most)
            engine.pace.learn(computed, time.perf_counter() - started)
            engine.counters.prompt_tokens += computed
            if failed is None and self._embedder.is_live(task.id):
                return None
            if failed is None:
                self._put(task)
                return None
            error = failed
        del self._started[task.id]
        engine.counters.failed += 1
        return task.id, error

    def _put(self, task: embedding.Task) -> None:
        _, tokens = self._started.pop(task.id)
        self._engine.counters.finished += 1
        self._writer.put({"type": "embedding", "id": task.id, "vectors": task.vectors, "prompt_tokens": tokens})

    def _detokenize(self, frame: Frame) -> None:
        request, model = protocol.frame_id(frame), self._engine.model
        tokens: Any = frame.get("tokens")
        if not isinstance(tokens, list) or not all(type(t) is int for t in tokens):
            raise RequestError(INVALID, "tokens must be a list of token ids", "tokens")
        if len(tokens) > model.context:
            claim = f"tokens holds {len(tokens)}, the model's context is {model.context}"
            raise RequestError(INVALID, claim, "tokens")
        template.check_ids(tokens, model.vocabulary, "tokens")
        words = model.words.detokenizer()
        text = "".join([words.feed(t) for t in tokens]) + words.flush()
        self._writer.put({"type": "text", "id": request, "text": text})
