"""How a setting's value may be written: lists as one word, YAML's own words, hosts, devices, hours, patterns. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Final

import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Room(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def split(value: object) -> object:
    """A flag or variable holds a list as one comma-separated word; a file holds a real list."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return written(value)


def written(value: object) -> object:
    """A list without its blank words, each of which would stand in every text."""
    if not isinstance(value, list | tuple):
        return value
    return [item for item in value if not isinstance(item, str) or item.strip()]


Words = Annotated[tuple[str, ...], BeforeValidator(split)]


def numbers(value: object) -> object:
    """A file may hold QQ numbers as numbers, and one without its list."""
    items = value if isinstance(value, list | tuple) else [value]
    words = [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in items]
    return split(words[0]) if len(words) == 1 and isinstance(words[0], str) else written(words)


Ids = Annotated[tuple[str, ...], BeforeValidator(numbers)]


def off(value: object) -> object:
    """YAML reads the bare word ``off`` as false."""
    return "off" if value is False else value


def switch(value: object) -> object:
    """YAML reads the bare words ``on`` and ``off`` as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]\\%]{1,253})(:[1-9]\d{0,4})?")


def hosts(words: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_HOST.fullmatch(word) for word in words):
        raise ValueError("应写成 主机 或 主机:端口，例如 10.0.0.5:8080 或 [fd00::1]:80")
    return words


Hosts = Annotated[Words, AfterValidator(hosts)]


_DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def devices(value: str) -> str:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["auto"]:
        return value
    if not names or not all(_DEVICE.fullmatch(name) for name in names):
        raise ValueError("可以写 auto、cpu、mps、cuda:0，或 cuda:0,cuda:1")
    if {"cpu", "mps"} & set(names) and len(names) > 1:
        raise ValueError("不能把 cpu、mps 和显卡写在一起")
    if len(set(names)) < len(names):
        raise ValueError("同一块显卡写了两次")
    return value


_CHAT = re.compile(r"(group|private):\S{1,64}")


def chats(value: object) -> object:
    """Keys that no chat can have would be prompts that nobody ever gets."""
    for key, text in value.items() if isinstance(value, dict) else ():
        if not isinstance(key, str) or not _CHAT.fullmatch(key):
            raise ValueError(f"里的 {key!r} 不对应任何会话：键要写成 group:群号 或 private:QQ号，例如 group:123456")
        if not isinstance(text, str):
            raise ValueError(f"里 {key} 的人设应是一段文字")
    return value


def _pieces(value: str) -> list[str]:
    """Parts of a list of patterns: at commas that stand in no brackets and behind no backslash."""
    found, depth, escaped = [""], 0, False
    for letter in value:
        if letter == "," and not depth and not escaped:
            found.append("")
            continue
        depth += 0 if escaped else (letter in "([{") - (letter in ")]}")
        escaped = letter == "\\" and not escaped
        found[-1] += letter
    return [piece.strip() for piece in found if piece.strip()]


def patterns(value: object) -> object:
    return tuple(_pieces(value)) if isinstance(value, str) else written(value)


def _compilable(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for number, pattern in enumerate(patterns, 1):
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"里第 {number} 个不是合法的正则表达式：{error}") from None
    return patterns


Patterns = Annotated[tuple[str, ...], BeforeValidator(patterns), AfterValidator(_compilable)]

_HOURS = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)-([01]?\d|2[0-4]):([0-5]\d)")


def hours(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        found = _HOURS.fullmatch(word)
        if found is None or "24:" in word.replace("24:00", ""):
            raise ValueError("应写成 几点几分-几点几分，例如 23:00-07:30")
    return words


Hours = Annotated[Words, AfterValidator(hours)]

ROLES: Final = ("member", "admin", "owner")
COMMANDS: Final = (
    "help", "status", "why", "quota", "memory", "model", "stop", "undo", "reset", "new", "persona", "mode", "mute",
    "unmute",
)  # fmt: skip


def pairs(value: object) -> object:
    """A file may hold a mapping: ``{reset: owner}`` is ``reset=owner``."""
    return tuple(f"{name}={role}" for name, role in value.items()) if isinstance(value, dict) else split(value)


def _roles(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        name, _, role = (part.strip() for part in word.partition("="))
        if name not in COMMANDS or role not in ROLES:
            raise ValueError(
                f"应写成 命令=谁，谁是 {'、'.join(ROLES)} 之一，例如 reset=owner；命令有 {'、'.join(COMMANDS)}"
            )
    return words


CommandRoles = Annotated[tuple[str, ...], BeforeValidator(pairs), AfterValidator(_roles)]
