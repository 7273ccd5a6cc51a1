"""The page ``/try``: a group of invented members against the real door, with the reason for each line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.running import RunningServer, run_cli
from tests.web.acting import field
from tests.web.conftest import Window

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def play(window: Window) -> Page:
    return window("/try")


def speak(page: Page, who: str, words: str) -> Locator:
    """What somebody says, once the bot has made up its mind."""
    lines = page.locator("li.line")
    count = lines.count()
    page.get_by_role("radio", name=who, exact=True).check(force=True)
    field(page).fill(words)
    field(page).press("Enter")
    expect(lines).to_have_count(count + 1)
    expect(lines.last.locator(".why")).to_be_visible()
    return lines.nth(count)


def test_two_members_one_addressed_and_one_not_and_why(play: Page) -> None:
    called = speak(play, "小明", "@小Q 你好")
    expect(called.locator(".why")).to_contain_text("@ 了它")
    expect(called.locator(".bot .bubble")).to_be_visible()
    beside = speak(play, "小红", "今天晚上吃什么呢")
    expect(beside.locator(".why")).to_contain_text("没叫它")
    expect(beside.locator(".bot")).to_have_count(0)
    called.locator(".why").click()
    expect(called.locator(".detail")).to_contain_text("所以一定回")


def test_a_recalled_line_is_gone_with_its_answer(play: Page) -> None:
    line = speak(play, "小明", "@小Q 这句要撤回")
    line.locator(".said").first.hover()
    line.get_by_role("button", name="撤回").first.click()
    expect(line).to_contain_text("小明撤回了一条消息")
    expect(line).to_contain_text("小Q撤回了一条消息")
    expect(line.locator(".bubble")).to_have_count(0)


def test_quoting_the_bot_addresses_it(play: Page) -> None:
    line = speak(play, "小明", "@小Q 你好")
    line.locator(".said.bot").hover()
    line.locator(".said.bot").get_by_role("button", name="引用").click()
    quoting = speak(play, "小红", "真的吗")
    expect(quoting.locator(".quote")).to_contain_text("小Q")
    expect(quoting.locator(".why")).to_contain_text("引用了它")


def test_the_clock_runs_ahead_and_lines_follow_it(play: Page) -> None:
    before = play.locator(".clock .now").inner_text()
    play.get_by_role("button", name="8 小时").click()
    expect(play.locator(".clock .now")).not_to_have_text(before)
    line = speak(play, "老王", "早")
    hour = (int(before[:2]) + 8) % 24
    assert int(line.locator(".who .number").inner_text()[:2]) in (hour, (hour + 1) % 24)


def test_a_play_is_saved_exported_and_replayed_against_what_came_out(
    play: Page, window: Window, house: RunningServer
) -> None:
    speak(play, "小明", "@小Q 你好")
    speak(play, "小红", "不是对它说的")
    menu = play.get_by_role("button", name="更多")
    menu.click()
    play.get_by_role("button", name="把这次的结果记作期望").click()
    menu.click()
    play.get_by_role("button", name="存成脚本").click()
    play.get_by_role("textbox", name="脚本的名字").fill("打招呼")
    play.get_by_role("button", name="保存").click()
    menu.click()
    with play.expect_download() as download:
        play.get_by_role("button", name="导出文件").click()
    script = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert script["qqvl_try"] == 1
    assert [line["expect"] for line in script["lines"]] == [
        {"speaks": True, "reason": "addressed"},
        {"speaks": False, "reason": "silent"},
    ]
    # Another browser has it too, and so has the command line.
    other = window("/try")
    other.get_by_role("button", name=re.compile("^打招呼 2 步")).click()
    other.get_by_role("button", name="更多").click()
    other.get_by_role("button", name="从头重放").click()
    expect(other.get_by_text("2/2 符合期望")).to_be_visible()
    done = run_cli("try", "--saved", "打招呼", "--data-dir", str(house.data_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    other.get_by_role("button", name="删掉脚本“打招呼”").click()
    other.get_by_role("dialog").get_by_role("button", name="删除").click()
    expect(other.get_by_role("button", name=re.compile("^打招呼"))).to_have_count(0)
    play.reload()
    expect(play.get_by_text("还没有。玩完一场")).to_be_visible()


def test_scripts_that_only_the_browser_had_come_to_the_server(play: Page, window: Window) -> None:
    member = {"id": "20001", "name": "小明", "card": "", "role": "owner", "is_bot": False}
    line = {"id": "l1", "at_s": 0, "from": "20001", "text": "大家好", "at": [], "quote": None, "images": []}
    script = {
        "qqvl_try": 1, "name": "从前的", "group": {"name": "群"}, "settings": {}, "bot": {"id": "10000", "name": "小Q"},
        "members": [member], "lines": [line],
    }  # fmt: skip
    play.evaluate("(scripts) => localStorage.setItem('qqvl.tries', scripts)", json.dumps([script]))
    play.reload()
    expect(play.get_by_role("button", name=re.compile("^从前的 1 步"))).to_be_visible()
    assert play.evaluate("localStorage.getItem('qqvl.tries')") is None
    expect(window("/try").get_by_role("button", name=re.compile("^从前的 1 步"))).to_be_visible()


def test_names_and_words_are_never_markup(play: Page) -> None:
    play.get_by_role("button", name="群成员").click()
    play.get_by_role("textbox", name="群名片").first.fill(HOSTILE)
    play.get_by_role("textbox", name="群", exact=True).fill(HOSTILE)
    play.get_by_role("button", name="好了").click()
    line = speak(play, HOSTILE, f"@小Q {HOSTILE}")
    expect(line.locator(".who b").first).to_have_text(HOSTILE)
    expect(line.locator(".bubble").first).to_contain_text(HOSTILE)
    assert play.locator("img[src=x]").count() == 0
