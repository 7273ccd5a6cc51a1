"""Faults of three sizes in a real server: memory runs out for a while, the engine's thread dies, a step never ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.pictures import base64_picture
from tests.running import RunningServer, private_body

ENGINE_DEAD = 4


def test_steps_that_run_out_of_memory_are_done_again_smaller(tmp_path: Path) -> None:
    with RunningServer(tmp_path / "data", env={"QQVL_PLANT_FAULT": "oom:1-3"}) as server:
        assert "红" in server.private("这是什么颜色？", images=(base64_picture(),))
        assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("fault", [pytest.param("thread:2", marks=pytest.mark.long), "hang:2"])
def test_a_dead_engine_is_told_at_every_door_and_ends_the_process(tmp_path: Path, fault: str) -> None:
    with RunningServer(tmp_path / "data", "--step-timeout-s", "3", env={"QQVL_PLANT_FAULT": fault}) as server:
        # A hung step's caller is let go when the process ends; a dead thread's caller is told at once.
        answer = server.post("private", private_body("你好"))
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] in ("engine_dead", "shutting_down")
        deadline = time.monotonic() + 30
        while server.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.process.poll() == ENGINE_DEAD
