"""What the parts of the benchmark have in common: their options, the environment, and the fast BLAS."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench import blas
from bench.figure import BenchError, Figure, show
from mlxworker import accelerator

LEAST_ROUNDS = 3

Emit = Callable[[Figure], None]


@dataclass(frozen=True)
class Setting:
    """What a part is told, and where it may write."""

    model: Path
    rounds: int
    small: bool  # only to see that the part runs: its figures mean nothing
    scratch: Path
    emit: Emit

    @property
    def name(self) -> str:
        """Return the model's name, as figures carry it."""
        return self.model.name


def main(module: str, about: str | None, run: Callable[[Setting], None], rounds: int = LEAST_ROUNDS) -> int:
    """Run a part as a program; return its exit code."""
    parser = argparse.ArgumentParser(prog=module, description=(about or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a model that mlx-lm can load")
    parser.add_argument("--rounds", type=int, default=rounds, help="measure so often and take the median")
    parser.add_argument("--small", action="store_true", help="tiny loads, only to see that it runs")
    parser.add_argument("--json", action="store_true", help="one object a line")
    add_blas(parser)
    chosen = parser.parse_args()
    prepare(chosen.blas, ["-m", module])
    with tempfile.TemporaryDirectory(prefix="mlxctl-bench-") as scratch:
        setting = Setting(
            model=chosen.model.resolve(),
            rounds=max(1, chosen.rounds),
            small=chosen.small,
            scratch=Path(scratch),
            emit=lambda figure: show(figure, chosen.json),
        )
        try:
            run(setting)
        except BenchError as e:
            print(f"{module}: {e}", file=sys.stderr)
            return 1
    return 0


def add_blas(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the library that multiplies."""
    parser.add_argument(
        "--blas", choices=("fast", "wheel"), default="fast", help="on a Linux CPU: OpenBLAS, or MLX's own"
    )


def prepare(chosen: str, start: list[str]) -> None:
    """Set the environment that workers and mlx-lm get; where a fast BLAS is found start again with it, by start."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if sys.platform == "darwin" or accelerator.has_cuda():
        return
    os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    library = blas.find()
    if chosen == "fast" and library is not None and "LD_PRELOAD" not in os.environ:
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        os.execve(sys.executable, [sys.executable, *start, *sys.argv[1:]], environment)


def leave(code: int) -> NoReturn:
    """End a process in which a worker ran: its reader of frames ends the process as well, and not with this code."""
    sys.stdout.flush()
    os._exit(code)
