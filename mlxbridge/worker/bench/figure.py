"""One thing measured, as one line: name, value, unit, target and the BLAS that multiplied."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from bench import blas


class BenchError(Exception):
    """What was to be measured did not happen; the text says what did."""


@dataclass(frozen=True)
class Figure:
    """A value with its unit. target is a bound, from below unless at_most; None is no target."""

    name: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False


def show(figure: Figure, as_json: bool) -> None:
    """Print a figure: an object, or columns for people."""
    which = blas.loaded()
    if as_json:
        at_most = figure.at_most and figure.target is not None
        line = {**asdict(figure), "value": round(figure.value, 4), "at_most": at_most, "blas": which}
        print(json.dumps(line), flush=True)
        return
    target, verdict = "-", ""
    if figure.target is not None:
        target = f"{'<=' if figure.at_most else '>='}{figure.target:g}"
        met = figure.value <= figure.target if figure.at_most else figure.value >= figure.target
        verdict = "ok" if met else "short"
    print(f"{figure.name:<36} {figure.value:>12.4f} {figure.unit:<7} {target:>7} {verdict:<5}  {which}", flush=True)


def median(values: Iterable[float]) -> float:
    """Return the middle one. Raises BenchError where there is none."""
    found = list(values)
    if not found:
        raise BenchError("nothing was measured")
    return statistics.median(found)
