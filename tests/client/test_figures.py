"""What the client tells of itself: figures for Prometheus, and lines that follow one message under one name."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from onebot.events import SELF_ID, at, group_message, private_message, text
from onebot.world import Stack
from pydantic import ValidationError

from qqvl_client.settings import PROJECT, Settings

pytestmark = pytest.mark.anyio


def figure(shown: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", shown, re.MULTILINE)
    assert found, (name, shown[-2000:])
    return float(found[1])


def figures(stack: Stack) -> str:
    address = re.findall(r"指标在 (\S+)", stack.client.log)[-1]
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as answer:
        return str(answer.read().decode())


def lines(stack: Stack, message_id: str) -> list[dict[str, Any]]:
    """Of the log's file, those about a message."""
    written = (stack.client.data_dir / "logs" / "client.log").read_text("utf-8")
    return [line for line in map(json.loads, written.splitlines()) if line.get("message_id") == message_id]


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_message_has_one_name_from_qq_to_the_send(stack: Stack, chat_id: int) -> None:
    """In the request, in each line about it, and in the report of what was sent; no word of it is in the log."""
    event = group_message([at(SELF_ID), text("一句悄悄话")], chat_id, user_id=987654321)
    await stack.onebot.event(event)
    await stack.onebot.replied(chat_id)
    message_id = str(event["message_id"])
    await soon(lambda: len(lines(stack, message_id)) >= 3)
    told = lines(stack, message_id)
    name = next(r.headers["x-request-id"] for r in stack.chat.requests if message_id.encode() in r.body)
    assert re.fullmatch(r"qq-[0-9a-f]{20}", name)
    assert {line["request_id"] for line in told} == {name}
    assert {(line["chat"], line["user"]) for line in told} == {(f"group:{chat_id}", "987654321")}
    assert [line.get("outcome") for line in told if "outcome" in line] == ["answered"]
    sent = next(line for line in told if "sent_id" in line)
    assert sent["part"] == 1
    whole = (stack.client.data_dir / "logs" / "client.log").read_text("utf-8")
    assert "悄悄话" not in whole
    assert (stack.client.data_dir / "logs" / "client.log").stat().st_mode & 0o077 == 0


async def test_the_figures_tell_what_was_relayed_and_name_nobody(stack: Stack, chat_id: int) -> None:
    before = figures(stack)
    await stack.onebot.event(private_message("你好", chat_id))
    await stack.onebot.replied(chat_id)
    names = ('messages_total{kind="ask"}', 'answers_total{outcome="answered"}', "answer_seconds_count")

    def gained(name: str) -> float:
        return figure(figures(stack), f"qqvl_client_{name}") - figure(before, f"qqvl_client_{name}")

    await soon(lambda: gained('sends_total{outcome="sent"}') >= 1)
    assert [gained(name) >= 1 for name in names] == [True] * 3
    shown = figures(stack)
    assert figure(shown, "qqvl_client_line_up") == 1
    assert figure(shown, "process_resident_memory_bytes") > 1e6
    assert str(chat_id) not in shown


def test_without_an_address_there_are_no_figures() -> None:
    assert Settings().metrics_address == ""


@pytest.mark.parametrize(
    "address", ["9998", "http://127.0.0.1:9998", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:9998/metrics"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match=r"127\.0\.0\.1:9998"):
        Settings(metrics_address=address)


def test_the_log_lies_beside_the_servers_or_in_a_folder_that_was_chosen() -> None:
    assert Settings().log_folder == PROJECT / "data" / "logs"
    assert Settings(data_dir=PROJECT / "elsewhere").log_folder == PROJECT / "elsewhere" / "logs"
