"""The page ``/bot``: what the bot does and why, and steering it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.running import RunningServer
from tests.web.conftest import Window

HOSTILE = "<img src=x onerror=alert(1)>"
GROUP = "70001"


@pytest.fixture(scope="module")
def heard(house: RunningServer) -> RunningServer:
    """A group has spoken: to the bot, and past it."""
    about = {"group": GROUP, "group_name": "看的群", "self_id": "10000", "self_nickname": "小Q"}
    assert house.group("@小Q 你好", message_id="b1", at_me=True, **about)["should_reply"]
    assert not house.group("随便聊聊", message_id="b2", at_me=False, **about)["should_reply"]
    hostile = about | {"group": "70002", "group_name": HOSTILE}
    house.group(f"@小Q {HOSTILE}", message_id="b3", at_me=True, user_card=HOSTILE, **hostile)
    return house


def test_why_it_spoke_is_three_clicks_away(heard: RunningServer, window: Window) -> None:
    page = window("/")
    page.evaluate("addEventListener('click', (one) => (window.clicks = (window.clicks ?? 0) + one.isTrusted), true)")
    page.get_by_role("link", name="机器人").click()
    page.get_by_role("link", name="看的群").click()
    asked = page.locator("li.message", has_text="@小Q 你好")
    asked.locator(".why").click()
    expect(asked.locator(".detail")).to_contain_text("所以一定回")
    assert page.evaluate("window.clicks") == 3
    past = page.locator("li.message", has_text="随便聊聊")
    expect(past.locator(".why")).to_contain_text("没叫它")


def test_what_the_model_saw_is_shown_and_replays_the_same(heard: RunningServer, window: Window) -> None:
    page = window(f"/bot/group/{GROUP}")
    asked = page.locator("li.message", has_text="@小Q 你好")
    asked.locator(".why").click()
    asked.get_by_role("button", name="模型看到了什么").click()
    seen = page.get_by_role("dialog", name="模型看到的")
    expect(seen.locator("li").last).to_contain_text("你好")
    expect(seen.locator(".facts")).to_contain_text("token")
    again = seen.get_by_role("button", name="温度 0 再答一次")
    again.click()
    told = seen.locator("section pre").first
    expect(told).not_to_be_empty()
    first = told.inner_text()
    again.click()
    expect(again).to_be_enabled()
    expect(told).to_have_text(first)


def test_the_state_is_live(heard: RunningServer, window: Window) -> None:
    page = window("/bot")
    expect(page.get_by_text("正常", exact=True)).to_be_visible()
    expect(page.locator("figure canvas")).to_have_count(6)
    spoken = page.locator("li.reason", has_text="@ 了它").locator(".number")
    before = int(spoken.inner_text())
    heard.group("@小Q 在吗", group=GROUP, message_id="b9", at_me=True, self_id="10000")
    expect(spoken).to_have_text(str(before + 1))


def test_a_chat_is_told_to_be_quiet_and_that_is_written_down(heard: RunningServer, window: Window) -> None:
    page = window(f"/bot/group/{GROUP}")
    page.get_by_role("button", name="更多").click()
    page.get_by_role("button", name="闭嘴半小时").click()
    expect(page.locator("header .tag", has_text="闭嘴到")).to_be_visible()
    page.get_by_role("button", name="更多").click()
    page.get_by_role("button", name="可以说话了").click()
    expect(page.locator("header .tag", has_text="闭嘴到")).to_have_count(0)
    page.get_by_role("link", name="改动").click()
    expect(page.locator("li.card").first).to_contain_text(GROUP)


def test_a_message_is_forgotten(heard: RunningServer, window: Window) -> None:
    page = window(f"/bot/group/{GROUP}")
    line = page.locator("li.message", has_text="随便聊聊")
    line.hover()
    line.get_by_role("button", name="忘掉这条").click()
    page.get_by_role("dialog").get_by_role("button", name="忘掉这条").click()
    expect(line).to_have_count(0)
    assert "随便聊聊" not in str(heard.messages("group", GROUP))


def test_a_setting_changes_at_once_and_back(heard: RunningServer, window: Window) -> None:
    page = window("/bot/settings")
    page.get_by_role("searchbox", name="找设置").fill("at_asker")
    choice = page.get_by_role("combobox", name="chat.at_asker")
    choice.select_option("on")
    expect(page.get_by_text("页面上改的")).to_be_visible()
    page.reload()
    page.get_by_role("searchbox", name="找设置").fill("at_asker")
    expect(choice).to_have_value("on")
    page.get_by_role("button", name="把 chat.at_asker 改回去").click()
    expect(choice).to_have_value("off")
    expect(page.get_by_text("页面上改的")).to_have_count(0)


def test_a_persona_is_written_and_is_never_markup(heard: RunningServer, window: Window) -> None:
    page = window("/bot/personas")
    page.get_by_role("button", name="新人设").click()
    page.get_by_role("textbox", name="文件名").fill("tester")
    words = page.get_by_role("textbox", name="内容")
    words.fill(f"---\nname: 试\n---\n你是{HOSTILE}")
    page.get_by_role("button", name="保存").click()
    expect(page.locator(".names button", has_text="试")).to_be_visible()
    page.reload()
    page.locator(".names button", has_text="试").click()
    expect(words).to_have_value(f"---\nname: 试\n---\n你是{HOSTILE}")
    page.get_by_role("button", name="删除").click()
    page.get_by_role("dialog").get_by_role("button", name="删除").click()
    expect(page.locator(".names button", has_text="试")).to_have_count(0)


def test_names_from_qq_are_never_markup(heard: RunningServer, window: Window) -> None:
    page = window("/bot/group/70002")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.locator("li.message .bubble").first).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_the_ledger_tells_who_used_how_much(heard: RunningServer, window: Window) -> None:
    page: Page = window("/bot/ledger")
    expect(page.locator("tr", has_text=GROUP)).to_be_visible()
