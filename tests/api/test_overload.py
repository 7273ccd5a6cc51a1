"""More callers than the queue holds: each is answered or told at once to come back, and health stays quick."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.api.wire import check_error, metric, watching_health
from tests.running import RunningServer, private_body

CLIENTS = 64


def test_64_clients_at_once_are_answered_or_told_to_come_back(tight: RunningServer) -> None:
    def ask(number: int) -> httpx.Response:
        with httpx.Client(base_url=tight.base, timeout=90, trust_env=False) as http:
            return http.post("/api/chat/private", json=private_body("你好", user=f"crowd{number}"))

    with watching_health(tight), ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(CLIENTS)))
    assert {answer.status_code for answer in answers} == {200, 503}
    for number, answer in enumerate(answers):
        if answer.status_code == 503:
            assert check_error(answer, 503)["code"] == "busy"
            assert answer.headers["Retry-After"].isdecimal()
            assert tight.http.get(f"/admin/chats/private/crowd{number}/messages").status_code == 404
        else:
            assert len(tight.messages("private", f"crowd{number}")) >= 1
    assert tight.private("你好", user="after") is not None


def test_a_refusal_comes_at_once_while_the_queue_is_full(tight: RunningServer) -> None:
    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(tight.post, "private", private_body("你好", user="one-lane")) for _ in range(32)]
        took = []
        while not all(turn.done() for turn in waiting):
            started = time.monotonic()
            answer = tight.http.post("/api/chat/private", json=private_body("你好", user="extra", context_only=True))
            if answer.status_code == 503:
                took.append(time.monotonic() - started)
    assert all(turn.result().status_code in (200, 503) for turn in waiting)
    assert not took or max(took) < 3


def test_a_flood_of_one_chat_takes_no_place_from_the_others(tight: RunningServer) -> None:
    with ThreadPoolExecutor(34) as pool:
        flood = [pool.submit(tight.post, "private", private_body("你好", user="flood")) for _ in range(32)]
        while not any(turn.done() for turn in flood):
            time.sleep(0.01)
        others = [pool.submit(tight.post, "private", private_body("你好", user=f"aside{n}")) for n in range(2)]
    assert [turn.result().status_code for turn in others] == [200, 200]
    assert {turn.result().status_code for turn in flood} == {200, 503}


@pytest.mark.parametrize(("calls", "choices"), [(24, 1), (4, 16)])
def test_a_flood_of_api_calls_takes_no_place_from_the_chats(tight: RunningServer, calls: int, choices: int) -> None:
    def ask(number: int) -> int:
        asked = {"messages": [{"role": "user", "content": f"讲个故事{number}"}], "n": choices, "max_tokens": 16}
        with httpx.Client(base_url=tight.base, timeout=90, trust_env=False) as http:
            return http.post("/v1/chat/completions", json=asked | {"model": "qqvl-demo"}).status_code

    with ThreadPoolExecutor(calls) as pool:
        flood = [pool.submit(ask, number) for number in range(calls)]
        while not any(turn.done() for turn in flood):
            time.sleep(0.01)
        chats = [tight.post("private", private_body("你好", user=f"beside{choices}-{n}")) for n in range(4)]
    assert [answer.status_code for answer in chats] == [200] * 4
    assert {turn.result() for turn in flood} == {200, 503}


def test_callers_that_hang_up_free_their_places(tight: RunningServer) -> None:
    for number in range(12):
        with httpx.Client(base_url=tight.base, timeout=0.05, trust_env=False) as http:
            try:
                http.post("/api/chat/private", json=private_body("你好", user=f"hung{number}"))
            except httpx.TimeoutException:
                continue
    # Those turns go on and end; a figure of none may also mean that none has begun.
    deadline = time.monotonic() + 30
    after = private_body("你好", user="after-hung")
    while (answer := tight.post("private", after)).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.status_code == 200
    while metric(tight, "qqvl_requests_running") or metric(tight, "qqvl_requests_waiting"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_repeats_of_a_running_message_take_no_place_in_the_queue(tight: RunningServer) -> None:
    body = private_body("你好", user="patient", message_id="again")
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: tight.post("private", body), range(24)))
    assert [answer.status_code for answer in answers] == [200] * 24
    assert len({answer.json()["reply"] for answer in answers}) == 1
