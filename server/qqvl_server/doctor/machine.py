"""Model folder, graphics card and memory: whether what the settings ask for can be loaded here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psutil

from qqvl_server.doctor import upstream
from qqvl_server.doctor.finding import Case, Finding, failed, ok, warning
from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.weights.extras import check_extras
from qqvl_server.weights.locate import DEMO, PREFERRED, Checkpoint, locate
from qqvl_server.weights.needs import GIB, SMALL_BYTES, needed
from qqvl_server.weights.nvidia import card_beside, driver_version

if TYPE_CHECKING:
    from qqvl_server.weights.devices import Machine

_OFF_THE_CARD: Final = ("auto", "cpu")


def model(case: Case) -> Finding:
    if upstream.is_elsewhere(case):
        return upstream.models(case)
    weights = case.settings.weights
    where = case.where("weights.model_path")
    try:
        found = locate(weights.model_path, case.root)
    except WeightsError as error:
        return failed(error.message, where, f"写对的文件夹，或 {DEMO}（演示模型）先用着")
    if found.instead_of:
        return warning(found.instead_of, where, f"models/{PREFERRED}，照上面说的下完以后")
    try:
        check_extras(weights)
    except ConfigError as error:
        unwanted = "weights.attn" if weights.attn == "flash_attention_2" else "weights.quantization"
        return failed(error.message, case.where(unwanted), "sdpa" if unwanted == "weights.attn" else "none")
    return ok(f"{found.name}，{found.weight_bytes / GIB:.1f} GB，文件完整")


def card(case: Case) -> Finding:
    """PyTorch is asked only where there is a card or one is wanted: it takes seconds to import."""
    device = case.settings.weights.device
    if upstream.is_elsewhere(case):
        return ok("模型在上游，这里不用显卡")
    if case.running is not None:
        return ok(f"运行中的服务用的是 {case.running.device}")
    there = card_beside()
    if device == "cpu" or (device == "auto" and not there):
        return ok("设置为只用 CPU" if device == "cpu" else "没有 NVIDIA 显卡，用 CPU")
    from qqvl_server.weights import devices

    return seen(case, devices.survey())


def seen(case: Case, machine: Machine) -> Finding:
    """What comes of the settings with the cards that PyTorch and the system tell of."""
    from qqvl_server.weights import devices

    device = case.settings.weights.device
    where = case.where("weights.device")
    if device == "auto" and (reason := devices.unusable(machine)):
        return failed(f"有 NVIDIA 显卡，但用不了，会改用 CPU，慢很多：{reason}", where, "照上面说的换；先用着就写 cpu")
    try:
        names = devices.chosen(device, machine, _least(case))
    except ConfigError as error:
        return failed(error.message, where, "auto" if machine.beside else "cpu")
    cards = [machine.cards[int(name.partition(":")[2])] for name in names if name.startswith("cuda:")]
    free = sum(one.free for one in cards)
    if cards and _least(case) > free:
        return failed(
            f"模型大约要 {_least(case) / GIB:.1f} GB，{'、'.join(names)} 的显存只剩 {free / GIB:.1f} GB",
            case.where("weights.quantization"),
            "bnb-4bit；或换小一点的 weights.model_path，或用 nvidia-smi 看谁占着显存",
        )
    told = "、".join(f"{one.name} 空闲 {one.free / GIB:.1f} GB" for one in cards)
    return ok(f"{told}，驱动 {driver_version() or '未知'}" if cards else f"用 {'、'.join(names)}")


def memory(case: Case) -> Finding:
    """The host's; a card's is told with the card."""
    free = psutil.virtual_memory().available
    told = f"空闲 {free / GIB:.1f} GB"
    if case.running is not None:
        return ok(f"{told}，服务已在运行")
    if case.settings.weights.device not in _OFF_THE_CARD or (case.settings.weights.device == "auto" and card_beside()):
        return ok(told)
    if (wanted := _least(case)) > free:
        return failed(
            f"模型大约要 {wanted / GIB:.1f} GB，内存只剩 {free / GIB:.1f} GB",
            case.where("weights.model_path"),
            f"小一点的模型，如 Qwen3-VL-2B-Instruct，或 {DEMO}（演示模型）",
        )
    if free < GIB / 2:
        return warning(told, "内存", "关掉别的程序，至少空出 0.5 GB")
    return ok(told if _checkpoint(case) or upstream.is_elsewhere(case) else f"{told}（模型没找到，没算它要多少）")


def _checkpoint(case: Case) -> Checkpoint | None:
    if upstream.is_elsewhere(case):
        return None
    try:
        return locate(case.settings.weights.model_path, case.root)
    except WeightsError:
        return None


def _least(case: Case) -> float:
    """Bytes; 0 where the model is not found. The less of what a CPU with and one without bf16 would take."""
    found = _checkpoint(case)
    if found is None:
        return 0
    weights = case.settings.weights
    small = weights.dtype == "auto" and weights.device == "cpu" and found.weight_bytes < SMALL_BYTES
    return needed(found.weight_bytes, weights.quantization, is_float32=weights.dtype == "float32" or small)
