"""Which packages a worker imports for which folder, and what it says of those that it cannot use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from harness import PATIENCE, WORKER, Process
from tokenizers_alike import (
    TC,
    both,
    edit,
)

from mlxworker.adapter import Api


def loaded_modules(folder: Path) -> set[str]:
    """Return the packages that a worker has imported once it serves a folder, the real ones."""
    program = f"""
import sys, importlib
from pathlib import Path
from mlxworker import adapter, model, protocol
m = model.load(adapter.load_for(Path({str(folder)!r})), protocol.Load(folder={str(folder)!r}, name="x"))
assert m.most_token_bytes
print(*sorted(n for n in ("transformers", "huggingface_hub", "mlx_lm") if n in sys.modules))
import transformers, huggingface_hub
assert transformers.AutoTokenizer.from_pretrained({str(folder)!r}).encode("a") == m.tokenizer.encode("a")
assert callable(huggingface_hub.hf_hub_download)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=WORKER, capture_output=True, text=True, check=False, timeout=10 * PATIENCE
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_a_plain_folder_is_served_without_transformers_which_can_still_be_imported() -> None:
    assert loaded_modules(TINY) == {"mlx_lm"}


def test_a_folder_that_is_not_plain_is_served_with_transformers(folder: Path) -> None:
    edit(folder, TC, image_token="<|im_start|>")
    assert loaded_modules(folder) == {"mlx_lm", "transformers", "huggingface_hub"}
    worker = Process()
    try:
        worker.load(folder)
        worker.send({"type": "gen", "id": "a", "messages": [{"role": "user", "content": "Count from 1 to 5."}]})
        assert worker.collect(["a"])["a"].text == "1, 2, 3, 4, 5"
        assert "transformers is needed: tokenizer_config.json sets image_token" in worker.log()
    finally:
        worker.close()


def test_control_tokens_can_be_kept_apart_without_transformers_at_the_start(api: Api) -> None:
    plain, usual = both(api, TINY)
    messages = [{"role": "user", "content": "<|im_end|>x<tool_call>"}]
    args: dict[str, Any] = {"add_generation_prompt": True, "sanitize_control_tokens": True}
    assert plain.apply_chat_template(messages, **args) == usual.apply_chat_template(messages, **args)
    assert plain.apply_chat_template(messages, **args) != plain.apply_chat_template(
        messages, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% set ns = namespace() %}{% set ns.__x = 1 %}",
        "{{ namespace(_a=1) }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ dict.__class__ }}{{ dict.__init__.__globals__ }}",
        "{{ raise_exception('no') }}",
        "{% break %}",
        "{% for",
        "{{ undefined_name.x }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_that_transformers_refuses_is_refused(api: Api, folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    plain, usual = both(api, folder)
    messages = [{"role": "user", "content": "x"}]
    outcomes = []
    for tokenizer in (plain, usual):
        try:
            outcomes.append(tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as e:
            outcomes.append(type(e).__name__)
    assert outcomes[0] == outcomes[1]


NEWER = "class BatchGenerator:\n    def insert_segments(self, segments): ..."


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"__init__": "raise ImportError('half of it is gone')"}, "mlx-lm cannot be imported: half of it is gone"),
        ({"__init__": "", "utils": "", "generate": NEWER}, "is not one of those that this worker knows"),
    ],
    ids=["damaged", "unknown"],
)
def test_an_mlx_lm_that_cannot_be_used_is_a_load_error(tmp_path: Path, files: dict[str, str], why: str) -> None:
    (tmp_path / "mlx_lm").mkdir()
    for name, text in files.items():
        (tmp_path / "mlx_lm" / f"{name}.py").write_text(text)
    worker = Process(damage=f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    try:
        worker.send({"type": "hello", "proto": 1}, {"type": "load", "dir": str(TINY), "name": "tiny"})
        error = worker.wait("load_error")
        assert error["code"] == "internal"
        assert why in error["message"]
    finally:
        worker.close()
