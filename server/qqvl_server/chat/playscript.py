"""A played group as JSON: who is in it, what they say and when, and what is expected of the bot."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from qqvl_server.errors import InvalidRequest

_REPLY: Final = re.compile(r"(.+)/reply([1-9]\d{0,3})?", re.DOTALL)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _word(value: Any) -> Any:
    """QQ's numbers may be written as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _compiled(pattern: str | None) -> str | None:
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError("不是合法的正则表达式") from error
    return pattern


Id = Annotated[str, BeforeValidator(_word), Field(min_length=1, max_length=64)]


class Bot(_Part):
    id: Id = "10000"
    name: str = "小Q"
    card: str = ""


class Member(_Part):
    id: Id
    name: str = ""
    card: str = ""
    role: Literal["member", "admin", "owner"] = "member"
    is_bot: bool = False


class Group(_Part):
    name: str = "测试群"


class Expected(_Part):
    """What is None is not looked at. ``matches`` is a regular expression that is found in what the bot says."""

    speaks: bool | None = None
    reason: str | None = None
    contains: tuple[str, ...] = ()
    not_contains: tuple[str, ...] = ()
    matches: Annotated[str | None, AfterValidator(_compiled)] = None


class Line(_Part):
    """``at_s`` are seconds since the first line, by the group's clock. ``quote`` is a line's id, or ``id/reply`` for
    what the bot said to it, ``id/reply2`` for its second message. ``recall``: nothing is said; that line leaves QQ."""

    id: Annotated[str, Field(min_length=1, max_length=100)]
    at_s: float = Field(0, ge=0, le=1e8, allow_inf_nan=False)
    sender: Id | None = Field(None, alias="from")
    text: str = ""
    at: tuple[Id, ...] = ()
    quote: str | None = None
    images: tuple[str, ...] = ()
    sticker: bool = False
    recall: str | None = None
    expect: Expected = Expected()


class Script(_Part):
    qqvl_try: Literal[1]
    name: str = ""
    group: Group = Group()
    settings: dict[str, Any] = Field(default_factory=dict)
    bot: Bot = Bot()
    members: tuple[Member, ...] = Field(min_length=1)
    lines: tuple[Line, ...] = Field(min_length=1)

    def member(self, member_id: str) -> Member:
        return next(member for member in self.members if member.id == member_id)


def parsed(value: Any) -> Script:
    """A script of what JSON gave. Raises InvalidRequest: where it is wrong, and how."""
    try:
        script = Script.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "最外层"
        raise InvalidRequest(f"{where} 不对：{_REASONS.get(first['type'], '类型或取值不对')}") from None
    wrong = _wrong(script)
    if wrong is not None:
        raise InvalidRequest(wrong)
    return script


def answered(name: str) -> tuple[str, int] | None:
    """Of the name of something that the bot said (``b/reply``, ``b/reply2`` …): the line that it answers, and which of
    its messages it is, from 0. None for a line's own id."""
    found = _REPLY.fullmatch(name)
    return (found[1], int(found[2] or 1) - 1) if found else None


def _line_of(name: str) -> str:
    found = answered(name)
    return found[0] if found else name


def _wrong(script: Script) -> str | None:
    """What the parts by themselves cannot tell."""
    known: set[str] = set()
    members = {member.id for member in script.members}
    last = 0.0
    for number, line in enumerate(script.lines):
        where = f"lines.{number}"
        if line.id in known:
            return f"{where}.id 和前面的一句重复了"
        if line.at_s < last:
            return f"{where}.at_s 比前一句还早"
        if line.recall is None and line.sender not in members:
            return f"{where}.from 不是 members 里的人"
        if line.recall is not None and _line_of(line.recall) not in known:
            return f"{where}.recall 不是前面的一句"
        if line.quote is not None and _line_of(line.quote) not in known:
            return f"{where}.quote 不是前面的一句"
        known.add(line.id)
        last = line.at_s
    return None


_REASONS = {
    "missing": "没有填",
    "extra_forbidden": "没有这个名字",
    "literal_error": "取值不对；qqvl_try 应是 1",
    "string_type": "应是字符串",
    "too_short": "不能为空",
    "value_error": "不是合法的正则表达式",
}
