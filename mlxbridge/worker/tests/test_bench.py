"""The measurements run, and say what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from conftest import SMALL, TINY
from harness import PATIENCE, WORKER

from bench import gap, loads, mixed, models
from bench.answer import Answer, Ask, longest_gap, rate
from bench.copying import decode_rate
from bench.figure import BenchError, Figure, median, show
from bench.process import Worker
from mlxworker import template
from mlxworker.model import Model
from mlxworker.protocol import Source

Line = dict[str, Any]


def run(start: list[str], *more: str) -> list[Line]:
    program = [sys.executable, *start, *more]
    environment = {**os.environ, "LD_PRELOAD": "", "PYTHONPATH": str(WORKER)}
    done = subprocess.run(program, cwd=WORKER, env=environment, capture_output=True, text=True, timeout=10 * PATIENCE)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("start", [["-m", "bench.bridge"], [str(WORKER / "bench/bridge.py")]])
def test_figures_come_one_a_line(start: list[str]) -> None:
    lines = run(start, "--model", str(TINY), "--rows", "1,3", "--pairs", "2", "--steps", "3", "--json")

    names = ["bridge_vs_bare_tiny", "bridge_cost_tiny", "bridge_tokens_tiny", "bare_tokens_tiny"]
    assert [line["name"] for line in lines] == [f"{name}_{rows}" for rows in (1, 3) for name in names]
    assert [line["unit"] for line in lines] == ["ratio", "ms", "tok/s", "tok/s"] * 2
    assert [line["target"] for line in lines[:4]] == [0.9, None, None, None]
    assert not any(line["at_most"] for line in lines)
    assert all(line["value"] > 0 for line in lines)
    assert {line["blas"] for line in lines} <= {"reference", "accelerate"}


@pytest.mark.parametrize(
    ("part", "judged"),
    [
        ("turns", {"turn_tiny": 0.08, "turn_again_tiny": 0}),
        ("copying", {"copy_vs_bare_tiny": 1.5, "copy_same_text_tiny": 1.0}),
        ("start", {"start_tiny": 0.6}),
        ("gap", {"gap_vs_server_tiny": 0.08, "gap_first_vs_server_tiny": 0.95}),
        ("mixed", {}),  # only small is judged
        ("cancel", {"cancel_queued_tiny": 1, "cancel_prefill_tiny": 1, "cancel_decode_tiny": 1}),
    ],
)
def test_each_part_gives_its_figures(part: str, judged: dict[str, float]) -> None:
    lines = run(["-m", f"bench.{part}"], "--model", str(TINY), "--small", "--rounds", "1", "--json")

    assert {line["name"]: line["target"] for line in lines if line["target"] is not None} == judged
    found = {line["name"]: line["value"] for line in lines}
    exact = {"turn_again_tiny": 0, "copy_same_text_tiny": 1} | {n: 1 for n in found if n.startswith("cancel_")}
    assert {n: v for n, v in found.items() if n in exact} == {n: v for n, v in exact.items() if n in found}
    assert all(value > 0 for name, value in found.items() if name not in exact)


def test_a_run_on_a_gpu_gives_all_its_figures() -> None:
    """Which measures against mlx-lm's server too, as the parts mixed and gap do."""
    lines = run(["-m", "bench.gpu"], "--shape", "test")

    assert not [line for line in lines if "missing" in line]
    targets = {line["name"]: line["target"] for line in lines if line.get("target") is not None}
    assert targets == {
        "gpu_bridge_vs_bare_test_1": 0.98,
        "gpu_bridge_vs_bare_test_2": 0.98,
        "mixed_vs_server_gpu_test_1x200_2": 1.5,
        "gap_vs_server_gpu_test": 0.1,
        "gap_first_vs_server_gpu_test": 0.95,
    }
    assert {"prefill_worker_gpu_test_200", "mixed_worker_gpu_test_1x200_2"} <= {line.get("name") for line in lines}


def test_what_has_no_time_left_is_said_to_be_missing() -> None:
    program = [sys.executable, "-m", "bench.gpu", "--shape", "test", "--seconds", "1"]
    environment = {**os.environ, "LD_PRELOAD": "", "PYTHONPATH": str(WORKER)}
    done = subprocess.run(program, cwd=WORKER, env=environment, capture_output=True, text=True, timeout=10 * PATIENCE)

    assert done.returncode == 1
    missing = [line["part"] for line in map(json.loads, done.stdout.splitlines()) if "missing" in line]
    assert missing == ["test make", "test bridge", "test server"]


def test_rates_and_gaps_are_those_of_the_times() -> None:
    one = Answer(sent=1.0, times=[1.5, 2.0, 3.0], completion_tokens=3)
    two = Answer(sent=1.25, times=[2.0, 2.125, 5.0], completion_tokens=5)

    assert rate([one, two]) == 8 / (5.0 - 1.0)
    assert one.first_seconds == 0.5
    assert longest_gap([one, two], 1.0, 1.9) == 0.5
    assert longest_gap([one, two], 2.05, 2.1) == 1.0
    assert longest_gap([one, two], 0.0, 9.0) == 2.875
    assert decode_rate(11, 2.0, 7.0) == 2.0
    with pytest.raises(BenchError, match="under way"):
        longest_gap([one], 4.0, 5.0)
    with pytest.raises(BenchError, match="no token"):
        _ = Answer(sent=1.0).first_seconds
    with pytest.raises(BenchError, match="nothing"):
        median([])


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Figure("a", 1.0, "ratio", 1.0), ["1.0000", "ratio", ">=1", "ok"]),
        (Figure("a", 0.9, "ratio", 1.0), ["0.9000", "ratio", ">=1", "short"]),
        (Figure("a", 0.9, "ms", 1.0, at_most=True), ["0.9000", "ms", "<=1", "ok"]),
        (Figure("a", 1.1, "ms", 1.0, at_most=True), ["1.1000", "ms", "<=1", "short"]),
        (Figure("a", 1.1, "ms"), ["1.1000", "ms", "-"]),
    ],
)
def test_a_line_says_whether_the_target_is_met(
    figure: Figure, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    show(figure, as_json=False)
    assert capsys.readouterr().out.split()[1:-1] == words


def test_loads_are_as_long_as_their_names_say(tiny: Model) -> None:
    def prompts(*asks: Ask) -> list[list[int]]:
        return [template.tokens_of(tiny, Source(messages=a.messages)) for a in asks]

    for number, load in enumerate(mixed.LOADS):
        asks = loads.mixed(load.name, number, load.longs, load.tokens, load.shorts, 1)
        lengths = sorted(map(len, prompts(*asks)), reverse=True)
        assert lengths[: load.longs] == pytest.approx([load.tokens] * load.longs, rel=0.02)
        assert len(lengths) == load.longs + load.shorts
        assert max(lengths[load.longs :]) < 32
    (arrival,) = prompts(Ask("arrival", loads.long(103, gap.PROMPT_TOKENS), 1))
    assert len(arrival) == pytest.approx(gap.PROMPT_TOKENS, rel=0.02)


def test_no_prompt_begins_like_another() -> None:
    """What was answered once is in a prefix store, and would be measured as if it were computed."""
    rounds = [loads.mixed("load", n, 2, 2000, 14, 1) for n in range(3)]
    texts = ["".join(m["content"] for m in ask.messages) for asks in rounds for ask in asks]

    assert len({text[: len("Count from 100 to 4")] for text in texts}) == len(texts)


def test_the_prompt_to_copy_holds_its_answer() -> None:
    for round_ in range(5):
        asked, answered, again = loads.copying(round_, 200)
        assert asked == again
        first = int(asked["content"].split()[2])
        assert answered["content"].split(", ") == [str(first + i) for i in range(200)]


def test_a_worker_that_ends_is_an_error_and_no_hang(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no config\.json"):
        Worker(tmp_path)


def test_a_load_that_ends_early_is_no_load() -> None:
    asks = [Ask("a", [], 100), Ask("b", [], 100)]
    mixed.check([Answer(0.0, completion_tokens=100), Answer(0.0, completion_tokens=95)], asks)
    with pytest.raises(BenchError, match="180 tokens"):
        mixed.check([Answer(0.0, completion_tokens=100), Answer(0.0, completion_tokens=80)], asks)


def test_the_float32_copy_is_the_same_model(tmp_path: Path) -> None:
    copied = models.float32_copy(SMALL, tmp_path)

    before: Any = mx.load(str(SMALL / "model.safetensors"))
    after: Any = mx.load(str(copied / "model.safetensors"))
    assert before.keys() == after.keys()
    assert all(w.dtype == mx.float32 and mx.array_equal(w, before[k].astype(mx.float32)) for k, w in after.items())
    assert sorted(f.name for f in copied.iterdir()) == sorted(f.name for f in SMALL.iterdir())
    assert json.loads((copied / "config.json").read_text())["dtype"] == "float32"


def test_every_token_of_a_random_model_has_a_text(tmp_path: Path) -> None:
    folder = models.random_model("test", TINY, tmp_path)

    words = json.loads((folder / "tokenizer.json").read_text())
    ids = {*words["model"]["vocab"].values(), *(t["id"] for t in words["added_tokens"])}
    assert ids == set(range(models.SHAPES["test"].vocabulary))
