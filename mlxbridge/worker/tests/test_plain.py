"""A tokenizer made without transformers gives the ids that transformers gives, or transformers makes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, TINY
from tokenizers_alike import (
    QWEN_TEMPLATE,
    TC,
    TJ,
    both,
    edit,
    make_qwen,
    same,
    same_facts,
)

from mlxworker import adapter, recipe
from mlxworker.adapter import Api


@pytest.mark.parametrize("which", [TINY, SMALL], ids=["tiny", "small"])
def test_our_models_have_the_same_ids_with_and_without_transformers(api: Api, which: Path) -> None:
    plain, usual = both(api, which)
    same(plain, usual, seed=1)
    same_facts(plain, usual)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_moe"])
def test_a_folder_like_qwens_has_the_same_ids(api: Api, folder: Path, kind: str) -> None:
    make_qwen(folder)
    edit(folder, "config.json", model_type=kind)
    plain, usual = both(api, folder)
    assert type(usual._tokenizer).__name__ == "Qwen2Tokenizer"
    assert usual.has_thinking
    same(plain, usual, seed=2)
    same_facts(plain, usual)


@pytest.mark.parametrize("kind", sorted(recipe._KNOWN_MODELS - recipe._OWN_CLASS))
def test_the_class_that_transformers_takes_is_the_one_that_was_compared(api: Api, folder: Path, kind: str) -> None:
    edit(folder, "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    from transformers import AutoTokenizer

    assert type(AutoTokenizer.from_pretrained(folder)).__name__ == "TokenizersBackend"
    recipe.read(folder, api.versions["transformers"])


def like_llama(folder: Path) -> None:
    """A text starts with a token, and a word of the vocabulary may skip the merges, as with Llama 3."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["ignore_merges"] = True
    begin = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    content["post_processor"]["single"].insert(0, begin)
    content["post_processor"]["special_tokens"] = {
        "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    begins = {"__type": "AddedToken", **second_token(folder)}
    edit(folder, "tokenizer_config.json", bos_token=begins, add_eos_token=True)
    edit(folder, "config.json", model_type="llama")


def template_in_config(folder: Path, template: object) -> None:
    edit(folder, "tokenizer_config.json", chat_template=template)
    (folder / "chat_template.jinja").unlink()


def qwens_class_in_llama(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    edit(folder, "config.json", model_type="llama")


VARIATIONS: dict[str, Callable[[Path], None]] = {
    "llama": like_llama,
    "no post processor": lambda f: edit(f, "tokenizer.json", post_processor=None),
    "template in the config": lambda f: template_in_config(f, QWEN_TEMPLATE),
    "template in both": lambda f: edit(f, "tokenizer_config.json", chat_template="{{ never }}"),
    "map that agrees": lambda f: edit(
        f, "special_tokens_map.json", eos_token={"content": "<|im_end|>"}, pad_token="<|endoftext|>"
    ),
    "tool parser by name": lambda f: edit(f, "tokenizer_config.json", tool_parser_type="json_tools"),
}


@pytest.mark.parametrize("change", VARIATIONS.values(), ids=VARIATIONS.keys())
def test_variations_of_a_plain_folder_have_the_same_ids(api: Api, folder: Path, change: Callable[[Path], None]) -> None:
    change(folder)
    plain, usual = both(api, folder)
    same(plain, usual, seed=3, rounds=40)
    same_facts(plain, usual)


def second_token(folder: Path, **changes: Any) -> dict[str, Any]:
    token: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())["added_tokens"][1]
    return {k: v for k, v in (token | changes).items() if k != "id"}


def break_added(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][1] = "<|im_start|>"
    (folder / "tokenizer.json").write_text(json.dumps(content))


def qwen_with(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        make_qwen(folder)
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"] |= changes.pop("model", {})
        (folder / "tokenizer.json").write_text(json.dumps(content | changes))

    return change


def qwen_with_a_gap(folder: Path) -> None:
    make_qwen(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][-1]["id"] += 5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    edit(folder, "tokenizer_config.json", added_tokens_decoder="remove")


REASONS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "code of the model": ("config.json names Python", lambda f: edit(f, "config.json", auto_map={"AutoModel": "x.Y"})),
    "code of the tokenizer": (
        "config.json names Python",
        lambda f: edit(f, TC, auto_map={"AutoTokenizer": ["x.Y", None]}),
    ),
    "unknown model": ("tokenizers of gemma", lambda f: edit(f, "config.json", model_type="gemma")),
    "named model": ("tokenizers of qwen3", lambda f: edit(f, "config.json", model_name="opencua")),
    "unknown class": ("tokenizer class LlamaTokenizer", lambda f: edit(f, TC, tokenizer_class="LlamaTokenizer")),
    "no class": ("tokenizer class None", lambda f: edit(f, TC, tokenizer_class="remove")),
    "class for others": (
        "tokenizer class Qwen2Tokenizer of llama",
        qwens_class_in_llama,
    ),
    "unknown setting": ("sets chat_template_type", lambda f: edit(f, TC, chat_template_type="deepseek_v32")),
    "token of its own": ("sets image_token", lambda f: edit(f, TC, image_token="<image>")),
    "split special tokens": ("sets split_special", lambda f: edit(f, TC, split_special_tokens=True)),
    "prefix space": ("sets add_prefix_space", lambda f: edit(f, TC, add_prefix_space=True)),
    "another backend": ("wants sentencepiece", lambda f: edit(f, TC, backend="sentencepiece")),
    "named extra tokens": ("names of their own", lambda f: edit(f, TC, extra_special_tokens={"image": "<image>"})),
    "no length": ("no number", lambda f: edit(f, TC, model_max_length="long")),
    "special token of no kind": ("no text as eos_token", lambda f: edit(f, TC, eos_token=7)),
    "special token that is none": ("the special token <pad>", lambda f: edit(f, TC, pad_token="<pad>")),
    "extra token that is none": ("the special token <x>", lambda f: edit(f, TC, extra_special_tokens=["<x>"])),
    "token only in the config": (
        "do not agree on token 9999",
        lambda f: edit(f, TC, added_tokens_decoder={"9999": {**second_token(f), "content": "<x>"}}),
    ),
    "token that differs": (
        "do not agree on token 1",
        lambda f: edit(f, TC, added_tokens_decoder={"1": second_token(f, rstrip=True)}),
    ),
    "token elsewhere": ("added_tokens.json has <x>", lambda f: edit(f, "added_tokens.json", **{"<x>": 2050})),
    "map that differs": (
        "do not agree on eos_token",
        lambda f: edit(f, "special_tokens_map.json", eos_token="<|endoftext|>"),
    ),
    "no tokenizer.json": ("no tokenizer.json", lambda f: (f / TJ).unlink()),
    "no config": ("no tokenizer_config.json", lambda f: (f / TC).unlink()),
    "broken tokenizer.json": ("tokenizer.json cannot be read", lambda f: (f / TJ).write_text("{")),
    "deep tokenizer.json": ("tokenizer.json cannot be read", lambda f: (f / TJ).write_text("[" * 99_999)),
    "tokenizer.json that is a list": ("tokenizer.json is no object", lambda f: (f / TJ).write_text("[]")),
    "unigram": ("no byte-pair", lambda f: edit(f, TJ, model={"type": "Unigram", "vocab": [["a", 0.0]]})),
    "truncation": (
        "sets truncation",
        lambda f: edit(
            f, TJ, truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        ),
    ),
    "added token that is none": ("an added token that is none", break_added),
    "several templates": ("several chat templates", lambda f: (f / "additional_chat_templates").mkdir()),
    "templates by name": (
        "several chat templates",
        lambda f: template_in_config(f, [{"name": "default", "template": "x"}]),
    ),
    "template that is no text": ("cannot be read", lambda f: (f / "chat_template.jinja").write_bytes(b"\xff\xfe\xff")),
    "qwen that normalises otherwise": ("not what transformers builds", qwen_with(normalizer={"type": "NFKC"})),
    "qwen that ignores merges": ("not what transformers builds", qwen_with(model={"ignore_merges": True})),
    "qwen without a split": ("not laid out", qwen_with(pre_tokenizer=None)),
    "qwen with a gap": ("leaves numbers out", qwen_with_a_gap),
    "tiny as qwen2": ("not what transformers builds for qwen2", lambda f: edit(f, "config.json", model_type="qwen2")),
}


@pytest.mark.parametrize(("why", "change"), REASONS.values(), ids=REASONS.keys())
def test_what_is_not_known_to_be_plain_is_transformers_work(
    api: Api, folder: Path, why: str, change: Callable[[Path], Any]
) -> None:
    change(folder)
    with pytest.raises(recipe.NotPlainError) as e:
        recipe.read(folder, api.versions["transformers"])
    assert why in str(e.value)
    assert "\n" not in str(e.value)


def test_another_transformers_is_asked_itself() -> None:
    with pytest.raises(recipe.NotPlainError, match=r"transformers 5\.24\.0 was not compared"):
        recipe.read(TINY, "5.24.0")
    with pytest.raises(recipe.NotPlainError):
        recipe.read(TINY, "")


def test_versions_are_those_that_the_packages_say() -> None:
    from importlib import metadata

    for name, version in adapter.versions().items():
        if name != "python":
            assert version == metadata.version(name.replace("_", "-"))
