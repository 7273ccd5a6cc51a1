"""Commands are carried out, and what is told to whoever gave them. ``stop`` is not among them: it never waits.

Knows preferences, books and the voice's port; no SQL.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from qqvl_server.chat import commands
from qqvl_server.chat.commands import COMMANDS, Command, Given, Role
from qqvl_server.chat.decision import Reason, Told
from qqvl_server.chat.identity import Identity
from qqvl_server.chat.ledger import Ledger
from qqvl_server.chat.message import Answer, ChatKey, ChatKind, Incoming
from qqvl_server.chat.notices import Notices
from qqvl_server.chat.preferences import FOREVER, Preferences
from qqvl_server.chat.store import Store
from qqvl_server.errors import RequestError
from qqvl_server.generation.port import Voice
from qqvl_server.settings import ChatSettings

RESET_REPLY: Final = "已清空本会话的记忆，我们重新开始吧。"
STOPPED: Final = "好的，不说了。"
NOTHING_TO_STOP: Final = "现在没有正在写的回答。"
STOP_REFUSED: Final = "只有提问的人、群主、管理员或我的主人才能叫停。"
_RESET_REFUSED: Final = "只有群主、管理员或我的主人才能清空本群的记忆。"
REFUSED: Final = {
    Role.ADMIN: "只有群主、管理员或我的主人才能用这个命令。",
    Role.OWNER: "只有我的主人才能用这个命令。",
}
_UNDONE: Final = "好，上一轮问答我忘掉了。"
_NOTHING_TO_UNDO: Final = "没有可以撤销的问答。"
_ANEW: Final = "好，从这里开始新话题。前面的记录还在，只是不再看。"
_DEFAULT: Final = frozenset({"默认", "default"})
_MODES: Final = {
    "auto": "只回叫到我的；客户端没说有没有 @ 我的都回",
    "addressed": "只回叫到我的",
    "smart": "叫到就回，没叫到自己看要不要插话",
    "all": "每条都回",
    "off": "不说话，只听命令",
}
_NO_GATE: Final = "（这个模型的插话判断还没有校准过，现在和 addressed 一样）"
_MOST_MINUTES: Final = 60 * 24 * 30
_REASONS: Final = {
    Reason.ADDRESSED: "@ 了我", Reason.NAME: "叫了我的名字或唤醒词", Reason.REPLY: "引用了我的话",
    Reason.PRIVATE: "私聊每条都回", Reason.SMART: "我觉得该插句话", Reason.ALWAYS: "这里每条都回",
}  # fmt: skip

Work = Callable[[Incoming, str], Awaitable[str]]


class Commander:
    """``model`` is the name of what answers; ``since`` when the process began, in seconds since the epoch."""

    def __init__(
        self, store: Store, voice: Callable[[], Voice], preferences: Preferences, ledger: Ledger, model: str
    ) -> None:
        self._store = store
        self._voice = voice
        self._preferences = preferences
        self._ledger = ledger
        self.model = model
        self.refusals = Notices(store.books, Reason.COMMAND)
        self._works: dict[str, Work] = {
            "help": self._help, "status": self._status, "why": self._why, "quota": self._quota,
            "memory": self._memory, "model": self._tell_model, "new": self._new, "persona": self._persona,
            "mode": self._mode, "mute": self._mute, "unmute": self._unmute,
        }  # fmt: skip

    def is_allowed(self, incoming: Incoming, given: Given) -> bool:
        settings = self._preferences.of(incoming.chat)
        command = given.command
        return command is None or commands.role_of(incoming, settings) >= commands.needed(command, settings)

    async def refusal(self, incoming: Incoming, given: Given) -> str:
        """What is told to who may not; empty where he was told within the hour."""
        if given.command is None or not await self.refusals.is_due(incoming.chat, incoming.speaker.id):
            return ""
        role = commands.needed(given.command, self._preferences.of(incoming.chat))
        return _RESET_REFUSED if given.name == "reset" and role is Role.ADMIN else REFUSED[role]

    async def carry_out(self, incoming: Incoming, chat_name: str, given: Given, identity: Identity | None) -> Answer:
        """Do what was asked by who may, and keep the answer for whoever asks again.

        Raises:
            StorageFailed
        """
        if given.name in ("reset", "undo") and not given.argument:
            return await self._forget(incoming.chat, chat_name, given, identity)
        answer = _told(await self._done(incoming, given))
        await self._store.add_command(incoming.chat, chat_name, identity, answer)
        return answer

    async def _forget(self, chat: ChatKey, chat_name: str, given: Given, identity: Identity | None) -> Answer:
        """What is done and what is told about it are kept at once: done again it would take more than was meant."""
        if given.name == "undo":
            return await self._store.books.undo(chat, chat_name, identity, _told(_UNDONE), _told(_NOTHING_TO_UNDO))
        answer = _told(RESET_REPLY)
        await self._store.reset(chat, chat_name, identity, answer)
        return answer

    async def _done(self, incoming: Incoming, given: Given) -> str:
        settings = self._preferences.of(incoming.chat)
        prefix, command = settings.command_prefix, given.command
        if command is None:
            near = f"是不是想发 {prefix}{given.near}？" if given.near else ""
            return f"没有这个命令。{near}发 {prefix}help 看全部命令。"
        if given.argument and not command.argument:
            return f"{prefix}{command.name} 后面不用写别的。"
        return await self._works[command.name](incoming, given.argument)

    async def _help(self, incoming: Incoming, _: str) -> str:
        settings = self._preferences.of(incoming.chat)
        role = commands.role_of(incoming, settings)
        mine = [command for command in COMMANDS if role >= commands.needed(command, settings)]
        ask = "要 @ 我或叫我的名字。" if incoming.chat.kind is ChatKind.GROUP else ""
        return "\n".join([f"你能用的命令（中文也行）。{ask}", *(_usage(command, settings) for command in mine)])

    async def _status(self, incoming: Incoming, _: str) -> str:
        chat = incoming.chat
        settings, persona = self._preferences.of(chat), self._preferences.persona(chat)
        status = self._voice().status()
        lines = [
            f"模型：{self.model or '已加载'}（{status.device}），{'正常' if status.alive else '停了'}",
            f"人设：{persona.name if persona is not None else '默认'}",
        ]
        if chat.kind is ChatKind.GROUP:
            lines.append(f"模式：{settings.group_reply}，{self._about(settings.group_reply)}")
        if settings.quiet_hours:
            lines.append(f"安静的钟点：{'、'.join(settings.quiet_hours)}")
        if (until := self._preferences.muted_until(chat)) > time.time():
            lines.append(f"闭嘴中：{_until(until)}")
        return "\n".join(lines)

    async def _why(self, incoming: Incoming, _: str) -> str:
        told = await self._store.books.last_told(incoming.chat)
        return "我在这里还没有说过话。" if told is None else _explained(told)

    async def _quota(self, incoming: Incoming, _: str) -> str:
        return await self._ledger.report(incoming, self._preferences.of(incoming.chat))

    async def _memory(self, incoming: Incoming, _: str) -> str:
        kept = await self._store.books.kept(incoming.chat, incoming.speaker.id)
        if not kept.lines:
            return "本会话什么也没有记。"
        since = time.strftime("%Y-%m-%d", time.localtime(kept.since))
        prefix = self._preferences.of(incoming.chat).command_prefix
        return (
            f"本会话记着 {kept.lines} 条，从 {since} 起；回答时最多看最近 {kept.shown} 条。\n"
            f"其中你说的有 {kept.by_asker} 条。撤回一条，我就忘掉它；{prefix}reset 全部忘掉。"
        )

    async def _tell_model(self, _: Incoming, __: str) -> str:
        voice = self._voice()
        return f"{self.model or '没有名字的模型'}，在 {voice.status().device} 上，最多 {voice.context_tokens} token。"

    async def _new(self, incoming: Incoming, _: str) -> str:
        await self._store.books.begin_anew(incoming.chat)
        return _ANEW

    async def _persona(self, incoming: Incoming, argument: str) -> str:
        chat = incoming.chat
        await self._preferences.personas.refresh()
        prefix = self._preferences.of(chat).command_prefix
        if not argument:
            now, known = self._preferences.persona(chat), self._preferences.personas.all
            listed = "、".join(persona.name for persona in known) or "（还没有，放进 data/personas/ 就有）"
            return f"现在是：{now.name if now else '默认'}。可以换：{listed}。写法：{prefix}persona 名字"
        if argument.casefold() in _DEFAULT:
            await self._preferences.change(chat, {"persona": None})
            return "人设换回默认的了。"
        persona = self._preferences.personas.named(argument)
        if persona is None:
            return f"没有这个人设，发 {prefix}persona 看有哪些。"
        await self._preferences.change(chat, {"persona": persona.name})
        return f"好，现在的人设是：{persona.name}。"

    async def _mode(self, incoming: Incoming, argument: str) -> str:
        chat, wanted = incoming.chat, argument.casefold()
        if not argument:
            now = self._preferences.of(chat).group_reply
            return "\n".join([f"现在是 {now}。可以换：", *(f"{name}：{self._about(name)}" for name in _MODES)])
        if wanted in _DEFAULT:
            await self._preferences.change(chat, {"group_reply": None})
            return f"模式换回默认的了：{self._preferences.of(chat).group_reply}。"
        try:
            await self._preferences.change(chat, {"group_reply": wanted})
        except RequestError:
            return f"没有这个模式；可以写 {'、'.join(_MODES)}。"
        return f"好，现在是 {wanted}：{self._about(wanted)}。"

    def _about(self, mode: str) -> str:
        return _MODES[mode] + (_NO_GATE if mode == "smart" and not self._preferences.has_gate else "")

    async def _mute(self, incoming: Incoming, argument: str) -> str:
        prefix = self._preferences.of(incoming.chat).command_prefix
        minutes = commands.minutes(argument) if argument else None
        if argument and (minutes is None or minutes > _MOST_MINUTES):
            return f"写法：{prefix}mute 或 {prefix}mute 30（分钟，最多 {_MOST_MINUTES}）。"
        until = FOREVER if minutes is None else time.time() + minutes * 60
        await self._preferences.mute(incoming.chat, until)
        return f"好，我闭嘴，{_until(until)}。要我说话就发 {prefix}unmute。"

    async def _unmute(self, incoming: Incoming, _: str) -> str:
        was = self._preferences.muted_until(incoming.chat) > time.time()
        await self._preferences.mute(incoming.chat, None)
        return "好，我又可以说话了。" if was else "我没有闭嘴。"


def _told(text: str) -> Answer:
    return Answer(text, should_reply=True, reason=Reason.COMMAND)


def _usage(command: Command, settings: ChatSettings) -> str:
    argument = f" [{command.argument}]" if command.argument else ""
    return f"{settings.command_prefix}{command.name}{argument}（{command.word}）：{command.about}"


def _until(until: float) -> str:
    if until >= FOREVER:
        return "一直到有人让我说话"
    return f"到 {time.strftime('%m-%d %H:%M', time.localtime(until))}"


def _explained(told: Told) -> str:
    at = time.strftime("%m-%d %H:%M", time.localtime(told.at))
    why = next((text for reason, text in _REASONS.items() if reason == told.reason), told.reason)
    lines = [f"上一次开口是 {at}，因为{why}（{told.reason}）。"]
    if told.score is not None:
        lines.append(f"插话的把握：{told.score:+.2f}，判断用了 {told.cost_ms:.0f} 毫秒。")
    if told.effort is not None:
        took = told.effort
        lines.append(
            f"看了 {took.window_lines} 条、{took.prompt_tokens} token（{took.cached_tokens} 个在缓存里），"
            f"用了 {took.seconds:.1f} 秒" + (f"，模型是 {took.model}。" if took.model else "。")
        )
    return "\n".join(lines)
