"""One server on the demo checkpoint and one Chromium for all tests of the page; each test has a window of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.environment import must_be_at_hand
from tests.running import RunningServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDE, PHONE = (1280, 800), (390, 844)
# A two-core machine with other things to do.
expect.set_options(timeout=20_000)

Window = Callable[..., Page]
# The first test waits for the server and for the browser, which a busy machine starts slowly.
_PATIENCE_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last of all: while Playwright runs, its event loop counts as running in this thread, and no other can."""
    here = Path(__file__).parent
    items.sort(key=lambda item: here in item.path.parents)
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(_PATIENCE_S))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    must_be_at_hand(CHROMIUM is not None, "没有 Chromium（Debian/Ubuntu：apt install chromium），不试网页")
    # Chromium's own sandbox will not run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="package")
def house(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Started only where there is a browser to look at it."""
    with RunningServer(tmp_path_factory.mktemp("page") / "data", "--max-new-tokens", "1500") as server:
        yield server


@pytest.fixture(scope="package")
def cookies(browser: Browser, house: RunningServer) -> Any:
    """Of somebody who has opened the printed link."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(house.base + house.link())
    expect(page).to_have_url(f"{house.base}/")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def window(browser: Browser, house: RunningServer, cookies: Any) -> Iterator[Window]:
    """Opens windows; at the end nothing may have gone wrong in any, or have been asked of another host.

    ``window(path, size=PHONE, locale="en-US", dark=True, signed_in=False, quiet=True)``: quiet where requests are meant
    to fail.
    """
    opened: list[BrowserContext] = []
    problems: list[str] = []

    def make(
        path: str = "/",
        *,
        size: tuple[int, int] = WIDE,
        locale: str = "zh-CN",
        dark: bool = False,
        signed_in: bool = True,
        quiet: bool = False,
    ) -> Page:
        context = browser.new_context(
            base_url=house.base,
            storage_state=cookies if signed_in else None,
            viewport={"width": size[0], "height": size[1]},
            locale=locale,
            color_scheme="dark" if dark else "light",
            has_touch=size == PHONE,
            permissions=["clipboard-read", "clipboard-write"],
            accept_downloads=True,
        )
        opened.append(context)
        page = context.new_page()
        watch(page, house.base, problems, quiet=quiet)
        page.goto(path)
        return page

    yield make
    for context in opened:
        context.close()
    assert problems == []


def watch(page: Page, base: str, problems: list[str], *, quiet: bool) -> None:
    """Writes down what goes wrong in the page, and what it asks of others."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not quiet:
            problems.append(message.text)

    def on_request(asked: Request) -> None:
        if not asked.url.startswith((base, "data:", "blob:")):
            problems.append(f"asked for {asked.url}")

    def on_dialog(dialog: Dialog) -> None:
        problems.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", on_console)
    page.on("request", on_request)
    page.on("dialog", on_dialog)
    page.on("pageerror", lambda error: problems.append(str(error)))


@pytest.fixture
def page(window: Window) -> Page:
    return window()
