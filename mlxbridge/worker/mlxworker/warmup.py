"""A model is ready when it has produced a token, not before."""

from __future__ import annotations

from mlxworker.engine import Engine
from mlxworker.errors import BAD_MODEL, INTERNAL, TOO_BIG, TOO_LARGE, FatalError, LoadError, describe
from mlxworker.logprobs import UNLIKELIEST
from mlxworker.model import NOT_FINITE
from mlxworker.protocol import Generate, Sampling, Source

_TOKENS = 2


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
