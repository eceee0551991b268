"""What a worker is asked beside answers: the vectors of texts, and the text of tokens."""

from __future__ import annotations

import time
from typing import Any

from mlxworker import embedding, protocol, template
from mlxworker.embedding import Embedder
from mlxworker.engine import Engine
from mlxworker.errors import INVALID, RequestError
from mlxworker.frames import Frame, Writer
from mlxworker.rows import Reason
from mlxworker.tokenizing import Job, Tokenizing


class Asides:
    """Belongs to one engine, takes its turns after the engine's, and says itself what came of them."""

    def __init__(self, engine: Engine, tokenizing: Tokenizing, writer: Writer) -> None:
        self._engine = engine
        self._tokenizing = tokenizing
        self._writer = writer
        self._embedder = Embedder(engine.model)
        self._jobs: dict[str, Job] = {}  # embeddings whose inputs are being tokenised
        self._started: dict[str, tuple[float, int]] = {}  # when they came, and the tokens of their inputs

    @property
    def busy(self) -> bool:
        """Say whether step has something to do."""
        return self._embedder.busy

    def is_live(self, request: str) -> bool:
        """Say whether vectors of this id are under way."""
        return request in self._jobs or self._embedder.is_live(request)

    def embed(self, frame: Frame) -> None:
        """Begin with the vectors of some texts. Raises RequestError."""
        ask = embedding.parse_embed(frame)
        self._embedder.check()
        job = Job(ask.id, protocol.Source(), embed=ask)
        self._tokenizing.submit(job)
        self._jobs[ask.id] = job

    def tokenized(self, job: Job) -> None:
        """Go on with texts whose tokens are there. Raises RequestError."""
        del self._jobs[job.id]
        if job.error is not None:
            raise job.error
        if job.embed is not None:
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
        waited = round((time.perf_counter() - added) * 1000, 3)
        self._writer.put(
            {
                "type": "done",
                "id": request,
                "reason": Reason.CANCELLED,
                "stop": None,
                "usage": {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0},
                "timing": {"queue_ms": waited, "prefill_ms": 0.0, "decode_ms": 0.0},
            }
        )
        return True

    def step(self) -> tuple[str, RequestError] | None:
        """Compute one piece; return what failed, and why."""
        engine = self._engine
        most = engine.pace.chunk(engine.running > 0)
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

    def detokenize(self, frame: Frame) -> None:
        """Say what text some tokens are. Raises RequestError."""
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
