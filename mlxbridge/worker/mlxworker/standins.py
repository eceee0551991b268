"""What mlx-lm is given in place of packages that it imports and, for a plain model folder, never calls.

transformers and huggingface_hub take three quarters of a worker's start. mlx-lm takes a few names from them, all for
tokenizers that plain.py replaces and for downloads that never happen here. A stand-in is seen only while mlx-lm is
being imported: whoever imports one of these packages later gets the real one.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from mlxworker import recipe
from mlxworker.plain import Tokenizer, loader


class _Registry:
    """Stands for AutoTokenizer."""

    @staticmethod
    def register(*_: Any, **__: Any) -> None:
        """Take note of nothing: the classes registered here are for folders that are not plain."""


class _Unused:
    """Stands for a class that is named, never made."""


def _no_download(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("a worker downloads nothing")


@contextlib.contextmanager
def present() -> Iterator[None]:
    """Put stand-ins where the real packages are not imported yet, and take them away at the end."""
    made = {m.__name__: m for m in _make() if m.__name__.partition(".")[0] not in sys.modules}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


@contextlib.contextmanager
def for_tokenizer(folder: Path, versions: dict[str, str], whole: bool) -> Iterator[None]:
    """Let mlx-lm make the tokenizer of a plain folder from tokenizer.json alone.

    Raises NotPlainError for a folder that needs transformers when mlx-lm was imported without it.
    """
    try:
        found = recipe.read(folder, versions.get("transformers", ""))
    except recipe.NotPlainError:
        if not whole:
            raise
        yield
        return
    place = importlib.import_module("mlx_lm.tokenizer_utils")
    # Not every release of mlx-lm looks at the second.
    names = {"AutoTokenizer": loader(found), "PreTrainedTokenizerBase": Tokenizer}
    before = {name: getattr(place, name) for name in names if hasattr(place, name)}
    try:
        for name in before:
            setattr(place, name, names[name])
        yield
    finally:
        for name, value in before.items():
            setattr(place, name, value)


def _make() -> list[ModuleType]:
    base = _module("transformers.tokenization_utils_base", PreTrainedTokenizerBase=Tokenizer)
    transformers = _module(
        "transformers",
        AutoTokenizer=_Registry,
        PreTrainedTokenizer=_Unused,
        PreTrainedTokenizerFast=_Unused,
        tokenization_utils_base=base,
    )
    return [transformers, base, _module("huggingface_hub", snapshot_download=_no_download)]


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module
