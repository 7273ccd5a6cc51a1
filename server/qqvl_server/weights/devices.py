"""Which of this machine's devices can run a model, and one line of what is missing where a card cannot.

CUDA's least drivers: https://docs.nvidia.com/deploy/cuda-compatibility/ (a driver runs any later minor version of its
major one). PyTorch 2.13 is built for CUDA 12.6 (Maxwell to Hopper), 13.0 and 13.2 (Turing to Blackwell), and for
nothing between: pytorch/pytorch RELEASE.md, and its issue 178665, which took 12.8 away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from qqvl_server import invocation
from qqvl_server.errors import ConfigError
from qqvl_server.observe.logs import logger
from qqvl_server.weights.nvidia import card_beside, driver_version

# The least NVIDIA driver for each CUDA that PyTorch is built with.
_DRIVERS: Final = {11: 450, 12: 525, 13: 580}
# From this capability on bf16 is computed; below it is emulated, several times as slow as float16.
_BF16: Final = (8, 0)
# The last build of PyTorch for cards before this, and the first for those from the other on.
_TURING: Final = (7, 5)
_BLACKWELL: Final = (10, 0)


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU: ``capability`` as CUDA counts it, ``free`` bytes of memory."""

    name: str
    capability: tuple[int, int]
    free: int


@dataclass(frozen=True, slots=True)
class Machine:
    """``cards`` are those PyTorch sees; ``beside`` says that an NVIDIA card is there whether it does or not.

    ``cuda`` and ``hip`` are the versions PyTorch was built with, ``archs`` the cards (``sm_80``, ``compute_90``).
    ``driver`` is the NVIDIA driver's version, where it can be told.
    """

    cards: tuple[Card, ...] = ()
    cuda: str | None = None
    hip: str | None = None
    archs: tuple[str, ...] = ()
    driver: str | None = None
    beside: bool = False
    mps: bool = False

    def capability(self, device: str) -> tuple[int, int] | None:
        """Of the NVIDIA card that ``device`` names; None of anything else."""
        if self.hip is not None or not device.startswith("cuda"):
            return None
        return self.cards[_index(device)].capability


def survey() -> Machine:
    """This machine, as PyTorch and the system tell."""
    seen = torch.cuda.is_available()
    cards = tuple(_card(index) for index in range(torch.cuda.device_count())) if seen else ()
    beside = bool(cards) or card_beside()
    return Machine(
        cards=cards,
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        archs=tuple(torch.cuda.get_arch_list()) if seen else (),
        driver=driver_version() if beside else None,
        beside=beside,
        mps=torch.backends.mps.is_available(),
    )


def _card(index: int) -> Card:
    return Card(
        torch.cuda.get_device_name(index),
        torch.cuda.get_device_capability(index),
        torch.cuda.mem_get_info(index)[0],
    )


def chosen(device: str, machine: Machine, needed: float) -> list[str]:
    """The devices that ``device``, a setting, names on this machine for a model of ``needed`` bytes.

    Several cards only where one does not hold the model: over several, layers wait for one another.

    Raises:
        ConfigError: a device that is not there, or that this PyTorch cannot use.
    """
    names = [name.strip() for name in device.split(",") if name.strip()]
    if names == ["auto"]:
        return _best(machine, needed)
    names = ["cuda:0" if name == "cuda" else name for name in names]
    for name in names:
        _check(name, machine)
    if len(names) > 1 and machine.cards[_index(names[0])].free > needed:
        logger().info(f"{names[0]} 一块就装得下这个模型，只用它：分到几块卡上反而慢", device=names[0])
        return names[:1]
    return names


def dtype(device: str, machine: Machine) -> torch.dtype:
    """What a GPU computes fastest in without losing the model's range, where it can."""
    if device == "mps":
        return torch.float16
    # ROCm's cards that PyTorch supports all have bf16, and count their capability otherwise.
    has_bf16 = machine.hip is not None or machine.cards[_index(device)].capability >= _BF16
    return torch.bfloat16 if has_bf16 else torch.float16


def _best(machine: Machine, needed: float) -> list[str]:
    usable = [n for n, card in enumerate(machine.cards) if _unfit(card, machine) is None]
    if usable:
        first = next((n for n in usable if machine.cards[n].free > needed), usable[0])
        if machine.cards[first].free > needed or len(usable) == 1:
            return [f"cuda:{first}"]
        return [f"cuda:{n}" for n in usable]
    if machine.cards:
        logger().warning(f"改用 CPU，会慢很多：{_unfit(machine.cards[0], machine)}")
    elif machine.beside:
        logger().warning(f"这台机器有 NVIDIA 显卡，但 PyTorch 用不了它，改用 CPU，会慢很多：{_why_unseen(machine)}")
    return ["cpu"]


def unusable(machine: Machine) -> str | None:
    """Why the card that is in this machine would not be used, with what helps; None where one is, or none is there."""
    if any(_unfit(card, machine) is None for card in machine.cards):
        return None
    if machine.cards:
        return _unfit(machine.cards[0], machine)
    return _why_unseen(machine) if machine.beside else None


def _check(name: str, machine: Machine) -> None:
    """Raises ConfigError, with what helps."""
    if name == "cpu":
        return
    if name == "mps":
        if not machine.mps:
            raise ConfigError("要用 mps，但这台机器没有 Apple 的 GPU，或 PyTorch 用不了它；去掉 --device 再启动")
        logger().warning("mps 没有测试过：用的是 float16 和逐个算子执行，比 --device cpu 未必快；出了问题请换 cpu")
        return
    if not machine.cards:
        raise ConfigError(f"要用 {name}，但 PyTorch 看不到显卡：{_why_unseen(machine)}；没有显卡就去掉 --device")
    if _index(name) >= len(machine.cards):
        raise ConfigError(f"没有 {name}：这台机器只有 {len(machine.cards)} 块显卡，编号从 cuda:0 开始")
    unfit = _unfit(machine.cards[_index(name)], machine)
    if unfit is not None:
        raise ConfigError(f"{name} 用不了：{unfit}")


def _index(name: str) -> int:
    return int(name.partition(":")[2])


def _unfit(card: Card, machine: Machine) -> str | None:
    """Why this PyTorch has no code for ``card``; None where it has."""
    if machine.hip is not None or not machine.archs or any(_runs(arch, card.capability) for arch in machine.archs):
        return None
    capability = ".".join(map(str, card.capability))
    known = " ".join(machine.archs)
    line = f"这个 PyTorch 没有为 {card.name}（算力 {capability}）编译，它只有 {known}"
    if card.capability < (5, 0):
        return f"{line}；现在的 PyTorch 都不支持这么老的卡，请用 --device cpu"
    if card.capability >= _BLACKWELL and _major(machine.driver) < _DRIVERS[13]:
        # Its code is in builds for CUDA 13 alone.
        had = f"（现在是 {machine.driver}）" if machine.driver else ""
        return f"{line}；先把驱动升到 {_DRIVERS[13]} 以上{had}，再{_other_build('cu130')}，或用 --device cpu"
    return f"{line}；{_other_build(_build_for(card, machine.driver))}，或用 --device cpu"


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``arch`` runs: on the same major version from its minor one on, and PTX on all later cards."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch)
    if found is None:
        return False
    built = int(found[2]), int(found[3])
    if found[1] == "compute":
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def _build_for(card: Card, driver: str | None) -> str:
    if card.capability < _TURING:
        return "cu126"
    return _build_by(driver)


def _build_by(driver: str | None) -> str:
    return "cu126" if _major(driver) < _DRIVERS[13] else "cu130"


def _major(driver: str | None) -> int:
    return int(driver.partition(".")[0]) if driver else 0


def _why_unseen(machine: Machine) -> str:
    if machine.hip is not None:
        return "装的是 AMD（ROCm）版 PyTorch：用 rocminfo 检查驱动，并确认当前用户在 render、video 组里"
    if machine.cuda is None:
        line = "装的是 CPU 版 PyTorch"
        return f"{line}；{_other_build(_build_by(machine.driver))}" if machine.beside else line
    cuda = f"这个 PyTorch 要 CUDA {machine.cuda}"
    needed = _DRIVERS.get(int(machine.cuda.partition(".")[0]))
    if machine.driver is None or needed is None:
        return f"驱动没装好，或不够新（{cuda}{f'，驱动 {needed} 以上' if needed else ''}），用 nvidia-smi 看"
    if _major(machine.driver) >= needed:
        return (
            f"驱动 {machine.driver} 够新（{cuda}，驱动 {needed} 以上），却打不开显卡：用 nvidia-smi 看；"
            "容器要带 --gpus all，刚升级过驱动要重启"
        )
    if _major(machine.driver) < _DRIVERS[12]:
        return f"驱动是 {machine.driver}，{cuda}，即驱动 {needed} 以上：请升级驱动"
    # What card it is, nobody can ask: there is no older build for the newest.
    older = f"{_other_build('cu126')}（RTX 50 系只能升级驱动）"
    return f"驱动是 {machine.driver}，{cuda}，即驱动 {needed} 以上：升级驱动，或{older}"


def _other_build(build: str) -> str:
    """How another build of PyTorch gets into the environment this process runs in."""
    launcher = invocation.command()
    # Only the script makes the environment it runs in.
    if launcher.endswith("run_server.sh"):
        return f"换一种 PyTorch：QQVL_TORCH={build} {launcher}"
    return (
        "换一种 PyTorch："
        f"{invocation.install('--force-reinstall', 'torch', '--index-url', f'https://download.pytorch.org/whl/{build}')}"
    )


def outside(places: Mapping[str, object], sizes: Mapping[str, int]) -> tuple[list[str], int]:
    """Which of accelerate's ``places`` of modules are no GPU (``cpu``, ``disk``), and the bytes of what is left there.

    Args:
        sizes: bytes of each parameter.
    """
    left = [module for module, place in places.items() if str(place) in ("cpu", "disk")]
    inside = tuple(f"{module}." for module in left)
    size = sum(count for name, count in sizes.items() if name in left or name.startswith(inside))
    return sorted({str(places[module]) for module in left}), size
