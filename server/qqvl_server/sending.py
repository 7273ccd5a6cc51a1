"""The chat's settings on how a reply is sent in QQ: part of section ``chat``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from qqvl_server.setting_types import Room, Words, switch


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
    draw_chars: int = Field(
        0,
        ge=0,
        le=1000000,
        description="超过这么多字的代码和表格画成图片发，独占几行的公式也画；0 不画。"
        "代码和表格要有中文字体（如 fonts-noto-cjk），公式要 formula 扩展，没有就照旧发文字",
    )
    at_asker: Annotated[Literal["on", "off"], BeforeValidator(switch)] = Field(
        "off", description="on 在群里回答时先 @ 提问的人"
    )
    quote_asked: Annotated[Literal["on", "off"], BeforeValidator(switch)] = Field(
        "off", description="on 回答时引用问的那条消息（客户端自己会引用的就不用开）"
    )
    block_words_in: Words = Field(
        (),
        description="别人说了就不理的词，可写多个，用逗号隔开；以 .txt 结尾的是文件，一行一个词，改了不用重启。"
        "全角、大小写、隔开、夹标点的都算；消息不给模型看，叫了它的得到 block_reply",
    )
    block_words_out: Words = Field(
        (), description="它不能说的词，写法同上；碰到时从那一行起换成 block_reply，生成时就避开原样写的"
    )
    block_reply: str = Field("这个我不聊，换个话题吧。", max_length=500, description="碰到屏蔽词时说的话；留空就不说")
    block_words_pinyin: Annotated[Literal["on", "off"], BeforeValidator(switch)] = Field(
        "off", description="on 屏蔽词的拼音也算，如 huaici、huai ci；要另装 pinyin 扩展"
    )
