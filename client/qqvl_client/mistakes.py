"""What is wrong with a setting, in one Chinese line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo


def near(word: str, known: Iterable[str], alike: float = 0.6) -> str:
    """A hint after a name that does not exist, or nothing where none is that much like it (0 to 1)."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=alike)
    return f"，是不是想写 {found[0]}？" if found else ""


def meant(word: str, known: Iterable[str]) -> str:
    """As `near`, for a setting's name."""
    return near(word, known) or "；全部设置见 docs/client.md"


def one_line(error: ValidationError, fields: Mapping[str, FieldInfo]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    field = fields.get(name)
    meaning = f"（{field.description}）" if field and field.description else ""
    reason = _reason(first)
    return f"设置 {name}{meaning} 不对：{reason}" if name else f"设置不对：{reason}"


def _reason(first: Mapping[str, Any]) -> str:
    """pydantic's finding in Chinese."""
    context = first.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    choices = str(context.get("expected")).replace("'", "").replace(" or ", "、").replace(", ", "、")
    limits = {
        "greater_than": f"必须大于 {context.get('gt')}",
        "greater_than_equal": f"不能小于 {context.get('ge')}",
        "less_than_equal": f"不能大于 {context.get('le')}",
        "literal_error": f"只能是 {choices}",
        "int_parsing": "应是整数",
        "int_from_float": "应是整数",
        "float_parsing": "应是数字",
        "bool_parsing": "应是 true 或 false",
    }
    return limits.get(first["type"], "类型不对，请对照 docs/client.md 的设置表")
