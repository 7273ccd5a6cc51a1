"""The settings that hold in one chat: its own, then its persona's, then the settings file's. Changed without a restart.

Knows books and personas; no SQL.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
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
})  # fmt: skip
"""Settings that a chat may have of its own."""
MUTED: Final = "muted_until"
FOREVER: Final = 9e15


class Preferences:
    def __init__(self, books: Books, personas: Personas, defaults: ChatSettings) -> None:
        self._books = books
        self.personas = personas
        self._defaults = defaults
        self._known: dict[ChatKey, ChatSettings] = {}
        self._version = -1
        self._told = False

    def of(self, chat: ChatKey) -> ChatSettings:
        if self._version != self.personas.version:
            self._version = self.personas.version
            self._known.clear()
        known = self._known.get(chat)
        if known is None:
            known = self._made(chat)
            if known is not self._defaults:
                self._known[chat] = known
        if known.group_reply == "smart" and not self._told:
            self._told = True
            logger().warning("group_reply: smart 还没有校准过的判断，现在和 addressed 一样：只回叫到它的")
        return known

    def persona(self, chat: ChatKey) -> Persona | None:
        """None where the system prompt of the settings holds: also where its file has gone."""
        own = _valid(self._books.chosen(chat))
        if "system_prompt" in own or (str(chat) in self._defaults.system_prompts and "persona" not in own):
            return None
        name = own.get("persona", self._defaults.persona)
        return self.personas.named(name) if name else None

    def system_prompt(self, chat: ChatKey) -> str:
        persona = self.persona(chat)
        if persona is not None:
            return persona.prompt
        settings = self.of(chat)
        if "system_prompt" in self._books.chosen(chat):
            return settings.system_prompt
        return self._defaults.system_prompts.get(str(chat), settings.system_prompt)

    def muted_until(self, chat: ChatKey) -> float:
        """In seconds since the epoch; ``FOREVER`` until somebody says otherwise."""
        value = self._books.chosen(chat).get(MUTED)
        return float(value) if isinstance(value, int | float) else -math.inf

    def case(self, incoming: Incoming) -> Case:
        """What is known of a message without looking anything up."""
        now = time.time()
        return Case(incoming, self.of(incoming.chat), now, muted=now < self.muted_until(incoming.chat))

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

    async def mute(self, chat: ChatKey, until: float | None) -> None:
        await self._keep(chat, {MUTED: until})

    async def _keep(self, chat: ChatKey, values: Mapping[str, Any]) -> None:
        await self._books.choose(chat, values)
        self._known.pop(chat, None)

    def _made(self, chat: ChatKey) -> ChatSettings:
        own = _valid(self._books.chosen(chat))
        persona = self.persona(chat)
        if persona is not None and persona.mode is not None and "group_reply" not in own:
            own["group_reply"] = persona.mode
        return self._defaults.model_copy(update=own) if own else self._defaults


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
