"""Whether MLX has an NVIDIA GPU here, known before MLX is imported, which reads settings that depend on it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

_DEVICE = Path("/dev/nvidiactl")


def has_cuda(device: Path = _DEVICE) -> bool:
    """Say whether there is a GPU, and the package by which MLX computes on it."""
    if not device.exists():
        return False
    return any(d.name.replace("_", "-").startswith("mlx-cuda") for d in metadata.distributions() if d.name)
