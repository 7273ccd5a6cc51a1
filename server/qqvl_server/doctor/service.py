"""Port, key, and the service itself where one runs."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import Final

import httpx
import psutil

from qqvl_server import keys
from qqvl_server.doctor.finding import Case, Finding, Running, failed, ok, skipped, warning
from qqvl_server.errors import ConfigError
from qqvl_server.hosts import is_loopback
from qqvl_server.process import bound
from qqvl_server.settings import ServerSettings

_PATIENCE_S: Final = 3
_NEXT_PORTS: Final = 50
# A path behind each scope's door that only has to be looked at: a GET of the QQ door is refused for its method, after
# the key.
_DOORS: Final = {keys.Scope.QQ: "/api/chat/private", keys.Scope.OPENAI: "/v1/models", keys.Scope.ADMIN: "/metrics"}
_TROUBLE: Final = {
    "dead": ("模型引擎已停止工作", "重启服务"),
    "away": ("上游的模型服务没有应答", "看上游是不是在运行、网址和密钥对不对；它回来就恢复，不用重启"),
    "storage_lost": ("数据目录被移走或换掉了", "停下服务，把数据目录放回原处再启动"),
    "storage_damaged": ("聊天记录数据库坏了", "停下服务，把数据目录复制一份留底，再从备份恢复"),
    "storage_away": ("连不上 PostgreSQL 数据库", "看数据库服务器是不是在运行、网络通不通；通了会自己连上"),
}


def running(settings: ServerSettings) -> Running | None:
    """The qqvl that answers at the port of ``settings``; None where nothing does, or something else."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    base = f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
    try:
        answer = httpx.get(f"{base}/health", timeout=_PATIENCE_S, trust_env=False)
        said = answer.json()
        return Running(base, str(said["status"]), str(said["device"]))
    except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError):
        return None


def service(case: Case) -> Finding:
    if case.running is None:
        return skipped("现在没有在运行")
    if trouble := _TROUBLE.get(case.running.word):
        return failed(f"{case.running.base} 在运行，但{trouble[0]}", "服务", trouble[1])
    if case.running.word != "healthy":
        return warning(f"{case.running.base} 还没就绪：{case.running.word}", "服务", "等它加载完，再体检一次")
    return ok(f"{case.running.base} 正常，用的是 {case.running.device}")


def port(case: Case) -> Finding:
    server = case.settings.server
    if case.running is not None:
        return ok(f"{server.host}:{server.port} 上是 qqvl 自己")
    try:
        with bound(server.host, server.port) as listener:
            return ok(f"{server.host}:{listener.getsockname()[1]} 空着")
    except ConfigError:
        holder = _holder(server.port)
    free = _free(server.host, server.port)
    if free is None:
        return failed(f"无法监听 {server.host}：这台机器没有这个地址", case.where("server.host"), "127.0.0.1")
    return failed(
        f"{server.host}:{server.port} 被{holder}占着；停掉它，或换一个端口（客户端的 client.server_url 也要跟着改）",
        case.where("server.port"),
        str(free),
    )


def _holder(taken: int) -> str:
    """Who listens at the port, as far as the system tells this account."""
    with contextlib.suppress(psutil.Error, OSError):
        for line in psutil.net_connections("tcp"):
            if line.status == psutil.CONN_LISTEN and line.laddr and line.laddr.port == taken and line.pid:
                return f" {psutil.Process(line.pid).name()}（进程 {line.pid}）"
    return "另一个程序"


def _free(host: str, taken: int) -> int | None:
    for candidate in (*range(taken + 1, min(taken + _NEXT_PORTS, 65536)), 0):
        with contextlib.suppress(ConfigError), bound(host, candidate) as listener:
            return int(listener.getsockname()[1])
    return None


def key(case: Case) -> Finding:
    server = case.settings.server
    known = keys.parse(server.api_keys)
    if not known and not is_loopback(server.host):
        return failed(
            f"监听 {server.host} 而没有密钥：能连到这台机器的任何人都能用模型、看记录",
            case.where("server.api_keys"),
            secrets.token_hex(24),
        )
    if case.running is not None and (refusal := _refusal(case.running, known[0] if known else None)):
        return failed(
            f"正在运行的服务不认现在设置里的密钥（{refusal}）：它是用别的设置启动的",
            case.where("server.api_keys"),
            "用这份设置重新启动服务，或把它启动时的密钥写到这里",
        )
    file = server.api_keys_file
    if file and keys.others_can_read(Path(file)):
        return warning(
            f"这台机器上的其他用户也能读密钥文件 {file}", case.where("server.api_keys_file"), f"chmod 600 {file}"
        )
    return ok(f"有 {len(known)} 个密钥" if known else "没有密钥，只有本机能访问")


def _refusal(service: Running, known: keys.ApiKey | None) -> str:
    """What a running service says to the key of the settings where it does not let it in."""
    scope = next(scope for scope in keys.Scope if known is None or scope in known.scopes)
    headers = {b"Authorization": b"Bearer " + known.secret} if known else {}
    try:
        answer = httpx.get(service.base + _DOORS[scope], headers=headers, timeout=_PATIENCE_S, trust_env=False)
    except (httpx.HTTPError, OSError):
        return ""
    return f"HTTP {answer.status_code}" if answer.status_code in (401, 403) else ""
