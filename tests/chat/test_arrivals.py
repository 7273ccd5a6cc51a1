"""Which waiting messages share a turn, and when: drawn crowds against a clock that goes from event to event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qqvl_server.chat.arrivals import MOST_RESTARTS, Line, interrupts, next_turn

WAIT_S, COMPANY_S = 8.0, 0.4


def line(speaker: str, came_at: float, **more: bool) -> Line:
    return replace(Line(speaker, came_at), **more)  # type: ignore[arg-type]


def played(crowd: Sequence[Line], wait_s: float = WAIT_S) -> list[tuple[float, tuple[int, ...]]]:
    """The turns that the lines get, each with its instant, where answering takes no time."""
    turns: list[tuple[float, tuple[int, ...]]] = []
    waiting: list[int] = []
    coming = list(range(len(crowd)))
    now = 0.0
    while waiting or coming:
        while coming and crowd[coming[0]].came_at <= now:
            waiting.append(coming.pop(0))
        found: tuple[int, ...] | float = crowd[coming[0]].came_at if coming else now
        if waiting:
            found = next_turn([crowd[place] for place in waiting], now, wait_s)
        if isinstance(found, tuple):
            assert found
            turns.append((now, tuple(waiting[place] for place in found)))
            waiting = [number for place, number in enumerate(waiting) if place not in found]
        else:
            assert found > now
            now = min(found, crowd[coming[0]].came_at) if coming else found
    return turns


CROWDS: list[tuple[str, list[Line], list[Any]]] = [
    ("one waits for company", [line("a", 0)], [(0.4, (0,))]),
    ("twenty mentions in half a second", [line(str(n), n * 0.025) for n in range(20)],
     [(0.4, tuple(range(17))), (pytest.approx(0.825), (17, 18, 19))]),
    ("a picture, then its question", [line("a", 0, unfinished=True), line("a", 3)], [(3.4, (0, 1))]),
    ("a question, then its picture", [line("a", 0), line("a", 0.3, unfinished=True)], [(0.4, (0, 1))]),
    ("a call, then unaddressed what for", [line("a", 0, unfinished=True), line("a", 5, asks=False)], [(5.4, (0, 1))]),
    ("a picture alone", [line("a", 0, unfinished=True)], [(8, (0,))]),
    ("three pictures, then words", [line("a", t, unfinished=True) for t in (0, 2, 4)] + [line("a", 5)],
     [(5.4, (0, 1, 2, 3))]),
    ("others pass one who has not finished", [line("a", 0, unfinished=True), line("b", 1), line("c", 2, asks=False)],
     [(1.4, (1,)), (2, (2,)), (8, (0,))]),
    ("talk waits for nobody", [line("a", 0, asks=False), line("b", 0, asks=False)], [(0, (0, 1))]),
    ("talk before a question stays before it", [line("a", 0), line("b", 0.1, asks=False), line("c", 0.2)],
     [(0.4, (0, 1, 2))]),
    ("talk after the question waits behind it", [line("a", 0), line("b", 0.1, asks=False)], [(0.4, (0,)), (0.4, (1,))]),
    ("what is said to another is no follow-up", [line("a", 0), line("a", 0.2, asks=False, to_other=True)],
     [(0.4, (0,)), (0.4, (1,))]),
    ("who goes on to another has finished", [line("a", 0, unfinished=True), line("a", 1, asks=False, to_other=True)],
     [(1, (0,)), (1, (1,))]),
    ("bare ones never share", [line("a", 0, joins=False), line("a", 0, joins=False)], [(0, (0,)), (0, (1,))]),
    ("a bare picture waits for nobody", [line("a", 0, joins=False, unfinished=True)], [(0, (0,))]),
    ("a command is alone, in its place", [line("a", 0), line("b", 0.1, joins=False), line("c", 0.2)],
     [(0.4, (0,)), (0.4, (1,)), (pytest.approx(0.6), (2,))]),
]  # fmt: skip


@pytest.mark.parametrize(("crowd", "turns"), [row[1:] for row in CROWDS], ids=[row[0] for row in CROWDS])
def test_whose_turn_it_is(crowd: list[Line], turns: list[tuple[float, tuple[int, ...]]]) -> None:
    assert played(crowd) == turns


def test_without_waiting_each_has_its_turn_at_once() -> None:
    assert played([line("a", 0, unfinished=True), line("a", 1)], wait_s=0) == [(0, (0,)), (1, (1,))]


LINES = st.builds(
    Line,
    speaker=st.sampled_from("abc"),
    came_at=st.integers(0, 200).map(lambda tenth: tenth / 10),
    joins=st.sampled_from([True, True, True, False]),
    asks=st.booleans(),
    unfinished=st.booleans(),
    to_other=st.sampled_from([False, False, True]),
)
CROWD = st.lists(LINES, min_size=1, max_size=12).map(lambda lines: sorted(lines, key=lambda one: one.came_at))


@given(CROWD)
def test_every_message_has_one_turn_in_time_and_in_order(crowd: list[Line]) -> None:
    turns = played(crowd)
    assert sorted(place for _, places in turns for place in places) == list(range(len(crowd)))
    for at, places in turns:
        assert list(places) == sorted(places)
        assert len(places) == 1 or all(crowd[place].joins for place in places)
        for place in places:
            waited = at - crowd[place].came_at
            # Behind another's question, bare lines and talk wait as long as it does.
            own = crowd[place].unfinished and crowd[place].joins
            assert waited <= (2 * WAIT_S if own else COMPANY_S) + 1e-9, place
    when = {place: number for number, (_, places) in enumerate(turns) for place in places}
    passable = {place for place, one in enumerate(crowd) if one.unfinished and one.joins}
    for earlier in range(len(crowd)):
        for later in range(earlier + 1, len(crowd)):
            assert when[earlier] <= when[later] or earlier in passable


ENDS: list[tuple[str, list[Line], list[Line], bool]] = [
    ("the same speaker goes on", [line("a", 0)], [line("a", 2)], True),
    ("without a mention as well", [line("a", 0)], [line("a", 2, asks=False)], True),
    ("not after long", [line("a", 0)], [line("a", 9, asks=False)], False),
    ("but when he asks", [line("a", 0)], [line("a", 9)], True),
    ("not for another", [line("a", 0)], [line("b", 1)], False),
    ("not when he talks to another", [line("a", 0)], [line("a", 1, asks=False, to_other=True)], False),
    ("any of those who are answered", [line("a", 0), line("b", 0.1)], [line("b", 1, asks=False)], True),
    ("not one who only talked before it", [line("b", 0, asks=False), line("a", 0)], [line("b", 1, asks=False)], False),
    ("with what waits between", [line("a", 0)], [line("b", 1), line("a", 2)], True),
    ("never past a bare one", [line("a", 0)], [line("b", 1, joins=False), line("a", 2)], False),
    ("never a bare one's", [line("a", 0, joins=False)], [line("a", 1, joins=False)], False),
]


@pytest.mark.parametrize(("running", "waiting", "ends"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_what_ends_a_turn(running: list[Line], waiting: list[Line], ends: bool) -> None:
    assert interrupts(running, 0, waiting, WAIT_S) is ends
    assert not interrupts(running, MOST_RESTARTS, waiting, WAIT_S)
