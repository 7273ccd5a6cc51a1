"""OneBot v11 as the relay uses it: a handful of actions over whatever line an adapter provides."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from qqvl_client.errors import ActionRefusedError, ActionUnsureError, LineError
from qqvl_client.events import id_of, message_of, messages_of
from qqvl_client.message import Chat, ChatMessage
from qqvl_client.segments import text_of
from qqvl_client.settings import Settings

RECORD_LENGTH = 100
"""Long enough to reach back to the question in a busy chat."""
NAME_TIMEOUT_S = 2
"""A name is worth less waiting than a quoted message."""
CERTAIN_REFUSALS = frozenset({1400, 1403, 1404})
"""Retcodes given before anything is done. NapCat answers 1200 for all the rest, delivered or not."""


class Link(Protocol):
    """What an adapter offers the relay."""

    async def call(self, self_id: str, action: str, params: Mapping[str, Any], within_s: float) -> Any:
        """Carry out one action and return its `data`; raises LineDownError, ActionUnsureError or ActionRefusedError."""

    async def wait_up(self, self_id: str) -> None:
        """Return once actions for this account can be sent."""

    def is_up(self, self_id: str) -> bool:
        """Whether they can be sent now; of any account where none is named."""

    async def renew(self, self_id: str) -> None:
        """Give the line up that this account is reached by, so that it is made anew."""


def data_of(answer: Mapping[str, Any]) -> Any:
    """The `data` of an action's answer; raises when the answer says it failed."""
    retcode = answer.get("retcode", 0)
    if answer.get("status") != "failed" and retcode in (0, 1):
        return answer.get("data")
    words = text_of(answer.get("wording") or answer.get("message"))[:200]
    raise refusal(retcode, words)


def refusal(retcode: Any, words: str) -> LineError:
    kind = ActionRefusedError if retcode in CERTAIN_REFUSALS else ActionUnsureError
    return kind(f"retcode {retcode} {words}")


class OneBot:
    """The actions the relay needs; lookups are short and remember what they found, or that they failed."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._settings = settings
        self._names: OrderedDict[tuple[str, ...], tuple[float, str]] = OrderedDict()
        self._asking: dict[tuple[str, ...], asyncio.Future[str]] = {}

    async def wait_up(self, self_id: str) -> None:
        await self._link.wait_up(self_id)

    async def send(self, chat: Chat, segments: list[dict[str, Any]]) -> str:
        """Send one message; its id, where told. Segment dicts only, so that nothing in a text is ever parsed."""
        params: dict[str, Any] = {"message": segments}
        if chat.kind == "group":
            params["group_id"] = _number(chat.id)
        else:
            params["user_id"] = _number(chat.id)
            if chat.via_group:
                params["group_id"] = _number(chat.via_group)
        action = f"send_{chat.kind}_msg"
        data = _mapping(await self._link.call(chat.self_id, action, params, self._settings.action_timeout_s))
        return id_of(data.get("message_id"))

    async def send_record(self, chat: Chat, nodes: Sequence[Mapping[str, Any]]) -> str:
        """Send a forwarded record made of `node` segments; its id, where told."""
        place = {"group_id": _number(chat.id)} if chat.kind == "group" else {"user_id": _number(chat.id)}
        action, params = f"send_{chat.kind}_forward_msg", {**place, "messages": list(nodes)}
        data = _mapping(await self._link.call(chat.self_id, action, params, self._settings.action_timeout_s))
        return id_of(data.get("message_id"))

    async def withdraw(self, self_id: str, message_id: str) -> None:
        """Take back a message of ours, which QQ allows for two minutes."""
        params = {"message_id": _number(message_id)}
        await self._link.call(self_id, "delete_msg", params, self._settings.action_timeout_s)

    async def message(self, self_id: str, message_id: str) -> ChatMessage:
        return message_of(_mapping(await self._lookup(self_id, "get_msg", {"message_id": _number(message_id)})))

    async def forward(self, self_id: str, forward_id: str) -> list[ChatMessage]:
        params = {"id": forward_id, "message_id": forward_id}
        data = _mapping(await self._lookup(self_id, "get_forward_msg", params))
        return messages_of(data.get("messages") or data.get("message") or data.get("content"))

    async def image(self, self_id: str, file: str) -> Mapping[str, Any]:
        return _mapping(await self._lookup(self_id, "get_image", {"file": file}))

    async def file(self, chat: Chat, file_id: str) -> Mapping[str, Any]:
        """Where a file that was sent into a chat can be fetched from."""
        if chat.kind == "group":
            action, place = "get_group_file_url", {"group_id": _number(chat.id)}
        else:
            action, place = "get_private_file_url", {"user_id": _number(chat.id)}
        try:
            return _mapping(await self._lookup(chat.self_id, action, {**place, "file_id": file_id}))
        except ActionRefusedError:
            return _mapping(await self._lookup(chat.self_id, "get_file", {"file_id": file_id}))

    async def recent(self, chat: Chat) -> list[ChatMessage]:
        """The chat's latest messages as QQ has them; raises LineError when nobody knows."""
        if chat.kind == "group":
            action, params = "get_group_msg_history", {"group_id": _number(chat.id), "count": RECORD_LENGTH}
        else:
            action, params = "get_friend_msg_history", {"user_id": _number(chat.id), "count": RECORD_LENGTH}
        return messages_of(_mapping(await self._lookup(chat.self_id, action, params)).get("messages"))

    async def login(self, self_id: str) -> None:
        """The cheapest action there is, which every implementation has. Raises LineError where it is not done."""
        await self._lookup(self_id, "get_login_info", {})

    async def own_nickname(self, self_id: str) -> str:
        return await self._name(("login", self_id), "get_login_info", {}, "nickname")

    async def group_name(self, self_id: str, group_id: str) -> str:
        params = {"group_id": _number(group_id)}
        return await self._name(("group", self_id, group_id), "get_group_info", params, "group_name")

    async def member_name(self, self_id: str, group_id: str, user_id: str) -> str:
        params = {"group_id": _number(group_id), "user_id": _number(user_id)}
        key = ("member", self_id, group_id, user_id)
        return await self._name(key, "get_group_member_info", params, "card", "nickname")

    async def nickname(self, self_id: str, user_id: str) -> str:
        return await self._name(
            ("person", self_id, user_id), "get_stranger_info", {"user_id": _number(user_id)}, "nickname"
        )

    async def decide(self, self_id: str, kind: str, flag: str, approve: bool) -> None:
        """Accept or refuse a friend's request or an invitation to a group."""
        params: dict[str, Any] = {"flag": flag, "approve": approve}
        if kind == "group":
            params["sub_type"] = "invite"
        action = "set_group_add_request" if kind == "group" else "set_friend_add_request"
        await self._link.call(self_id, action, params, self._settings.action_timeout_s)

    async def _name(self, key: tuple[str, ...], action: str, params: Mapping[str, Any], *fields: str) -> str:
        known = self._names.get(key)
        if known and known[0] > time.monotonic():
            return known[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._find_name(key, action, params, fields))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _find_name(
        self, key: tuple[str, ...], action: str, params: Mapping[str, Any], fields: tuple[str, ...]
    ) -> str:
        try:
            data = _mapping(await self._lookup(key[1], action, params, NAME_TIMEOUT_S))
            name = next((text for field in fields if (text := text_of(data.get(field)))), "")
        except LineError:
            name = ""
        # A failure is remembered too, for a shorter time: a silent NapCat must not delay every message again.
        self._names[key] = (time.monotonic() + (3600 if name else 60), name)
        while len(self._names) > 2000:
            self._names.popitem(last=False)
        return name

    async def _lookup(
        self, self_id: str, action: str, params: Mapping[str, Any], at_most_s: float = float("inf")
    ) -> Any:
        timeout = min(self._settings.lookup_timeout_s, at_most_s)
        try:
            async with asyncio.timeout(timeout):
                await self._link.wait_up(self_id)
                return await self._link.call(self_id, action, params, timeout)
        except TimeoutError:
            raise ActionUnsureError(f"{action} 没有应答") from None


def _number(value: str) -> int | str:
    """Ids go out as numbers, as OneBot v11 has them; odd ones go out as they came."""
    return int(value) if value.lstrip("-").isdecimal() else value


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}
