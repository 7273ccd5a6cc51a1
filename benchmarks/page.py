"""How long until the page can be used: nothing of it in the browser's cache, the server on this machine.

From the beginning of the navigation to the field that takes words, by the browser's own clock; and the bytes it took.
"""

from __future__ import annotations

import argparse
import os
import shutil
from typing import Any

import servers
from checkpoints import DEMO
from figures import median, report
from playwright.sync_api import Browser, StorageState, sync_playwright

from qqvl_server import signin

# Written down by the page itself, the moment that the field is there and may be written in.
_WATCH = """
const found = () => {
  const field = document.querySelector("textarea:not([disabled])");
  if (field && window.usable === undefined) window.usable = performance.now();
};
new MutationObserver(found).observe(document, { childList: true, subtree: true });
"""
_BYTES = "performance.getEntries().reduce((sum, one) => sum + (one.transferSize ?? 0), 0)"


def main() -> None:
    parser = argparse.ArgumentParser(description="网页多久能用、第一次打开多大：浏览器里什么都没存，从打开到能打字")
    parser.add_argument("--repeats", type=int, default=9, help="量几次")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("错误：没有 Chromium；Debian/Ubuntu：apt install chromium")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with servers.Qqvl(DEMO) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        running = signin.running(server.folder / "data")
        assert running is not None, "it has just said its address"
        context = browser.new_context(base_url=server.base)
        context.new_page().goto(f"/?token={running.sign_in.link_token()}")
        signed_in = context.storage_state()
        visits = [_visit(browser, server.base, signed_in) for _ in range(given.repeats + 1)]
        browser.close()
    # The first starts the browser's own processes.
    rows: list[dict[str, Any]] = [
        {"usable_s": median([seconds for seconds, _ in visits[1:]]), "kB": median([kb for _, kb in visits[1:]])}
    ]
    report("page", rows, repeats=given.repeats)


def _visit(browser: Browser, base: str, signed_in: StorageState) -> tuple[float, float]:
    """Seconds, and kB that were sent. In a window of its own, with a cache of its own."""
    context = browser.new_context(base_url=base, storage_state=signed_in)
    page = context.new_page()
    page.add_init_script(_WATCH)
    page.goto("/")
    page.wait_for_function("window.usable !== undefined")
    seconds, kb = page.evaluate("window.usable") / 1000, page.evaluate(_BYTES) / 1000
    context.close()
    return seconds, kb


if __name__ == "__main__":
    main()
