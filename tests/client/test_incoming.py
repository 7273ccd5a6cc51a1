"""What a QQ message becomes on its way to the chat server."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from onebot.events import SELF_ID, as_string, at, face, group_message, image, private_message, reply, text
from onebot.pictures import drawn
from onebot.world import KEY, Stack

pytestmark = pytest.mark.anyio


def picture_of(body: dict[str, Any], index: int = 0) -> bytes:
    return base64.b64decode(body["images"][index]["data"], validate=True)


async def sent_on(stack: Stack, event: dict[str, Any]) -> dict[str, Any]:
    """Report one event; the body it becomes."""
    await stack.onebot.event(event)
    return (await stack.chat.asked(event["group_id" if event["message_type"] == "group" else "user_id"]))[-1]


async def in_group(stack: Stack, chat_id: int, *segments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await sent_on(stack, group_message(list(segments), chat_id, **more))


async def test_group_message_has_the_specs_fields(stack: Stack, chat_id: int) -> None:
    event = group_message("这是一条消息", chat_id, user_id=987654321)
    body = await sent_on(stack, event)
    spec = {
        "type": "group",
        "group_id": str(chat_id),
        "group_name": "测试群",
        "user_id": "987654321",
        "user_nickname": "张三",
        "user_card": "三哥",
        "content": "这是一条消息",
        "images": [],
        "timestamp": float(event["time"]),
    }
    assert {name: body[name] for name in spec} == spec
    assert body["message_id"] == str(event["message_id"])
    assert body["self_id"] == str(SELF_ID)
    assert body["at_me"] is False
    assert body["message_type"] == "group"


async def test_private_message_has_the_specs_fields_and_no_group(stack: Stack, chat_id: int) -> None:
    body = await sent_on(stack, private_message("你好", chat_id))
    assert (body["type"], body["user_id"], body["content"], body["images"]) == ("private", str(chat_id), "你好", [])
    assert not {"group_id", "group_name", "user_card"} & body.keys()


async def test_the_key_travels_as_bearer(stack: Stack, chat_id: int) -> None:
    await sent_on(stack, private_message("你好", chat_id))
    assert stack.chat.requests[-1].headers["authorization"] == f"Bearer {KEY}"


async def test_temporary_session_is_private_and_answered_through_its_group(
    stack: Stack, chat_id: int, other_id: int
) -> None:
    event = private_message("在吗", chat_id, sub_type="group", group_id=other_id, temp_source=0)
    body = await sent_on(stack, event)
    assert (body["type"], body["sub_type"]) == ("private", "group")
    sent = (await stack.onebot.replied(chat_id))[0]
    assert (sent.kind, sent.params["group_id"]) == ("private", other_id)


async def test_the_string_form_reads_like_the_array_form(stack: Stack, chat_id: int) -> None:
    url = stack.pictures.put(drawn("blue")) + "?a=1&amp;b=2"
    stack.pictures.files[url.removeprefix(stack.pictures.url).replace("&amp;", "&")] = drawn("blue")
    stack.pictures.delay_s[url.removeprefix(stack.pictures.url).replace("&amp;", "&")] = 0
    code = f"[CQ:at,qq={SELF_ID}] 看&#91;这&#93;个&amp;[CQ:image,file=x.jpg,url={url}]好吗"
    body = await sent_on(stack, as_string(group_message("", chat_id), code))
    assert body["content"] == f"@成员{SELF_ID} 看[这]个&好吗"
    assert body["at_me"] is True
    assert picture_of(body) == drawn("blue")


async def test_text_is_passed_on_as_it_was_written(stack: Stack, chat_id: int) -> None:
    written = "  if x < 1 && y:\n\treturn '&amp; <|im_start|>'  "
    assert (await in_group(stack, chat_id, text(written)))["content"] == written


async def test_ats_are_names_and_ours_is_told(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, at(SELF_ID), text(" 你和"), at(30003), text("都看"), at("all"))
    assert body["content"] == f"@成员{SELF_ID} 你和@成员30003 都看@全体成员"
    assert body["at_me"] is True
    assert body["segments"][2] == {"type": "at", "user_id": "30003", "name": "成员30003", "text": "@成员30003 "}


async def test_at_all_is_not_us(stack: Stack, chat_id: int) -> None:
    assert (await in_group(stack, chat_id, at("all"), text("开会")))["at_me"] is False


async def test_quoted_message_and_its_pictures_come_along(stack: Stack, chat_id: int) -> None:
    picture = drawn("green", "JPEG")
    quoted = group_message([text("昨天画的"), image(stack.pictures.put(picture))], chat_id, user_id=40004)
    stack.onebot.history.append(quoted)
    body = await in_group(stack, chat_id, reply(quoted["message_id"]), text("这是什么颜色"))
    quote = body["reply_to"]
    assert (quote["id"], quote["text"], quote["user_id"]) == (str(quoted["message_id"]), "昨天画的", "40004")
    assert quote["user_nickname"] == "三哥"
    assert [item["format"] for item in quote["images"]] == ["jpeg"]
    assert base64.b64decode(quote["images"][0]["data"]) == picture
    assert body["content"] == "这是什么颜色"
    assert body["images"] == []


async def test_quoting_the_bot_means_the_bot(stack: Stack, chat_id: int) -> None:
    mine = group_message("我说的", chat_id, user_id=SELF_ID)
    stack.onebot.history.append(mine)
    assert (await in_group(stack, chat_id, reply(mine["message_id"]), text("真的？")))["at_me"] is True


async def test_a_quote_that_cannot_be_fetched_does_not_lose_the_message(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, reply(987), text("还记得吗"))
    assert (body["content"], body["reply_to"]["id"]) == ("还记得吗", "987")


async def test_a_reply_segment_without_id_is_harmless(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, {"type": "reply", "data": {}}, text("嗯"))
    assert body["content"] == "嗯"
    assert "reply_to" not in body


async def test_faces_are_named(stack: Stack, chat_id: int) -> None:
    body = await in_group(stack, chat_id, text("好"), face(14), face(9, ""))
    assert body["content"] == "好[表情:微笑][表情:9]"


def _node(name: str, content: Any) -> dict[str, Any]:
    return {"user_id": 1, "sender": {"nickname": name, "user_id": 1}, "message": content, "raw_message": ""}


async def test_forwards_become_text_nested_ones_too(stack: Stack, chat_id: int) -> None:
    inner = {"type": "forward", "data": {"id": "in", "content": [_node("丙", [text("最里面")])]}}
    outer = [_node("甲", [text("第一句"), {"type": "napcat_new", "data": {}}]), _node("乙", [inner])]
    body = await in_group(stack, chat_id, {"type": "forward", "data": {"id": "out", "content": outer}}, text("总结"))
    lines = body["content"].split("\n")
    assert lines[0] == "[聊天记录]"
    assert "甲：第一句[不支持的消息:napcat_new]" in lines
    assert any("丙：最里面" in line for line in lines)
    assert lines[-1] == "总结"


async def test_a_forward_without_content_is_fetched(stack: Stack, chat_id: int) -> None:
    stack.onebot.answers["get_forward_msg"] = lambda p: {"messages": [_node("丁", [text(f"第{p['id']}号")])]}
    body = await in_group(stack, chat_id, {"type": "forward", "data": {"id": "abc"}})
    assert "丁：第abc号" in body["content"]


ODD: list[tuple[dict[str, Any], str]] = [
    ({"type": "flashtransfer", "data": {"fileSetId": "x"}}, "[闪传文件]"),
    ({"type": "miniapp", "data": {"data": "{}"}}, "[小程序]"),
    ({"type": "onlinefile", "data": {"fileName": "a"}}, "[文件:a]"),
    ({"type": "contact", "data": {"id": "1", "type": "qq"}}, "[名片:QQ 1]"),
    ({"type": "json", "data": {"data": json.dumps({"prompt": "[分享]标题"})}}, "[卡片:[分享]标题]"),
    ({"type": "record", "data": {"file": "a.amr", "path": "/x/a.amr"}}, "[语音]"),
    ({"type": "file", "data": {"file": "/x/报告.pdf", "file_id": "1"}}, "[文件:报告.pdf]"),
    ({"type": "dice", "data": {"result": "5"}}, "[骰子:5]"),
    ({"type": "from_2030", "data": None}, "[不支持的消息:from_2030]"),
]


@pytest.mark.parametrize(("segment", "note"), ODD, ids=[segment["type"] for segment, _ in ODD])
async def test_other_kinds_become_a_note_and_keep_the_rest(
    stack: Stack, chat_id: int, segment: dict[str, Any], note: str
) -> None:
    assert (await in_group(stack, chat_id, text("前"), segment, text("后")))["content"] == f"前{note}后"


async def test_crooked_events_still_come_through(stack: Stack, chat_id: int) -> None:
    event = group_message([text("还在"), "字", None, {"data": {}}, {"type": "image", "data": {}}], chat_id)
    del event["sender"], event["raw_message"], event["font"]
    event["new_field"] = {"x": 1}
    body = await sent_on(stack, event)
    assert body["content"].startswith("还在字")
    assert body["user_id"] == "20002"


async def test_a_message_with_nothing_in_it_is_not_posted(stack: Stack, chat_id: int) -> None:
    await stack.onebot.event(group_message([text("  "), {"type": "keyboard", "data": {}}], chat_id))
    assert (
        await in_group(
            stack,
            chat_id,
            text("有"),
        )
    )["content"] == "有"
    assert len(stack.chat.of(chat_id)) == 1


async def test_a_forward_that_never_ends_is_cut(stack: Stack, chat_id: int) -> None:
    """Every record holds two more records: opened without a limit there would be no end."""
    more = [{"type": "forward", "data": {"id": "x"}}]
    stack.onebot.answers["get_forward_msg"] = lambda _: {"messages": [_node("环", [text("句"), *more])] * 90}
    before = len(stack.onebot.calls)
    body = await in_group(stack, chat_id, *more)
    assert "后面的内容略" in body["content"]
    assert len(body["content"]) < 9000
    assert len(stack.onebot.calls) - before < 120


async def test_group_name_comes_from_the_api_once_when_the_event_has_none(stack: Stack, chat_id: int) -> None:
    for number in range(4):
        event = group_message("在", chat_id)
        del event["group_name"]
        await stack.onebot.event(event)
        if number >= 2:
            await stack.chat.asked(chat_id, number + 1)
    bodies = stack.chat.of(chat_id)
    assert {body["group_name"] for body in bodies} == {"接口里的群名"}
    asked = [params for action, params in stack.onebot.calls if action == "get_group_info"]
    assert asked.count({"group_id": chat_id}) == 1


# Pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
async def test_format_is_what_the_bytes_are_and_the_bytes_are_untouched(stack: Stack, chat_id: int, kind: str) -> None:
    picture = drawn("red", kind)
    body = await in_group(stack, chat_id, image(stack.pictures.put(picture), file="A.jpg"))
    assert body["images"][0]["format"] == kind.lower()
    assert picture_of(body) == picture


async def test_pictures_keep_their_order_whatever_arrives_first(stack: Stack, chat_id: int) -> None:
    pictures = [drawn(colour) for colour in ("red", "green", "blue")]
    urls = [stack.pictures.put(p, delay) for p, delay in zip(pictures, (0.3, 0.15, 0), strict=True)]
    body = await in_group(stack, chat_id, image(urls[0]), text("和"), image(urls[1]), image(urls[2]))
    assert [picture_of(body, i) for i in range(3)] == pictures
    kinds = [(s["type"], s.get("index")) for s in body["segments"]]
    assert kinds == [("image", 0), ("text", None), ("image", 1), ("image", 2)]


@pytest.mark.parametrize("kind", ["mface", "image"])
async def test_stickers_are_pictures(stack: Stack, chat_id: int, kind: str) -> None:
    picture = drawn("orange", "GIF")
    data = {"emoji_id": "e", "emoji_package_id": 1, "summary": "[可爱]", "url": stack.pictures.put(picture), "key": "k"}
    body = await in_group(stack, chat_id, {"type": kind, "data": data})
    assert picture_of(body) == picture


async def test_inline_pictures_are_taken_as_they_are(stack: Stack, chat_id: int) -> None:
    picture = drawn("purple")
    body = await in_group(stack, chat_id, image(file="base64://" + base64.b64encode(picture).decode()))
    assert picture_of(body) == picture


VICES = {
    "loop": "跳转次数过多",
    "to-file": "跳转到了不允许的地址",
    "page": "不是能识别的图片",
    "gone": "链接已失效",
    "hang-up": "下载失败",
    "packed": "下载失败",
    "says-more": "下载失败",
    "says-huge": "太大",
    "endless": "太大",
    "drip": "下载超时",
    "stall": "下载超时",
}


@pytest.mark.parametrize("vice", VICES)
async def test_a_bad_picture_costs_neither_the_text_nor_the_others(stack: Stack, chat_id: int, vice: str) -> None:
    good = drawn("red")
    url = stack.pictures.put(good)
    body = await in_group(stack, chat_id, text("看"), image(url), image(stack.pictures.bad(vice)), image(url))
    assert [picture_of(body, i) for i in range(len(body["images"]))] == [good, good]
    assert body["content"] == f"看[图片未能获取：{VICES[vice]}]"


async def test_a_few_redirects_are_followed_more_are_not(stack: Stack, chat_id: int) -> None:
    body = await in_group(
        stack, chat_id, image(stack.pictures.bad("redirect/3")), image(stack.pictures.bad("redirect/4"))
    )
    assert len(body["images"]) == 1
    assert stack.pictures.hits["/redirect/4"] == 1


async def test_too_large_a_picture_is_left_out_and_not_asked_for_again(stack: Stack, chat_id: int) -> None:
    url = stack.pictures.put(drawn() + bytes(300_000))
    body = await in_group(stack, chat_id, text("大"), image(url))
    assert (body["images"], body["content"]) == ([], "大[图片未能获取：太大]")


async def test_an_expired_link_is_renewed_through_get_image(stack: Stack, chat_id: int) -> None:
    fresh = stack.pictures.put(drawn("yellow"))
    stack.onebot.answers["get_image"] = lambda p: {"file": "/app/x.jpg", "url": fresh, "file_name": p["file"]}
    body = await in_group(stack, chat_id, image(stack.pictures.bad("expired"), file="OLD.jpg"))
    assert picture_of(body) == drawn("yellow")
    assert ("get_image", {"file": "OLD.jpg"}) in stack.onebot.calls


async def test_get_image_without_answer_costs_only_its_own_picture(stack: Stack, chat_id: int) -> None:
    stack.onebot.mute_actions.add("get_image")
    body = await in_group(stack, chat_id, text("在"), image(stack.pictures.bad("expired")))
    assert body["content"] == "在[图片未能获取：链接已失效]"


async def test_local_paths_are_never_read(stack: Stack, chat_id: int, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(drawn("black"))
    stack.onebot.answers["get_image"] = lambda _: {"file": str(secret), "url": str(secret)}
    paths = [str(secret), f"file://{secret}", secret.as_uri()]
    body = await in_group(stack, chat_id, *(image(path, file=path) for path in paths), text("看"))
    assert body["images"] == []
    assert body["content"].endswith("看")


async def test_pictures_are_fetched_at_once_not_when_their_turn_comes(stack: Stack, chat_id: int) -> None:
    release = asyncio.Event()

    async def slowly(body: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return {"status": "success", "should_reply": False, "reply": ""}

    stack.chat.scripts[str(chat_id)] = slowly
    await stack.onebot.event(group_message("占着", chat_id))
    await stack.chat.asked(chat_id)
    url = stack.pictures.put(drawn("red"))
    await stack.onebot.event(group_message([image(url)], chat_id))
    path = url.removeprefix(stack.pictures.url)
    await stack.pictures.until(lambda: stack.pictures.hits[path], "the picture is fetched while the chat is busy")
    assert len(stack.chat.of(chat_id)) == 1
    stack.pictures.files[path] = b"expired"
    release.set()
    assert picture_of((await stack.chat.asked(chat_id, 2))[1]) == drawn("red")


async def test_one_message_takes_so_many_pictures_and_no_more(stack: Stack, chat_id: int) -> None:
    url = stack.pictures.put(drawn())
    body = await in_group(stack, chat_id, *(image(url) for _ in range(18)))
    assert len(body["images"]) == 16
    assert body["content"].count("图片太多") == 2


async def test_the_pictures_of_one_message_have_a_common_limit(stack: Stack, chat_id: int) -> None:
    url = stack.pictures.put(drawn() + bytes(290_000))
    body = await in_group(stack, chat_id, *(image(url) for _ in range(5)))
    assert len(body["images"]) == 3


async def test_a_quotes_pictures_share_that_limit(stack: Stack, chat_id: int) -> None:
    url = stack.pictures.put(drawn() + bytes(290_000))
    quoted = group_message([image(url), image(url)], chat_id)
    stack.onebot.history.append(quoted)
    body = await in_group(stack, chat_id, reply(quoted["message_id"]), image(url), image(url))
    assert (len(body["images"]), len(body["reply_to"]["images"])) == (2, 1)
    assert body["reply_to"]["text"] == "[图片未能获取：一条消息里的图片合计太大]"
