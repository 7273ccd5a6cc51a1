"""Two real servers on one PostgreSQL, one Redis and one folder of pictures: whoever is asked, there is one truth.

What is tried here in one go is tried piece by piece in ``tests/chat/test_servers.py``, quickly.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.databases import cluster, redis
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer, group_body, private_body


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_servers_answer_as_one(tmp_path: Path) -> None:
    with ExitStack() as opened:
        place = {
            "QQVL_DATABASE_URL": opened.enter_context(cluster()).database(),
            "QQVL_RATE_STORE_URL": opened.enter_context(redis()).url,
            "QQVL_IMAGE_STORE_URL": f"file://{tmp_path / 'pictures'}",
            "QQVL_RATE_LIMIT": "200/hour",
        }
        # They start together, on an empty database.
        both = [RunningServer(tmp_path / name, env=place, wait=False) for name in ("one", "other")]
        asking = opened.enter_context(ThreadPoolExecutor(8))
        list(asking.map(opened.enter_context, both))
        for server in both:
            server.wait_healthy()

        def ask(number: int, server: RunningServer) -> str:
            """A new chat's first line."""
            body = private_body("你好", user=f"9{number}", message_id=f"m{number}", self_id="1")
            answer = server.post("private", body)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["reply"])

        for number in range(8):
            first, second = asking.map(ask, (number, number), both)
            assert first == second
            assert [line["role"] for line in both[0].messages("private", f"9{number}")] == ["user", "assistant"]

        def say(number: int) -> bool:
            body = group_body("你好", group="7", user=f"8{number}", message_id=f"g{number}", self_id="1", at_me=True)
            return both[number % 2].post("group", body).is_success

        assert all(asking.map(say, range(16)))
        lines = both[1].messages("group", "7")
        assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
        assert sum(line["role"] == "user" for line in lines) == 16
        # A picture that one was sent the other sees.
        red = base64_of(encoded(picture((250, 0, 0))))
        both[0].private("这是什么颜色？", user="66", images=(red,), message_id="p1", self_id="1")
        answer = both[1].post("private", private_body("再说一遍", user="66", message_id="p2", self_id="1"))
        assert answer.json().get("warnings", []) == []
        assert len([path for path in (tmp_path / "other" / "images").rglob("*") if path.is_file()]) == 1
        # One that is killed leaves no lane behind.
        both[0].kill()
        assert both[1].private("还在吗", user="66", message_id="p3", self_id="1")
