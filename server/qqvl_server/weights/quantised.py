"""Checkpoints that come quantised: which stay packed in memory by ourselves, and what the others need to be run at all.

Ours need no package, no kind of card and no network: GPTQ and AWQ of 4 or 8 bits, compressed-tensors' integers and
FP8, and the official FP8 ones. For the others Transformers calls a library of their maker's, some of them only when
they are first run.
"""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server import invocation
from qqvl_server.errors import ConfigError
from qqvl_server.quantised.stored import Format
from qqvl_server.weights.tensors import Tensor, tensors

# The tensors of a layer by which it is known as quantised.
_MARKS: Final = ("qweight", "weight_packed", "weight_scale_inv", "weight_scale")
_BYTES: Final = ("F8_E4M3", "F8_E5M2", "I8")
_BITS: Final = (4, 8)
_OURS: Final = ("gptq", "awq", "fp8", "compressed-tensors")
# What Transformers asks for, as modules and as pip calls them.
_LIBRARIES: Final = {
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "awq": {"gptqmodel": "gptqmodel"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "fp8": {"kernels": "kernels"},
    "mxfp8": {"kernels": "kernels"},
    "mxfp4": {"kernels": "kernels", "triton": "triton"},
    "nvfp4": {"kernels": "kernels"},
    "fbgemm_fp8": {"kernels": "kernels"},
    "eetq": {"kernels": "kernels"},
    "auto-round": {"auto_round": "auto-round"},
    "hqq": {"hqq": "hqq"},
    "torchao": {"torchao": "torchao"},
    "quanto": {"optimum": "optimum-quanto"},
    "aqlm": {"aqlm": "aqlm[gpu,cpu]"},
    "vptq": {"vptq": "vptq"},
    "spqr": {"spqr_quant": "spqr_quant[gpu]"},
    "quark": {"quark": "amd-quark"},
    "sinq": {"sinq": "sinq"},
}
# Their computing is fetched from Hugging Face's hub when they are first run.
_FROM_HUB: Final = ("kernels",)
# From this capability on cards compute FP8 themselves; for others Transformers makes bf16 of it.
_FP8: Final = (8, 9)


@dataclass(frozen=True, slots=True)
class Quantised:
    """A checkpoint whose layers stay packed by ourselves: of each layer its tensors by the ends of their names."""

    method: str
    format: Format
    layers: Mapping[str, Mapping[str, Tensor]]

    @property
    def packed_bytes(self) -> int:
        return sum(tensor.bytes for parts in self.layers.values() for tensor in parts.values())


@dataclass(frozen=True, slots=True)
class Foreign:
    """A quantised checkpoint that a library computes: ``why`` it is not ours."""

    method: str
    why: str


def read(folder: Path) -> Quantised | Foreign | None:
    """How a whole checkpoint is quantised; None where it is not."""
    settings = _settings(json.loads((folder / "config.json").read_text("utf-8")))
    method = _method(settings)
    if not method:
        return None
    if method not in _OURS:
        return Foreign(method, "由专门的库来算")
    layout = _layout(method, settings)
    if isinstance(layout, str):
        return Foreign(method, layout)
    layers = _layers(tensors(folder))
    strange = next((reason for name in layers if (reason := _strange(name, layers[name]))), None)
    if strange is not None or not layers:
        return Foreign(method, strange or "没有认出它的张量")
    return Quantised(method, layout, layers)


def check_libraries(foreign: Foreign, capability: tuple[int, int] | None) -> None:
    """Before gigabytes are read, that what Transformers will call is there. ``capability`` is the card's, if any.

    Raises:
        ConfigError: with the line that installs what is missing.
    """
    method = foreign.method
    if method in ("fp8", "mxfp8") and (capability is None or capability < _FP8):
        return
    wanted = _LIBRARIES.get(method, {})
    missing = [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return
    hub = "；第一次运行还要能连上 huggingface.co 取它的算子" if set(missing) & set(_FROM_HUB) else ""
    raise ConfigError(
        f"这个模型是 {method} 量化的（{foreign.why}），要另装 {'、'.join(missing)}："
        f"运行 {invocation.install(*missing)}{hub}；或换 bf16 的模型加 --quantization bnb-4bit"
    )


def _method(settings: Mapping[str, Any]) -> str:
    if settings.get("load_in_4bit") or settings.get("load_in_8bit"):
        return "bitsandbytes"
    return str(settings.get("quant_method") or "")


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    found = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    return found if isinstance(found, dict) else {}


def _layout(method: str, settings: Mapping[str, Any]) -> Format | str:
    """Or why the format is not ours."""
    if method == "compressed-tensors":
        return _schemes(settings)
    if method == "fp8":
        high, wide = settings.get("weight_block_size") or (128, 128)
        return Format(block=(int(high), int(wide)))
    bits = int(settings.get("bits") or settings.get("w_bit") or 4)
    # AWQ's eight bits are in another order.
    if bits not in (_BITS if method == "gptq" else (4,)):
        return f"{bits} 位的 {method}"
    if method == "gptq":
        version = str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
        return Format(zeros_less_one=version == "gptq") if version in ("gptq", "gptq_v2") else f"{version} 格式的 GPTQ"
    version = str(settings.get("version") or settings.get("format") or "gemm").lower()
    return Format(awq=True) if version == "gemm" else f"{version} 格式的 AWQ"


def _schemes(settings: Mapping[str, Any]) -> Format | str:
    sparsity = settings.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        return "稀疏的 compressed-tensors"
    for scheme in (settings.get("config_groups") or {}).values():
        weights = scheme.get("weights") or {}
        kind, bits = weights.get("type", "int"), weights.get("num_bits", 8)
        if kind not in ("int", "float") or bits not in (_BITS if kind == "int" else (8,)):
            return f"{bits} 位 {kind} 的 compressed-tensors"
        if bits == 8 and not weights.get("symmetric", True) and settings.get("format") != "pack-quantized":
            return "有零点的 8 位 compressed-tensors"
    return Format()


def _layers(found: Mapping[str, Tensor]) -> Mapping[str, Mapping[str, Tensor]]:
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in found.items():
        layer, _, part = name.rpartition(".")
        grouped[layer][part] = tensor
    return {layer: parts for layer, parts in grouped.items() if not parts.keys().isdisjoint(_MARKS)}


def _strange(name: str, parts: Mapping[str, Tensor]) -> str | None:
    """Why a layer is not ours; None where it is."""
    if "experts." in name:
        return "它的专家层（MoE）"
    packed = [tensor.dtype for part, tensor in parts.items() if part in ("qweight", "qzeros", "weight_packed")]
    if packed:
        return None if set(packed) == {"I32"} else f"{name} 不是 int32 打包的"
    weight = parts.get("weight")
    return None if weight is not None and weight.dtype in _BYTES else f"{name} 的类型"
