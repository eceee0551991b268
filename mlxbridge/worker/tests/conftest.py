"""Real models on the real library: what these tests assert are whole answers."""

from __future__ import annotations

import gc
import json
import os
import shutil
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
THINK, THOUGHT = 2046, 2047  # rare tokens, which become the markers
GENERATE = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"


@pytest.fixture(scope="session")
def api() -> Api:
    return adapter.load_api()


@pytest.fixture(scope="session")
def tiny(api: Api) -> Model:
    return model.load(api, protocol.Load(folder=str(TINY), name="tiny"))


@pytest.fixture(autouse=True)
def bare_shelf(tiny: Model) -> None:
    """Have no test start with the compiled grammars of another, which count against memory."""
    shelf = tiny.grammars.shelf
    shelf.tidy(busy=False, everything=True)
    if shelf.nbytes:  # a test that failed, or a cycle, still refers to some
        gc.collect()
        shelf.tidy(busy=False, everything=True)


@pytest.fixture(scope="session")
def small(api: Api) -> Model:
    return model.load(api, protocol.Load(folder=str(SMALL), name="small"))


@pytest.fixture(scope="session")
def thinker(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return tiny with a vocabulary and a template that know reasoning, and an argument that opens it in the prompt."""
    folder = tmp_path_factory.mktemp("models") / "thinker"
    shutil.copytree(TINY, folder)
    made = json.loads((folder / "tokenizer.json").read_text())
    names = {v: k for k, v in made["model"]["vocab"].items()}
    for token, marker in ((THINK, "<think>"), (THOUGHT, "</think>")):
        gone = names[token]
        del made["model"]["vocab"][gone]
        made["model"]["merges"] = [m for m in made["model"]["merges"] if "".join(m) != gone]
        made["model"]["vocab"][marker] = token
        made["added_tokens"].append({**made["added_tokens"][3], "id": token, "content": marker})
    (folder / "tokenizer.json").write_text(json.dumps(made))
    template = (folder / "chat_template.jinja").read_text()
    assert template.endswith(GENERATE)
    opens = "{%- if add_generation_prompt and enable_thinking -%}{{- '<think>\\n' -}}{%- endif -%}"
    (folder / "chat_template.jinja").write_text(template + opens)
    return model.load(api, protocol.Load(folder=str(folder), name="thinker"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of tiny's folder that may be changed."""
    out = tmp_path / "model"
    shutil.copytree(TINY, out)
    return out
