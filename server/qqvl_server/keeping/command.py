"""The commands on what is kept, as they are typed: what they say, and the process's exit status."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from qqvl_server import invocation, language
from qqvl_server.chat.message import ChatKey, ChatKind
from qqvl_server.errors import ConfigError
from qqvl_server.keeping import backing_up, forgetting, restoring, transferring
from qqvl_server.keeping.finishing import finish
from qqvl_server.keeping.places import Places, claimed
from qqvl_server.keeping.places import places as places
from qqvl_server.observe import logs
from qqvl_server.process import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, is_held
from qqvl_server.settings import ObserveSettings

_EVERY_S: Final = 2.0
_PERSON: Final = re.compile("[0-9]{5,20}")


class Progress:
    """A line on stderr now and then: for work that takes long, and none for what does not."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _EVERY_S

    def __call__(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_S
            print(f"  {language.told(text)}", file=sys.stderr, flush=True)


def run(asked: argparse.Namespace, where: Places) -> int:
    """Raises ConfigError, QqvlError: one line that says what to do; nothing was changed."""
    logs.configure(ObserveSettings(log_level="warning"))
    return {"backup": _back_up, "restore": _restore, "export": _export, "import": _import, "forget": _forget}[
        asked.command
    ](asked, where)


def _back_up(asked: argparse.Namespace, where: Places) -> int:
    if not is_held(where.data):
        with claimed(where):
            finish(where.data, where.url, _say)
    made = backing_up.back_up(where, asked.file or backing_up.default_file(), Progress())
    again = invocation.command("restore", str(made.file))
    history = "" if made.chats is None else f"{made.chats} 个会话、{made.messages} 条消息、"
    lines = [f"备份好了：{made.file}（{made.bytes / 1e6:.1f} MB：{history}{made.pictures} 张图片）"]
    if made.lost:
        lines.append(f"有 {made.lost} 张图片记录里提到，但已经不在了")
    if made.chats is None:
        lines.append(
            f"聊天记录在 {made.database} 里，没有包括，请同时运行：pg_dump --format=custom --file=qqvl.dump 数据库地址"
        )
    lines.append(f"里面有聊天和设置里的密钥，只有自己能读；恢复：{again}")
    return _told(asked, asdict(made), lines)


def _restore(asked: argparse.Namespace, where: Places) -> int:
    with claimed(where):
        finish(where.data, where.url, _say)
        done = restoring.restore(where, asked.file, Progress())
    counts = "、".join(f"{done.counts[k]} {w}" for k, w in _COUNTED.items() if done.counts.get(k) is not None)
    lines = [f"恢复好了：{done.made_at} 的备份（{counts}）"]
    if done.aside is not None:
        lines.append(f"原来的数据在 {done.aside}，确定不要了再删")
    if done.settings is not None:
        lines.append(f"备份里的设置在 {done.settings}，没有替你换上：要用就复制过去")
    lines.append(f"接着启动：{invocation.command()}")
    return _told(asked, {**asdict(done), "counts": done.counts}, lines)


_COUNTED: Final[Mapping[str, str]] = {"chats": "个会话", "messages": "条消息", "pictures": "张图片"}


def _export(asked: argparse.Namespace, where: Places) -> int:
    where.check_there()
    chat = _chat(asked.chat)
    if is_held(where.data):
        text = asyncio.run(transferring.export(where, chat, with_pictures=asked.pictures))
    else:
        with claimed(where):
            finish(where.data, where.url, _say)
            text = asyncio.run(transferring.export(where, chat, with_pictures=asked.pictures))
    if asked.file is None:
        sys.stdout.write(text)
        return EXIT_OK
    transferring.write(asked.file, text)
    _say(f"导出好了：{asked.file}；读回来：{invocation.command('import', str(asked.file))}")
    return EXIT_OK


def _import(asked: argparse.Namespace, where: Places) -> int:
    into = _chat(asked.into) if asked.into else None
    document = transferring.read(asked.file, into)
    with claimed(where):
        finish(where.data, where.url, _say)
        asyncio.run(transferring.put(where, document, replace=asked.replace))
    lost = len(document.missing(where))
    lines = [f"读进了 {document.chat}：{len(document.rows['messages'])} 条消息、{len(document.pictures)} 张图片"]
    if lost:
        lines.append(f"有 {lost} 张图片文件里没有，这里也没有，会显示成已过期")
    told = {"chat": str(document.chat), "messages": len(document.rows["messages"]), "lost_pictures": lost}
    return _told(asked, told | {"pictures": len(document.pictures)}, lines)


def _forget(asked: argparse.Namespace, where: Places) -> int:
    if not _PERSON.fullmatch(asked.person):
        raise ConfigError(f"{asked.person!r} 不是 QQ 号：要写 5 位以上的数字")
    where.check_there()
    with claimed(where):
        finish(where.data, where.url, _say)
        plan = asyncio.run(forgetting.look(where, asked.person))
        found = f"{plan.lines} 句话、{plan.chats} 个会话，叫过 {'、'.join(plan.traces.names) or '（没有名字）'}"
        if asked.dry_run:
            told = {"person": asked.person, "lines": plan.lines, "chats": plan.chats}
            return _told(asked, told | {"names": list(plan.traces.names)}, [f"要忘掉的：{found}；什么都没有动"])
        if not asked.yes and sys.stdin.isatty() and not _agreed(f"要忘掉 {asked.person}（{found}），找不回来。"):
            return EXIT_INTERRUPTED
        done = asyncio.run(forgetting.forget(where, plan, Progress()))
    lines = [
        f"忘掉了 {asked.person}：{done.lines} 句话和对它们的回答、{done.changed} 处别人提到他的地方、"
        f"{done.pictures} 张图片、{done.log_lines} 行日志",
        *(f"还提到他，没有动：{left}" for left in done.left),
        *(["合用的图片库（image_store_url）里的图没有动：要在那里删"] if where.shares_pictures else []),
        "旧的备份里还有他：不要了就删掉",
    ]
    status = _told(asked, asdict(done), lines)
    return EXIT_FAILED if done.is_incomplete else status


def _agreed(question: str) -> bool:
    print(language.told(f"{question}确定就输入 yes："), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("yes", "y", "是")


def _chat(word: str) -> ChatKey:
    kind, _, number = word.partition(":")
    if kind not in list(ChatKind) or not number or len(number) > 64:
        raise ConfigError(f"{word!r} 不是会话：要写成 group:群号 或 private:QQ号")
    return ChatKey(ChatKind(kind), number)


def _told(asked: argparse.Namespace, told: Mapping[str, Any], lines: list[str]) -> int:
    if asked.json:
        sys.stdout.write(json.dumps(told, ensure_ascii=False, default=str) + "\n")
    else:
        sys.stdout.write("\n".join(map(language.told, lines)) + "\n")
    return EXIT_OK


def _say(text: str) -> None:
    print(language.told(text), file=sys.stderr, flush=True)
