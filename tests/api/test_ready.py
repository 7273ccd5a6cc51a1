"""`/ready`: whether new work is taken, and whether QQ can be reached, which takes no server from a balancer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from qqvl_server.observe.links import STALE_S, Link, Links
from tests.api.conftest import OPENAI_KEY, QQ_KEY
from tests.api.wire import check_error, contract
from tests.running import RunningServer


def told(server: RunningServer, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/api/client/status", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_contracts_status_is_taken_in_the_contracts_shape(server: RunningServer) -> None:
    assert told(server, **contract("client_status")) == contract("client_status_reply")
    assert server.http.get("/ready").json()["link"]["state"] == "down"
    history = server.http.get("/admin/link").json()
    assert (history["state"], history["reason"]) == ("down", contract("client_status")["reason"])
    last = history["changes"][-1]
    assert (last["self_id"], last["state"], last["at"]) == ("10001", "down", history["since"])


def test_a_lost_link_is_told_and_the_server_stays_ready(server: RunningServer) -> None:
    before = time.time()
    assert told(server, self_id=10001, link="up") == {"status": "success", "ready": True}
    for state in ("up", "down", "up"):
        told(server, self_id="10001", link=state, reason="断")
        ready = server.http.get("/ready")
        assert (ready.status_code, ready.json()["ready"], ready.json()["link"]["state"]) == (200, True, state)
        assert before <= ready.json()["link"]["since"] <= time.time()
    # Said again it is no news.
    since = server.http.get("/ready").json()["link"]["since"]
    told(server, self_id="10001", link="up")
    assert server.http.get("/ready").json()["link"]["since"] == since


@pytest.mark.parametrize(
    "body", [{}, {"link": "sideways"}, {"link": "up", "self_id": "1" * 65}, {"link": "up", "reason": 1}, {"link": True}]
)
def test_what_is_no_status_is_refused(server: RunningServer, body: dict[str, Any]) -> None:
    check_error(server.http.post("/api/client/status", json=body), 400)


def test_ready_is_open_and_the_status_is_not(keyed: RunningServer) -> None:
    ready = keyed.http.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    for key, status in ((None, 401), (OPENAI_KEY, 403), (QQ_KEY, 200)):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = keyed.http.post("/api/client/status", json={"link": "up"}, headers=headers)
        assert answer.status_code == status, key


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_nobody_tells_any_more_is_unknown() -> None:
    clock = Clock()
    links = Links(clock)
    assert links.link() == Link("unknown", None)
    links.told("1", is_up=True, reason="")
    clock.now += STALE_S
    assert links.link() == Link("up", 1000)
    clock.now += 1
    assert links.link() == Link("unknown", 1000)


def test_one_account_down_is_down_until_it_is_back_or_gone() -> None:
    clock = Clock()
    links = Links(clock)
    # Before it knows who it is.
    links.told("", is_up=False, reason="x")
    clock.now += 1
    links.told("1", is_up=True, reason="")
    assert links.link() == Link("up", 1001)
    clock.now += 1
    links.told("2", is_up=False, reason="y")
    clock.now += 60
    links.told("1", is_up=True, reason="")
    assert links.link() == Link("down", 1002, "y")
    assert [(change.account, change.state) for change in links.changes()] == [("", "down"), ("1", "up"), ("2", "down")]
    clock.now += STALE_S - 1
    assert links.link() == Link("up", 1001)


def test_accounts_that_are_made_up_take_no_memory() -> None:
    links = Links()
    for number in range(1000):
        links.told(str(number), is_up=number % 2 == 0, reason="")
    assert len(links.changes()) <= 200
    assert links.link().state == "down"
