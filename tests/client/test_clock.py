"""How old a message is, whatever one heartbeat, the other side's clock or our own says."""

from __future__ import annotations

import time
from typing import Any

import pytest
from onebot.events import SELF_ID, at, group_message, heartbeat, text
from onebot.world import Stack

from qqvl_client.clock import Clock

pytestmark = pytest.mark.anyio
HOUR = 3600.0


class Time:
    """Our two clocks, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_700_000_000.0, 100.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady)


def heard(ours: Time, clock: Clock, *ahead: float) -> None:
    """Heartbeats half a minute apart from a side whose clock is so much ahead of ours."""
    for seconds in ahead:
        ours.pass_by(30)
        clock.note(ours.wall + seconds)


@pytest.mark.parametrize("ahead", [0.0, 8 * HOUR, -8 * HOUR, 200.0, -200.0])
def test_a_clock_that_is_always_off_is_followed(ahead: float) -> None:
    ours = Time()
    clock = ours.clock()
    heard(ours, clock, ahead, ahead, ahead)
    assert abs(clock.age(ours.wall + ahead)) < 1
    assert clock.age(ours.wall + ahead - 9 * HOUR) > HOUR - 60


@pytest.mark.parametrize("wrong", [8 * HOUR, -8 * HOUR, 400.0, 40 * 365 * 24 * HOUR])
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_one_wrong_heartbeat_mutes_nobody(wrong: float, before: int, after: int) -> None:
    ours = Time()
    clock = ours.clock()
    heard(ours, clock, *[0.0] * before, wrong, *[0.0] * after)
    assert clock.age(ours.wall) < 60
    if before + after > 2:
        assert clock.age(ours.wall - HOUR) > HOUR - 60


def test_heartbeats_stuck_in_a_line_make_no_old_message_new() -> None:
    ours = Time()
    clock = ours.clock()
    heard(ours, clock, *[0.0] * 6, -90.0, -60.0, -30.0)
    assert clock.age(ours.wall - 400) > 390


@pytest.mark.parametrize("jump", [8 * HOUR, -8 * HOUR])
def test_what_was_measured_before_our_clock_was_set_is_forgotten(jump: float) -> None:
    ours = Time()
    clock = ours.clock()
    heard(ours, clock, *[-jump] * 9)
    ours.wall -= jump
    assert abs(clock.age(ours.wall)) < 1
    assert clock.age(ours.wall - 1000) > 900


async def test_a_wrong_heartbeat_or_ten_do_not_silence_the_bot(stack: Stack, chat_id: int) -> None:
    for hours in (8, 8, 0, -8, 24 * 365, 0, 0):
        await stack.onebot.event(heartbeat() | {"time": int(time.time() + hours * HOUR)})
        await stack.onebot.event(group_message([at(SELF_ID), text(f" {hours}")], chat_id))
    sent = await stack.onebot.replied(chat_id, 7)
    assert len(sent) == 7
    assert not any("context_only" in body for body in stack.chat.of(chat_id))


@pytest.mark.parametrize("stamp", [0, -5, "x", None, True, 1e300, {}])
async def test_a_heartbeat_without_a_time_is_a_heartbeat(stack: Stack, chat_id: int, stamp: Any) -> None:
    await stack.onebot.event(heartbeat() | {"time": stamp})
    await stack.onebot.event(group_message("在", chat_id, time=stamp))
    await stack.onebot.replied(chat_id)
