"""Takes the pictures of the page: a server on the demo, a real Chromium, a few things said. Started by
``scripts/screenshots``, with a folder for every view of every page in both sizes, themes and languages.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from scripts.views import every_view
from tests.pictures import base64_picture
from tests.running import ROOT, RunningServer
from tests.web.acting import answered, field, paste, say

IMAGES = ROOT / "docs" / "images"
WIDE, PHONE = (1280, 800), (390, 844)


def chat(page: Page) -> None:
    page.goto("/")
    say(page, "你好，请介绍一下自己")
    answered(page, 1)
    paste(page, base64_picture((0, 90, 255)))
    say(page, "这张图里是什么形状，什么颜色？")
    answered(page, 2)
    page.wait_for_timeout(400)


def play(page: Page) -> None:
    page.goto("/try")
    for who, words in (("小明", "周六去爬山，谁去？"), ("小红", "@小Q 你好"), ("老王", "我去，带上相机")):
        page.get_by_role("radio", name=who, exact=True).check(force=True)
        field(page).fill(words)
        field(page).press("Enter")
        expect(page.locator("li.line").last.locator(".why")).to_be_visible()
    page.locator("li.line").nth(1).locator(".why").click()
    page.wait_for_timeout(400)


def bot(page: Page) -> None:
    page.goto("/bot")
    expect(page.locator("figure canvas")).to_have_count(6)
    page.wait_for_timeout(6000)


def why(page: Page) -> None:
    page.goto("/bot/group/20001")
    page.locator("li.message", has_text="@小Q 你好").locator(".why").click()
    page.wait_for_timeout(400)


def heard(server: RunningServer) -> None:
    """What makes the page about the bot worth a look."""
    about = {"group": "20001", "group_name": "周末爬山群", "self_id": "10000", "self_nickname": "小Q"}
    server.group("周六去香山，有人一起吗？", message_id="s1", at_me=False, user="1", user_card="小红", **about)
    server.group("我去", message_id="s2", at_me=False, user="2", user_card="老王", **about)
    server.group("@小Q 你好", message_id="s3", at_me=True, user="1", user_card="小红", **about)
    server.group("它说得对", message_id="s4", at_me=False, user="2", user_card="老王", **about)


def small(png: bytes, file: Path) -> None:
    """A page has few colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(file, optimize=True)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("错误：没有 Chromium；Debian/Ubuntu：apt install chromium fonts-noto-cjk")
    shots: tuple[tuple[str, Callable[[Page], None], tuple[int, int], bool], ...] = (
        ("chat", chat, WIDE, False),
        ("try", play, WIDE, False),
        ("bot", bot, WIDE, False),
        ("why", why, WIDE, False),
        ("chat-phone", chat, PHONE, True),
        ("try-phone", play, PHONE, False),
        ("bot-phone", bot, PHONE, True),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningServer(Path(folder) / "data") as server,
        sync_playwright() as playwright,
    ):
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        heard(server)
        context = browser.new_context(base_url=server.base)
        context.new_page().goto(server.link())
        state = context.storage_state()
        if len(sys.argv) > 1:
            every_view(browser, server, state, Path(sys.argv[1]))
            return
        for name, act, (width, height), dark in shots:
            page = window(browser, server, state, (width, height), dark)
            act(page)
            small(page.screenshot(), IMAGES / f"page-{name}.png")
            page.context.close()


def window(browser: Browser, server: RunningServer, state: object, size: tuple[int, int], dark: bool) -> Page:
    return browser.new_context(
        base_url=server.base,
        storage_state=state,  # type: ignore[arg-type]
        viewport={"width": size[0], "height": size[1]},
        locale="zh-CN",
        color_scheme="dark" if dark else "light",
        has_touch=size == PHONE,
    ).new_page()


if __name__ == "__main__":
    main()
