"""Texts as vectors: a decoder model's last hidden states, pooled and normalised, between the steps of answers.

A long input is computed in pieces with a cache, short ones of similar length together. They are padded on the right,
which a causal model does not see; what is pooled leaves the padding out.
"""

from __future__ import annotations

import base64
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlxworker import protocol
from mlxworker.errors import BUSY, INTERNAL, INVALID, TOO_LARGE, UNSUPPORTED, RequestError, describe
from mlxworker.frames import Frame
from mlxworker.model import Model
from mlxworker.protocol import Source

MAX_INPUTS = 256
POOLINGS = ("last", "mean")
_MOST_WAITING = 256
# Inputs are computed together when none is more than this many times as long as the shortest, or this much longer.
_SIMILAR_FACTOR = 1.25
_SIMILAR_TOKENS = 16

log = logging.getLogger("mlxworker")


@dataclass(frozen=True)
class Embed:
    """The embed frame."""

    id: str
    sources: list[Source]
    pooling: str


def parse_embed(frame: Frame) -> Embed:
    """Return the embed frame. Raises RequestError that names the field."""
    inputs = frame.get("inputs")
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_INPUTS:
        raise RequestError(INVALID, f"inputs must be a list of 1 to {MAX_INPUTS} inputs", "inputs")
    sources = []
    for i, given in enumerate(inputs):
        where = f"inputs[{i}]"
        if not isinstance(given, dict):
            raise RequestError(INVALID, f"{where} must be an object with prompt or tokens", where)
        try:
            sources.append(protocol.parse_source(given))
        except RequestError as e:
            raise RequestError(e.code, f"{where}: {e.message}", where) from e
    pooling = frame.get("pooling") or POOLINGS[0]
    if pooling not in POOLINGS:
        raise RequestError(INVALID, f"pooling must be last or mean, not {str(pooling)[:40]!r}", "pooling")
    return Embed(protocol.frame_id(frame), sources, pooling)


def hidden_part(net: Any) -> Any:
    """Return the part of a model that gives hidden states instead of logits, None where there is none."""
    inner = getattr(getattr(net, "language_model", net), "model", None)
    return inner if callable(inner) else None


@dataclass(eq=False)
class _Long:
    """An input that is computed in pieces."""

    index: int
    cache: list[Any]
    done: int = 0
    total: Any = None  # sum of the hidden states so far


@dataclass(eq=False)
class Task:
    """One request on its way. vectors are little-endian float32 in base64, in the order of the inputs."""

    id: str
    inputs: list[list[int]]
    pooling: str
    todo: deque[int]  # shortest first
    vectors: list[str]
    long: _Long | None = None


class Embedder:
    """Computes in turns: whoever calls step decides how much one of them takes. Not safe for concurrent use."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._part = hidden_part(model.net)
        self._tasks: deque[Task] = deque()

    @property
    def busy(self) -> bool:
        """Say whether step has something to do."""
        return bool(self._tasks)

    def is_live(self, request: str) -> bool:
        """Say whether a request of this id is under way."""
        return any(t.id == request for t in self._tasks)

    def check(self) -> None:
        """Raise RequestError where there can be no vectors, or not now."""
        if self._part is None:
            raise RequestError(UNSUPPORTED, "this model's architecture does not give its hidden states")
        if len(self._tasks) >= _MOST_WAITING:
            raise RequestError(BUSY, f"{_MOST_WAITING} requests for embeddings are waiting already")

    def add(self, request: str, inputs: list[list[int]], pooling: str) -> None:
        """Take a request in. Raises RequestError."""
        self.check()
        todo = deque(sorted(range(len(inputs)), key=lambda i: len(inputs[i])))
        self._tasks.append(Task(request, inputs, pooling, todo, [""] * len(inputs)))

    def cancel(self, request: str) -> bool:
        """Forget a request; say whether there was one."""
        found = next((t for t in self._tasks if t.id == request), None)
        if found is not None:
            self._tasks.remove(found)
        return found is not None

    def held_bytes(self) -> int:
        """Return what the keys and values of an input take that is under way, to its end."""
        kv = self._model.budget(0).kv
        return sum(kv.bytes(len(t.inputs[t.long.index])) for t in self._tasks if t.long is not None)

    def next_bytes(self, most_tokens: int) -> int:
        """Return what the keys, values and scratch of the next step take beyond what is held."""
        task, budget = self._turn(most_tokens), self._model.budget(0)
        if task.long is None and len(task.inputs[task.todo[0]]) <= most_tokens:
            group = _group(task, most_tokens)
            rows, width = len(group), max(len(task.inputs[i]) for i in group)
            return rows * (budget.kv.bytes(width) + width * 48 * budget.hidden)
        length = len(task.inputs[task.long.index if task.long is not None else task.todo[0]])
        begins = budget.kv.bytes(length) if task.long is None else 0
        return begins + min(most_tokens, length) * 48 * budget.hidden

    def refuse(self) -> tuple[Task, RequestError]:
        """Give the next request up, for which there is no memory."""
        task = self._tasks.popleft()
        longest = max(map(len, task.inputs))
        return task, RequestError(TOO_LARGE, f"there is no memory for an input of {longest} tokens", "inputs")

    def step(self, most_tokens: int) -> tuple[Task, int, RequestError | None]:
        """Compute about that many tokens; return whose they are, how many there were, and why it failed if it did.

        A request that is complete or has failed is not live any more.
        """
        task = self._turn(max(most_tokens, 1))
        self._tasks.popleft()
        try:
            computed = self._compute(task, max(most_tokens, 1))
        except RequestError as e:
            return task, 0, e
        except Exception as e:  # the model's own code, on what only this request holds
            log.exception("an embedding failed")
            return task, 0, RequestError(INTERNAL, f"the embedding failed: {describe(e)}")
        if task.todo or task.long is not None:
            self._tasks.append(task)  # the others get their turn, too
        return task, computed, None

    def _turn(self, most: int) -> Task:
        """Bring the next task to the front. Only one holds keys and values of a long input that is not complete."""
        holds = any(task.long is not None for task in self._tasks)
        for task in self._tasks:
            if task.long is not None or not holds or len(task.inputs[task.todo[0]]) <= most:
                self._tasks.remove(task)
                self._tasks.appendleft(task)
                break
        return self._tasks[0]

    def _compute(self, task: Task, most: int) -> int:
        if task.long is None and len(task.inputs[task.todo[0]]) > most:
            task.long = _Long(task.todo.popleft(), self._model.new_cache())
        if task.long is not None:
            return self._compute_piece(task, task.long, most)
        group = _group(task, most)
        for _ in group:
            task.todo.popleft()
        self._compute_group(task, group)
        return sum(len(task.inputs[i]) for i in group)

    def _compute_group(self, task: Task, group: list[int]) -> None:
        inputs = [task.inputs[i] for i in group]
        width = max(map(len, inputs))
        hidden = self._hidden([t + [0] * (width - len(t)) for t in inputs], self._model.new_cache())
        lengths = mx.array([len(t) for t in inputs])
        if task.pooling == "last":
            pooled = hidden[mx.arange(len(inputs)), lengths - 1]
        else:
            kept = mx.arange(width)[None, :] < lengths[:, None]
            pooled = mx.where(kept[..., None], hidden, 0).sum(axis=1)
        for i, vector in zip(group, _written(pooled), strict=True):
            task.vectors[i] = vector

    def _compute_piece(self, task: Task, long: _Long, most: int) -> int:
        tokens = task.inputs[long.index]
        piece = tokens[long.done : long.done + most]
        hidden = self._hidden([piece], long.cache)
        last = hidden[:, -1]
        if task.pooling == "mean":
            last = hidden.sum(axis=1) if long.total is None else long.total + hidden.sum(axis=1)
        mx.eval(last, [layer.state for layer in long.cache])
        long.total = last
        long.done += len(piece)
        if long.done == len(tokens):
            task.vectors[long.index] = _written(last)[0]
            task.long = None
        return len(piece)

    def _hidden(self, tokens: list[list[int]], cache: list[Any]) -> Any:
        hidden = self._part(mx.array(tokens), cache=cache)
        if getattr(hidden, "ndim", 0) != 3 or hidden.shape[:2] != (len(tokens), len(tokens[0])):
            raise RequestError(UNSUPPORTED, "this model's architecture does not give its hidden states")
        return hidden.astype(mx.float32)


def _group(task: Task, most: int) -> list[int]:
    """Return which inputs are computed together next: the shortest, and others that are hardly longer."""
    group: list[int] = []
    shortest = len(task.inputs[task.todo[0]])
    longest = max(int(shortest * _SIMILAR_FACTOR), shortest + _SIMILAR_TOKENS)
    for index in task.todo:
        length = len(task.inputs[index])
        if group and (length > longest or length * (len(group) + 1) > most):
            break
        group.append(index)
    return group


def _written(vectors: Any) -> list[str]:
    """Return vectors of length one as they go out. The sum of hidden states points where their mean does."""
    norms = mx.linalg.norm(vectors, axis=-1, keepdims=True)
    whole = vectors / mx.maximum(norms, 1e-12)
    mx.eval(whole)
    if not mx.all(mx.isfinite(whole)).item():
        raise RequestError(INTERNAL, "the embedding is not finite")
    return [base64.b64encode(bytes(memoryview(line))).decode() for line in whole]
