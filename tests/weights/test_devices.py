"""Every card people own, as PyTorch tells of it: which is used, in which type, and what is said where none can be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qqvl_server.doctor.finding import Case, Finding
from qqvl_server.doctor.machine import seen
from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.settings import Settings, WeightsSettings
from qqvl_server.weights.devices import Card, Machine, outside
from qqvl_server.weights.load import place
from qqvl_server.weights.locate import Checkpoint
from qqvl_server.weights.nvidia import driver_version
from tests.running import ROOT

GB = 1024**3
# As PyPI's 2.13.0 has them.
ARCHS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
MODEL = Checkpoint("/m", "8B", False, 17 * GB)
SMALL = Checkpoint("/m", "2B", False, 4 * GB)


def machine(*cards: Card, **more: object) -> Machine:
    return replace(Machine(cards, "13.0", None, ARCHS, "580.65.06", True), **more)  # type: ignore[arg-type]


def card(*capability: int, gb: int = 24, name: str = "RTX") -> Card:
    return Card(name, (capability[0], capability[1]), gb * GB)


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QQVL_LAUNCHER", "./run_server.sh")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_cards_that_only_emulate_bf16_compute_in_float16(capability: tuple[int, int], expected: torch.dtype) -> None:
    """The second card's own capability where that is the one named."""
    assert place(MODEL, WeightsSettings(), machine(card(*capability))).dtype is expected
    other = machine(card(9, 0, gb=20), card(*capability, gb=20))
    assert place(MODEL, WeightsSettings(device="cuda:1"), other).dtype is expected
    assert place(MODEL, WeightsSettings(dtype="bfloat16"), machine(card(7, 5))).dtype is torch.bfloat16


def test_amd_cards_go_the_same_way_whatever_their_capability_counts() -> None:
    amd = machine(card(11, 0), cuda=None, hip="7.0", archs=("gfx1100",), driver=None, beside=True)
    found = place(MODEL, WeightsSettings(device="cuda:0"), amd)
    assert (found.device, found.dtype) == ("cuda:0", torch.bfloat16)
    with pytest.raises(ConfigError, match="rocminfo"):
        place(MODEL, WeightsSettings(device="cuda:0"), replace(amd, cards=()))


def test_apples_gpu_is_taken_where_it_is_named_and_there(capsys: pytest.CaptureFixture[str]) -> None:
    found = place(SMALL, WeightsSettings(device="mps"), Machine(mps=True))
    assert (found.device, found.dtype) == ("mps", torch.float16)
    assert "没有测试过" in "".join(capsys.readouterr())
    with pytest.raises(ConfigError, match="mps"):
        place(SMALL, WeightsSettings(device="mps"), Machine())


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"driver": "550.54.15"}, r"驱动是 550\.54\.15.*CUDA 13\.0.*580 以上.*QQVL_TORCH=cu126 \./run_server\.sh"),
        ({"driver": "572.16"}, "580 以上.*QQVL_TORCH=cu126.*RTX 50 系只能升级驱动"),
        ({"driver": "470.82"}, r"470\.82.*请升级驱动"),
        ({"driver": "580.65.06"}, "够新.*--gpus all"),
        ({"driver": None}, "驱动没装好.*580 以上.*nvidia-smi"),
        ({"cuda": "12.8", "driver": "470.82"}, "525 以上：请升级驱动"),
        ({"cuda": None, "driver": "550.54.15"}, "CPU 版 PyTorch.*QQVL_TORCH=cu126"),
        ({"cuda": None, "driver": "590.1"}, "CPU 版 PyTorch.*QQVL_TORCH=cu130"),
    ],
    ids=str,
)
def test_a_card_that_pytorch_does_not_see_is_one_line_with_both_drivers(
    known: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = machine(**known)
    with pytest.raises(ConfigError, match=said) as refused:
        place(MODEL, WeightsSettings(device="cuda:0"), blind)
    assert "\n" not in refused.value.message
    assert place(SMALL, WeightsSettings(), replace(blind, beside=True)).device == "cpu"
    told = "".join(capsys.readouterr())
    assert "改用 CPU" in told


def test_pip_is_named_where_no_script_makes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QQVL_LAUNCHER")
    with pytest.raises(ConfigError, match=r"pip install .*torch --index-url https://download\.pytorch\.org/whl/cu126"):
        place(MODEL, WeightsSettings(device="cuda:0"), machine(driver="535.1"))


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (card(6, 1, name="GTX 1080"), r"GTX 1080（算力 6\.1）.*QQVL_TORCH=cu126"),
        (card(7, 0, name="V100"), r"V100（算力 7\.0）.*QQVL_TORCH=cu126"),
        (card(3, 5, name="K40"), "K40.*这么老的卡"),
    ],
)
def test_a_card_the_wheel_was_not_built_for_is_told_before_gigabytes_are_read(
    old: Card, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=said):
        place(MODEL, WeightsSettings(device="cuda:0"), machine(old))
    assert place(SMALL, WeightsSettings(), machine(old)).device == "cpu"
    assert old.name in "".join(capsys.readouterr())
    beside = machine(old, card(8, 6))
    assert place(MODEL, WeightsSettings(), beside).device == "cuda:1"


@pytest.mark.parametrize("capability", [(7, 5), (8, 6), (8, 7), (8, 9), (9, 0), (10, 3), (12, 0), (12, 1), (13, 0)])
def test_later_minor_versions_and_ptx_are_enough(capability: tuple[int, int]) -> None:
    assert place(MODEL, WeightsSettings(device="cuda:0"), machine(card(*capability))).device == "cuda:0"


def test_blackwell_with_a_wheel_from_before_it() -> None:
    old = machine(card(12, 0), archs=("sm_80", "sm_90"), driver="570.1")
    with pytest.raises(ConfigError, match=r"驱动升到 580 以上（现在是 570\.1），再换一种 PyTorch：QQVL_TORCH=cu130"):
        place(MODEL, WeightsSettings(device="cuda:0"), old)
    with pytest.raises(ConfigError, match="QQVL_TORCH=cu130"):
        place(MODEL, WeightsSettings(device="cuda:0"), replace(old, driver="580.1"))


def test_no_build_is_named_that_the_pinned_pytorch_does_not_have() -> None:
    """PyTorch's 2.13 for CUDA is made for 12.6, 13.0 and 13.2; whoever raises the pin looks that up anew."""
    root = Path(__file__).resolve().parents[2]
    assert "torch==2.13.0" in (root / "constraints.txt").read_text("utf-8")
    texts = [root / "scripts/venv.sh", root / "run_server.sh", *root.glob("README*.md"), *root.glob("docs/*.md")]
    texts += (root / "server").rglob("*.py")
    named = {build for path in texts for build in re.findall(r"\bcu1\d\d\b", path.read_text("utf-8"))}
    assert named <= {"cu126", "cu130", "cu132"}


def test_two_cards_of_which_one_holds_the_model_are_one() -> None:
    two = machine(card(8, 6), card(8, 6))
    for device in ("auto", "cuda:0,cuda:1"):
        found = place(MODEL, WeightsSettings(device=device), two)
        assert (found.device, found.device_map) == ("cuda:0", {"": "cuda:0"})
    assert place(MODEL, WeightsSettings(), machine(card(8, 6, gb=8), card(8, 6))).device == "cuda:1"


def test_two_cards_share_what_one_does_not_hold_and_nothing_goes_elsewhere() -> None:
    two = machine(card(8, 6, gb=12), card(8, 6, gb=12))
    for device in ("auto", "cuda:0,cuda:1"):
        found = place(MODEL, WeightsSettings(device=device), two)
        assert found.device_map == "auto"
        assert found.max_memory == {0: int(12 * GB * 0.9), 1: int(12 * GB * 0.9), "cpu": 0}
    with pytest.raises(WeightsError, match=r"17\.\d GB.*cuda:0、cuda:1 的显存只剩 16\.0 GB，差 1\.\d GB"):
        place(MODEL, WeightsSettings(device="cuda:0,cuda:1"), machine(card(8, 6, gb=8), card(8, 6, gb=8)))


def test_what_would_be_left_on_disk_or_in_memory_is_told_in_bytes() -> None:
    places = {"visual": 0, "text.layers.1": 1, "text.layers.10": "disk", "text.layers.11": "cpu", "head": "disk"}
    sizes = {"visual.a": 1, "text.layers.1.w": 2, "text.layers.10.w": 4, "text.layers.11.w": 8, "head": 16}
    assert outside(places, sizes) == (["cpu", "disk"], 4 + 8 + 16)
    assert outside({"": "cuda:0"}, sizes) == ([], 0)
    # A layer's name is no other's beginning.
    assert outside({"text.layers.1": "disk", "text.layers.10": 0}, sizes) == (["disk"], 2)


def test_the_driver_is_read_from_the_system_or_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert driver_version(tmp_path) is None
    folder = tmp_path / "proc" / "driver" / "nvidia"
    folder.mkdir(parents=True)
    for line, expected in (
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", "580.65.06"),
    ):
        (folder / "version").write_text(line)
        assert driver_version(tmp_path) == expected
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '572.16'\n")
    program.chmod(0o755)
    assert driver_version(tmp_path / "wsl") == "572.16"


def diagnosed(found: Machine, folder: Path, **weights: str) -> Finding:
    settings = Settings(weights=WeightsSettings(model_path="qqvl-demo", **weights))
    return seen(Case(settings, {}, ROOT, folder, None), found)


@pytest.mark.parametrize(
    ("found", "weights", "field", "said"),
    [
        (machine(cuda=None), {}, "weights.device", "CPU 版 PyTorch"),
        (machine(driver="470.82"), {}, "weights.device", "请升级驱动"),
        (machine(card(6, 1)), {}, "weights.device", "算力 6.1"),
        (machine(card(8, 6)), {"device": "cuda:1"}, "weights.device", "只有 1 块"),
        (machine(replace(card(8, 6), free=1_000_000)), {}, "weights.quantization", "显存只剩 0.0 GB"),
        (machine(card(8, 6)), {}, "", "空闲 24.0 GB"),
    ],
)
def test_the_doctor_names_what_keeps_a_card_from_being_used(
    found: Machine, weights: dict[str, str], field: str, said: str, tmp_path: Path
) -> None:
    finding = diagnosed(found, tmp_path, **weights)
    assert (finding.state, finding.field) == ("failed" if field else "ok", field), finding
    assert said in finding.message
    assert bool(finding.value) == bool(field)
