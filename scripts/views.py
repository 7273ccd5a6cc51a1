"""Every view of the page, to be looked at: each as it stands, large and small, light and dark, Chinese and English."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, CDPSession, Page, expect

from tests.pictures import base64_picture
from tests.running import RunningServer
from tests.web.acting import answered, field, paste, say

SIZES: Final = {"desktop": (1280, 800), "phone": (390, 844)}
LANGUAGES: Final = {"zh": "zh-CN", "en": "en-GB"}
MARKDOWN: Final = (
    "## 快速排序\n\n先选一个**基准**，再分成两半：\n\n1. 小的放左边\n2. 大的放右边\n\n```python\n"
    "def quicksort(items: list[int]) -> list[int]:\n    # 一行注释\n    if len(items) < 2:\n        return items\n"
    "    return [*quicksort(low), *quicksort(high)]\n```\n\n| 情形 | 次数 |\n|---|---|\n| 平均 | $n\\log n$ |\n\n"
    "$$x = \\frac{-b \\pm \\sqrt{b^2-4ac}}{2a}$$\n\n> 引用一句话，里面有`代码`和[链接](https://example.com)。"
)
TOOL: Final = {
    "type": "function",
    "function": {"name": "get_weather", "description": "天气", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["北京"]}}, "required": ["city"],
        "additionalProperties": False,
    }},
}  # fmt: skip
LONG: Final = "一个名字特别特别长的群，长到侧栏里怎么也放不下，只能截断 with English in between"
Act = Callable[[Page], None]


def prepared(server: RunningServer) -> dict[str, str]:
    """Something to see everywhere; the conversations' ids by name."""
    about: dict[str, Any] = {"self_id": "10000", "self_nickname": "小Q", "group": "20002", "group_name": LONG}
    for number in range(6):
        server.group(f"第 {number} 句闲聊，" + "说得很长" * 12, message_id=f"v{number}", at_me=False, **about)
    server.group("看图", message_id="v7", at_me=True, user_card="老王", images=(base64_picture((255, 0, 0)),), **about)
    post("personas/猫娘", server, text="---\nname: 猫娘\nmode: smart\n---\n你是一只猫，说话带“喵”。")
    post("words/广告", server, text="# 广告\n加微信\n卖假药\n", blocks="in")
    post("settings", server, **{"chat.bot_names": ["小Q", "阿Q"], "chat.user_messages_per_day": 50})
    made = server.http.post(
        "/api/page/conversations",
        headers=server.owner,
        json={"title": LONG, "tools": [TOOL], "tool_choice": "required"},
    ).json()
    server.http.post(
        f"/api/page/conversations/{made['id']}/reply", headers=server.owner, json={"text": "北京天气怎么样？"}
    )
    return {"tools": str(made["id"])}


def post(path: str, server: RunningServer, **body: Any) -> None:
    server.http.post(f"/admin/{path}", headers=server.owner, json=body).raise_for_status()


def at(path: str, ready: str = "h1") -> Act:
    def act(page: Page) -> None:
        page.goto(path)
        expect(page.locator(ready).first).to_be_visible()
        page.wait_for_timeout(500)

    return act


def chat(page: Page) -> None:
    page.goto("/")
    say(page, "你好，请介绍一下自己")
    answered(page, 1)
    paste(page, base64_picture((0, 90, 255)))
    say(page, "这张图里是什么形状，什么颜色？")
    answered(page, 2)


def rich(page: Page) -> None:
    """What a large model writes: the demo's words are put in its place before the page reads them."""

    def told(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for message in body.get("messages", []):
            if message["role"] == "assistant":
                message |= {"text": MARKDOWN, "reasoning": "先想想怎么讲。"}
        route.fulfill(response=answer, json=body)

    page.route(re.compile(r"/api/page/conversations/c_[0-9a-f]+$"), told)
    page.reload()
    expect(page.locator(".katex").first).to_be_visible()
    page.wait_for_timeout(500)
    page.unroute_all()


def draft(page: Page) -> None:
    page.goto("/")
    paste(page, base64_picture((200, 120, 0)))
    field(page).fill("第一行\n第二行，" + "一句很长的话" * 20)


def first(name: str) -> Act:
    """Presses the button of that name in either language."""

    def act(page: Page) -> None:
        page.get_by_role("button", name=re.compile(name)).first.click()
        page.wait_for_timeout(350)

    return act


def away(page: Page) -> None:
    page.keyboard.press("Escape")
    page.wait_for_timeout(100)


def play(page: Page) -> None:
    page.goto("/try")
    for who, words in (("小明", "周六去爬山，谁去？"), ("小红", "@小Q 你好"), ("老王", "我去，带上相机")):
        page.get_by_role("radio", name=who, exact=True).check(force=True)
        field(page).fill(words)
        field(page).press("Enter")
        expect(page.locator("li.line").last.locator(".why")).to_be_visible()
    page.locator("li.line").nth(1).locator(".why").click()
    page.locator("li.line").nth(1).locator(".said").first.hover()
    page.locator("li.line").nth(1).get_by_role("button", name=re.compile("^(引用|Quote)$")).first.click()


def why(page: Page) -> None:
    page.goto("/bot/group/20002")
    page.locator("li.message .why.speaks").last.click()


def seen(page: Page) -> None:
    page.get_by_role("button", name=re.compile("模型看到|What the model saw")).first.click()
    page.get_by_role("button", name=re.compile("再答一次|Answer again")).click()
    expect(page.get_by_role("dialog").locator("section")).to_be_visible()


def every_view(browser: Browser, server: RunningServer, state: object, folder: Path) -> None:
    """Writes ``<view>-<size>-<theme>-<language>.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = prepared(server)
    for language, locale in LANGUAGES.items():
        page = browser.new_context(base_url=server.base, storage_state=state, locale=locale).new_page()  # type: ignore[arg-type]
        stranger = browser.new_context(base_url=server.base, locale=locale).new_page()
        show(stranger, folder, language, "gate", at("/"))
        shown: tuple[tuple[str, Act], ...] = (
            ("chat-empty", at("/")),
            ("chat", chat),
            ("chat-menu", first("^(“.*”的操作|Actions for .*)$")),
            ("chat-rich", lambda page: (away(page), rich(page))[1]),
            ("chat-settings", first("^(这个对话的设置|Settings of this chat)$")),
            ("chat-tools", at(f"/c/{ids['tools']}", "form textarea")),
            ("chat-tools-settings", first("^(这个对话的设置|Settings of this chat)$")),
            ("chat-draft", draft),
            ("chat-gone", at("/c/c_0000000000000000", ".empty")),
            ("try-empty", at("/try")),
            ("try", play),
            ("try-menu", first("^(更多|More)$")),
            ("try-members", lambda page: (away(page), first("^(群成员|Members)$")(page))[1]),
            (
                "try-settings",
                lambda page: (away(page), first("^(这场的人设和规矩|Persona and manners of this play)$")(page))[1],
            ),
            ("bot", at("/bot", "figure canvas")),
            ("bot-ledger", at("/bot/ledger")),
            ("bot-personas", at("/bot/personas", "textarea")),
            ("bot-words", at("/bot/words", "textarea")),
            ("bot-words-new", first("^(新词表|New list)$")),
            ("bot-settings", at("/bot/settings", "h2")),
            ("bot-audit", at("/bot/audit", "li.card")),
            ("bot-chat", at("/bot/group/20002", "li.message")),
            ("bot-chat-why", why),
            ("bot-seen", seen),
            (
                "bot-chat-settings",
                lambda page: (away(page), first("^(这个会话的设置|Settings of this chat)$")(page))[1],
            ),
            ("bot-chat-menu", lambda page: (away(page), first("^(更多|More)$")(page))[1]),
            (
                "bot-chat-reset",
                lambda page: page.get_by_role("button", name=re.compile("清空这个会话|Clear this chat")).click(),
            ),
        )
        for name, act in shown:
            show(page, folder, language, name, act)
        page.context.set_offline(True)
        show(page, folder, language, "offline", lambda page: page.wait_for_timeout(7000))
        page.context.close()
        stranger.context.close()


def show(page: Page, folder: Path, language: str, name: str, act: Act) -> None:
    look(page, page.context.new_cdp_session(page), "desktop", "light")
    try:
        act(page)
    except Exception as error:
        # One view that cannot be reached does not keep the others from being seen.
        sys.stderr.write(f"{name} {language}: {type(error).__name__} {str(error)[:300]}\n")
    session = page.context.new_cdp_session(page)
    for size in SIZES:
        for theme in ("light", "dark"):
            look(page, session, size, theme)
            page.wait_for_timeout(180)
            page.screenshot(path=folder / f"{name}-{size}-{theme}-{language}.png")
    if name in ("chat-empty", "try-empty", "bot"):
        look(page, session, "phone", "light")
        page.get_by_role("button", name=re.compile("打开侧栏|Open sidebar")).click()
        page.wait_for_timeout(350)
        page.screenshot(path=folder / f"{name}-drawer-phone-light-{language}.png")
        page.keyboard.press("Escape")


def look(page: Page, session: CDPSession, size: str, theme: str) -> None:
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    touch = [{"name": "hover", "value": "none" if size == "phone" else "hover"}]
    session.send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}, *touch]})
