"""mlx-lm's batches as the worker changes them, against whole, exact answers."""

from __future__ import annotations

import dataclasses

import pytest
from harness import Driver, ask

from mlxworker import batches, rounding
from mlxworker.lane import Lane
from mlxworker.model import Model


def count(first: int, last: int) -> str:
    return ", ".join(str(n) for n in range(first, last + 1))


@pytest.fixture
def rounding_model(tiny: Model) -> Model:
    """Return a model whose prompts are computed as with CUDA."""
    api = dataclasses.replace(tiny.api, _refine=lambda made, wanted, _: batches.refine(made, wanted, rounded=True))
    return dataclasses.replace(tiny, api=api)


def test_rounded_prompts_of_unlike_lengths_answer_exactly(rounding_model: Model) -> None:
    driver = Driver(rounding_model, prefill_chunk=24)
    driver.add(ask("a", "Count from 1 to 40."), ask("b", "Please, now: Count from 5 to 30."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 9)

    driver.run(ask("c", "Count from 1 to 25."), ask("d", "Count from 100 to 120."))

    for name, first, last in (("a", 1, 40), ("c", 1, 25), ("d", 100, 120)):
        assert driver.answers[name].text == count(first, last)


def test_rows_with_and_without_logprobs_share_a_batch(tiny: Model) -> None:
    driver = Driver(tiny)
    driver.add(ask("plain", "Count from 1 to 60."))
    driver.until(lambda: len(driver.answers["plain"].tokens) == 12)
    driver.run(ask("wants", "Count from 1 to 20.", logprobs=True))

    assert driver.answers["plain"].text == count(1, 60)
    wants = driver.answers["wants"]
    assert wants.text == count(1, 20)
    assert len(wants.logprobs) >= len(wants.tokens) - 1
    assert all(entry["l"] > -5 for entry in wants.logprobs)


def test_layers_share_the_positions_of_rows_that_joined_and_left(tiny: Model) -> None:
    driver = Driver(tiny, lanes=1)
    driver.add(ask("a", "Count from 1 to 60."))
    driver.until(lambda: len(driver.answers["a"].tokens) == 7)
    driver.add(ask("b", "Count from 1 to 10."), ask("c", "Count from 1 to 50."))
    driver.until(lambda: driver.answers["b"].reason != "")
    driver.step()

    lane = driver.engine._lanes[0]
    assert isinstance(lane, Lane)
    layers = lane._generator._generation_batch.prompt_cache

    assert len(layers) > 1
    assert all(layer.offset is layers[0].offset for layer in layers)
    driver.run()
    assert driver.answers["a"].text == count(1, 60)
    assert driver.answers["c"].text == count(1, 50)


@pytest.mark.parametrize(("tokens", "size"), [(1, 16), (16, 16), (17, 32), (333, 512), (512, 512), (513, 1024)])
def test_pieces_come_in_few_sizes(tokens: int, size: int) -> None:
    assert rounding.round_up(tokens) == size
    assert rounding.sizes(2048) == [16, 32, 64, 128, 256, 512, 1024, 1536, 2048]
