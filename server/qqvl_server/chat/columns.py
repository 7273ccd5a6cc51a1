"""Columns that take any text: what no database can keep is replaced on its way in, and in what is looked for."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import Dialect, TypeDecorator, types

# PostgreSQL keeps no NUL, and half of a surrogate pair is in no encoding.
_NEVER: Final = re.compile("[\0\ud800-\udfff]")


def clean(text: str) -> str:
    """``text`` with U+FFFD for every NUL and half surrogate; two halves that belong together are one letter again."""
    if not _NEVER.search(text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Text(TypeDecorator[str]):
    impl = types.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return cleaned(value)


class String(TypeDecorator[str]):
    impl = types.String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return cleaned(value)


class JSON(TypeDecorator[Any]):
    impl = types.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return cleaned(value)


def cleaned(value: Any) -> Any:
    """The same value, with every text in it clean."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {cleaned(name): cleaned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(one) for one in value]
    return value
