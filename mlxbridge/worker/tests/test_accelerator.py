"""A GPU counts where there is both the device and the package for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxworker import accelerator


@pytest.mark.parametrize(
    ("device", "package", "found"),
    [(True, "mlx-cuda-13", True), (True, "mlx_cuda_12", True), (True, "mlx-cpu", False), (False, "mlx-cuda-13", False)],
)
def test_a_gpu_counts_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: bool, package: str, found: bool
) -> None:
    site, node = tmp_path / "site", tmp_path / "nvidiactl"
    (site / f"{package}-1.0.dist-info").mkdir(parents=True)
    (site / f"{package}-1.0.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
    )
    monkeypatch.setattr("sys.path", [str(site)])
    if device:
        node.touch()

    assert accelerator.has_cuda(node) is found
