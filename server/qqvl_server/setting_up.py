"""``qqvl setup``: four questions become ``qqvl.yaml``, which server and client both read."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from qqvl_server import config, invocation
from qqvl_server.errors import ConfigError, QqvlError, WeightsError
from qqvl_server.language import told
from qqvl_server.weights.locate import DEMO, HUB_ID, PREFERRED, is_whole, locate

NAME: Final = "qqvl.yaml"
_HEAD: Final = "# 由 setup 写成；别的设置见 qqvl.example.yaml，写在各自的段里。里面有 token，只让自己能读。\n"
_ADDRESS: Final = re.compile(r"wss?://[^\s/?#@]+(:\d{1,5})?(/\S*)?")
# What an existing file is shown without.
_SECRET: Final = ("napcat_token", "api_key", "api_keys", "database_url", "rate_store_url")
# What the last question offers: its words, and the settings that make it so.
_WHO: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("私聊都答，群里 @ 它、引用它或叫它名字才答", {"group_reply": "auto"}),
    ("私聊都答，群里每条都答", {"group_reply": "all"}),
    ("只答私聊，群里不说话", {"group_reply": "off"}),
)


class _Person:
    """Who answers: asked on stderr, read from stdin; once nothing more comes, or nobody is to be asked, defaults."""

    def __init__(self, is_there: bool) -> None:
        self._is_there = is_there

    def ask(self, question: str, default: str, shown: str, check: Callable[[str], str]) -> str:
        """What ``check`` makes of an answer; it raises QqvlError for one that will not do, and is asked again."""
        while self._is_there:
            _tell(question)
            print(told(f"  直接回车用“{shown}”："), end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                self._is_there = False
                _tell("")
                break
            try:
                return check(line.strip()) if line.strip() else default
            except QqvlError as error:
                _tell(f"  不行：{error.message}")
        return default


def run(file: Path | None, *, is_asked: bool, force: bool) -> int:
    """Write the file, or show and keep one that is there; returns the process's exit status.

    Args:
        file: where it goes; ``qqvl.yaml`` of the project where None.
        is_asked: whether a person is to be asked; else everything is the default.
        force: an existing file is changed; what else stands in it stays, its comments in a copy beside it.

    Raises:
        ConfigError: an existing file is no settings file, or it cannot be written.
    """
    path = file or config.project_root() / NAME
    if path.exists() and not force:
        _tell(f"已经有 {path} 了，没有动它（要重写就加 --force）：")
        print(_shown(path))
        return 0
    made = secrets.token_urlsafe(24)
    settings = _asked(_Person(is_asked), _before(path), made)
    _write(path, settings)
    # What was kept of an older file may be wrong by now: told here, not at the next start.
    config.resolve({}, {}, path)
    _tell(f"\n写好了 {path}（只有自己能读）。接着：")
    for number, line in enumerate(_next(settings, made), 1):
        _tell(f"{number}. {told(line)}")
    return 0


def _shown(path: Path) -> str:
    """The file as it stands, without its secrets. Raises ConfigError: it cannot be read as a settings file."""
    document = _before(path)
    text = path.read_text(encoding="utf-8").rstrip()
    for body in document.values():
        for name in _SECRET:
            value = body.get(name) or ()
            for secret in [value] if isinstance(value, str) else [str(one) for one in value]:
                text = text.replace(secret, "******")
    return text


def _before(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    config.read_file(path)
    found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    client = found.get("client") or {}
    if not isinstance(client, dict):
        raise ConfigError(f"{path} 的 client: 下面应是“名字: 值”")
    return {section: dict(body or {}) for section, body in found.items()}


def _asked(person: _Person, before: Mapping[str, Any], made: str) -> dict[str, Any]:
    settings = {section: dict(body) for section, body in before.items()}
    weights, chat, client = (settings.setdefault(section, {}) for section in ("weights", "chat", "client"))
    model = str(weights.get("model_path") or "")
    weights["model_path"] = person.ask(
        f"1/4 用哪个模型？这里有：{'、'.join(_models()) or DEMO}；也可以写文件夹或 Qwen/{PREFERRED} 这样的名字",
        model,
        model or f"有 {PREFERRED} 就用它，没有就用演示模型",
        _model,
    )
    url = str(client.get("napcat_ws_url") or "ws://127.0.0.1:3001")
    client["napcat_ws_url"] = person.ask("2/4 NapCat 的 WebSocket 服务器地址？", url, url, _address)
    token = str(client.get("napcat_token") or "")
    client["napcat_token"] = person.ask(
        "    它的 Token？（NapCat 网络配置里填的那一串；还没填就用这里生成的，填到 NapCat 里）",
        token or made,
        "现在的这一个" if token else "新生成一串",
        _token,
    )
    owners = ",".join(map(str, owned)) if isinstance(owned := chat.get("owners") or "", list) else str(owned)
    chat["owners"] = person.ask(
        "3/4 你自己的 QQ 号？（机器人的主人：能用全部命令，出故障时得到通知；多个用逗号隔开）",
        owners,
        owners or "没有",
        _ids,
    )
    offered = "；".join(f"{number} {words}" for number, (words, _) in enumerate(_WHO, 1))
    now = next((n for n, (_, s) in enumerate(_WHO, 1) if s["group_reply"] == str(chat.get("group_reply", "auto"))), 0)
    answer = person.ask(f"4/4 答谁？{offered}", str(now), str(now) if now else "现在的设置", _one_of)
    chat |= dict(_WHO[int(answer) - 1][1]) if answer != "0" else {}
    return settings


def _models() -> list[str]:
    folder = config.project_root() / "models"
    return sorted(one.name for one in folder.glob("*") if (one / "config.json").is_file() and is_whole(one))


def _model(answer: str) -> str:
    try:
        locate(answer, config.project_root())
    except WeightsError:
        # One that is yet to be downloaded is told how among the next steps.
        if not HUB_ID.fullmatch(answer) or answer.startswith("models/"):
            raise
    return answer


def _address(answer: str) -> str:
    full = answer if "://" in answer else f"ws://{answer}"
    if not _ADDRESS.fullmatch(full):
        raise ConfigError("要写成 ws://主机:端口，不带 token，如 ws://127.0.0.1:3001")
    return full


def _token(answer: str) -> str:
    if any(letter.isspace() or not letter.isprintable() for letter in answer):
        raise ConfigError("Token 里不能有空白")
    return answer


def _ids(answer: str) -> str:
    ids = [word for word in re.split(r"[,，、\s]+", answer) if word]
    if not all(word.isascii() and word.isdecimal() and 5 <= len(word) <= 11 for word in ids):
        raise ConfigError("QQ 号是 5 到 11 位数字，多个用逗号隔开")
    return ",".join(ids)


def _one_of(answer: str) -> str:
    if answer not in {str(number) for number in range(1, len(_WHO) + 1)}:
        raise ConfigError(f"写 1 到 {len(_WHO)}")
    return answer


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    """Whole or not at all, and never readable by others: it holds a token."""
    kept = {section: {k: v for k, v in body.items() if v != ""} for section, body in settings.items()}
    text = _HEAD + yaml.safe_dump({k: v for k, v in kept.items() if v}, allow_unicode=True, sort_keys=False)
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            old = path.with_name(f"{path.name}.bak")
            old.touch(mode=0o600)
            old.chmod(0o600)
            shutil.copyfile(path, old)
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            half.unlink()
        raise ConfigError(f"写不了 {path}：{error.strerror}") from error


def _next(settings: Mapping[str, Any], made: str) -> list[str]:
    client, model = settings["client"], str(settings["weights"].get("model_path") or "")
    checkout = (config.project_root() / "run_client.sh").is_file()
    token = f"Token 填 {made}" if client["napcat_token"] == made else "Token 就是这一个"
    lines = [
        f"NapCat 的 WebUI → 网络配置 → WebSocket 服务器：地址对得上 {client['napcat_ws_url']}，{token}",
        f"启动服务器：{invocation.command()}",
        f"另开一个终端，启动客户端：{'./run_client.sh' if checkout else 'qqvl-client'}",
        f"不通就体检：{invocation.command('doctor')}",
    ]
    if HUB_ID.fullmatch(model) and not _is_here(model):
        lines.insert(0, f"先下载模型：{invocation.command('download', model)}")
    elif not model and not is_whole(config.project_root() / "models" / PREFERRED):
        lines.append(f"现在用的是演示模型 {DEMO}；要真正聊天：{invocation.command('download', f'Qwen/{PREFERRED}')}")
    return lines


def _is_here(model: str) -> bool:
    try:
        locate(model, config.project_root())
    except WeightsError:
        return False
    return True


def _tell(text: str) -> None:
    print(told(text), file=sys.stderr, flush=True)
