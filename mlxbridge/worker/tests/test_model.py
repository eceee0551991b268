"""Model folders: what is refused, and with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from harness import Process

from mlxworker import memory, model, protocol
from mlxworker.adapter import Api
from mlxworker.errors import LoadError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "m"
    shutil.copytree(TINY, copy)
    return copy


def refused(api: Api, folder: Path, **fields: Any) -> LoadError:
    with pytest.raises(LoadError) as e:
        model.load(api, protocol.Load(folder=str(folder), name="m", **fields))
    assert "\n" not in e.value.message
    return e.value


def change_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_no_folder(api: Api, tmp_path: Path) -> None:
    error = refused(api, tmp_path / "nothing")
    assert (error.code, "is not a folder" in error.message) == ("model_invalid", True)


def test_no_config(api: Api, folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refused(api, folder).message.startswith("no config.json")


def test_config_that_is_no_json(api: Api, folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(api, folder).message


def test_no_weights(api: Api, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no model*.safetensors" in refused(api, folder).message


def test_weights_that_are_cut_off(api: Api, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "is cut off" in refused(api, folder).message


def test_weights_that_are_none(api: Api, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs\n" * 4)
    assert "is not a safetensors file" in refused(api, folder).message


def test_weights_of_another_model(api: Api, folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)
    error = refused(api, folder)
    assert error.code == "model_invalid"
    assert "weights cannot be loaded" in error.message


def test_weights_of_another_shape(api: Api, folder: Path) -> None:
    change_config(folder, hidden_size=64)
    error = refused(api, folder)
    assert error.code == "model_invalid"
    assert "weights cannot be loaded" in error.message


def test_a_file_of_weights_that_is_missing(api: Api, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    file = folder / "model-00002-of-00002.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header[next(name for name in header if name != "__metadata__")]
    body = json.dumps(header).encode()
    file.write_bytes(len(body).to_bytes(8, "little") + body + data[8 + length :])
    assert "weights cannot be loaded" in refused(api, folder).message


def test_an_empty_file_of_weights(api: Api, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert "model.safetensors cannot be read" in refused(api, folder).message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {}}'])
def test_a_tokenizer_that_is_none(api: Api, folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    assert refused(api, folder).code == "model_invalid"


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"model_type": 3}'])
def test_a_config_of_another_kind(api: Api, folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json has no model_type" in refused(api, folder).message


def test_a_config_without_what_the_model_needs(api: Api, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    assert refused(api, folder).code == "model_invalid"


def test_a_chat_template_that_is_broken_fails_requests_not_the_model(api: Api, folder: Path) -> None:
    from mlxworker import rows
    from mlxworker.errors import RequestError

    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["chat_template"] = "{% for %}"
    file.write_text(json.dumps(config))
    for other in folder.glob("*.jinja"):
        other.write_text("{% for %}")
    loaded = model.load(api, protocol.Load(folder=str(folder), name="m"))
    frame = {"id": "a", "messages": [{"role": "user", "content": "x"}]}

    with pytest.raises(RequestError) as e:
        rows.make_row(loaded, protocol.parse_generate(frame))
    assert e.value.field == "messages"


def test_an_architecture_that_nobody_knows(api: Api, folder: Path) -> None:
    change_config(folder, model_type="abacus")
    assert refused(api, folder).code == "unsupported"


def test_code_in_the_folder_is_not_run(api: Api, folder: Path) -> None:
    change_config(folder, model_file="evil.py")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert refused(api, folder).code == "unsupported"


def test_no_tokenizer(api: Api, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "tokenizer cannot be loaded" in refused(api, folder).message


def test_too_big_is_said_before_anything_is_read(api: Api, folder: Path) -> None:
    need = memory.weight_bytes(folder, as_float32=True)
    error = refused(api, folder, memory_bytes=need - 1)
    assert error.code == "model_too_big"
    assert f"{need} bytes" in error.message


def test_the_headers_tell_the_exact_size(api: Api) -> None:
    loaded = model.load(api, protocol.Load(folder=str(TINY), name="tiny"))

    assert memory.weight_bytes(TINY, as_float32=True) == loaded.weight_bytes
    assert memory.weight_bytes(TINY, as_float32=False) == loaded.weight_bytes // 2


def test_defaults_come_from_generation_config(api: Api, folder: Path) -> None:
    from mlxworker import rows
    from mlxworker.sampling import Policy

    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [2, 0]})
    )
    loaded = model.load(api, protocol.Load(folder=str(folder), name="m"))
    made = rows.make_row(loaded, protocol.parse_generate({"id": "a", "prompt": "x", "top_k": 5}))
    greedy = rows.make_row(loaded, protocol.parse_generate({"id": "a", "prompt": "x", "temperature": 0}))

    assert made.draw.policy == Policy(temperature=0.6, top_p=0.95, top_k=5)
    assert greedy.draw.policy == Policy()
    assert loaded.eos == [0, 2]


def test_a_worker_that_cannot_load_says_so_and_ends(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    process = Process()
    try:
        process.send({"type": "hello", "proto": 1}, {"type": "load", "dir": str(folder), "name": "m"})
        error = process.wait("load_error")
        assert error["code"] == "model_invalid"
        assert process.exit_code() == 1
    finally:
        process.close()
