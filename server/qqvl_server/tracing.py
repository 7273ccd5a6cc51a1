"""``qqvl trace``: one message's way from QQ to the answer and back, put together from the logs and the database.

Reads files alone, so that it works while nothing runs. The logs' lines know each other by the request's id, which the
client gives a message and the server keeps; a message's own id comes again, so each chat and time is its own story.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from qqvl_server.chat.stories import Kept, kept_of
from qqvl_server.errors import ConfigError, QqvlError
from qqvl_server.observe.logs import named

# How far the two programs' clocks, and a line and what is kept of it, may be apart.
_SLACK_S: Final = 30
# What a line says of whose it is, or twice.
_COMMON: Final = frozenset(
    ("at", "timestamp", "level", "logger", "event", "request_id", "chat", "message_id", "user", "self_id", "method",
     "path", "text", "reply")
)  # fmt: skip
_PROGRAMS: Final = {"server": "服务器", "client": "客户端"}


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of a log; ``program`` wrote it."""

    at: float
    program: str
    facts: Mapping[str, Any]


@dataclass
class Story:
    """All that is known of one message. ``request_id`` is the client's, empty where it gave none."""

    chat: str
    began: float
    request_id: str = ""
    lines: list[Logged] = field(default_factory=list)
    kept: Kept | None = None


def stories(url: str, folders: Sequence[Path], wanted: str, chat: str | None) -> list[Story]:
    """Those of a message's or a request's id, the newest first.

    Args:
        url: the database's.
        folders: data folders, of both programs.
        chat: ``group:123`` or ``private:456``; None is any.

    Raises:
        ConfigError: that is no chat.
        StorageFailed: the database cannot be read.
    """
    if chat is not None and chat.partition(":")[0] not in ("group", "private"):
        raise ConfigError("--chat 要写成 group:群号 或 private:QQ号")
    lines = _lines(folders, wanted, chat)
    message_id = next((str(line.facts["message_id"]) for line in lines if line.facts.get("message_id")), wanted)
    kept = kept_of(url, message_id if _is_request(wanted) else wanted, chat)
    return sorted(_told(lines, kept), key=lambda story: -story.began)


def render(found: Iterable[Story], wanted: str) -> str:
    """For a person's eyes."""
    return "\n\n".join("\n".join(_shown(story, wanted)) for story in found)


def as_json(found: Iterable[Story]) -> str:
    told = [
        {
            "chat": story.chat, "at": story.began, "request_id": story.request_id or None,
            "kept": asdict(story.kept) if story.kept is not None else None,
            "lines": [{"program": line.program, **line.facts} for line in story.lines],
        }
        for story in found
    ]  # fmt: skip
    return json.dumps(told, ensure_ascii=False, indent=2)


def nothing(folders: Sequence[Path], wanted: str) -> QqvlError:
    """What to tell of a message that nobody knows."""
    files = list(_files(folders))
    where = f"{len(files)} 个日志文件" if files else "日志文件（一个都没有：log_file_mb 是 0，或文件夹不对）"
    return QqvlError(
        f"没有找到 {wanted}：数据库和{where}里都没有。日志只留 log_files 份；"
        "数据在别处就用 --data-dir、--client-data-dir 指明"
    )


def _files(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each log with the program that wrote it."""
    seen: set[Path] = set()
    for folder in folders:
        for path in sorted([*folder.glob("logs/*.log*"), *folder.glob("*/logs/*.log*")]):
            program = path.name.partition(".")[0]
            if program in _PROGRAMS and path.resolve() not in seen:
                seen.add(path.resolve())
                yield program, path


def _lines(folders: Sequence[Path], wanted: str, chat: str | None) -> list[Logged]:
    """Those that name the message, and those of the requests that they name."""
    files = list(_files(folders))
    names = {wanted, named(wanted)}
    found = _read(files, lambda facts: facts.get("message_id") in names or facts.get("request_id") == wanted, names)
    if chat is not None:
        found = [line for line in found if line.facts.get("chat") == _named(chat)]
    requests = {str(line.facts["request_id"]) for line in found if line.facts.get("request_id")}
    if requests:
        unnamed = [line for line in found if not line.facts.get("request_id")]
        found = unnamed + _read(files, lambda facts: facts.get("request_id") in requests, requests)
    return sorted(found, key=lambda line: line.at)


def _read(
    files: Iterable[tuple[str, Path]], is_meant: Callable[[Mapping[str, Any]], bool], words: Iterable[str]
) -> list[Logged]:
    needles = [word.encode() for word in words]
    found = []
    for program, path in files:
        try:
            with path.open("rb") as lines:
                for raw in lines:
                    # Most lines are of others: they are not worth parsing.
                    line = _parsed(program, raw) if any(needle in raw for needle in needles) else None
                    if line is not None and is_meant(line.facts):
                        found.append(line)
        except OSError as error:
            raise QqvlError(f"读不了日志 {path}：{error.strerror}") from error
    return found


def _parsed(program: str, raw: bytes) -> Logged | None:
    """None for what is no whole line of ours: the last one may be half written."""
    try:
        facts = json.loads(raw)
        return Logged(float(facts["at"]), program, facts)
    except (ValueError, TypeError, KeyError):
        return None


def _told(lines: Sequence[Logged], kept: Sequence[Kept]) -> list[Story]:
    found: list[Story] = []
    for line in lines:
        request_id, chat = str(line.facts.get("request_id", "")), str(line.facts.get("chat", ""))
        story = next((one for one in found if request_id and one.request_id == request_id), None)
        if story is None and not _is_clients(request_id):
            # A report of what was sent, of a client that gives no ids: the last story of this chat before it.
            story = next((one for one in reversed(found) if chat and one.chat == chat), None)
        if story is None:
            story = Story(chat, line.at, request_id)
            found.append(story)
        story.chat = story.chat or chat
        story.lines.append(line)
    for row in sorted(kept, key=lambda one: one.at):
        here = [one for one in found if one.chat == _named(row.chat) and one.kept is None]
        near = [one for one in here if one.began - _SLACK_S <= row.at <= one.lines[-1].at + _SLACK_S]
        story = min(near, key=lambda one: abs(one.began - row.at), default=None)
        if story is None:
            story = Story(row.chat, row.at)
            found.append(story)
        story.chat, story.kept = row.chat, row
    return found


def _is_request(wanted: str) -> bool:
    return wanted.startswith(("qq-", "req-"))


def _is_clients(request_id: str) -> bool:
    return request_id.startswith("qq-")


def _named(chat: str) -> str:
    kind, _, external_id = chat.partition(":")
    return f"{kind}:{named(external_id)}"


def _shown(story: Story, wanted: str) -> Iterator[str]:
    kept = story.kept
    user = kept.user if kept is not None and kept.user else _first(story, "user")
    name = f"{kept.name}（{user}）" if kept is not None and kept.name else user
    yield f"{story.chat}  {_when(story.began)}  {name or '不知道是谁'}  消息 {_first(story, 'message_id') or wanted}"
    if story.request_id:
        yield f"  请求编号 {story.request_id}"
    text = kept.text if kept is not None and kept.text else _first(story, "text")
    if text:
        yield f"  说：{_flat(text)}"
    for line in story.lines:
        yield f"  {_clock(line.at)}  {_PROGRAMS[line.program]}  {line.facts.get('event', '')}{_facts(line.facts)}"
    if kept is not None:
        yield from _outcome(kept)
    elif reply := _first(story, "reply"):
        yield f"  答：{_flat(reply)}"


def _outcome(kept: Kept) -> Iterator[str]:
    if kept.reason:
        spoke = "回" if kept.speak else "不回" if kept.speak is not None else "结果"
        yield f"  决定：{spoke}（{kept.reason}）"
    if kept.prompt_tokens:
        took = f"{kept.seconds:.1f} 秒" if kept.seconds is not None else "不知道多久"
        yield f"  模型：提示 {kept.prompt_tokens} token，其中 {kept.cached_tokens or 0} 在缓存里，用了 {took}"
    if kept.reply:
        yield f"  答：{_flat(kept.reply)}"
    if kept.sent_ids:
        yield f"  发出后 QQ 里的编号：{'、'.join(kept.sent_ids)}"


def _first(story: Story, name: str) -> str:
    return next((str(line.facts[name]) for line in story.lines if line.facts.get(name)), "")


def _facts(facts: Mapping[str, Any]) -> str:
    told = [f"{name}={value}" for name, value in facts.items() if name not in _COMMON and value not in (None, "")]
    return f"  {' '.join(told)}" if told else ""


def _flat(text: str) -> str:
    return text.replace("\n", " ⏎ ")


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _clock(at: float) -> str:
    return f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at * 1000) % 1000:03d}"
