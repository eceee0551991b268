"""Real models on the real library: what these tests assert are whole answers."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

from mlxworker import adapter, model, protocol
from mlxworker.adapter import Api
from mlxworker.model import Model

ROOT = Path(__file__).resolve().parents[3]
TINY = ROOT / "internal/library/tiny"
SMALL = ROOT / "testdata/models/small"


@pytest.fixture(scope="session")
def api() -> Api:
    return adapter.load_api()


@pytest.fixture(scope="session")
def tiny(api: Api) -> Model:
    return model.load(api, protocol.Load(folder=str(TINY), name="tiny"))


@pytest.fixture(scope="session")
def small(api: Api) -> Model:
    return model.load(api, protocol.Load(folder=str(SMALL), name="small"))
