"""What QQ hands over besides plain words: cards, forwards, shares, files, recalled quotes; all of it is read."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from onebot.events import SELF_ID, at, face, group_message, image, poke, private_message, reply, text
from onebot.pictures import drawn
from onebot.process import ClientProcess
from onebot.world import Stack, World

pytestmark = pytest.mark.anyio
Segment = dict[str, Any]


async def in_group(stack: Stack, chat_id: int, *segments: Segment, **more: Any) -> dict[str, Any]:
    await stack.onebot.event(group_message(list(segments), chat_id, **more))
    return (await stack.chat.asked(chat_id))[-1]


def pictures_of(body: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(item["data"]) for item in body["images"]]


def node(name: str, *segments: Segment) -> Segment:
    return {"user_id": 1, "sender": {"nickname": name, "user_id": 1}, "message": list(segments), "raw_message": ""}


def forward(*nodes: Segment) -> Segment:
    return {"type": "forward", "data": {"id": "f", "content": list(nodes)}}


def card(kind: str = "json", **content: Any) -> Segment:
    return {"type": kind, "data": {"data": json.dumps(content, ensure_ascii=False)}}


# Forwards -----------------------------------------------------------------------------------------------


async def test_pictures_in_forwards_come_along_where_they_stood(stack: Stack, chat_id: int) -> None:
    red, blue = drawn("red"), drawn("blue")
    inner = forward(node("乙", image(stack.pictures.put(blue)), text("里面")))
    record = forward(node("甲", text("看"), image(stack.pictures.put(red)), text("好")), node("丙", inner))
    body = await in_group(stack, chat_id, record, text("总结"))
    assert pictures_of(body) == [red, blue]
    shown = [s if s["type"] == "image" else s["text"] for s in body["segments"]]
    assert shown == [
        "[聊天记录]\n甲：看",
        {"type": "image", "index": 0},
        "好\n丙：[聊天记录]\n　乙：",
        {"type": "image", "index": 1},
        "里面\n[聊天记录结束]\n",
        "总结",
    ]
    assert "甲：看[图片]好" in body["content"]
    assert body["forward"] == [
        {"speaker": "甲", "user_id": "1", "text": "看[图片]好"},
        {"speaker": "丙", "user_id": "1", "text": "[聊天记录]"},
        {"speaker": "乙", "user_id": "1", "text": "[图片]里面"},
    ]


async def test_forwarded_pictures_are_few_and_never_at_the_cost_of_the_messages_own(stack: Stack, chat_id: int) -> None:
    own, other = drawn("green"), stack.pictures.put(drawn("red"))
    record = forward(*(node("甲", image(other)) for _ in range(12)))
    own_url = stack.pictures.put(own)
    body = await in_group(stack, chat_id, record, *(image(own_url) for _ in range(10)))
    assert len(body["images"]) == 14
    assert pictures_of(body)[-10:] == [own] * 10
    assert body["content"].count("图片太多") == 8


async def test_a_quoted_forward_brings_its_pictures(stack: Stack, chat_id: int) -> None:
    quoted = group_message([forward(node("甲", image(stack.pictures.put(drawn("red")))))], chat_id)
    stack.onebot.history.append(quoted)
    body = await in_group(stack, chat_id, reply(quoted["message_id"]), text("这是啥"))
    assert pictures_of(body["reply_to"]) == [drawn("red")]
    assert "甲：[图片]" in body["reply_to"]["text"]


async def test_ats_faces_and_cards_in_forwards_are_words(stack: Stack, chat_id: int) -> None:
    named = {"type": "at", "data": {"qq": "5", "name": "@老王"}}
    body = await in_group(
        stack, chat_id, forward(node("甲", named, at(6), at("all"), face(14), card(prompt="[分享]标题")))
    )
    assert "甲：@老王@6@全体成员[表情:微笑][卡片:[分享]标题]" in body["content"]


MULTIMSG: dict[str, Any] = {
    "app": "com.tencent.multimsg",
    "prompt": "[聊天记录]",
    "meta": {
        "detail": {"resid": "R1", "source": "群聊的聊天记录", "news": [{"text": "甲: 预览一"}, {"text": "乙: 预览二"}]}
    },
}
XML_FORWARD = (
    '<?xml version="1.0"?><msg serviceID="35" brief="[聊天记录]" m_resid="R1" action="viewMultiMsg">'
    '<item layout="1"><title size="34">群聊的聊天记录</title><title>甲: 预览一</title></item></msg>'
)
FORWARD_CARDS = {
    "json": card(**MULTIMSG),
    "ark": card("ark", **MULTIMSG),
    "xml": {"type": "xml", "data": {"data": XML_FORWARD}},
}


@pytest.mark.parametrize("kind", FORWARD_CARDS)
async def test_a_forward_told_as_a_card_is_opened(stack: Stack, chat_id: int, kind: str) -> None:
    stack.onebot.answers["get_forward_msg"] = lambda p: {"messages": [node("丁", text(f"第{p['id']}号"))]}
    try:
        body = await in_group(stack, chat_id, FORWARD_CARDS[kind])
    finally:
        del stack.onebot.answers["get_forward_msg"]
    assert "丁：第R1号" in body["content"]


@pytest.mark.parametrize("kind", FORWARD_CARDS)
async def test_a_forward_card_that_cannot_be_opened_shows_its_preview(stack: Stack, chat_id: int, kind: str) -> None:
    assert "甲: 预览一" in (await in_group(stack, chat_id, FORWARD_CARDS[kind]))["content"]


# Cards and other kinds that hold words ------------------------------------------------------------------

CARDS: dict[str, tuple[Segment, list[str]]] = {
    "news": (
        card(
            app="com.tencent.structmsg",
            prompt="[分享]大新闻",
            meta={"news": {"title": "大新闻", "desc": "摘要在此", "jumpUrl": "https://e.com/n?a=1", "tag": "某报"}},
        ),
        ["[分享]大新闻", "摘要在此", "某报", "https://e.com/n?a=1"],
    ),
    "mini program": (
        card(
            app="com.tencent.miniapp_01",
            prompt="[QQ小程序]哔哩哔哩",
            meta={
                "detail_1": {
                    "title": "哔哩哔哩",
                    "desc": "一个视频",
                    "url": "m.q.qq.com/a/s/1",
                    "qqdocurl": "https://b23.tv/x",
                }
            },
        ),
        ["哔哩哔哩", "一个视频", "https://b23.tv/x"],
    ),
    "map": (
        card(
            app="com.tencent.map",
            prompt="[应用]地图",
            meta={"Location.Search": {"name": "天安门", "address": "北京市东城区"}},
        ),
        ["天安门", "北京市东城区"],
    ),
    "group notice": (
        card(
            app="com.tencent.mannounce",
            prompt="[群公告]",
            meta={"mannounce": {"encode": 1, "text": base64.b64encode("明天放假".encode()).decode(), "title": ""}},
        ),
        ["[群公告]", "明天放假"],
    ),
    "as an object": ({"type": "ark", "data": {"prompt": "[分享]", "meta": {"x": {"title": "对象里"}}}}, ["对象里"]),
    "xml": (
        {
            "type": "xml",
            "data": {
                "data": '<msg brief="[分享] 歌" url="https://y.qq.com/1"><item><title>晴天 &amp; 雨</title>'
                "<summary><![CDATA[周杰伦]]></summary></item><source name='QQ音乐'/></msg>"
            },
        },
        ["晴天 & 雨", "周杰伦", "QQ音乐", "https://y.qq.com/1"],
    ),
    "broken xml": ({"type": "xml", "data": {"data": "<msg brief='简介'><item><title>半截"}}, ["简介", "半截"]),
    "share": (
        {"type": "share", "data": {"url": "https://e.com/a", "title": "标题甲", "content": "内容乙"}},
        ["标题甲", "内容乙", "https://e.com/a"],
    ),
    "location": (
        {"type": "location", "data": {"lat": "39.9", "lon": "116.4", "title": "故宫", "content": "景山前街"}},
        ["位置", "故宫", "景山前街", "39.9,116.4"],
    ),
    "music": (
        {"type": "music", "data": {"type": "custom", "title": "晴天", "singer": "周杰伦", "url": "https://y.qq.com/2"}},
        ["晴天", "周杰伦", "https://y.qq.com/2"],
    ),
    "music by number": ({"type": "music", "data": {"type": "163", "id": "28949129"}}, ["163 28949129"]),
    "contact": ({"type": "contact", "data": {"type": "group", "id": "100"}}, ["名片", "群 100"]),
    "a kind of 2030": (
        {"type": "from_2030", "data": {"text": "新的字", "title": "新题"}},
        ["from_2030", "新的字", "新题"],
    ),
}


@pytest.mark.parametrize("kind", CARDS)
async def test_what_a_segment_says_is_read(stack: Stack, chat_id: int, kind: str) -> None:
    segment, words = CARDS[kind]
    content = (await in_group(stack, chat_id, text("前"), segment))["content"]
    assert [word for word in words if word not in content] == [], content


ODD_CARDS = [
    "",
    "{",
    "[1]",
    "null",
    '{"meta": [[[[[[[[1]]]]]]]]}',
    "<",
    "<msg",
    "<!DOCTYPE a [<!ENTITY b 'c'>]><msg>&b;</msg>",
]


@pytest.mark.parametrize("payload", ODD_CARDS)
async def test_an_odd_card_costs_nothing_else(stack: Stack, chat_id: int, payload: str) -> None:
    segments = [{"type": kind, "data": {"data": payload}} for kind in ("json", "xml", "miniapp")]
    assert (await in_group(stack, chat_id, text("前"), *segments, text("后")))["content"].endswith("后")


async def test_a_card_of_any_length_is_cut(stack: Stack, chat_id: int) -> None:
    long = card(prompt="长" * 9000, meta={str(n): {"title": f"{n}" * 400} for n in range(500)})
    assert len((await in_group(stack, chat_id, long))["content"]) < 4000


async def test_a_stickers_name_is_read_besides_its_picture(stack: Stack, chat_id: int) -> None:
    data = {"emoji_id": "e", "summary": "[比心]", "url": stack.pictures.put(drawn("orange", "GIF"))}
    body = await in_group(stack, chat_id, {"type": "mface", "data": data})
    assert (body["content"], len(body["images"])) == ("[表情:比心]", 1)
    assert [s["type"] for s in body["segments"]] == ["mface", "image"], "its name is not what somebody typed"


async def test_of_too_many_pieces_it_is_told_which_were_typed(stack: Stack, chat_id: int) -> None:
    """Otherwise all of it would pass for the sender's words, and a name in what he forwards for a call."""
    forward = {"type": "forward", "data": {"id": "f", "content": [node("甲", text("小助手，在吗"))]}}
    body = await in_group(stack, chat_id, text("看"), forward, at(30003), *(face(n) for n in range(1100)), text("这个"))
    assert "小助手，在吗" in body["content"]
    told = {s["type"]: s["text"] for s in body["segments"]}
    assert (told["text"], told["at"]) == ("看 这个", "@成员30003 ")
    assert "小助手，在吗" in told["forward"]


# Files that are pictures --------------------------------------------------------------------------------


def file(name: str, **more: Any) -> Segment:
    return {"type": "file", "data": {"file": name, "file_id": "/abc", "file_size": "1000", **more}}


async def test_a_file_that_is_a_picture_is_seen(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, file("照片.HEIC", url=stack.pictures.put(drawn("red"))), text("看"))
    assert pictures_of(body) == [drawn("red")]
    assert body["content"] == "[文件:照片.HEIC｜1.0 KB]看"


async def test_a_files_address_is_asked_for(stack: Stack, chat_id: int, other_id: int) -> None:
    url = stack.pictures.put(drawn("blue"))
    for action in ("get_group_file_url", "get_private_file_url"):
        stack.onebot.answers[action] = lambda p: {"url": url}
    body = await in_group(stack, chat_id, file("a.png"))
    assert pictures_of(body) == [drawn("blue")]
    assert ("get_group_file_url", {"group_id": chat_id, "file_id": "/abc"}) in stack.onebot.calls
    await stack.onebot.event(private_message([file("a.png")], other_id))
    assert pictures_of((await stack.chat.asked(other_id))[0]) == [drawn("blue")]


async def test_other_files_stay_files(stack: Stack, chat_id: int) -> None:
    before = len(stack.onebot.calls)
    body = await in_group(stack, chat_id, file("报告.pdf", url=stack.pictures.put(drawn())))
    assert (body["content"], body["images"]) == ("[文件:报告.pdf｜1.0 KB]", [])
    assert not [action for action, _ in stack.onebot.calls[before:] if "file" in action]


async def test_a_file_that_only_claims_to_be_a_picture_says_so(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, file("a.jpg", file_id="", url=stack.pictures.bad("page")))
    assert body["content"] == "[文件:a.jpg｜1.0 KB][图片未能获取：不是能识别的图片]"


SIZES = {"0": "", "999": "｜999 B", "1234567": "｜1.2 MB", "25000000": "｜25 MB", "3000000000": "｜3.0 GB", "x": ""}


@pytest.mark.parametrize("size", SIZES)
async def test_a_files_size_is_told_for_people(stack: Stack, chat_id: int, size: str) -> None:
    body = await in_group(stack, chat_id, file("报告.pdf", file_size=size))
    assert body["content"] == f"[文件:报告.pdf{SIZES[size]}]"


# Videos and pokes ---------------------------------------------------------------------------------------


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def movie(seconds: float, header_first: bool, version: int = 0) -> bytes:
    """An MP4 file as far as its length goes, with 200 kB of what would be pictures."""
    times, form = (struct.pack(">QQ", 1, 2), ">IQ") if version else (struct.pack(">II", 1, 2), ">II")
    length = struct.pack(form, 600, int(seconds * 600))
    header = box(b"moov", box(b"mvhd", bytes([version, 0, 0, 0]) + times + length + bytes(80)))
    frames = box(b"mdat", bytes(200_000))
    return box(b"ftyp", b"isom" + bytes(8)) + (header + frames if header_first else frames + header)


MOVIES: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "told": ({"duration": "75"}, b"", "[视频:1 分 15 秒]"),
    "at the start": ({"file_size": "3400000"}, movie(12.4, header_first=True), "[视频:12 秒｜3.4 MB]"),
    "at the end": ({}, movie(61, header_first=False), "[视频:1 分 1 秒]"),
    "of 64 bits": ({}, movie(0.2, header_first=True, version=1), "[视频:1 秒]"),
    "nowhere": ({}, b"no video" * 100, "[视频]"),
    "cut": ({}, movie(5, header_first=True)[:50], "[视频]"),
}


@pytest.mark.parametrize("kind", MOVIES)
async def test_a_video_is_a_note_with_its_length(stack: Stack, chat_id: int, kind: str) -> None:
    told, content, note = MOVIES[kind]
    data = {"file": "A1B2.mp4", "url": stack.pictures.put(content) if content else "", **told}
    assert (await in_group(stack, chat_id, {"type": "video", "data": data}, text("看")))["content"] == f"{note}看"


@pytest.mark.parametrize("vice", ["gone", "stall", "loop", "hang-up"])
async def test_a_video_that_cannot_be_fetched_is_a_note(stack: Stack, chat_id: int, vice: str) -> None:
    data = {"url": stack.pictures.bad(vice)}
    assert (await in_group(stack, chat_id, {"type": "video", "data": data}))["content"] == "[视频]"


async def test_a_poke_is_a_line_that_asks_for_nothing(stack: Stack, chat_id: int, other_id: int) -> None:
    await stack.onebot.event(poke(40004, SELF_ID, group_id=chat_id))
    await stack.onebot.event(poke(40004, 50005, group_id=chat_id, words=("揉了揉", "的头")))
    await stack.onebot.event(poke(other_id, SELF_ID))
    bodies = [*await stack.chat.asked(chat_id, 2), *await stack.chat.asked(other_id)]
    assert [body["content"] for body in bodies] == [
        "[戳一戳:戳了戳 你]",
        "[戳一戳:揉了揉的头 成员50005]",
        "[戳一戳:戳了戳 你]",
    ]
    assert [body["user_nickname"] for body in bodies] == ["成员40004", "成员40004", f"路人{other_id}"]
    assert all(body["context_only"] and not body["at_me"] and "message_id" not in body for body in bodies)


async def test_a_poke_of_our_own_is_none(stack: Stack, chat_id: int, other_id: int) -> None:
    await stack.onebot.event(poke(SELF_ID, 40004, group_id=chat_id))
    await stack.onebot.event(poke(other_id, other_id, sender_id=SELF_ID))
    await stack.onebot.event(group_message("在", chat_id))
    await stack.onebot.event(private_message("在", other_id))
    assert [body["content"] for body in await stack.chat.asked(chat_id)] == ["在"]
    assert [body["content"] for body in await stack.chat.asked(other_id)] == ["在"]


async def test_a_poke_calls_the_bot_where_the_owner_wants_it(world: World, tmp_path: Path, chat_id: int) -> None:
    async with ClientProcess(tmp_path, world.settings() | {"poke_calls": "true"}) as client:
        await world.onebot.line()
        await world.onebot.event(poke(40004, 50005, group_id=chat_id))
        await world.onebot.event(poke(40004, SELF_ID, group_id=chat_id))
        (sent,) = await world.onebot.replied(chat_id)
        assert await client.stop() == 0
    assert (sent.text, sent.quoted) == ("答：[戳一戳:戳了戳 你]", None)
    told = [(body["at_me"], body.get("context_only", False)) for body in world.chat.of(chat_id)]
    assert told == [(False, True), (True, False)]


# Quotes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ["", [], None])
async def test_a_recalled_quote_is_told_as_such(stack: Stack, chat_id: int, message: Any) -> None:
    gone = group_message("x", chat_id) | {"message": message, "raw_message": ""}
    stack.onebot.history.append(gone)
    body = await in_group(stack, chat_id, reply(gone["message_id"]), text("什么意思"))
    assert body["reply_to"]["text"] == "[被引用的消息已撤回]"


async def test_a_quote_that_carries_its_words_needs_no_lookup_to_be_read(stack: Stack, chat_id: int) -> None:
    quote = {"type": "reply", "data": {"id": "987654", "text": "原来的话", "qq": str(SELF_ID)}}
    body = await in_group(stack, chat_id, quote, text("嗯？"))
    assert (body["reply_to"]["text"], body["at_me"]) == ("原来的话", True)


# Who ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "admin", "member"])
async def test_the_role_of_a_groups_sender_is_told(stack: Stack, chat_id: int, role: str) -> None:
    sender = {"user_id": 20002, "nickname": "张三", "card": "三哥", "role": role}
    assert (await in_group(stack, chat_id, text("在"), sender=sender))["sender_role"] == role


async def test_a_role_nobody_knows_is_not_told(stack: Stack, chat_id: int, other_id: int) -> None:
    for role in ("king", None, 7, ["owner"], {"role": "owner"}):
        body = await in_group(stack, chat_id, text("在"), sender={"user_id": 2, "nickname": "张三", "role": role})
        assert "sender_role" not in body
    await stack.onebot.event(private_message("在", other_id, sender={"user_id": other_id, "role": "owner"}))
    assert not {"sender_role", "self_nickname"} & (await stack.chat.asked(other_id))[0].keys()


ROBOTS: dict[str, tuple[int, dict[str, Any]]] = {
    "told": (20002, {"is_robot": True}),
    "told otherwise": (20002, {"is_bot": True}),
    "one of QQ's own": (2_854_196_310, {}),
}


@pytest.mark.parametrize("kind", ROBOTS)
async def test_a_robot_is_told_as_such(stack: Stack, chat_id: int, other_id: int, kind: str) -> None:
    user_id, more = ROBOTS[kind]
    sender = {"user_id": user_id, "nickname": "管家", "role": "member"} | more
    assert (await in_group(stack, chat_id, text("在"), user_id=user_id, sender=sender))["sender_is_bot"] is True
    for odd in ({"is_robot": "true"}, {"is_robot": 0}, {}):
        sender = {"user_id": 5, "nickname": "张三"} | odd
        await stack.onebot.event(group_message("在", other_id, sender=sender))
    assert not [b for b in await stack.chat.asked(other_id, 3) if "sender_is_bot" in b]


async def test_who_calls_everybody_is_told_to(stack: Stack, chat_id: int, other_id: int) -> None:
    body = await in_group(stack, chat_id, at("all"), text("开会"))
    assert (body["at_all"], body["at_me"]) == (True, False)
    assert "at_all" not in await in_group(stack, other_id, at(SELF_ID), text("开会"))


async def test_the_accounts_own_names_are_told(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, text("小助手在吗"))
    assert (body["self_nickname"], body["self_card"]) == ("小助手", f"成员{SELF_ID}")
    asked = [action for action, _ in stack.onebot.calls].count("get_login_info")
    await in_group(stack, chat_id, text("还在吗"))
    assert [action for action, _ in stack.onebot.calls].count("get_login_info") == asked
