"""Engines with a folder for their prefixes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness import PATIENCE, Driver, ask_frame

from mlxworker import protocol
from mlxworker.model import Model
from mlxworker.spill import Spill

ROOM = 1 << 24
FILL = [30 + (7 * j) % 900 for j in range(1000)]


def driver_of(m: Model, folder: Path, **options: Any) -> Driver:
    how = {"prefix_bytes": ROOM, "spill_dir": str(folder), "spill_bytes": ROOM, **options}
    return Driver(m, **how)


def disk(driver: Driver) -> Spill:
    assert driver.engine._spill is not None
    return driver.engine._spill


def settle(driver: Driver) -> None:
    until = time.monotonic() + PATIENCE
    while disk(driver)._under_way or disk(driver)._restoring:
        assert time.monotonic() < until
        disk(driver).poll(wait=True)


def ended(driver: Driver) -> Driver:
    driver.engine.close(PATIENCE)
    return driver


def say(id_: str, tokens: list[int], n: int = 8) -> protocol.Generate:
    return ask_frame(id=id_, tokens=tokens, max_tokens=n)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.prefix"))
