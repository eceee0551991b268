"""A model is ready when it has produced a token, not before."""

from __future__ import annotations

import logging
import time

from mlxworker.engine import Engine
from mlxworker.errors import BAD_MODEL, INTERNAL, TOO_BIG, TOO_LARGE, FatalError, LoadError, describe
from mlxworker.logprobs import UNLIKELIEST
from mlxworker.model import NOT_FINITE
from mlxworker.protocol import Generate, Sampling, Source
from mlxworker.trial import Trial

_TOKENS = 2
# Rows and the length of their prompts. A GPU compiles for each kind of size that it meets, and reads the weights then.
_SHAPES = ((1, 64), (1, 256), (1, 2048), (2, 16), (4, 16), (8, 16))
_STEPS = 2
_MOST_SECONDS = 3.0

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
    trial, left, rate = Trial(engine), _MOST_SECONDS, 0.0
    for rows, length in _SHAPES:
        if rows > engine.options.max_rows or not trial.fits(rows, length, _STEPS, length):
            continue
        if rate and rows * length / rate > left:
            continue
        started = time.perf_counter()
        try:
            with trial.lane(rows, length, _STEPS) as lane:
                while lane.prefilling:
                    lane.next(length)
                for _ in range(_STEPS):
                    lane.next(length)
        except Exception as e:
            log.warning("warm-up ended early: %s", describe(e))
            return
        took = time.perf_counter() - started
        left, rate = left - took, rows * length / took
