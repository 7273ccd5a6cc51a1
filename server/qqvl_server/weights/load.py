"""A checkpoint becomes a model and a processor in memory. Knows devices, dtypes and Transformers classes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
import transformers
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText

from qqvl_server import invocation
from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights import devices, packed_loading, quantised
from qqvl_server.weights.devices import Machine
from qqvl_server.weights.extras import check_extras
from qqvl_server.weights.locate import Checkpoint
from qqvl_server.weights.needs import GIB, SMALL_BYTES, needed
from qqvl_server.weights.processor import load_processor
from qqvl_server.weights.quantised import Foreign, Quantised
from qqvl_server.weights.threads import set_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """``context_tokens`` is the longest sequence the checkpoint takes; ``device`` as the health page names it."""

    model: PreTrainedModel
    processor: ProcessorMixin
    device: str
    dtype: str
    context_tokens: int

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids with which the model says that it is done; the tokenizer's where the checkpoint names none."""
        named = self.model.generation_config.eos_token_id
        ends = self.processor.tokenizer.eos_token_id if named is None else named
        return frozenset(ends if isinstance(ends, list) else [ends])

    @property
    def vocabulary(self) -> int:
        """How many logits the model gives; often more than the tokenizer has words."""
        return int(self.model.config.get_text_config().vocab_size)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the weights go: one ``device``, or accelerate's ``device_map`` over several."""

    device: str
    device_map: str | dict[str, Any]
    max_memory: dict[int | str, int] | None
    dtype: torch.dtype


def load(checkpoint: Checkpoint, settings: WeightsSettings) -> LoadedModel:
    """Load weights and processor; shows Transformers' own progress bar on a terminal.

    Raises:
        ConfigError: a device that is not there, a missing extra.
        WeightsError: too little memory, or files Transformers cannot read.
    """
    machine, packed = devices.survey(), quantised.read(Path(checkpoint.source))
    if packed is not None and settings.quantization != "none":
        raise ConfigError("这个模型自带量化，不能再加 --quantization")
    placement = place(checkpoint, settings, machine, packed.packed_bytes if isinstance(packed, Quantised) else 0)
    check_extras(settings)
    if isinstance(packed, Foreign):
        quantised.check_libraries(packed, machine.capability(placement.device))
    if placement.device == "cpu":
        set_threads(checkpoint.weight_bytes)
    try:
        config = _speaking_part(AutoConfig.from_pretrained(checkpoint.source, trust_remote_code=False))
        processor = load_processor(checkpoint.source)
        if isinstance(packed, Quantised):
            packed_loading.prepare(config, checkpoint.source)
        model, report = AutoModelForImageTextToText.from_pretrained(
            checkpoint.source,
            config=config,
            dtype=placement.dtype,
            attn_implementation=settings.attn,
            device_map=placement.device_map,
            max_memory=placement.max_memory,
            quantization_config=_quantization(settings, placement.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError as error:
        raise WeightsError("显存不够，模型没装下。请换小一点的模型，或加 --quantization bnb-4bit") from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError) as error:
        raise WeightsError(_explain(checkpoint, error)) from error
    sizes = {name: parameter.nbytes for name, parameter in model.named_parameters()}
    left_out, missing = devices.outside(getattr(model, "hf_device_map", None) or {}, sizes)
    if len(placement.max_memory or ()) and left_out:
        raise WeightsError(
            f"{checkpoint.name} 这几块显卡装不下，差 {missing / GIB:.1f} GB，有些层会放到{'、'.join(left_out)}上，"
            "一个 token 要算几分钟：请换小一点的模型，或加 --quantization bnb-4bit"
        )
    if report["missing_keys"]:
        # Transformers fills them with random numbers and only warns.
        some = sorted(report["missing_keys"])[0]
        raise WeightsError(f"{checkpoint.name} 的权重缺 {len(report['missing_keys'])} 个张量（如 {some}）；请重新下载")
    text = config.get_text_config()
    return LoadedModel(
        model=model.eval(),
        processor=processor,
        device=placement.device,
        dtype=str(model.dtype).removeprefix("torch."),
        context_tokens=int(getattr(text, "max_position_embeddings", 32768)),
    )


def _speaking_part(config: Any) -> Any:
    """The config of what answers pictures with text: all of a model, or the thinker of one that talks as well."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if type(part) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return part
    return config


def place(
    checkpoint: Checkpoint, settings: WeightsSettings, machine: Machine | None = None, packed_bytes: int = 0
) -> Placement:
    """Decide device and dtype, and refuse before reading gigabytes what cannot fit.

    ``packed_bytes`` of the checkpoint stay as they are, whatever the dtype.

    Raises:
        ConfigError: a device that is not there, or that this PyTorch cannot use.
        WeightsError: too little memory.
    """
    machine = devices.survey() if machine is None else machine
    wished = torch.float32 if settings.dtype == "float32" else torch.bfloat16
    names = devices.chosen(settings.device, machine, _needed(checkpoint, settings, wished, packed_bytes))
    device = names[0]
    dtype = _dtype(checkpoint, settings, device, machine)
    indices = [int(name.removeprefix("cuda:")) for name in names if name.startswith("cuda:")]
    wanted = _needed(checkpoint, settings, dtype, packed_bytes)
    _check_memory(checkpoint, names, wanted, sum(machine.cards[index].free for index in indices))
    if len(names) == 1:
        return Placement(device, {"": device}, None, dtype)
    free: dict[int | str, int] = {index: int(machine.cards[index].free * 0.9) for index in indices}
    free["cpu"] = 0
    return Placement(device, "auto", free, dtype)


def _dtype(checkpoint: Checkpoint, settings: WeightsSettings, device: str, machine: Machine) -> torch.dtype:
    if settings.dtype != "auto":
        chosen = getattr(torch, settings.dtype)
        assert isinstance(chosen, torch.dtype)
        return chosen
    if device != "cpu":
        return devices.dtype(device, machine)
    large = not 0 < checkpoint.weight_bytes < SMALL_BYTES
    return torch.bfloat16 if large and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _check_memory(checkpoint: Checkpoint, names: Sequence[str], wanted: float, on_cards: int) -> None:
    """``on_cards`` is what is free on all of those among ``names``."""
    if checkpoint.weight_bytes == 0:
        return
    shared = names[0] in ("cpu", "mps")
    free = psutil.virtual_memory().available if shared else on_cards
    if wanted > free:
        where = "内存" if shared else f"{'、'.join(names)} 的显存"
        raise WeightsError(
            f"{checkpoint.name} 大约要 {wanted / GIB:.1f} GB，{where}只剩 {free / GIB:.1f} GB，"
            f"差 {(wanted - free) / GIB:.1f} GB：请关掉别的程序、换小一点的模型，或在显卡上加 --quantization bnb-4bit"
        )


def _needed(checkpoint: Checkpoint, settings: WeightsSettings, dtype: torch.dtype, packed_bytes: int) -> float:
    is_float32 = dtype is torch.float32
    return needed(checkpoint.weight_bytes, settings.quantization, is_float32=is_float32, packed_bytes=packed_bytes)


def _quantization(settings: WeightsSettings, dtype: torch.dtype) -> Any:
    if settings.quantization == "none":
        return None
    four = settings.quantization == "bnb-4bit"
    return transformers.BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )


def _explain(checkpoint: Checkpoint, error: Exception) -> str:
    """One line for the operator; the library's own words follow, cut, because only they name the odd file or key."""
    whole = " ".join(str(error).split())
    detail = whole[:200]
    if "torchvision" in whole and importlib.util.find_spec("torchvision") is None:
        return (
            f"{checkpoint.name} 这一类模型的图片处理只有 torchvision 的实现：运行 {invocation.install('torchvision')}"
            "（要和已装的 PyTorch 配套），或换 Qwen3-VL、Qwen3.5、Gemma 这些不需要它的模型"
        )
    if isinstance(error, ImportError):
        return f"加载 {checkpoint.name} 缺少组件：{detail}。量化模型要装它要求的库：{invocation.install('库名')}"
    return f"读不了 {checkpoint.source}：{detail}。请确认它是 Qwen3-VL 一类的图文模型，必要时重新下载"
