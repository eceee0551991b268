"""Says whether a folder's tokenizer can be made without transformers, or why not.

transformers makes up to six files and a table of classes into a tokenizer. A folder is plain when all of that ends in
what tokenizer.json says, as it is: then importing transformers, most of a worker's start, can be left out. Only what is
known to be so counts; anything else is transformers' work. Checked against transformers 5.23.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRANSFORMERS = "5.23."
# Models for which transformers takes the class that tokenizer_config.json names; for qwen2 it always takes its own.
# fmt: off
_KNOWN_MODELS = frozenset((
    "exaone4", "glm4", "glm4_moe", "granite", "lfm2", "llama", "olmo2", "olmo3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "qwen3_next", "seed_oss", "smollm3",
))
# fmt: on
_OWN_CLASS = frozenset(("qwen2",))
# These classes take tokenizer.json as it is.
_AS_IT_IS = frozenset(("PreTrainedTokenizerFast", "TokenizersBackend"))
# These take its vocabulary and build the rest themselves, as below.
_QWEN = frozenset(("Qwen2Tokenizer", "Qwen2TokenizerFast"))
_QWEN_MODELS = frozenset(("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next"))
_QWEN_SPECIAL = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What tokenizer_config.json may say without a change to the ids.
# fmt: off
_HARMLESS = frozenset((
    "add_bos_token", "add_eos_token", "added_tokens_decoder", "additional_special_tokens", "backend", "chat_template",
    "clean_up_tokenization_spaces", "errors", "extra_special_tokens", "is_local", "legacy", "local_files_only",
    "model_input_names", "model_max_length", "name_or_path", "padding_side", "tokenizer_class", "tool_parser_type",
    "truncation_side", *_SPECIAL,
))
# fmt: on
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class NotPlainError(Exception):
    """The folder's tokenizer is transformers' work. It says why."""


@dataclass(frozen=True)
class Recipe:
    """All that a plain tokenizer is made of, beside tokenizer.json."""

    folder: Path
    config: dict[str, Any]  # of tokenizer_config.json
    special: dict[str, str]  # by the names that templates know: bos_token, eos_token, …
    template: str | None


def read(folder: Path, transformers: str) -> Recipe:
    """Return how this release of transformers would make a folder's tokenizer. Raises NotPlainError."""
    if not transformers.startswith(TRANSFORMERS):
        raise NotPlainError(f"transformers {transformers} was not compared")
    model = _object(folder / "config.json")
    config = _object(folder / "tokenizer_config.json")
    content = _object(folder / "tokenizer.json")
    _check_config(model, config)
    qwen = _class_of(model, config) in _QWEN
    if qwen:
        _check_qwen(model, content)
    _check_content(content)
    special = _special(_QWEN_SPECIAL | config if qwen else config)
    _check_tokens(folder, config, content, special)
    return Recipe(folder, config, special, _template(folder, config))


def _special(config: dict[str, Any]) -> dict[str, str]:
    special = {}
    for name in _SPECIAL:
        if config.get(name) is not None:
            text = _text_of(config[name])
            if text is None:
                raise NotPlainError(f"tokenizer_config.json has no text as {name}")
            special[name] = text
    return special


def _check_config(model: dict[str, Any], config: dict[str, Any]) -> None:
    for name, holder in (("config.json", model), ("tokenizer_config.json", config)):
        if "auto_map" in holder:
            raise NotPlainError(f"{name} names Python code")
    if model.get("model_type") not in _KNOWN_MODELS or "model_name" in model:
        raise NotPlainError(f"tokenizers of {model.get('model_type')} were not compared")
    unknown = sorted(config.keys() - _HARMLESS - {"add_prefix_space", "split_special_tokens"})
    if unknown:
        raise NotPlainError(f"tokenizer_config.json sets {unknown[0]}")
    for name in ("add_prefix_space", "split_special_tokens"):
        if config.get(name):
            raise NotPlainError(f"tokenizer_config.json sets {name}")
    if config.get("backend") not in (None, "tokenizers"):
        raise NotPlainError(f"tokenizer_config.json wants {config['backend']}")
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if not isinstance(config.get(name) or [], list):
            raise NotPlainError(f"tokenizer_config.json gives {name} names of their own")
    length = config.get("model_max_length")
    if length is not None and not isinstance(length, (int, float)):
        raise NotPlainError("tokenizer_config.json has no number as model_max_length")


def _class_of(model: dict[str, Any], config: dict[str, Any]) -> str:
    """Return a class that works like the one that transformers would take."""
    named = config.get("tokenizer_class")
    kind = model["model_type"]
    if kind in _OWN_CLASS and named in _AS_IT_IS | _QWEN:
        return "Qwen2Tokenizer"
    if named in _AS_IT_IS or (named in _QWEN and kind in _QWEN_MODELS):
        return str(named)
    raise NotPlainError(f"tokenizer class {named} of {kind} was not compared")


def _check_content(content: dict[str, Any]) -> None:
    for name in ("truncation", "padding"):
        if content.get(name) is not None:
            raise NotPlainError(f"tokenizer.json sets {name}")
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise NotPlainError("tokenizer.json holds no byte-pair encoding")
    if model.get("dropout"):
        raise NotPlainError("tokenizer.json splits at random")


def _check_qwen(model: dict[str, Any], content: dict[str, Any]) -> None:
    """Compare tokenizer.json with what the class builds without it."""
    inner = content.get("model")
    pieces = (content.get("pre_tokenizer") or {}).get("pretokenizers")
    if not isinstance(inner, dict) or not isinstance(pieces, list) or len(pieces) != 2:
        raise NotPlainError("tokenizer.json is not laid out like Qwen's")
    split, by_bytes = pieces
    same = (
        content.get("normalizer") == {"type": "NFC"}
        and split == {"type": "Split", "pattern": {"Regex": _QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
        and by_bytes.get("type") == "ByteLevel"
        and not by_bytes.get("add_prefix_space")
        and not by_bytes.get("use_regex")
        and (content.get("decoder") or {}).get("type") == "ByteLevel"
        and not any(inner.get(k) for k in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
        and not any(inner.get(k) for k in ("fuse_unk", "byte_fallback", "ignore_merges"))
    )
    if not same:
        raise NotPlainError(f"tokenizer.json is not what transformers builds for {model['model_type']}")
    # The class gives added tokens the numbers after the vocabulary, one after the other.
    vocabulary = inner.get("vocab") or {}
    following = len(vocabulary)
    for token in sorted(_added(content), key=lambda t: int(t["id"])):
        if vocabulary.get(token["content"], following) != token["id"]:
            raise NotPlainError("tokenizer.json leaves numbers out between its added tokens")
        following += token["content"] not in vocabulary


def _check_tokens(folder: Path, config: dict[str, Any], content: dict[str, Any], special: dict[str, str]) -> None:
    """Check that no file but tokenizer.json brings a token, or another idea of one."""
    known = {t["content"]: t for t in _added(content)}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        mine = known.get(token.get("content")) if isinstance(token, dict) else None
        if mine is None or str(mine["id"]) != number or any(mine.get(f) != token.get(f) for f in _TOKEN_FLAGS):
            raise NotPlainError(f"tokenizer_config.json and tokenizer.json do not agree on token {number}")
    extra = [*(config.get("additional_special_tokens") or []), *(config.get("extra_special_tokens") or [])]
    for named in (*special.values(), *map(_text_of, extra)):
        if named not in known or not known[named]["special"]:
            raise NotPlainError(f"the special token {named} is none in tokenizer.json")
    for name, number in _object(folder / "added_tokens.json", missing={}).items():
        if name not in known or known[name]["id"] != number:
            raise NotPlainError(f"added_tokens.json has {name}, tokenizer.json does not")
    if "added_tokens_decoder" in config:
        return  # then nobody reads special_tokens_map.json
    for key, value in _object(folder / "special_tokens_map.json", missing={}).items():
        same = value == config.get(key) if isinstance(value, list) else _text_of(value) == special.get(key)
        if not same:
            raise NotPlainError(f"special_tokens_map.json and tokenizer_config.json do not agree on {key}")


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / "additional_chat_templates").is_dir():
        raise NotPlainError("the folder has several chat templates")
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as e:
        raise NotPlainError("chat_template.jinja cannot be read") from e
    template = config.get("chat_template")
    if template is not None and not isinstance(template, str):
        raise NotPlainError("tokenizer_config.json has several chat templates")
    return template


def _added(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for token in content.get("added_tokens") or []:
        if not isinstance(token, dict) or not isinstance(token.get("id"), int) or "special" not in token:
            raise NotPlainError("tokenizer.json has an added token that is none")
        yield token


def _text_of(token: object) -> str | None:
    """Return the text of a token that may be described by an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _object(file: Path, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        if missing is not None:
            return missing
        raise NotPlainError(f"no {file.name}") from e
    except (OSError, ValueError, RecursionError) as e:
        raise NotPlainError(f"{file.name} cannot be read") from e
    if not isinstance(value, dict):
        raise NotPlainError(f"{file.name} is no object")
    return value
