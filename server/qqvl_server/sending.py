"""The chat's settings on how a reply is sent in QQ: part of section ``chat``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from qqvl_server.setting_types import Room, switch


class SendingSettings(Room):
    message_chars: int = Field(
        500, ge=50, le=4500, description="一条 QQ 消息最多多少字，更长的回答在句子之间分成几条；代码不拆开"
    )
    forward_chars: int = Field(
        2000,
        ge=0,
        le=1000000,
        description="一次回答超过这么多字的部分合成一条聊天记录（合并转发），免得刷屏；0 不合。"
        "要客户端说了机器人的 QQ 号（self_id）",
    )
    at_asker: Annotated[Literal["on", "off"], BeforeValidator(switch)] = Field(
        "off", description="on 在群里回答时先 @ 提问的人"
    )
    quote_asked: Annotated[Literal["on", "off"], BeforeValidator(switch)] = Field(
        "off", description="on 回答时引用问的那条消息（客户端自己会引用的就不用开）"
    )
