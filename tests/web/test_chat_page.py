"""The page ``/``: a talk with the model, as a person has it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.pictures import base64_picture
from tests.running import RunningServer
from tests.web.acting import answered, field, paste, replies, say, talk
from tests.web.conftest import Window


def test_a_pasted_picture_is_shown_and_its_colour_named(page: Page) -> None:
    paste(page, base64_picture((0, 0, 255)))
    expect(page.locator(".drafts img")).to_be_visible()
    reply = talk(page, "这是什么颜色？")
    expect(reply).to_contain_text("蓝")
    expect(page.locator(".drafts img")).to_have_count(0)
    shown = page.locator("article.user img")
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.naturalWidth") == 256
    shown.click()
    large = page.get_by_role("dialog")
    expect(large.locator("img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()


def test_a_reply_tells_what_it_took_and_is_copied(page: Page) -> None:
    reply = talk(page, "你好，请介绍一下自己")
    expect(reply.locator(".figures")).to_contain_text(re.compile(r"\d+ \+ \d+ token"))
    reply.get_by_role("button", name="复制").click()
    expect(reply.locator(".words")).to_contain_text(page.evaluate("navigator.clipboard.readText()").strip()[:10])


def test_history_stays_over_a_reload_and_is_the_same_in_another_window(page: Page, window: Window) -> None:
    reply = talk(page, "你好，这是要留下的话").inner_text()
    expect(page).to_have_url(re.compile("/c/c_"))
    expect(page.get_by_role("heading", level=1)).to_have_text("你好，这是要留下的话")
    page.reload()
    expect(answered(page, 1)).to_contain_text(reply[:6])
    other = window()
    other.get_by_role("link", name="你好，这是要留下的话").click()
    expect(answered(other, 1)).to_contain_text(reply[:6])


def test_a_reply_stops_when_told_and_keeps_what_came(page: Page) -> None:
    # As hot as it gets, most seeds babble for a thousand tokens; others end at once, before anybody could stop them.
    for seed in range(3, 12):
        page.goto("/")
        page.get_by_role("button", name="这个对话的设置").click()
        for name, value in {"temperature": "2", "top_p": "1", "top_k": "0", "min_p": "0", "seed": str(seed)}.items():
            page.get_by_role("spinbutton", name=name, exact=True).fill(value)
        page.get_by_role("button", name="保存").click()
        say(page, "随便说点什么")
        expect(page.locator("article.assistant .words")).not_to_be_empty()
        if page.locator("article.assistant[aria-busy=true]").count():
            page.get_by_role("button", name="停下").dispatch_event("click")
        reply = answered(page, 1)
        if "已停下" in reply.inner_text():
            break
    expect(reply).to_contain_text("已停下")
    assert reply.locator(".words").inner_text().strip()
    expect(page.get_by_role("button", name="发送", exact=True)).to_be_visible()


def test_edit_and_resend_makes_a_version_and_regenerating_another(page: Page) -> None:
    talk(page, "红色加蓝色是什么")
    page.get_by_role("button", name="修改并重新发送").click()
    editor = field(page).first
    expect(editor).to_have_value("红色加蓝色是什么")
    editor.fill("你好")
    editor.press("Enter")
    expect(page.locator("article.user")).to_have_text(re.compile("你好"))
    answered(page, 1)
    expect(page.locator("article.user .versions")).to_contain_text("2/2")
    page.get_by_role("button", name="重新回答").click()
    expect(page.locator("article.assistant .versions")).to_contain_text("2/2")
    answered(page, 1)
    page.locator("article.user").get_by_role("button", name="上一个版本").click()
    expect(page.locator("article.user")).to_have_text(re.compile("红色加蓝色是什么"))
    page.reload()
    expect(page.locator("article.user")).to_have_text(re.compile("红色加蓝色是什么"))


def test_conversations_are_found_renamed_exported_and_deleted(page: Page) -> None:
    talk(page, "一个要改名的对话")
    link = page.get_by_role("link", name="一个要改名的对话")
    page.get_by_role("button", name="“一个要改名的对话”的操作").click()
    page.get_by_role("button", name="改名", exact=True).click()
    page.get_by_role("textbox", name="名字").fill("新的名字<b>")
    page.get_by_role("button", name="保存").click()
    expect(link).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("新的名字<b>")
    search = page.get_by_role("searchbox", name="搜索对话")
    search.fill("没有这样的话")
    expect(page.get_by_text("没有找到")).to_be_visible()
    search.fill("一个要改名")
    expect(page.get_by_role("link", name="新的名字<b>")).to_be_visible()
    page.get_by_role("button", name="“新的名字<b>”的操作").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="导出 JSON").click()
    kept = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert "一个要改名的对话" in json.dumps(kept, ensure_ascii=False)
    page.get_by_role("button", name="“新的名字<b>”的操作").click()
    page.get_by_role("button", name="删除对话").click()
    page.get_by_role("button", name="删除", exact=True).click()
    expect(page.get_by_role("link", name="新的名字<b>")).to_have_count(0)
    expect(page).to_have_url(re.compile("/$"))


def test_the_system_prompt_is_kept_with_the_conversation(page: Page, house: RunningServer) -> None:
    page.get_by_role("button", name="这个对话的设置").click()
    page.get_by_role("textbox", name="系统提示").fill("你是一只猫")
    page.get_by_role("button", name="保存").click()
    talk(page, "你好")
    page.reload()
    answered(page, 1)
    page.get_by_role("button", name="这个对话的设置").click()
    expect(page.get_by_role("textbox", name="系统提示")).to_have_value("你是一只猫")


def test_a_message_that_cannot_be_sent_is_given_back_and_the_page_recovers(window: Window) -> None:
    page = window(quiet=True)
    talk(page, "你好")
    page.context.set_offline(True)
    field(page).fill("这句没有发出去")
    field(page).press("Enter")
    expect(page.get_by_text("连不上服务器，正在重试")).to_be_visible()
    expect(field(page)).to_have_value("这句没有发出去")
    expect(page.locator("article.user")).to_have_count(1)
    page.context.set_offline(False)
    expect(page.get_by_text("连不上服务器，正在重试")).to_be_hidden()
    field(page).press("Enter")
    answered(page, 2)


def test_a_tool_is_called_folded_and_goes_on_with_what_it_gave(page: Page) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["北京"]}}, "required": ["city"],
        "additionalProperties": False,
    }}}  # fmt: skip
    page.get_by_role("button", name="这个对话的设置").click()
    page.get_by_role("textbox", name="工具").fill(json.dumps(tool))
    page.get_by_role("combobox", name="怎么用工具").select_option("required")
    page.get_by_role("button", name="保存").click()
    reply = talk(page, "北京天气怎么样？")
    fold = reply.locator("details", has_text="调用工具 get_weather")
    expect(fold).not_to_have_attribute("open", "")
    fold.locator("summary").click()
    expect(fold.locator("pre")).to_contain_text("北京")
    page.get_by_role("button", name="这个对话的设置").click()
    expect(page.get_by_role("textbox", name="工具")).to_have_value(re.compile("get_weather"))
    page.get_by_role("combobox", name="怎么用工具").select_option("none")
    page.get_by_role("button", name="保存").click()
    # What is typed behind an open dialog goes to the dialog.
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("textbox", name="get_weather 的结果").fill("晴")
    page.get_by_role("button", name="把结果交给模型").click()
    expect(answered(page, 2).locator(".words")).not_to_be_empty()
    expect(page.locator("article.user").last).to_contain_text("get_weather 的结果")
    expect(page.get_by_role("button", name="把结果交给模型")).to_have_count(0)


def test_on_a_slow_network_the_page_comes_streams_and_says_nothing_twice(window: Window) -> None:
    page = window("/bot/ledger")
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    slow = {"offline": False, "latency": 300, "downloadThroughput": 100_000, "uploadThroughput": 50_000}
    session.send("Network.emulateNetworkConditions", slow)
    page.goto("/")
    expect(field(page)).to_be_visible()
    took = "performance.getEntries().reduce((sum, one) => sum + (one.transferSize ?? 0), 0)"
    assert 50_000 < page.evaluate(took) <= 300_000
    field(page).fill("你好，请介绍一下自己")
    for _ in range(3):
        field(page).press("Enter")
    expect(page.get_by_role("button", name="停下")).to_be_visible()
    expect(page.locator("article.assistant .words")).not_to_be_empty()
    answered(page, 1)
    page.reload()
    answered(page, 1)
    expect(page.locator("article.user")).to_have_count(1)


def test_what_was_sent_but_not_heard_of_is_not_said_twice(window: Window) -> None:
    page = window(quiet=True)
    talk(page, "你好")
    lost: list[str] = []

    def lose(route: Route) -> None:
        """The server hears it and answers; the answer never comes back."""
        if lost:
            route.continue_()
            return
        route.fetch()
        lost.append(route.request.url)
        route.abort()

    page.route(re.compile("/reply$"), lose)
    say(page, "这句只说一次")
    answered(page, 2)
    assert len(lost) == 1
    expect(field(page)).to_have_value("")
    expect(page.locator("article.user", has_text="这句只说一次")).to_have_count(1)
    page.unroute_all()
    page.reload()
    answered(page, 2)
    expect(page.locator("article.user", has_text="这句只说一次")).to_have_count(1)


def test_strangers_are_told_how_to_come_in_and_see_nothing(window: Window) -> None:
    page = window(signed_in=False)
    expect(page.get_by_text("先证明是你")).to_be_visible()
    expect(page.locator("code")).to_contain_text(" page")
    expect(page.get_by_role("navigation")).to_have_count(0)
    page.goto("/bot")
    expect(page.get_by_text("先证明是你")).to_be_visible()


def test_keys_do_what_they_say(page: Page) -> None:
    field(page).fill("第一行")
    field(page).press("Shift+Enter")
    field(page).press_sequentially("第二行")
    expect(field(page)).to_have_value("第一行\n第二行")
    expect(replies(page)).to_have_count(0)
    # An input method takes Enter for itself while it composes.
    field(page).dispatch_event("keydown", {"key": "Enter", "isComposing": True, "keyCode": 229})
    expect(field(page)).to_have_value("第一行\n第二行")
    field(page).press("Enter")
    answered(page, 1)
    expect(field(page)).to_be_focused()
