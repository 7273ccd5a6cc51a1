"""API keys: what one looks like in settings and files, and which doors it opens. Knows no HTTP.

``secret`` opens every door; ``qq=secret``, ``openai+admin=secret`` open those named.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from qqvl_server.errors import ConfigError


class Scope(StrEnum):
    QQ = "qq"
    OPENAI = "openai"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``name`` tells keys apart in logs and caches without being one: twelve hex digits of its hash."""

    secret: bytes
    scopes: frozenset[Scope]
    name: str


# A secret itself may hold ``=`` at its end, as base64 does.
_SCOPED: Final = re.compile(r"([^=]*)=(.*[^=].*)")


def parse(words: Iterable[str]) -> tuple[ApiKey, ...]:
    """Keys as settings spell them; one secret written twice opens what either line opens.

    Raises:
        ConfigError: an unknown scope, or a character that no header can carry. Never names the secret.
    """
    scopes: dict[str, frozenset[Scope]] = {}
    for word in words:
        match = _SCOPED.fullmatch(word)
        secret, opened = (match[2], _scopes(match[1])) if match else (word, frozenset(Scope))
        if not secret or any(letter.isspace() or not letter.isprintable() for letter in secret):
            raise ConfigError("api_keys 里有空的密钥，或密钥里有空白和控制字符")
        scopes[secret] = scopes.get(secret, frozenset()) | opened
    return tuple(
        ApiKey(secret.encode(), opened, hashlib.sha256(secret.encode()).hexdigest()[:12])
        for secret, opened in scopes.items()
    )


def _scopes(text: str) -> frozenset[Scope]:
    names = text.split("+")
    if not set(names) <= set(Scope):
        raise ConfigError("api_keys 里密钥的 = 前面只能是 qq、openai、admin，可用 + 连写，如 qq+openai=密钥")
    return frozenset(Scope(name) for name in names)


def find(keys: Iterable[ApiKey], given: Iterable[bytes]) -> ApiKey | None:
    """The key among ``keys`` that a caller brought; looks at all of them, so that time tells nothing."""
    found = None
    for candidate in given:
        for key in keys:
            if hmac.compare_digest(candidate, key.secret):
                found = key
    return found


def read_file(path: Path) -> tuple[str, ...]:
    """One key a line, ``#`` starts a comment line.

    Raises:
        ConfigError: unreadable, no UTF-8, or without a key: a server meant to be locked must not start open.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"读不了密钥文件 {path}：{error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"密钥文件 {path} 的编码应是 UTF-8") from error
    lines = (line.strip() for line in text.splitlines())
    words = tuple(line for line in lines if line and not line.startswith("#"))
    if not words:
        raise ConfigError(f"密钥文件 {path} 里没有密钥")
    return words


def others_can_read(path: Path) -> bool:
    """Whether other accounts of this machine can read the file of keys."""
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
