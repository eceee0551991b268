"""Long prompts become tokens on a thread of their own: meanwhile the steps of all other rows go on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlxworker import borders, grammar, template
from mlxworker.errors import BUSY, CONTEXT, RequestError, unforeseen
from mlxworker.model import Model
from mlxworker.protocol import Generate, Source

if TYPE_CHECKING:
    from mlxworker.embedding import Embed

MOST_WAITING = 4096
# A shorter text takes less time than a step.
_LONG_CHARACTERS = 32 << 10


@dataclass(eq=False)
class Job:
    """A prompt on its way to tokens, or with embed, many. ask is None for one that is only counted."""

    id: str
    source: Source
    ask: Generate | None = None
    embed: Embed | None = None
    inputs: list[list[int]] = field(default_factory=list)  # of embed
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    borders: tuple[int, ...] = ()
    form: Any = None  # the compiled grammar, which may be forgotten again before this prompt's turn
    error: RequestError | None = None
    added: float = field(default_factory=time.perf_counter)


class Tokenizing:
    """Tokenises in the order of submission. done is called on the thread, once for each job."""

    def __init__(self, model: Model, done: Callable[[Job], None]) -> None:
        self._model = model
        self._done = done
        self._jobs: queue.Queue[Job] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> None:
        """Take a job. Raises RequestError when too many wait."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise RequestError(BUSY, f"{MOST_WAITING} long prompts are waiting already") from None
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tokenizing", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if not job.cancelled:
                _tokenize(self._model, job)
            self._done(job)
            del job  # it holds a compiled grammar, and the next may be long in coming


def is_long(source: Source) -> bool:
    """Say whether tokenising would be felt by those who wait for their next token."""
    if source.template_args.get("sanitize_control_tokens"):
        return True  # the first of these may import transformers
    left = _LONG_CHARACTERS
    todo: list[object] = [source.prompt, source.messages, source.tools, source.template_args]
    while todo and left > 0:
        value = todo.pop()
        if isinstance(value, str):
            left -= len(value)
        elif isinstance(value, dict):
            todo.extend(value)
            todo.extend(value.values())
        elif isinstance(value, list):
            todo.extend(value)
        else:
            left -= 1
    return left <= 0


def _tokenize(model: Model, job: Job) -> None:
    try:
        if job.embed is not None:
            _tokenize_inputs(model, job, job.embed)
            return
        job.tokens = template.tokens_of(model, job.source)
        if job.ask is not None:
            job.borders = tuple(borders.of_prompt(model, job.source, job.tokens))
            job.form = grammar.prepare(model, job.ask)
    except RequestError as e:
        job.error = e
    except Exception as e:  # a tokenizer's own code, on what only this request holds
        job.error = unforeseen(e, "the prompt could not be taken in")


def _tokenize_inputs(model: Model, job: Job, ask: Embed) -> None:
    for i, source in enumerate(ask.sources):
        if job.cancelled:
            return
        try:
            tokens = template.tokens_of(model, source)
            if len(tokens) > model.context:
                claim = f"it has {len(tokens)} tokens, the model's context is {model.context}"
                raise RequestError(CONTEXT, claim)
        except RequestError as e:
            raise RequestError(e.code, f"inputs[{i}]: {e.message}", f"inputs[{i}]") from e
        job.inputs.append(tokens)
