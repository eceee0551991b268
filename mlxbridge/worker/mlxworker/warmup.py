"""A model is ready when it has produced a token, not before."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import mlx.core as mx

from mlxworker.engine import Engine
from mlxworker.errors import BAD_MODEL, INTERNAL, TOO_BIG, TOO_LARGE, FatalError, LoadError, describe
from mlxworker.logprobs import UNLIKELIEST
from mlxworker.model import NOT_FINITE
from mlxworker.protocol import Generate, Sampling, Source
from mlxworker.rounding import sizes
from mlxworker.trial import Trial

_TOKENS = 2
# Rows and the length of their prompts. A GPU compiles for each kind of size that it meets, and reads the weights then.
_SHAPES = ((1, 64), (1, 256), (1, 2048), (2, 16), (4, 16), (8, 16))
# With CUDA each number of rows is one of its own, and each size of a piece of a prompt.
_CUDA_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
_SHORT = 16
# Pieces of that length while others decode, from the beginning of a prompt on.
_LONGEST_PIECE, _PIECES = 512, 8
_STEPS = 2
_MOST_SECONDS, _CUDA_MOST_SECONDS = 3.0, 30.0

log = logging.getLogger("mlxworker")


def produce_token(engine: Engine) -> None:
    """Generate with an engine that nobody uses yet. Raises LoadError when no token comes."""
    ask = Generate(
        id="warm-up",
        source=Source(tokens=[0, 1 % engine.model.vocabulary, 0]),
        sampling=Sampling(temperature=0),
        max_tokens=_TOKENS,
        logprobs=True,
    )
    try:
        engine.add(ask)
        for _ in range(64):
            out = engine.step()
            # The likeliest token of finite logits is never that unlikely.
            if any(entry["l"] <= UNLIKELIEST for _, _, _, *rest in out.texts for entry in (rest[0] if rest else [])):
                raise LoadError(BAD_MODEL, NOT_FINITE)
            if out.failed:
                error = out.failed[0][1]
                if error.code == TOO_LARGE:
                    raise LoadError(TOO_BIG, f"no memory is left for an answer: {error.message}")
                raise LoadError(INTERNAL, f"no token came: {error.message}")
            if out.ended:
                return
    except FatalError as e:
        raise LoadError(INTERNAL, f"no token came: {describe(e)}") from e
    raise LoadError(INTERNAL, "no token came")


def compile_kernels(engine: Engine) -> None:
    """Let a GPU meet the sizes that requests bring, for some seconds at most. Without a GPU there is nothing to do.

    It never raises: a token was produced, and what is not compiled here is compiled later.
    """
    if engine.model.device != "gpu" or engine.model.kv_bits:  # such rows share no batch, and trials are batches
        return
    try:
        if mx.cuda.is_available():
            _meet_cuda(engine)
        else:
            _meet(engine, _SHAPES, _MOST_SECONDS)
    except Exception as e:
        log.warning("warm-up ended early: %s", describe(e))


def _meet(engine: Engine, shapes: Sequence[tuple[int, int]], left: float) -> None:
    """Let rows decode after prompts, in shapes that go by what those before took."""
    trial, rate = Trial(engine), 0.0
    for rows, length in shapes:
        if rows > engine.options.max_rows or not trial.fits(rows, length, _STEPS, length):
            continue
        if rate and rows * length / rate > left:
            continue
        started = time.perf_counter()
        _decode(trial, rows, length)
        took = time.perf_counter() - started
        left, rate = left - took, rows * length / took


def _decode(trial: Trial, rows: int, length: int) -> None:
    with trial.lane(rows, length, _STEPS) as lane:
        while lane.prefilling:
            lane.next(length)
        for _ in range(_STEPS):
            lane.next(length)


def _meet_cuda(engine: Engine) -> None:
    """Meet pieces of a prompt while a row decodes, a row that joins others and one that leaves them, then whole prompts
    and numbers of rows. Compiling is slow only where its results are not on disk yet, so what one took says nothing of
    the next.
    """
    trial, until = Trial(engine), time.perf_counter() + _CUDA_MOST_SECONDS
    known = sizes(_LONGEST_PIECE)
    pieces = [*(_LONGEST_PIECE,) * _PIECES, *known[-2::-1]]
    steps = len(pieces) + 2 * _STEPS
    if engine.options.max_rows > 1 and trial.fits(2, sum(pieces) + 1, steps, _LONGEST_PIECE):
        with trial.lane(1, _SHORT, steps) as lane:
            while lane.prefilling:
                lane.next(_SHORT)
            trial.join(lane, 1, sum(pieces) + 1, steps)
            for size in pieces:
                if time.perf_counter() > until:
                    return
                lane.next(size)
            for _ in range(_STEPS):
                lane.next(_SHORT)
            lane.remove(lane.decoding[-1], keep=True)
            lane.next(_SHORT)
    whole = sizes(engine.pace.chunk(decoding=False))
    for rows, length in (*((n, _SHORT) for n in _CUDA_ROWS), *((1, n) for n in whole)):
        if time.perf_counter() > until:
            return
        if rows <= engine.options.max_rows and trial.fits(rows, length, _STEPS, length):
            _decode(trial, rows, length)
