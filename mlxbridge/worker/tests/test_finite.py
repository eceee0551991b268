"""Numbers that are none: refused at load, written as the unlikeliest where they come later."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from conftest import TINY
from harness import Process

from mlxworker import frames, logprobs, model, warmup
from mlxworker.engine import Engine, Options
from mlxworker.errors import LoadError
from mlxworker.model import Model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_log_probability_that_is_no_number_is_the_unlikeliest(tiny: Model, value: float) -> None:
    lines = [mx.array([value] * 8), mx.array([-1.0, value, value, -2.0, value, value, value, value])]

    none, some = logprobs.gather(tiny.words, lines, [3, 0], [2, 8])

    assert none["l"] == -9999.0
    assert [e["l"] for e in none["top"]] == [-9999.0] * 2
    assert some["l"] == -1.0
    assert sorted(e["l"] for e in some["top"]) == [-9999.0] * 6 + [-2.0, -1.0]
    assert json.loads(frames.encode({"type": "step", "rows": [["a", "", [3], [none, some]]]})[4:])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_at_load(tmp_path: Path, value: float) -> None:
    shutil.copytree(TINY, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    weights: Any = mx.load(str(file))
    name = next(n for n in weights if n.endswith("mlp.down_proj.weight"))
    weights[name] = mx.full(weights[name].shape, value, weights[name].dtype)
    mx.save_safetensors(str(file), weights, {"format": "mlx"})
    process = Process()
    try:
        process.send({"type": "hello", "proto": 1}, {"type": "load", "dir": str(tmp_path / "m"), "name": "m"})
        error = process.wait("load_error")

        assert (error["code"], error["message"]) == ("model_invalid", model.NOT_FINITE)
        assert process.exit_code() == 1
    finally:
        process.close()


class _Overflows:
    """The real model, but what it computes from a call on is no number."""

    def __init__(self, inner: Any, at: int) -> None:
        self.inner, self.left = inner, at

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.left -= 1
        logits = self.inner(*arguments, **keywords)
        return logits if self.left >= 0 else logits * math.nan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_token_from_logits_that_are_no_numbers_does_not_make_ready(tiny: Model, after: int) -> None:
    broken = dataclasses.replace(tiny, net=_Overflows(tiny.net, after))

    with pytest.raises(LoadError) as e:
        warmup.produce_token(Engine(broken, Options()))
    assert (e.value.code, e.value.message) == ("model_invalid", model.NOT_FINITE)


def test_a_vocabulary_padded_with_minus_infinity_is_in_order(tiny: Model) -> None:
    class Padded(_Overflows):
        def __call__(self, *arguments: Any, **keywords: Any) -> Any:
            logits = self.inner(*arguments, **keywords)
            return mx.where(mx.arange(logits.shape[-1]) > 2000, -mx.inf, logits)

    assert model._probe(Padded(tiny.net, 0))[0] == 2048
    warmup.produce_token(Engine(dataclasses.replace(tiny, net=Padded(tiny.net, 0)), Options()))
