"""A card that PyTorch cannot see is told of, and what then helps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import place
from qqvl_server.weights.locate import locate
from qqvl_server.weights.nvidia import card_beside


def program(folder: Path, prints: str, status: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
    file.chmod(0o755)


def test_a_card_is_found_by_its_driver_device_or_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not card_beside(tmp_path)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert not card_beside(tmp_path), "the driver alone, its card taken out"
    (tmp_path / "dev" / "nvidia0").touch()
    assert card_beside(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not card_beside(tmp_path), "hidden on purpose"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "proc" / "driver" / "nvidia" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert card_beside(tmp_path)
    bare = tmp_path / "bare"
    program(tmp_path / "bin", "GPU 0: NVIDIA GeForce RTX 4090")
    assert card_beside(bare)
    program(tmp_path / "bin", "No devices were found", status=6)
    assert not card_beside(bare)
    program(tmp_path / "bin", "")
    assert not card_beside(bare)


def test_auto_says_so_when_it_takes_the_cpu_beside_a_card(
    tmp_path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that PyTorch sees")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("QQVL_LAUNCHER", "./run_server.sh")
    program(tmp_path / "bin", "GPU 0: NVIDIA GeForce RTX 4090")
    checkpoint = locate(str(demo), demo.parents[1])
    assert place(checkpoint, WeightsSettings(device="cpu")).device == "cpu"
    assert "NVIDIA" not in "".join(capsys.readouterr())
    assert place(checkpoint, WeightsSettings()).device == "cpu"
    said = "".join(capsys.readouterr())
    assert "有 NVIDIA 显卡，但 PyTorch 用不了它" in said
    assert ("QQVL_TORCH=cu126 ./run_server.sh" if torch.version.cuda is None else "nvidia-smi") in said
