"""What the text of a reply may be. Values only, handed on by ``port``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class GrammarKind(StrEnum):
    """How ``Grammar.text`` is written: a JSON schema, a regular expression, a JSON list of strings, or Lark/EBNF."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"


@dataclass(frozen=True, slots=True)
class Grammar:
    """The only texts a reply may be.

    ``params`` are the fields of the request that its schemas come from, in order; ``given_up`` are places in them that
    a reply need not keep to.
    """

    kind: GrammarKind
    text: str
    params: tuple[str, ...] = field(default=(), compare=False)
    given_up: tuple[str, ...] = field(default=(), compare=False)
