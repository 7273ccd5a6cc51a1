"""Scripts that are kept on a server, by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from qqvl_server.chat.playscript import Script, parsed
from qqvl_server.errors import ConfigError, InvalidRequest, QqvlError

ALL = "all"
_TIMEOUT_S = 30.0


def kept(url: str, headers: Mapping[str, str], names: Sequence[str]) -> Iterator[tuple[str, Script]]:
    """In the order of ``names``; ``all`` are all that there are.

    Raises:
        ConfigError: there is none of that name, or none at all.
        QqvlError: the server cannot be reached, or refuses.
    """
    with httpx.Client(base_url=url, headers=dict(headers), timeout=_TIMEOUT_S, trust_env=False) as http:
        known = {one["name"]: one["id"] for one in _asked(http, "/api/page/plays")["plays"]}
        missing = [name for name in names if name != ALL and name not in known]
        if missing or not known:
            there = f"有的是：{'、'.join(known)}" if known else "一个都没有，请先在网页的“试群”里存"
            raise ConfigError(f"服务器上没有存下脚本“{missing[0]}”，{there}" if missing else f"服务器上的脚本{there}")
        for name in dict.fromkeys(name for wanted in names for name in (known if wanted == ALL else [wanted])):
            try:
                yield name, parsed(_asked(http, f"/api/page/plays/{known[name]}"))
            except InvalidRequest as error:
                raise ConfigError(f"存下的脚本“{name}”的 {error.message}") from None


def _asked(http: httpx.Client, path: str) -> dict[str, Any]:
    try:
        answer = http.get(path)
    except httpx.HTTPError as error:
        raise QqvlError(f"连不上服务器 {http.base_url}：请检查地址，它要在运行") from error
    if answer.status_code in (401, 403):
        raise QqvlError("服务器要有 admin 权限的密钥：用 --key，或在运行它的机器上用 --data-dir 指明它的数据目录")
    if answer.status_code != 200:
        raise QqvlError(f"服务器不给脚本（{answer.status_code}）")
    value: dict[str, Any] = answer.json()
    return value
