"""torch's meta device in a card's place: what a step of the real 8B model launches, without computing anything.

Reading a meta tensor raises, so that whatever waits for the device fails by itself; operators that mix it with the
host's memory are what goes there and back.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.initialization import no_init_weights

from qqvl_server.engine.forward.backend import Backend
from qqvl_server.engine.forward.runner import ModelRunner
from qqvl_server.engine.steps.batch import ScheduledBatch, ScheduledChunk
from qqvl_server.engine.steps.request import Request, SamplingParams

# Qwen3-VL-8B-Instruct's config.json.
TEXT: Final[dict[str, Any]] = {
    "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
}  # fmt: skip
VISION: Final[dict[str, Any]] = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
    "deepstack_visual_indexes": [8, 16, 24], "num_position_embeddings": 2304,
}  # fmt: skip
IMAGE: Final = 151_655
# What launches nothing.
_VIEWS: Final = {
    *("view", "transpose", "slice", "select", "unsqueeze", "expand", "t", "permute", "split", "split_with_sizes"),
    *("detach", "alias", "as_strided", "unbind", "_unsafe_view", "reshape", "squeeze", "lift_fresh", "empty"),
    *("empty_like", "empty_strided", "new_empty", "_reshape_alias", "chunk", "narrow", "numpy_T", "flatten"),
}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts ``launches`` on the device by operator, and ``crossings`` between it and the host."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: Counter[str] = Counter()
        self.crossings: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        tensors = [*_tensors(args), *_tensors(kwargs or {}), *_tensors(out)]
        kinds = {t.device.type for t in tensors}
        if "meta" not in kinds:
            # Of an index or a mask assigned a number: CUDA makes it on the host and waits for its copy.
            if name == "scalar_tensor":
                self.crossings[name] += 1
            return out
        if "cpu" in kinds:
            self.crossings[name] += 1
        elif name not in _VIEWS:
            self.launches[name] += 1
            self.bytes += sum(t.nbytes for t in tensors)
        return out

    @property
    def total(self) -> int:
        return sum(self.launches.values())


def _tensors(of: Any) -> list[torch.Tensor]:
    if isinstance(of, torch.Tensor):
        return [of]
    if isinstance(of, dict):
        of = of.values()
    return [t for one in of for t in _tensors(one)] if isinstance(of, list | tuple | type({}.values())) else []


def model(dtype: torch.dtype = torch.bfloat16) -> Any:
    config = Qwen3VLConfig(text_config=TEXT, vision_config=VISION, image_token_id=IMAGE)
    with torch.device("meta"), no_init_weights():
        made = Qwen3VLForConditionalGeneration(config).eval()
    return made.to(dtype).requires_grad_(False)


def runner(backend: Backend, made: Any) -> ModelRunner:
    return ModelRunner(made, backend, blocks=4000, feature_bytes=5 * 10**8)


def decodes(run: ModelRunner, count: int, *, length: int = 1000, **wishes: Any) -> ScheduledBatch:
    """A step of ``count`` replies going on after ``length`` tokens."""
    chunks = []
    for n in range(count):
        sampling = SamplingParams(8, **{"temperature": 0.7, "top_k": 20, "top_p": 0.8, **wishes})
        request = Request(f"{n}", "c", [5] * length, sampling)
        request.tokens.append(7)
        width = length // 16 + 1
        request.blocks = list(range(n * width, n * width + width))
        run.add(request, {})
        chunks.append(ScheduledChunk(request, length, 1))
    return ScheduledBatch(tuple(chunks))
