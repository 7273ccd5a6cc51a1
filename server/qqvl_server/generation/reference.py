"""One plain ``model.generate`` at a time: slow, simple, and the oracle for every faster engine.

Knows the model and token ids; no text, no chats, no event loop.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from qqvl_server.errors import EngineDead, GenerationFailed
from qqvl_server.generation.port import FinishReason, Sampling
from qqvl_server.generation.preprocess import Prompt
from qqvl_server.weights.load import LoadedModel


class _Tokens(BaseStreamer):
    """Hands on each new id; ``generate`` sends the prompt itself first."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self._prompt_seen:
            for token in value.flatten().tolist():
                self._on_token(int(token))
        self._prompt_seen = True

    def end(self) -> None:
        pass


class _Asked(StoppingCriteria):
    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stop(), device=input_ids.device, dtype=torch.bool)


class ReferenceEngine:
    def __init__(self, loaded: LoadedModel) -> None:
        self._model: Any = loaded.model
        defaults = self._model.generation_config
        ends = defaults.eos_token_id
        self._ends = frozenset(ends if isinstance(ends, list) else [ends])

    def run(
        self, prompt: Prompt, sampling: Sampling, on_token: Callable[[int], None], stop: Callable[[], bool]
    ) -> FinishReason:
        """Blocking. Calls ``on_token`` for each id but the end token; returns early once ``stop()`` is true.

        Raises:
            GenerationFailed: this call failed, the next one may succeed.
            EngineDead: the device is lost; nothing will succeed in this process.
        """
        last: list[int] = []

        def take(token: int) -> None:
            last[:] = [token]
            if token not in self._ends:
                on_token(token)

        out_of_memory = False
        try:
            with torch.inference_mode():
                self._model.generate(
                    **prompt.inputs.to(self._model.device, dtype=self._model.dtype),
                    generation_config=self._config(sampling),
                    streamer=_Tokens(take),
                    stopping_criteria=StoppingCriteriaList([_Asked(stop)]),
                )
        except torch.OutOfMemoryError:
            out_of_memory = True
        except torch.AcceleratorError as error:
            raise EngineDead("显卡出错，模型已不能工作，服务将退出以便重启") from error
        if out_of_memory:
            # Outside the except block: its traceback would keep every tensor of the failed step alive.
            gc.collect()
            torch.cuda.empty_cache()
            raise GenerationFailed("显存不够，这条消息没能回答；可以调小 --context-tokens 或 --max-image-tokens")
        return FinishReason.STOP if last and last[0] in self._ends else FinishReason.LENGTH

    def _config(self, sampling: Sampling) -> GenerationConfig:
        config = copy.deepcopy(self._model.generation_config)
        config.max_new_tokens, config.max_length = sampling.max_new_tokens, None
        if config.pad_token_id is None:
            config.pad_token_id = next(iter(self._ends))
        for name in ("top_p", "top_k", "repetition_penalty"):
            value = getattr(sampling, name)
            if value is not None:
                setattr(config, name, value)
        if sampling.temperature is not None:
            config.do_sample = sampling.temperature > 0
            config.temperature = sampling.temperature
        if not config.do_sample:
            # Greedy search warns about every sampling knob that is still set.
            config.temperature = config.top_p = config.top_k = None
        config.validate(strict=False)
        return config
