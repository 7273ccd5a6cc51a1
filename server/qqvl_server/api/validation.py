"""JSON objects into pydantic models, with errors in fixed words: the framework's own would echo the input."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from qqvl_server.errors import InvalidRequest

M = TypeVar("M", bound=BaseModel)

# The type of errors whose words are ours already.
_OWN: Final = "own"

_REASONS: Final[dict[str, str]] = {
    "missing": "没有填（is required）",
    "string_type": "应是字符串（must be a string）",
    "bool_type": "应是 true 或 false（must be a boolean）",
    "int_type": "应是整数（must be an integer）",
    "float_type": "应是数字（must be a number）",
    "tuple_type": "应是列表（must be an array）",
    "dict_type": "应是对象（must be an object）",
    "model_type": "应是对象（must be an object）",
    "string_too_long": "太长了（is too long）",
    "string_too_short": "不能为空（must not be empty）",
    "too_long": "项数太多（has too many items）",
    "too_short": "不能为空（must not be empty）",
}
_BOUNDS: Final = {
    "greater_than": ("gt", "应大于 {}（must be greater than {}）"),
    "greater_than_equal": ("ge", "不能小于 {}（must be at least {}）"),
    "less_than": ("lt", "应小于 {}（must be less than {}）"),
    "less_than_equal": ("le", "不能大于 {}（must be at most {}）"),
}


def validated(model: type[M], value: dict[str, Any]) -> M:
    """``value`` as ``model``.

    Raises:
        InvalidRequest: it does not fit; ``param`` says where.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    param = _where(first["loc"])
    raise bad(param, _reason(first["type"], first["msg"], first.get("ctx", {})))


def bad(param: str, reason: str) -> InvalidRequest:
    """The refusal of one parameter. ``param`` is a name of ours, ``reason`` Chinese with the English in brackets."""
    return InvalidRequest(f"参数 {param} {reason}" if param else reason, param=param or None)


def unfit(reason: str) -> PydanticCustomError:
    """What a validator of ours raises, in the words the caller will read."""
    return PydanticCustomError(_OWN, "{reason}", {"reason": reason})


def _where(steps: tuple[int | str, ...]) -> str:
    """``messages[0].content``: field names of ours and positions only."""
    text = ""
    for step in steps[:8]:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def _reason(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind == _OWN:
        return message
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return words.format(*[f"{context[key]:g}"] * 2)
    if kind == "literal_error":
        return f"应是 {context['expected']} 之一（must be one of them）"
    return _REASONS.get(kind, "类型或取值不对（has a wrong type or value）")
