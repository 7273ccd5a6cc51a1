"""The world the client lives in, put together."""

from __future__ import annotations

from dataclasses import dataclass

from onebot.chat import ChatServer
from onebot.pictures import PictureHost
from onebot.process import ClientProcess
from onebot.server import OneBotServer

TOKEN = "tok/en+42=geheim"
KEY = "key-7f3a-geheim"


@dataclass
class World:
    """Everything outside the client."""

    onebot: OneBotServer
    chat: ChatServer
    pictures: PictureHost

    def settings(self, adapter: str = "ncatbot") -> dict[str, object]:
        return {
            "adapter": adapter,
            "server_url": self.chat.url,
            "api_key": KEY,
            "napcat_ws_url": self.onebot.url,
            "napcat_token": TOKEN,
        }


@dataclass
class Stack(World):
    """The world, and one client relaying in it."""

    client: ClientProcess
