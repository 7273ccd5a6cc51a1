"""Every check there is, in the order it is told in, and what all of them found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from qqvl_server.doctor import machine, service, storage
from qqvl_server.doctor.finding import Case, Finding, failed
from qqvl_server.observe.logs import logger

Check = Callable[[Case], Finding]

SETTINGS: Final = "settings"
CHECKS: Final[Mapping[str, Check]] = {
    "model": machine.model,
    "gpu": machine.card,
    "memory": machine.memory,
    "data": storage.folder,
    "disk": storage.disk,
    "database": storage.database,
    "clock": storage.clock,
    "port": service.port,
    "key": service.key,
    "service": service.service,
}
# The names people read; the second half is the client's.
TITLES: Final = {
    SETTINGS: "设置",
    "model": "模型",
    "gpu": "显卡",
    "memory": "内存",
    "data": "数据目录",
    "disk": "磁盘",
    "database": "数据库",
    "clock": "时钟",
    "port": "端口",
    "key": "密钥",
    "service": "服务",
    "client": "客户端",
    "client_settings": "客户端设置",
    "napcat": "NapCat",
    "account": "QQ 账号",
    "qq_clock": "QQ 一侧的时钟",
    "server": "从客户端连服务器",
    "picture": "取图片",
    "send": "发给自己",
}


def examined(case: Case) -> list[tuple[str, Finding]]:
    return [(name, _made(name, check, case)) for name, check in CHECKS.items()]


def _made(name: str, check: Check, case: Case) -> Finding:
    try:
        return check(case)
    except Exception as error:
        # The edge of each check: one that breaks must not keep the others from being told.
        logger().debug("检查出错", check=name, exc_info=error)
        return failed(f"这一项没有查成（{type(error).__name__}: {error}）", name, "把这一行连同日志报给 qqvl 的作者")
