"""The worker on an NVIDIA GPU: `python -m bench.gpu --seconds 500`, from this package's parent folder in PYTHONPATH.

Models in the shapes of Qwen3 0.6B and 8B are made with random bfloat16 weights, so nothing has to be carried there.
For each: the bridge against mlx-lm's batch_generate at 1, 8 and 32 rows; long and short prompts at once, and a long one
that arrives while others stream, against mlx-lm's server; and absolute speeds. Every figure is a JSON line as soon as
it is there, since such a machine may end a run; what does not fit into the time is not begun, and a line says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import blas, gap, loads, mixed, models, part
from bench.answer import Ask, Endpoint, answer
from bench.figure import BenchError, Figure, median, show
from bench.process import Worker
from bench.server import Server

_TOKENIZER = Path(__file__).resolve().parents[3] / "internal" / "library" / "tiny"
_ROUNDS = 3
_BRIDGE = {1: 0.98, 8: 0.98, 32: 0.98}
_MIXED, _GAP = 1.5, 0.1
_PREFILL_TOKENS = 2048
# A part is begun while this much of the time is left: what one of the largest model's takes.
_LEAST_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """One model's part of a run; quick only shows that it works."""

    folder: Path
    quick: bool

    @property
    def name(self) -> str:
        """Return the model's name, as figures carry it."""
        return f"gpu_{self.folder.name}"

    def emit(self, figure: Figure) -> None:
        """Print a figure at once."""
        show(figure, as_json=True)

    def bridge(self) -> None:
        """Compare with batch_generate, in a process of its own, which gives its memory back."""
        rows = {1: 0.98, 2: 0.98} if self.quick else _BRIDGE
        which = ["--rows", ",".join(map(str, rows)), "--pairs", "3" if self.quick else "15"]
        program = [sys.executable, "-m", "bench.bridge", "--model", str(self.folder), "--json", *which]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            for line in map(json.loads, process.stdout or ()):
                name, _, n = line["name"].rpartition("_")
                target = rows[int(n)] if name.startswith("bridge_vs_bare") else None
                self.emit(Figure(f"gpu_{line['name']}", line["value"], line["unit"], target))
        if process.returncode:
            raise BenchError(f"bench.bridge ended with exit code {process.returncode}")

    def against_server(self) -> None:
        """Compare with mlx-lm's server: the loads, and an arrival; then measure the worker alone."""
        chosen = [mixed.Load("1x200_2", 1, 200, 2, 0)] if self.quick else list(mixed.LOADS)
        tokens = 8 if self.quick else mixed.ANSWER_TOKENS
        with ExitStack() as stack:
            worker: Endpoint = stack.enter_context(closing(Worker(self.folder)))
            self.prefill(worker)
            server: Endpoint = stack.enter_context(closing(Server(self.folder)))
            ends = {"server": server, "worker": worker}
            mixed.measure(ends, mixed.Load("warm-up", 1, 600, 3, 0), 1, 8)
            for load in chosen:
                rates = mixed.measure(ends, load, 1 if self.quick else _ROUNDS, tokens)
                label = f"{self.name}_{load.name}"
                self.emit(Figure(f"mixed_vs_server_{label}", mixed.ratios(rates, "server"), "ratio", _MIXED))
                for who, values in rates.items():
                    self.emit(Figure(f"mixed_{who}_{label}", median(values), "tok/s"))
            length = 300 if self.quick else gap.PROMPT_TOKENS
            gap.compare(self.emit, self.name, server, worker, 1 if self.quick else _ROUNDS, length, _GAP)

    def prefill(self, worker: Endpoint) -> None:
        """Measure how fast a prompt alone is computed, text to first token."""
        length = 200 if self.quick else _PREFILL_TOKENS
        speeds = []
        for number in range(-1, 1 if self.quick else _ROUNDS):
            (found,) = answer(worker, [Ask(f"prefill{number}", loads.long(150 + 31 * number, length), 2)])
            speeds.append(found.prompt_tokens / found.first_seconds)
        self.emit(Figure(f"prefill_worker_{self.name}_{length}", median(speeds[1:]), "tok/s"))


def run(shapes: list[str], seconds: float, folder: Path) -> int:
    """Measure all shapes; return how many parts failed or were not begun."""
    until, missing = time.perf_counter() + seconds, 0
    for shape in shapes:
        one = Run(folder / shape, quick=shape == "test")
        make = partial(models.random_model, shape, _TOKENIZER, folder)
        for name, todo in (("make", make), ("bridge", one.bridge), ("server", one.against_server)):
            missing += not attempt(f"{shape} {name}", todo, until - time.perf_counter())
    return missing


def attempt(name: str, todo: Callable[[], object], left: float) -> bool:
    """Run a part if there is time for it; say why there are no figures where it has none."""
    if left < _LEAST_SECONDS:
        print(json.dumps({"part": name, "missing": f"{left:.0f} s were left"}), flush=True)
        return False
    begin = time.perf_counter()
    try:
        todo()
    except (BenchError, OSError) as e:
        print(json.dumps({"part": name, "missing": str(e)}), flush=True)
        return False
    print(json.dumps({"part": name, "seconds": round(time.perf_counter() - begin, 1)}), flush=True)
    return True


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", action="append", choices=sorted(models.SHAPES), help="which model; may be repeated")
    parser.add_argument("--seconds", type=float, default=500.0, help="begin nothing that would end later")
    part.add_blas(parser)
    chosen = parser.parse_args()
    part.prepare(chosen.blas, ["-m", "bench.gpu"])
    print(json.dumps({"blas": blas.loaded()}), flush=True)
    with tempfile.TemporaryDirectory(prefix="mlxctl-bench-") as folder:
        return 1 if run(chosen.shape or ["0.6B", "8B"], chosen.seconds, Path(folder)) else 0


if __name__ == "__main__":
    sys.exit(main())
