"""NapCat's WebSocket side on loopback: actions with echo, events, history, and line faults on demand."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from onebot.events import SELF_ID, Event, heartbeat, lifecycle
from onebot.watch import Watched

Fault = Literal["1200 delivered", "1200 lost", "mute delivered", "mute lost", "refused", "drop delivered", "drop lost"]
Answer = dict[str, Any]
RECORDS = ("send_group_forward_msg", "send_private_forward_msg")
SENDING = ("send_group_msg", "send_private_msg", *RECORDS)


@dataclass(frozen=True)
class Sent:
    """One message the client had this side send."""

    kind: Literal["group", "private"]
    id: str
    message: Any
    params: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(s["data"]["text"] for s in self.message if s["type"] == "text")

    @property
    def quoted(self) -> str | None:
        return next((str(s["data"]["id"]) for s in self.message if s["type"] == "reply"), None)


class RefusalError(Exception):
    """An action handler raises this to fail with a retcode."""

    def __init__(self, retcode: int, words: str = "") -> None:
        super().__init__(words)
        self.retcode = retcode


class OneBotServer(Watched):
    """Listens like NapCat's WebSocket server; `dial_reverse` connects like its WebSocket client."""

    def __init__(self, token: str = "") -> None:
        super().__init__()
        self.token = token
        self.port = 0
        self.sent: list[Sent] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.connections: list[Connection] = []
        self._frozen: list[Connection] = []
        self._given_up = asyncio.Event()
        self.connected = 0
        self.refused_tokens = 0
        self.paths: list[str] = []
        self.clock_off = 0.0
        """Seconds by which its clock is fast."""
        self.history: list[Event] = []
        self.withdrawn: list[str] = []
        self.decided: dict[str, dict[str, Any]] = {}
        self.bad_flags: set[str] = set()
        self.send_faults: deque[Fault] = deque()
        self.mute_actions: set[str] = set()
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "get_login_info": lambda _: {"user_id": SELF_ID, "nickname": "小助手"},
            "get_status": lambda _: {"online": True, "good": True},
            "get_group_info": lambda p: {"group_id": p["group_id"], "group_name": "接口里的群名", "extra_key": 1},
            "get_group_member_info": lambda p: {"card": "", "nickname": f"成员{p['user_id']}"},
            "get_stranger_info": lambda p: {"user_id": p["user_id"], "nickname": f"路人{p['user_id']}"},
            "set_friend_add_request": self._decide,
            "set_group_add_request": self._decide,
            "get_msg": self._get_msg,
            "delete_msg": self._delete_msg,
            "get_group_msg_history": self._history,
            "get_friend_msg_history": self._history,
        }
        self._server: Server | None = None
        self._reverse: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before when there was one."""
        self._server = await serve(self._accept, "127.0.0.1", self.port, max_size=50 * 2**20, ping_interval=None)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away as a NapCat that is killed does."""
        if self._reverse:
            self._reverse.cancel()
            await asyncio.gather(self._reverse, return_exceptions=True)
            self._reverse = None
        self.abort()
        if self._server:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def dial_reverse(self, url: str) -> None:
        """From now on connect to `url` as NapCat's WebSocket client does, again and again."""
        self._reverse = asyncio.create_task(self._dial(url))

    # Faults of the line -----------------------------------------------------------------------------

    async def close(self, code: int = 1000) -> None:
        """Close every connection with a proper closing handshake."""
        await asyncio.gather(*(connection.close(code) for connection in self.connections[:]))

    def abort(self) -> None:
        """Cut every connection without a word."""
        for connection in [*self.connections, *self._frozen]:
            connection.transport.abort()
        self._frozen.clear()

    def half_open(self) -> None:
        """Keep every connection but read nothing more from it, pings included."""
        for connection in self.connections[:]:
            connection.transport.pause_reading()
            self.connections.remove(connection)
            self._frozen.append(connection)
        # The dialling side has given this connection up and dials anew; the other side cannot know yet.
        self._given_up.set()

    async def raw(self, frame: str | bytes) -> None:
        for connection in self.connections[:]:
            with suppress(ConnectionClosed):
                await connection.send(frame)

    # Events -----------------------------------------------------------------------------------------

    async def event(self, event: Event) -> Event:
        """Report an event to whoever is connected; an event nobody hears is gone, as with NapCat."""
        if event.get("post_type") == "message":
            self.history.append(event)
        await self.again(event)
        return event

    async def again(self, event: Event) -> None:
        """Report an event that was reported before."""
        await self.raw(json.dumps(event, ensure_ascii=False))

    async def line(self, within: float = 30) -> None:
        """Wait for a client that is connected."""
        await self.until(lambda: self.connections, "a client connects", within)

    def to(self, chat_id: str | int) -> list[Sent]:
        """What was sent into one chat, in order."""
        return [sent for sent in self.sent if sent.id == str(chat_id)]

    async def replied(self, chat_id: str | int, times: int = 1, within: float = 30) -> list[Sent]:
        """The chat's sent messages once there are `times` of them."""
        await self.until(lambda: len(self.to(chat_id)) >= times, f"{times} replies in chat {chat_id}", within)
        return self.to(chat_id)

    # The protocol -----------------------------------------------------------------------------------

    async def _accept(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.paths.append(connection.request.path)
        query = parse_qs(urlsplit(connection.request.path).query).get("access_token", [""])[0]
        header = connection.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.token and (query or header) != self.token:
            self.refused_tokens += 1
            answer = {"status": "failed", "retcode": 1403, "data": None, "message": "token验证失败", "echo": None}
            await connection.send(json.dumps(answer | {"wording": "token验证失败", "stream": "normal-action"}))
            await connection.close()
            self.changed()
            return
        await self._talk(connection)

    async def _dial(self, url: str) -> None:
        headers = {"X-Self-ID": str(SELF_ID), "X-Client-Role": "Universal", "User-Agent": "OneBot/11"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        while True:
            with suppress(OSError, ConnectionClosed, InvalidHandshake, EOFError, TimeoutError):
                connection = await connect(url, additional_headers=headers, proxy=None, ping_interval=None)
                await self._talk_until_given_up(connection)
            # How long NapCat waits before it dials again (its reconnectInterval), shortened.
            await asyncio.sleep(0.1)

    async def _talk_until_given_up(self, connection: Connection) -> None:
        self._given_up.clear()
        ends = [asyncio.ensure_future(self._talk(connection)), asyncio.ensure_future(self._given_up.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _talk(self, connection: Connection) -> None:
        self.connections.append(connection)
        self.connected += 1
        try:
            for event in (lifecycle(), heartbeat()):
                await connection.send(json.dumps(event | {"time": event["time"] + int(self.clock_off)}))
            self.changed()
            async for frame in connection:
                await self._action(connection, json.loads(frame))
        except ConnectionClosed:
            pass
        finally:
            if connection in self.connections:
                self.connections.remove(connection)
            self.changed()

    async def _action(self, connection: Connection, call: dict[str, Any]) -> None:
        action, params = call["action"], call.get("params") or {}
        self.calls.append((action, params))
        self.changed()
        if action in self.mute_actions:
            return
        try:
            sending = action in SENDING
            data = self._send(connection, action, params) if sending else self._answer(action, params)
        except RefusalError as refusal:
            answer = {"status": "failed", "retcode": refusal.retcode, "data": None, "message": str(refusal)}
        else:
            if data is None:
                return
            answer = {"status": "ok", "retcode": 0, "data": data, "message": ""}
        await connection.send(json.dumps(answer | {"wording": answer["message"], "echo": call.get("echo")}))

    def _answer(self, action: str, params: dict[str, Any]) -> Any:
        if action not in self.answers:
            raise RefusalError(1404, f"不支持的Api {action}")
        return self.answers[action](params)

    def _send(self, connection: Connection, action: str, params: dict[str, Any]) -> Answer | None:
        fault = self.send_faults.popleft() if self.send_faults else None
        if fault == "refused":
            raise RefusalError(1400, "schema error")
        if fault is None or fault.endswith("delivered"):
            self._deliver(action, params)
        if fault and fault.startswith("1200"):
            raise RefusalError(1200, "Timeout: NTEvent serviceAndMethod:NodeIKernelMsgService/sendMsg")
        if fault and fault.startswith("drop"):
            connection.transport.abort()
        return None if fault else {"message_id": self.history[-1]["message_id"]}

    def _deliver(self, action: str, params: dict[str, Any]) -> None:
        kind: Literal["group", "private"] = "group" if action.startswith("send_group") else "private"
        target = str(params["group_id"] if kind == "group" else params["user_id"])
        record = {"type": "forward", "data": {"id": f"r{len(self.sent)}", "content": params.get("messages")}}
        message = [record] if action in RECORDS else params["message"]
        self.sent.append(Sent(kind, target, message, params))
        mine = {"message_id": 2_000_000_000 + len(self.sent), "user_id": SELF_ID, "sender": {"user_id": SELF_ID}}
        place = {"group_id": params["group_id"]} if kind == "group" else {"target_id": params["user_id"]}
        self.history.append(mine | place | {"message": message, "message_type": kind})
        self.changed()

    def _decide(self, params: dict[str, Any]) -> Answer:
        if params["flag"] in self.bad_flags:
            raise RefusalError(1400, "flag 不对")
        self.decided[params["flag"]] = params
        self.changed()
        return {}

    def _delete_msg(self, params: dict[str, Any]) -> Answer:
        self.withdrawn.append(str(params["message_id"]))
        self.changed()
        return {}

    def _get_msg(self, params: dict[str, Any]) -> Answer:
        for event in self.history:
            if str(event["message_id"]) == str(params["message_id"]):
                return event
        raise RefusalError(1200, "消息不存在")

    def _history(self, params: dict[str, Any]) -> Answer:
        group, user = params.get("group_id"), params.get("user_id")
        if group:
            found = [e for e in self.history if str(e.get("group_id")) == str(group)]
        else:
            found = [e for e in self.history if str(user) in (str(e.get("user_id")), str(e.get("target_id")))]
        return {"messages": found[-int(params.get("count", 20)) :]}
