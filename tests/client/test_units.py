"""The client's small parts on their own: settings, splitting, formats, journal, lanes, contract."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from onebot.pictures import PictureHost, drawn

from qqvl_client.bodies import body_of, reply_of, report_of, withdraw_of
from qqvl_client.entries import Errand
from qqvl_client.errors import PictureError, SettingsError
from qqvl_client.images import PictureFetcher
from qqvl_client.lanes import Lanes
from qqvl_client.logs import RedactingFormatter
from qqvl_client.message import Chat, IncomingMessage, MessageEvent, Picture, Quote, Sender
from qqvl_client.outgoing import Outgoing
from qqvl_client.reply import split
from qqvl_client.segments import parse_cq, segments_of
from qqvl_client.settings import Settings, load

pytestmark = pytest.mark.anyio
CONTRACT = Path(__file__).resolve().parents[1] / "fixtures" / "contract"


# Settings -----------------------------------------------------------------------------------------------


def yaml_file(folder: Path, content: Any) -> Path:
    file = folder / "qqvl.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def test_flag_beats_env_beats_file_beats_default(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, {"client": {"server_url": "http://file:1", "bot_qq": 12345, "send_gap_s": 3}})
    env = {"SERVER_URL": "http://env:1", "QQVL_CLIENT_SEND_GAP_S": "4"}
    assert load({}, {}, file).server_url == "http://file:1"
    assert load(env, {}, file).server_url == "http://env:1"
    found = load(env, {"server_url": "http://flag:1"}, file)
    assert (found.server_url, found.send_gap_s, found.bot_qq) == ("http://flag:1", 4, "12345")
    assert found.stop_grace_s == Settings().stop_grace_s


def test_ours_beats_ncatbots_and_its_placeholder_is_no_number(tmp_path: Path) -> None:
    theirs = tmp_path / "config.yaml"
    theirs.write_text(
        yaml.safe_dump({"bt_uin": "123456", "napcat": {"ws_uri": "h:1", "ws_token": "t"}}), encoding="utf-8"
    )
    env = {"NCATBOT_CONFIG_PATH": str(theirs)}
    found = load(env, {})
    assert (found.napcat_ws_url, found.napcat_token.get_secret_value(), found.bot_qq) == ("ws://h:1", "t", "")
    assert load(env | {"QQVL_CLIENT_NAPCAT_WS_URL": "ws://mine:2/"}, {}).napcat_ws_url == "ws://mine:2"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"client": {"sever_url": "x"}}, "sever_url"),
        ({"client": {"sever_url": "x"}}, "是不是想写 server_url"),
        ({"client": {"send_gap_s": "viel"}}, "send_gap_s"),
        ({"client": {"send_gap_s": "viel"}}, "应是数字"),
        ({"client": {"notices": "vielleicht"}}, "应是 true 或 false"),
        ({"client": {"parallel_chats": 0}}, "不能小于 1"),
        ({"client": {"adapter": "x"}}, "只能是 ncatbot、nonebot"),
        ({"client": {"server_url": "ftp://x"}}, "server_url"),
        ({"client": {"napcat_ws_url": "ws://h:1/?access_token=geheim"}}, "napcat_ws_url"),
        ({"client": ["x"]}, "client"),
        ("client: [1,", "YAML"),
        ("- 1", "最外层"),
        ({"client": {"adapter": "nonebot", "nonebot_mode": "reverse", "listen_host": "0.0.0.0"}}, "napcat_token"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, content: Any, word: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, {}, yaml_file(tmp_path, content))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", str(caught.value)), "in Chinese"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QQVL_CLIENT_NAPCAT_TOKN", "QQVL_CLIENT_NAPCAT_TOKEN"),
        ("QQVL_NAPCAT_TOKEN", "QQVL_CLIENT_NAPCAT_TOKEN"),
        ("QQVL_CLIENT_API_KEYS", "QQVL_CLIENT_API_KEY"),
        ("QQVL_API_KEI", "QQVL_API_KEY"),
        ("qqvl_api_key", "QQVL_API_KEY"),
        ("QQVL_0123456789", "docs/client.md"),
    ],
)
def test_a_variable_misspelt_is_an_error_that_names_the_right_one(name: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: "geheim"}, {})
    assert name in str(caught.value)
    assert meant in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_one_variable_names_the_file_of_both_programs(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, {"client": {"send_gap_s": 3}, "server": {"port": 1}})
    assert load({"QQVL_CONFIG": str(file)}, {}).send_gap_s == 3
    with pytest.raises(SettingsError):
        load({"QQVL_CONFIG": str(tmp_path / "none.yaml")}, {})


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load({}, {}, tmp_path / "none.yaml")
    with pytest.raises(SettingsError):
        load({"NCATBOT_CONFIG_PATH": str(tmp_path / "none.yaml")}, {})


def test_settings_print_no_secret() -> None:
    assert "geheim" not in repr(load({"QQVL_API_KEY": "geheim", "QQVL_CLIENT_NAPCAT_TOKEN": "geheim2"}, {}))


def test_the_log_blots_out_secrets_in_every_spelling() -> None:
    formatter = RedactingFormatter(["a/b+c d", ""])
    import logging

    record = logging.LogRecord("x", logging.INFO, "", 0, "%s %s", ("a/b+c d", "?token=a%2Fb%2Bc+d"), None)
    assert formatter.format(record).endswith("*** ?token=***")


# Messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 12345])
def test_parts_are_the_whole_text_in_order(length: int) -> None:
    text = ("一句话。第二句, and more\n" * 1000)[:length]
    parts = list(split(text, 100))
    assert "".join(parts) == text
    assert all(0 < len(part) <= 100 for part in parts)


def test_parts_without_any_good_place_are_full() -> None:
    assert [len(part) for part in split("x" * 9001, 4500)] == [4500, 4500, 1]


def test_an_emoji_counts_twice_and_is_never_cut() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    parts = list(split(family * 100, 103))
    assert "".join(parts) == family * 100
    assert all(len(part.encode("utf-16-le")) // 2 <= 103 for part in parts)
    assert all(not part.startswith("\u200d") and not part.endswith("\u200d") for part in parts)


def test_cq_text_is_unescaped_once() -> None:
    found = parse_cq("a&amp;#91;b[CQ:at,qq=1&#44;2]")
    assert [(s.type, s.data) for s in found] == [("text", {"text": "a&#91;b"}), ("at", {"qq": "1,2"})]


@pytest.mark.parametrize("message", [None, 5, {"type": "text", "data": {"text": "x"}}, ["x"], []])
def test_a_message_of_any_shape_is_read(message: Any) -> None:
    assert "".join(s.data["text"] for s in segments_of(message, "x")) == "x"


async def test_a_public_host_may_not_redirect_inside() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        inside = request.url.host != "203.0.113.9" and request.url.host != "gchat.qpic.cn"
        return (
            httpx.Response(200, stream=httpx.ByteStream(drawn()))
            if inside
            else httpx.Response(302, headers={"location": request.url.query.decode()})
        )

    fetcher = PictureFetcher(Settings(), httpx.MockTransport(answer))
    for target in ("http://127.0.0.1:8/", "http://192.168.1.1/", "http://[::1]/", "http://169.254.169.254/"):
        with pytest.raises(PictureError, match="不允许"):
            await fetcher.fetch({"url": f"http://gchat.qpic.cn/?{target}"}, None)
    assert (
        await fetcher.fetch({"url": "http://gchat.qpic.cn/?https://multimedia.nt.qq.com.cn/x"}, None)
    ).format == "png"
    await fetcher.aclose()


# The contract with the server ---------------------------------------------------------------------------


def fixture(name: str) -> Any:
    return json.loads((CONTRACT / name).read_text(encoding="utf-8"))


def picture(item: dict[str, str]) -> Picture:
    import base64

    return Picture(base64.b64decode(item["data"]), item["format"])


def message_for(body: dict[str, Any]) -> IncomingMessage:
    quote = body.get("reply_to")
    sender = Sender(body["user_id"], body["user_nickname"], body.get("user_card", ""), body.get("sender_role", ""))
    chat = Chat(body["type"], body.get("group_id") or body["user_id"], body.get("self_id", ""))
    event = MessageEvent(
        chat, body.get("message_id", ""), sender, body["timestamp"], (), sub_type=body.get("sub_type", "")
    )
    return IncomingMessage(
        event,
        content=body["content"],
        group_name=body.get("group_name", ""),
        pictures=tuple(picture(item) for item in body["images"]),
        segments=tuple(body.get("segments", ())),
        at_me=body.get("at_me", False),
        quote=quote
        and Quote(
            quote["id"], quote["text"], quote["user_id"], quote["user_nickname"], tuple(map(picture, quote["images"]))
        ),
        self_nickname=body.get("self_nickname", ""),
        self_card=body.get("self_card", ""),
    )


@pytest.mark.parametrize("name", ["group_message.json", "private_message.json", "group_message_full.json"])
def test_bodies_are_the_contracts_bodies(name: str) -> None:
    body = fixture(name)
    made = json.loads(body_of(message_for(body)))
    assert {key: made[key] for key in body if key in made} == {key: body[key] for key in body if key in made}
    assert body.keys() - made.keys() <= {"context_only"}


def test_answers_of_the_contract_are_understood() -> None:
    assert reply_of("group", fixture("group_reply.json")).messages == (Outgoing("红色。"),)
    assert reply_of("group", fixture("group_silent.json")).messages == ()
    assert reply_of("private", fixture("private_reply.json")).messages == (Outgoing("红色。"),)
    long = fixture("group_reply_long.json")
    assert len(reply_of("group", long).messages) == len(long["messages"])
    _, drawn = reply_of("group", fixture("group_reply_drawn.json")).messages
    assert [segment["type"] for segment in drawn.segments] == ["reply", "at", "image"]
    assert drawn.segments[2]["data"]["file"].startswith("base64://iVBOR")
    for kind in ("group", "private"):
        merged = reply_of(kind, fixture(f"{kind}_merged.json"))
        assert (merged.messages, bool(merged.merged_into)) == ((), True)
    assert withdraw_of(fixture("recall_reply.json")) == ("1122334460", "1122334461")
    assert withdraw_of(fixture("sent_reply.json")) == ()


@pytest.mark.parametrize("name", ["group_recall", "private_recall", "group_sent", "private_sent"])
def test_reports_are_the_contracts_reports(name: str) -> None:
    body = fixture(f"{name}.json")
    place, _, kind = name.partition("_")
    chat = Chat("group" if place == "group" else "private", body.get("group_id") or body["user_id"], body["self_id"])
    path, made = report_of(Errand(1, "recall" if kind == "recall" else "sent", chat, {"operator_id": ""} | body, 0.0))
    assert (path, json.loads(made)) == (f"/api/chat/{place}/{kind}", body)


async def test_a_stalling_picture_is_given_up_long_before_its_time_is_over() -> None:
    settings = Settings(picture_stall_s=0.2, picture_timeout_s=60)
    fetcher = PictureFetcher(settings)
    async with PictureHost() as host, asyncio.timeout(30):
        with pytest.raises(PictureError):
            await fetcher.fetch({"url": host.bad("stall")}, None)
    await fetcher.aclose()


# Lanes --------------------------------------------------------------------------------------------------


class Turns:
    """What a lane's turns go on as; each ends when it is told to."""

    def __init__(self, most: int = 8) -> None:
        self.going: dict[str, asyncio.Future[str]] = {}
        self.ended: list[str] = []
        self.lanes: Lanes[str, str] = Lanes(self.begin, self.end, most, self.answered, lambda turn: turn == "half")

    async def answered(self, _: str, going: asyncio.Future[str]) -> None:
        await asyncio.wait([going])

    async def begin(self, turn: str, _: int) -> asyncio.Future[str] | None:
        if turn == "boom":
            raise sqlite3.ProgrammingError("unforeseen")
        self.going[turn] = asyncio.get_running_loop().create_future()
        return self.going[turn]

    async def end(self, turn: str, going: asyncio.Future[str]) -> None:
        await asyncio.wait([going])
        if going.cancelled():
            return
        if going.result() == "boom":
            raise sqlite3.ProgrammingError("unforeseen")
        self.ended.append(turn)

    async def begun(self, *turns: str) -> None:
        async with asyncio.timeout(30):
            while not set(turns) <= self.going.keys():
                await asyncio.sleep(0)


async def test_an_unforeseen_error_does_not_stop_its_lane(caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns()
    for turn in ("boom", "breaks", "fine"):
        turns.lanes.put("a", turn)
    await turns.begun("breaks", "fine")
    turns.going["breaks"].set_result("boom")
    turns.going["fine"].set_result("ok")
    await turns.lanes.close(5)
    assert turns.ended == ["fine"]
    assert caplog.text.count("ProgrammingError: unforeseen") == 2
    assert turns.lanes.waiting("a") == ()


async def test_turns_of_a_lane_go_on_together_and_end_in_order() -> None:
    turns = Turns()
    for turn in ("1", "2", "3"):
        turns.lanes.put("a", turn)
    await turns.begun("1", "2", "3")
    for turn in ("3", "2"):
        turns.going[turn].set_result("ok")
    await asyncio.sleep(0)
    assert turns.ended == []
    turns.going["1"].set_result("ok")
    await turns.lanes.close(5)
    assert turns.ended == ["1", "2", "3"]


async def test_who_waits_for_the_rest_of_a_line_holds_up_nobody() -> None:
    turns = Turns()
    for turn in ("half", "1", "2"):
        turns.lanes.put("a", turn)
    await turns.begun("half", "1", "2")
    turns.going["1"].set_result("ok")
    async with asyncio.timeout(30):
        while turns.ended != ["1"]:
            await asyncio.sleep(0)
    turns.going["half"].set_result("ok")
    turns.going["2"].set_result("ok")
    await turns.lanes.close(5)
    assert sorted(turns.ended) == ["1", "2", "half"]


async def test_what_is_passed_goes_as_soon_as_it_is_answered() -> None:
    turns = Turns()
    for turn in ("1", "half", "2"):
        turns.lanes.put("a", turn)
    await turns.begun("1", "half", "2")
    turns.going["half"].set_result("ok")
    async with asyncio.timeout(30):
        while turns.ended != ["half"]:
            await asyncio.sleep(0)
    turns.going["2"].set_result("ok")
    turns.going["1"].set_result("ok")
    await turns.lanes.close(5)
    assert turns.ended == ["half", "1", "2"]


async def test_a_turn_called_off_holds_up_nobody() -> None:
    turns = Turns(most=2)
    for turn in ("1", "2", "3"):
        turns.lanes.put("a", turn)
    await turns.begun("1", "2")
    assert turns.lanes.waiting("a") == ("3",)
    turns.going["1"].cancel()
    await turns.begun("3")
    turns.going["2"].set_result("ok")
    turns.going["3"].set_result("ok")
    await turns.lanes.close(5)
    assert turns.ended == ["2", "3"]
