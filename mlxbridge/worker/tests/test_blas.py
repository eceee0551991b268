"""Which BLAS multiplies is said, and makes no answer another one."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from conftest import SMALL, TINY
from harness import Process

from bench import blas as fast

QUESTIONS = (
    "Count from 1 to 60.",
    "Count from 90 to 70.",
    "Repeat after me: the quick brown fox jumps over the lazy dog.",
    "What is 17 plus 25?",
)


def answers(folder: Path) -> tuple[str, list[str]]:
    """Return which BLAS a worker says it runs on, and its answers to questions asked together."""
    worker = Process()
    try:
        worker.load(folder)
        ids = [f"q{i}" for i in range(len(QUESTIONS))]
        for id_, question in zip(ids, QUESTIONS, strict=True):
            messages = [{"role": "user", "content": question}]
            worker.send({"type": "gen", "id": id_, "messages": messages, "temperature": 0, "max_tokens": 150})
        done = worker.collect(ids)
        ready = next(frame for frame in worker.seen if frame["type"] == "ready")
        return ready["versions"]["blas"], [done[i].text for i in ids]
    finally:
        worker.close()


@pytest.mark.parametrize("folder", [TINY, SMALL], ids=["tiny", "small"])
def test_greedy_answers_are_the_same_with_a_fast_blas(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    name, slow = answers(folder)
    assert slow[0].startswith("1, 2, 3, 4, 5")
    if platform.system() == "Darwin":
        assert name == "Accelerate (system)"
        return
    assert name == "reference (wheel)"
    library = fast.find()
    assert library is not None, "neither the distribution's OpenBLAS nor a C compiler: scripts/deps.sh test"
    monkeypatch.setenv("LD_PRELOAD", os.fspath(library))
    name, quick = answers(folder)
    assert name.endswith("(preloaded)")
    # numpy's OpenBLAS, behind a function of the benchmark's, does not tell its version.
    assert name.startswith("OpenBLAS 0.") or "mlxblas" in library.name
    assert quick == slow
