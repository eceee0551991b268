"""The one place that knows what mlx-lm changed between releases: 0.31.2 to 0.32.2 work."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import logging
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlxworker import recipe, standins
from mlxworker.errors import INTERNAL, FatalError, LoadError, describe

# A prompt batch never takes more at once than its generator was made with, so it is made with a lot.
MOST_CHUNK = 1 << 14
_UNBOUNDED = 1 << 20

log = logging.getLogger("mlxworker")


@dataclass(frozen=True)
class Api:
    """mlx-lm as it is installed here."""

    generator: Any
    stop_keyword: str
    versions: dict[str, str]
    whole: bool  # whether transformers could be imported while mlx-lm was, and not a stand-in
    _module: Any
    _refine: Callable[[Any, Callable[[], bool], bool], Any] | None

    def make_generator(self, model: object, sampler: object, wanted: Callable[[], bool]) -> Any:
        """Return a batch generator that takes every row at once and has no opinion on how many.

        wanted says whether a row that decodes asked for log probabilities; others may get none.
        """
        made = self.generator(
            model,
            sampler=sampler,
            completion_batch_size=_UNBOUNDED,
            prefill_batch_size=_UNBOUNDED,
            prefill_step_size=MOST_CHUNK,
        )
        return made if self._refine is None else self._refine(made, wanted, mx.cuda.is_available())

    def make_stop(self, eos: list[int]) -> Any:
        """Return what ends a row at any of these tokens."""
        if self.stop_keyword == "stop_sequences":
            return self._module.StopSequences([(t,) for t in eos])
        # It takes no empty list: then it waits for a token that never comes.
        return self._module.SequenceStateMachine({"normal": [((t,), None) for t in eos or [-1]]}, initial="normal")


def load_api(whole: bool = True) -> Api:
    """Import mlx-lm and return how to call it. Raises FatalError for a release that this worker does not know.

    Unless it is imported as a whole, it can load plain folders only (recipe.py); that is three times as fast.
    """
    with _descriptor_limit_kept(), contextlib.nullcontext() if whole else standins.present():
        module = importlib.import_module("mlx_lm.generate")
        importlib.import_module("mlx_lm.utils")
        # Of an older release the batches are left as they are.
        refined = hasattr(module, "StopSequences")
        refine = importlib.import_module("mlxworker.batches").refine if refined else None
    generator = getattr(module, "BatchGenerator", None)
    segments = getattr(generator, "insert_segments", None)
    parameters = inspect.signature(segments).parameters if segments is not None else {}
    found = versions()
    for keyword in ("stop_sequences", "state_machines"):
        if keyword in parameters:
            return Api(generator, keyword, found, whole, module, refine)
    raise FatalError(f"mlx-lm {found.get('mlx_lm')} is not one of those that this worker knows (0.31.2 to 0.32.2)")


def load_for(*folders: Path) -> Api:
    """Import as much of mlx-lm's surroundings as these model folders need. Raises LoadError where that fails.

    A package of the environment may be damaged; the other side can have it installed again.
    """
    try:
        for folder in folders:
            recipe.read(folder, versions().get("transformers", ""))
        whole = False
    except recipe.NotPlainError as e:
        log.info("transformers is needed: %s", e)
        whole = True
    try:
        return load_api(whole)
    except FatalError as e:
        raise LoadError(INTERNAL, e.message) from e
    except Exception as e:  # whatever an import can raise
        raise LoadError(INTERNAL, f"mlx-lm cannot be imported: {describe(e)}") from e


@contextlib.contextmanager
def _descriptor_limit_kept() -> Iterator[None]:
    """Keep the limit of open files: mlx-lm lowers it while it is imported, and fails where it may not."""
    before = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = before


def versions() -> dict[str, str]:
    """Return the versions of what the worker stands on, without importing it: by the names of installed folders."""
    wanted = {"mlx", "mlx_lm", "transformers", "tokenizers"}
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder):  # noqa: PTH208 - a list of names is all that is needed
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                if name in wanted and entry.endswith(".dist-info"):
                    found.setdefault(name, version)
    return {"python": platform.python_version(), **found}
