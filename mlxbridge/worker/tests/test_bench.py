"""The measurements run, and say what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import TINY
from harness import WORKER


@pytest.mark.parametrize("start", [["-m", "bench.bridge"], [str(WORKER / "bench/bridge.py")]])
def test_figures_come_one_a_line(start: list[str]) -> None:
    program = [sys.executable, *start, "--model", str(TINY), "--rows", "1,3", "--pairs", "2", "--steps", "3", "--json"]
    done = subprocess.run(
        program, cwd=WORKER, env={**os.environ, "LD_PRELOAD": ""}, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = ["bridge_vs_bare_tiny", "bridge_cost_tiny", "bridge_tokens_tiny", "bare_tokens_tiny"]
    assert [line["name"] for line in lines] == [f"{name}_{rows}" for rows in (1, 3) for name in names]
    assert [line["unit"] for line in lines] == ["ratio", "ms", "tok/s", "tok/s"] * 2
    assert [line["target"] for line in lines[:4]] == [0.9, None, None, None]
    assert all(line["value"] > 0 for line in lines)
    assert {line["blas"] for line in lines} <= {"reference", "accelerate"}
