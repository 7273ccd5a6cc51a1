"""The five lines a person reads when the model is there: where, which, what is kept, how to talk to it, what next."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from qqvl_server import invocation
from qqvl_server.hosts import is_loopback
from qqvl_server.language import told
from qqvl_server.settings import Settings


def lines(settings: Settings, url: str, model: str, data_dir: Path, *, is_demo: bool) -> Sequence[str]:
    server = settings.server
    reach = "只有这台机器能访问" if is_loopback(server.host) else "别的机器也能访问"
    key = "，要带密钥" if server.api_keys else ""
    # What may be dialled where it listens on all addresses.
    at = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    header = " -H 'Authorization: Bearer <密钥>'" if server.api_keys else ""
    body = '{"type":"private","user_id":"10001","user_nickname":"我","content":"你好","images":[],"timestamp":0}'
    relay = "./run_client.sh" if (invocation.ROOT / "run_client.sh").is_file() else "qqvl-client"
    written = (
        f"地址：{at}（{reach}{key}）",
        f"模型：{model}{'（演示模型，只会简单的看图和聊天）' if is_demo else ''}",
        f"数据：{data_dir.absolute()}",
        f"说话：curl {at}/api/chat/private{header} -H 'Content-Type: application/json' -d '{body}'",
        f"接着：接 QQ 先 {invocation.command('setup')}，再 {relay}；不通就 {invocation.command('doctor')}",
    )
    return tuple(map(told, written))


def box(lines: Sequence[str]) -> str:
    """Ruled above and below, not at the sides: a line that is copied must bring no frame along."""
    rule = "─" * min(max(map(_columns, lines)), 78)
    return "\n".join((rule, *lines, rule))


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
