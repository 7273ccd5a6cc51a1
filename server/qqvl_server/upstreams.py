"""Settings of section ``upstream``: other servers that speak OpenAI's protocol, in place of weights of our own."""

from __future__ import annotations

import re
import urllib.parse
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from qqvl_server.setting_types import Room, Words, off, written

Preset = Literal["auto", "vllm", "sglang", "llamacpp", "ollama", "lmstudio", "qqvl", "openai"]
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")


def _addresses(words: tuple[str, ...]) -> tuple[str, ...]:
    """Without a slash at the end; an address without a path is that of ``/v1``."""
    found = []
    for word in words:
        parts = _parts(word)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("应写成 http://主机:端口/v1，多个用逗号隔开")
        if parts.username is not None or parts.password is not None:
            raise ValueError("网址里不能写账号和密码，密钥请写在 upstream_key 里")
        path = parts.path.rstrip("/") or "/v1"
        found.append(f"{parts.scheme}://{parts.netloc}{path}")
    if len(set(found)) < len(found):
        raise ValueError("里同一个网址写了两次")
    return tuple(found)


def _parts(word: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(word)
        _ = parts.port
    except ValueError:
        raise ValueError("里有一个不是网址，应写成 http://主机:端口/v1") from None
    return parts


def _numbers(value: object) -> object:
    """A flag holds them as one word, a file as a list or as one number."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else written(value)


def _weights(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < value <= 10_000 for value in values):
        raise ValueError("应是大于 0、不大于 10000 的数，用逗号隔开，如 2,1")
    return values


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise ValueError("应是一个请求头的名字，如 X-Session-Id；留空不送")
    return value


def _key(value: str) -> str:
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError("里只能有可见的英文字符，没有空格")
    return value


def _proxy(value: str) -> str:
    if value and (_parts(value).scheme not in ("http", "https") or not _parts(value).hostname):
        raise ValueError("应写成 http://主机:端口")
    return value


class UpstreamSettings(Room):
    upstream_url: Annotated[Words, AfterValidator(_addresses)] = Field(
        (),
        description="--engine upstream 时用哪个服务的模型，写到 /v1 为止，如 http://10.0.0.5:8000/v1；"
        "多个用逗号隔开，一个会话总问同一个",
    )
    upstream_key: Annotated[str, AfterValidator(_key)] = Field("", description="上游的密钥；没有就留空")
    upstream_model: str = Field(
        "", max_length=256, description="上游的模型名；留空用上游列出的第一个，自己对外则叫 upstream"
    )
    upstream_weights: Annotated[
        tuple[float, ...], BeforeValidator(_numbers), AfterValidator(_weights)
    ] = Field((), description="几个上游各分多少会话，如 2,1；留空一样多")  # fmt: skip
    upstream_preset: Preset = Field(
        "auto",
        description="上游是什么服务，决定能送它哪些字段；auto 问它自己，问不出来当作 openai（只送 OpenAI 自己的字段）",
    )
    upstream_session_header: Annotated[str, AfterValidator(_header)] = Field(
        "X-Session-Id",
        description="告诉上游前面的分流器这是哪个会话的请求头，值是算出来的记号，看不出群号和密钥；留空不送",
    )
    upstream_salt: Annotated[Literal["chat", "key", "off"], BeforeValidator(off)] = Field(
        "chat",
        description="上游的前缀缓存按什么分开（cache_salt）：chat 每个会话各算各的，谁也试探不出别人说过什么，"
        "代价是每个会话都要重读一遍人设；key 所有 QQ 会话合用、每个密钥分开；off 全部合用",
    )
    upstream_proxy: Annotated[str, AfterValidator(_proxy)] = Field(
        "", description="经哪个代理去上游，如 http://10.0.0.1:3128；留空直接连，不看环境变量里的代理"
    )
    cluster_secret: str = Field(
        "", description="算会话记号用的密钥，几台服务器要写一样的；留空就生成一次，记在数据库里"
    )
