"""What is said to steer the bot instead of talking to it: which words are commands, and who may give them. Pure."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from qqvl_server.chat import addressing
from qqvl_server.chat.message import ChatKind, EncodedPicture, Incoming
from qqvl_server.settings import ChatSettings


class Role(IntEnum):
    """Who somebody is in a chat; ``OWNER`` is the bot's, a group's owner and admins are ``ADMIN``."""

    MEMBER = 0
    ADMIN = 1
    OWNER = 2


@dataclass(frozen=True, slots=True)
class Command:
    """``word`` is its Chinese name. ``argument`` is how it is shown in the help; empty for one that takes none."""

    name: str
    word: str
    about: str
    role: Role = Role.MEMBER
    argument: str = ""


COMMANDS: Final = (
    Command("help", "帮助", "列出命令"),
    Command("status", "状态", "模型、模式、人设、有没有闭嘴"),
    Command("why", "为什么", "上一次为什么开口，用了多少"),
    Command("quota", "额度", "今天用了多少、还剩多少"),
    Command("memory", "记忆", "记了本会话和你多少"),
    Command("model", "模型", "用的是什么模型"),
    Command("stop", "停止", "停下正在写的回答（提问的人或管理员）"),
    Command("undo", "撤销", "忘掉上一轮问答", Role.ADMIN),
    Command("reset", "重置", "清空本会话的记忆", Role.ADMIN),
    Command("new", "新话题", "从这里开始，前面的不再看，记录还在", Role.ADMIN),
    Command("persona", "人设", "看有哪些人设，或换一个", Role.ADMIN, "名字"),
    Command("mode", "模式", "看或换群里回复谁", Role.ADMIN, "模式"),
    Command("mute", "闭嘴", "不说话，不写分钟就一直到 unmute", Role.ADMIN, "分钟"),
    Command("unmute", "说话", "又可以说话", Role.ADMIN),
)
BY_WORD: Final = {word: command for command in COMMANDS for word in (command.name, command.word)}
# Said to the bot and nothing else, these need no prefix. The other words are talk too often ("为什么").
_PLAIN: Final = frozenset({"帮助", "状态", "额度", "停止", "撤销", "重置", "新话题", "闭嘴"})
# All that a client of the bare interface has ever had.
_BARE: Final = frozenset({"/reset", "/重置", "重置"})
# A client may leave the mention of the bot in the text: "@小Q /reset".
_MENTION = re.compile(r"^(?:@\S{1,64}\s+)?(.*)$", re.DOTALL)
# A word, and what it is to do: not "/etc/passwd", nor "//".
_WORD = re.compile(r"([^\W\d_]{1,32})(?:(?=\d)|\s+|$)(.*)", re.DOTALL)
_NUMBER: Final = re.compile(r"(\d{1,6})\s*(?:分钟|分|min|minutes?|m)?", re.IGNORECASE)
_MAX_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Given:
    """A command as it was given; None for one that there is not, with the nearest that there is."""

    command: Command | None
    argument: str = ""
    near: str = ""

    @property
    def name(self) -> str:
        return self.command.name if self.command is not None else ""


def given(incoming: Incoming, names: Sequence[str], settings: ChatSettings, *, muted: bool = False) -> Given | None:
    """The command in a message, a mention or one of the bot's names left out; not whether it counts, nor who may."""
    if any(isinstance(part, EncodedPicture) for part in incoming.parts):
        return None
    for said in _said(incoming, names):
        if incoming.is_bare:
            if said.lower() in _BARE:
                return Given(BY_WORD["reset"])
            continue
        found = _read(said, settings.command_prefix, muted)
        if found is not None:
            return found
    return None


def _said(incoming: Incoming, names: Sequence[str]) -> Iterator[str]:
    text = incoming.text
    match = _MENTION.match(text)
    assert match is not None
    yield match[1].strip()
    if len(text) <= _MAX_TEXT:
        yield addressing.without_call(text, names)
    if incoming.typed is not None:
        yield incoming.typed.strip()


def _read(said: str, prefix: str, muted: bool) -> Given | None:
    words = unicodedata.normalize("NFKC", said[:_MAX_TEXT]).strip().rstrip("。.!?~ ")
    sign = unicodedata.normalize("NFKC", prefix)
    if not words.casefold().startswith(sign.casefold()):
        return _plain(words, muted)
    match = _WORD.fullmatch(words[len(sign) :])
    if match is None:
        return None
    word, argument = match[1].casefold(), match[2].strip()
    command = BY_WORD.get(word)
    if command is None:
        near = difflib.get_close_matches(word, BY_WORD, n=1)
        return Given(None, near=near[0] if near else "")
    return Given(command, argument)


def _plain(words: str, muted: bool) -> Given | None:
    command = BY_WORD.get(words) if words in _PLAIN or (muted and words == "说话") else None
    if command is not None:
        return Given(command)
    if words.startswith("闭嘴") and _NUMBER.fullmatch(words[2:].strip()):
        return Given(BY_WORD["mute"], words[2:].strip())
    return None


def minutes(argument: str) -> int | None:
    """None where it is no number of minutes."""
    match = _NUMBER.fullmatch(argument)
    return int(match[1]) if match is not None and int(match[1]) > 0 else None


def role_of(incoming: Incoming, settings: ChatSettings) -> Role:
    """In private everybody is his own master.

    A client that tells neither role nor mention can name nobody's rights: everybody is an admin, until ``owners`` says
    who. One that tells mentions could tell the role too; who has none is a member.
    """
    if incoming.chat.kind is ChatKind.PRIVATE or incoming.speaker.id in settings.owners:
        return Role.OWNER
    if incoming.role is None and incoming.at_me is None and not settings.owners:
        return Role.ADMIN
    return Role.ADMIN if incoming.role in ("owner", "admin") else Role.MEMBER


def needed(command: Command, settings: ChatSettings) -> Role:
    """Who may give it in a group."""
    roles = (word.partition("=") for word in settings.command_roles)
    own = {name.strip(): role.strip() for name, _, role in roles}
    return Role[own[command.name].upper()] if command.name in own else command.role
