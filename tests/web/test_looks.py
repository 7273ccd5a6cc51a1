"""How the pages are for eyes, fingers and screen readers: sizes, themes, languages, and what axe finds."""

from __future__ import annotations

import sqlite3
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.environment import must_be_at_hand
from tests.pictures import base64_picture
from tests.running import ROOT, RunningServer
from tests.web.acting import field, paste, talk
from tests.web.conftest import PHONE, WIDE, Window

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = ("/", "/try", "/bot", "/bot/settings", "/bot/personas", "/bot/words", "/bot/ledger", "/bot/audit")
# What a model may write; none of it may run, load or be drawn over the page.
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)><svg onload=alert(1)>"
    "\n\n[点我](javascript:alert(1)) ![a](https://example.com/a.png)\n\n"
    "$\\href{javascript:alert(1)}{x}$\n\n```html\n<script>alert(1)</script>\n```\n\n"
    "$$\\frac{1}{2}$$\n\n<style>*{display:none}</style>"
)

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def axe() -> str:
    must_be_at_hand(AXE.is_file(), "没有 axe-core（在 web/ 里 npm ci），不查网页的无障碍")
    return AXE.read_text("utf-8")


def findings(page: Page, axe: str) -> list[str]:
    """What is serious as the page stands, in the light and in the dark: there only its colours are others."""
    page.evaluate(axe)
    in_theme(page, "light")
    found = violations(page, "{ resultTypes: ['violations'] }")
    in_theme(page, "dark")
    return found + violations(page, "{ runOnly: ['color-contrast'] }")


def in_theme(page: Page, theme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=theme)
    # What is under way from one to the other has neither's colours.
    page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => 0)))")


def violations(page: Page, options: str) -> list[str]:
    told = page.evaluate(f"axe.run(document, {options})")
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in told["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("path", [*PAGES[1:3], *(pytest.param(path, marks=pytest.mark.long) for path in PAGES[3:])])
def test_axe_finds_nothing_serious_on_a_page_in_both_themes(window: Window, axe: str, path: str) -> None:
    page = window(path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_timeout(300)
    assert findings(page, axe) == []


def test_axe_finds_nothing_serious_in_a_talk(window: Window, axe: str) -> None:
    page = window("/")
    talk(page, "你好")
    found = findings(page, axe)
    page.get_by_role("button", name="这个对话的设置").click()
    assert found + findings(page, axe) == []


@pytest.mark.long
def test_axe_finds_nothing_serious_where_a_group_is_played_and_looked_at(
    window: Window, axe: str, house: RunningServer
) -> None:
    page = window("/try")
    page.get_by_role("button", name="来两句例子").click()
    page.locator("li.line .why").first.click()
    found = findings(page, axe)
    for button in ("群成员", "这场的人设和规矩"):
        page.get_by_role("button", name=button).click()
        found += findings(page, axe)
        page.keyboard.press("Escape")
    house.group("@小Q 你好", group="70003", message_id="axe", at_me=True, self_id="10000")
    page.goto("/bot/group/70003")
    page.locator("li.message .why").first.click()
    found += findings(page, axe)
    page.get_by_role("button", name="模型看到了什么").click()
    expect(page.get_by_role("dialog").locator("li").first).to_be_visible()
    found += findings(page, axe)
    assert found == []


def test_axe_finds_nothing_serious_for_strangers(window: Window, axe: str) -> None:
    page = window(signed_in=False)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert findings(page, axe) == []


@pytest.mark.parametrize("path", [*PAGES[:3], *(pytest.param(path, marks=pytest.mark.long) for path in PAGES[3:])])
def test_a_phone_shows_each_page_whole(window: Window, path: str) -> None:
    page = window(path, size=PHONE)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    menu = page.get_by_role("button", name="打开侧栏")
    expect(page.get_by_role("navigation")).to_be_hidden()
    menu.click()
    expect(page.get_by_role("navigation")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("navigation")).to_be_hidden()


def test_a_phone_shows_strangers_how_to_come_in(window: Window) -> None:
    page = window(size=PHONE, signed_in=False)
    box = page.get_by_role("button", name="复制").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE[0]


def paper(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_the_theme_is_the_systems_until_chosen_and_then_stays(window: Window) -> None:
    page = window("/", dark=True)
    expect(page.get_by_role("navigation")).to_be_visible()
    dark = paper(page)
    page.get_by_role("button", name="外观：跟随系统").click()
    expect(page.get_by_role("button", name="外观：浅色")).to_be_visible()
    light = paper(page)
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="外观：浅色")).to_be_visible()
    assert paper(page) == light


def test_it_speaks_the_browsers_language_until_told(window: Window) -> None:
    page = window("/", locale="en-GB")
    expect(page.get_by_role("heading", level=2, name="What is on your mind?")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("heading", level=2, name="想聊点什么？")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", level=2, name="想聊点什么？")).to_be_visible()
    other = window("/", locale="de-DE", size=WIDE)
    expect(other.get_by_role("heading", level=2, name="想聊点什么？")).to_be_visible()


def test_names_of_files_lists_scripts_and_talks_are_never_markup(window: Window) -> None:
    page = window("/", quiet=True)
    paste(page, base64_picture((0, 128, 0)), name=f"{MARKUP}.png")
    talk(page, MARKUP)
    expect(page.get_by_role("heading", level=1)).to_have_text(MARKUP)
    page.locator("article.user img").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="这个对话的设置").click()
    page.get_by_role("textbox", name="系统提示").fill(MARKUP)
    page.get_by_role("textbox", name="工具").fill(MARKUP)
    page.get_by_role("button", name="保存").click()
    expect(page.get_by_role("alert")).to_contain_text("不是合法的 JSON")
    page.keyboard.press("Escape")
    page.goto("/bot/words")
    page.get_by_role("button", name="新词表").click()
    page.get_by_role("textbox", name="名字").fill(MARKUP)
    page.get_by_role("textbox", name="词", exact=True).fill(MARKUP)
    page.get_by_role("button", name="保存").click()
    expect(page.get_by_text("词表的名字只能有")).to_be_visible()
    page.get_by_role("textbox", name="名字").fill("怪词")
    page.get_by_role("button", name="保存").click()
    expect(page.locator(".names button", has_text="怪词")).to_be_visible()
    page.reload()
    expect(page.get_by_role("textbox", name="词", exact=True)).to_have_value(MARKUP)
    page.get_by_role("button", name="删除").click()
    page.get_by_role("dialog").get_by_role("button", name="删除").click()
    expect(page.locator(".names button", has_text="怪词")).to_have_count(0)
    page.goto("/bot/audit")
    expect(page.locator("li.card").first).to_contain_text("words 怪词")
    expect(page.locator("li.card").first).to_contain_text(MARKUP)


def test_what_a_model_says_is_never_markup(window: Window, house: RunningServer) -> None:
    """The model's words as they are kept are changed to hostile ones; the page then reads them like any."""
    page = window("/")
    talk(page, "这句的回答会被换掉")
    with sqlite3.connect(next(house.data_dir.glob("*.sqlite3"))) as kept:
        changed = kept.execute(
            "UPDATE conversation_messages SET text = ?, reasoning = ? WHERE role = 'assistant' AND parent IN "
            "(SELECT public_id FROM conversation_messages WHERE text = '这句的回答会被换掉')",
            (HOSTILE, HOSTILE),
        ).rowcount
    kept.close()
    assert changed == 1
    page.reload()
    reply = page.locator("article.assistant")
    expect(reply.locator(".katex").first).to_be_visible()
    reply.get_by_text("想了些什么").click()
    expect(reply.locator("details .katex").first).to_be_visible()
    assert reply.locator("script, img, svg[onload], style, iframe, a[href^='javascript']").count() == 0
    expect(reply.locator("figure pre").first).to_contain_text("<script>alert(1)</script>")
    expect(field(page)).to_be_visible()


@pytest.mark.long
def test_a_server_that_was_away_is_found_again(window: Window, house: RunningServer) -> None:
    page = window("/", quiet=True)
    talk(page, "你好")
    house.kill()
    house.http.close()
    expect(page.get_by_text("连不上服务器，正在重试")).to_be_visible(timeout=60_000)
    house.start(port=int(house.base.rpartition(":")[2]))
    expect(page.get_by_text("连不上服务器，正在重试")).to_be_hidden(timeout=60_000)
    talk(page, "又回来了吗")
