"""Has Transformers load a quantised checkpoint into our own layers, by its public way to add a quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from qqvl_server.errors import WeightsError
from qqvl_server.quantised.stored import StoredLinear
from qqvl_server.weights.quantised import Quantised, read

_NAME: Final = "qqvl"
_TYPES: Final = {
    "I32": torch.int32, "I64": torch.int64, "I8": torch.int8, "U8": torch.uint8, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class PackedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """In the place of the checkpoint's own. It is printed and copied by Transformers, so that it holds words only."""

    def __init__(self, source: str, quant_method: str = _NAME) -> None:
        self.source = source
        self.quant_method = quant_method


class PackedQuantizer(HfQuantizer):  # type: ignore[misc]
    """Swaps layers before loading for places of their stored tensors, and those for layers that compute after."""

    def __init__(self, quantization_config: PackedConfig, **others: Any) -> None:
        super().__init__(quantization_config, **others)
        planned = read(Path(quantization_config.source))
        assert isinstance(planned, Quantised)
        self._planned = planned
        # Of each layer that was planned, what it is called in the model.
        self._places: list[str] = []

    def _process_model_before_weight_loading(self, model: Any, **_others: Any) -> None:
        self._places = [_place(model, name) for name in self._planned.layers]
        with torch.device("meta"):
            for name, parts in zip(self._places, self._planned.layers.values(), strict=True):
                linear = model.get_submodule(name)
                stored = {part: torch.empty(tensor.shape, dtype=_TYPES[tensor.dtype]) for part, tensor in parts.items()}
                model.set_submodule(name, StoredLinear(stored, linear.in_features, linear.out_features))

    def _process_model_after_weight_loading(self, model: Any, **_others: Any) -> Any:
        for name in self._places:
            stored = model.get_submodule(name)
            try:
                model.set_submodule(name, stored.settled(self._planned.format))
            except (ValueError, RuntimeError, KeyError) as error:
                raise WeightsError(f"{name} 的量化张量对不上：{' '.join(str(error).split())[:120]}") from error
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def _place(model: Any, name: str) -> str:
    """Where the layer that a checkpoint calls ``name`` stands: older families have other names in files."""
    renamed = f"{name}."
    for rename in get_model_conversion_mapping(model):
        renamed, _ = rename.rename_source_key(renamed)
    for place in (name, renamed.removesuffix(".")):
        try:
            if type(model.get_submodule(place)) is nn.Linear:
                return place
        except AttributeError:
            continue
    raise WeightsError(f"不知道 {name} 的量化张量属于模型的哪一层：这个模型不能这样加载")


def prepare(config: Any, source: str) -> None:
    """Have ``from_pretrained`` with this ``config`` load the checkpoint at ``source``, which ``read`` says is ours."""
    if _NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(_NAME)(PackedConfig)
        register_quantizer(_NAME)(PackedQuantizer)
    config.quantization_config = {"quant_method": _NAME, "source": source}
