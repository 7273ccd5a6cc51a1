"""`doctor`: each thing the client does, done once, and told as lines or as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qqvl_client.doctor.finding import Finding
from qqvl_client.errors import SettingsError
from qqvl_client.language import told
from qqvl_client.settings import Settings, load

MARKS = {"ok": "好", "warning": "注意", "failed": "不行", "skipped": "略过"}
TITLES = {
    "client_settings": "客户端设置",
    "napcat": "NapCat",
    "account": "QQ 账号",
    "qq_clock": "QQ 一侧的时钟",
    "server": "从客户端连服务器",
    "picture": "取图片",
    "send": "发给自己",
}


def run(given: Mapping[str, Any], config: Path | None, *, as_json: bool, send: bool, picture: str) -> int:
    """Returns 0 where nothing has failed, else 1.

    Args:
        given: settings typed as flags.
        send: whether the bot may write itself a message.
        picture: the address to fetch; the bot's own picture where it is empty.
    """
    try:
        settings = load(os.environ, given, config)
    except SettingsError as error:
        found = [Finding("client_settings", "failed", str(error), "设置", "照这一行改，再体检一次")]
    else:
        found = [Finding("client_settings", "ok", "读得懂"), *asyncio.run(_examined(settings, send, picture))]
    sys.stdout.write(_json(found) if as_json else _lines(found))
    return 1 if any(one.state == "failed" for one in found) else 0


async def _examined(settings: Settings, send: bool, picture: str) -> list[Finding]:
    from qqvl_client.doctor import far

    try:
        from qqvl_client.doctor import napcat
    except ImportError as error:
        message = f"这里的 Python 没有 {error.name}：客户端还没有装过"
        line, self_id = [Finding("napcat", "skipped", message, "客户端", "运行一次 ./run_client.sh，它会装好")], ""
    else:
        line, self_id = await napcat.examine(settings, send)
    return [*line, await far.server(settings), await far.picture(settings, picture, self_id)]


def _json(found: Sequence[Finding]) -> str:
    findings = [
        {
            "check": one.check, "state": one.state, "message": told(one.message), "field": told(one.field),
            "value": told(one.value),
        }
        for one in found
    ]  # fmt: skip
    well = all(one.state != "failed" for one in found)
    return json.dumps({"ok": well, "findings": findings}, ensure_ascii=False, indent=2) + "\n"


def _lines(found: Sequence[Finding]) -> str:
    lines = []
    for one in found:
        line = f"[{MARKS[one.state]}] {TITLES[one.check]}：{one.message}"
        lines.append(told(line))
        if one.field:
            lines.append(told(f"       要改：{one.field} → {one.value}"))
    bad = sum(one.state == "failed" for one in found)
    lines.append(told(f"有 {bad} 项不行，照“要改”那一行改" if bad else "没有查出问题"))
    return "\n".join(lines) + "\n"
