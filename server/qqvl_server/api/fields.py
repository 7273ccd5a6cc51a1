"""Fields that requests to the bare model share, whatever the door. Unknown ones pass, null is as good as absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from qqvl_server.api.validation import bad
from qqvl_server.generation.port import Sampling

_MAX_STOPS: Final = 16
_STOP: Final[dict[str, Any]] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": _MAX_STOPS}]
}
_SEEDS: Final = 2**63 - 1


def refuse(body: Mapping[str, Any], refused: Mapping[str, tuple[Any, ...]]) -> None:
    """
    Args:
        refused: fields that would have to be ignored, and the values of each that ask for nothing.

    Raises:
        InvalidRequest: one of them asks for something.
    """
    for name, harmless in refused.items():
        value = body.get(name)
        # ``1 == True``: a number must not pass for a switch.
        if value is not None and not any(value == ok and type(value) is type(ok) for ok in harmless):
            raise bad(name, "不支持（is not supported）")


def listed(value: Any) -> Any:
    return () if value is None else tuple(value) if isinstance(value, list) else value


def words(value: Any) -> Any:
    """An empty word would stop at once and is nobody's wish."""
    value = listed(value)
    return tuple(word for word in value if word != "") if isinstance(value, tuple) else value


def _stops(value: Any) -> Any:
    return words([value] if isinstance(value, str) else value)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


Name = Annotated[str, Field(max_length=256)]
Objects = Annotated[tuple[dict[str, Any], ...], BeforeValidator(listed)]
Word = Annotated[str, Field(max_length=1000)]
Stops = Annotated[tuple[Word, ...], BeforeValidator(_stops), Field(max_length=_MAX_STOPS), WithJsonSchema(_STOP)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingFields(Model):
    """How OpenAI's doors are asked to choose the next token: OpenAI's own fields and those of ``vllm serve``."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: int | None = None
    stop: Stops = ()

    def sampling(self, max_new_tokens: int, logprobs: int | None) -> Sampling:
        """``max_new_tokens`` beyond the context is trimmed by the voice."""
        return Sampling(
            max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            seed=None if self.seed is None else self.seed & _SEEDS,
            stop=self.stop,
            logprobs=logprobs,
        )
