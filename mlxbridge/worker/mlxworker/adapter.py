"""The one place that knows what mlx-lm changed between releases: 0.31.2 to 0.32.2 work."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from mlxworker.errors import FatalError

# A prompt batch never takes more at once than its generator was made with, so it is made with a lot.
MOST_CHUNK = 1 << 14
_UNBOUNDED = 1 << 20


@dataclass(frozen=True)
class Api:
    """mlx-lm as it is installed here."""

    generator: Any
    stop_keyword: str
    versions: dict[str, str]
    _module: Any

    def make_generator(self, model: object, sampler: object) -> Any:
        """Return a batch generator that takes every row at once and has no opinion on how many."""
        return self.generator(
            model,
            sampler=sampler,
            completion_batch_size=_UNBOUNDED,
            prefill_batch_size=_UNBOUNDED,
            prefill_step_size=MOST_CHUNK,
        )

    def make_stop(self, eos: list[int]) -> Any:
        """Return what ends a row at any of these tokens."""
        if self.stop_keyword == "stop_sequences":
            return self._module.StopSequences([(t,) for t in eos])
        return self._module.SequenceStateMachine({"normal": [((t,), None) for t in eos]}, initial="normal")


def load_api() -> Api:
    """Import mlx-lm and return how to call it. Raises FatalError for a release that this worker does not know."""
    with _descriptor_limit_kept():
        module = importlib.import_module("mlx_lm.generate")
        importlib.import_module("mlx_lm.utils")
    generator = getattr(module, "BatchGenerator", None)
    segments = getattr(generator, "insert_segments", None)
    parameters = inspect.signature(segments).parameters if segments is not None else {}
    for keyword in ("stop_sequences", "state_machines"):
        if keyword in parameters:
            return Api(generator, keyword, _versions(), module)
    raise FatalError(
        f"mlx-lm {metadata.version('mlx-lm')} is not one of those that this worker knows (0.31.2 to 0.32.2)"
    )


@contextlib.contextmanager
def _descriptor_limit_kept() -> Iterator[None]:
    """Keep the limit of open files: mlx-lm lowers it while it is imported, and fails where it may not."""
    before = resource.setrlimit
    resource.setrlimit = lambda *_: None
    try:
        yield
    finally:
        resource.setrlimit = before


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("mlx", "mlx-lm", "transformers", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name.replace("-", "_")] = metadata.version(name)
    return versions
