"""The settings that hold in one chat: its own, then its persona's, then the settings file's. Changed without a restart.

Knows books and personas; no SQL.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from qqvl_server.chat.books import Books
from qqvl_server.chat.message import ChatKey, Incoming
from qqvl_server.chat.personas import Persona, Personas
from qqvl_server.chat.policy import Case
from qqvl_server.errors import InvalidRequest
from qqvl_server.observe.logs import logger
from qqvl_server.settings import ChatSettings

OWN: Final = frozenset({
    "group_reply", "persona", "system_prompt", "bot_names", "wake_words", "wake_patterns", "command_prefix",
    "command_roles", "known_bots", "max_age_s", "merge_wait_s", "withdraw_replies", "cooldown_s", "quiet_hours",
    "max_active_per_hour", "max_active_per_day", "group_messages_per_day", "group_seconds_per_day",
    "message_chars", "forward_chars", "draw_chars", "at_asker", "quote_asked",
})  # fmt: skip
"""Settings that a chat may have of its own."""
MUTED: Final = "muted_until"
FOREVER: Final = 9e15
_MOST_KNOWN: Final = 4096


@dataclass(frozen=True, slots=True)
class _Ways:
    """What holds in a chat; ``persona`` is None where a system prompt of the settings holds."""

    settings: ChatSettings
    system_prompt: str
    persona: Persona | None = None


class Preferences:
    def __init__(self, books: Books, personas: Personas, defaults: ChatSettings, *, has_gate: bool = False) -> None:
        """``has_gate``: there is a calibrated gate for the loaded model."""
        self._books = books
        self.has_gate = has_gate
        self.personas = personas
        self._defaults = defaults
        self._known: dict[ChatKey, _Ways] = {}
        self._versions = (-1, -1)
        self._told = False
        if defaults.persona and personas.named(defaults.persona) is None:
            logger().warning("没有 persona 里写的人设，先用 system_prompt；文件放在 data_dir 下的 personas/ 里")

    def heed(self, defaults: ChatSettings) -> None:
        """Other settings for every chat, from now on."""
        self._defaults = defaults
        self._known.clear()

    @property
    def defaults(self) -> ChatSettings:
        """What holds where a chat has nothing of its own."""
        return self._defaults

    def of(self, chat: ChatKey) -> ChatSettings:
        settings = self._ways(chat).settings
        if settings.group_reply == "smart" and not self.has_gate and not self._told:
            self._told = True
            logger().warning(
                "group_reply: smart 还没有为这个模型校准过的判断，现在和 addressed 一样：只回叫到它的；"
                "怎么校准见 docs/bot.md 的“插话”"
            )
        return settings

    def persona(self, chat: ChatKey) -> Persona | None:
        """None also where its file has gone."""
        return self._ways(chat).persona

    def system_prompt(self, chat: ChatKey) -> str:
        return self._ways(chat).system_prompt

    def muted_until(self, chat: ChatKey) -> float:
        """In seconds since the epoch; ``FOREVER`` until somebody says otherwise."""
        value = self._books.chosen(chat).get(MUTED)
        return float(value) if isinstance(value, int | float) else -math.inf

    def case(self, incoming: Incoming) -> Case:
        """What is known of a message without looking anything up."""
        now = time.time()
        muted = now < self.muted_until(incoming.chat)
        if incoming.chat.is_trial and incoming.sent_at is not None:
            # A played group's time may run fast.
            now = incoming.sent_at
        return Case(incoming, self.of(incoming.chat), now, muted=muted, has_gate=self.has_gate)

    def own(self, chat: ChatKey) -> dict[str, Any]:
        """What this chat has of its own, as JSON has it."""
        return {name: value for name, value in sorted(self._books.chosen(chat).items()) if name in OWN}

    async def change(self, chat: ChatKey, values: Mapping[str, Any]) -> None:
        """Settings by name; None is as everywhere.

        Raises:
            InvalidRequest: no setting of a chat's, a bad value, or a persona that is not there.
            StorageFailed
        """
        for name, value in values.items():
            if name not in OWN:
                raise InvalidRequest(f"这个设置不能单独给一个会话；可以的有 {'、'.join(sorted(OWN))}")
            if value is not None and _checked(name, value) is None:
                raise InvalidRequest(f"{name} 的值不对，请对照 README 的设置表", param=name)
        await self.personas.refresh()
        if values.get("persona") and self.personas.named(values["persona"]) is None:
            raise InvalidRequest(
                "没有这个人设；人设放在 data_dir 下的 personas/ 里，每个一个 .md 文件", param="persona"
            )
        await self._keep(chat, values)

    async def forget(self, chat: ChatKey) -> None:
        """All that is kept of a chat is deleted."""
        await self._books.forget(chat)
        self._known.pop(chat, None)

    async def mute(self, chat: ChatKey, until: float | None) -> None:
        await self._keep(chat, {MUTED: until})

    async def _keep(self, chat: ChatKey, values: Mapping[str, Any]) -> None:
        await self._books.choose(chat, values)
        self._known.pop(chat, None)

    def _ways(self, chat: ChatKey) -> _Ways:
        versions = self.personas.version, self._books.version
        if self._versions != versions:
            self._versions = versions
            self._known.clear()
        known = self._known.get(chat)
        if known is None:
            known = self._known[chat] = self._found(chat)
            if len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]
        return known

    def _found(self, chat: ChatKey) -> _Ways:
        own = _valid(self._books.chosen(chat))
        persona = self._chosen_persona(chat, own)
        if persona is not None and persona.mode is not None:
            own.setdefault("group_reply", persona.mode)
        settings = self._defaults.model_copy(update=own) if own else self._defaults
        if persona is not None:
            return _Ways(settings, persona.prompt, persona)
        listed = self._listed(chat)
        return _Ways(settings, settings.system_prompt if listed is None or "system_prompt" in own else listed)

    def _chosen_persona(self, chat: ChatKey, own: Mapping[str, Any]) -> Persona | None:
        if "persona" not in own and ("system_prompt" in own or self._listed(chat) is not None):
            return None
        name = own.get("persona", self._defaults.persona)
        return self.personas.named(name) if name else None

    def _listed(self, chat: ChatKey) -> str | None:
        return self._defaults.system_prompts.get(str(chat))


def _valid(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Another version may have kept what this one does not understand."""
    looked = {name: _checked(name, value) for name, value in chosen.items() if name in OWN}
    return {name: value for name, value in looked.items() if value is not None}


def _checked(name: str, value: Any) -> Any:
    """As the settings have it; None where it cannot be."""
    try:
        return getattr(ChatSettings.model_validate({name: value}), name)
    except (ValidationError, TypeError):
        return None
