"""Pictures that take long or are cut short, at every door: who else is answered meanwhile, and who is told what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.media.hostile import gif, gif_frame, slow_jpeg
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer, private_body

SMALL = encoded(picture(size=(64, 64)))
# 235 kB that would take most of a minute, a frame of 144 megapixels behind one of one pixel, and half a photo.
REFUSED: dict[str, bytes] = {
    "1,500 passes": slow_jpeg(7000, 7000, 1500),
    "half a WebP": encoded(picture(size=(900, 900)), "WEBP", lossless=True)[:-900],
    "a quarter of a PNG": encoded(picture(size=(300, 300)))[:300],
}
CUT = encoded(picture(size=(300, 300)), "JPEG", quality=95)
CUT = CUT[: len(CUT) * 9 // 10]
SEEING = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


def asked(door: str, data: bytes) -> dict[str, Any]:
    """A question about a good picture and then ``data``."""
    words = [base64_of(SMALL), base64_of(data)]
    urls = [f"data:image/png;base64,{word}" for word in words]
    match door:
        case "/v1/chat/completions":
            shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content = [{"type": "text", "text": "这是什么？"}, *shown]
            return {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
        case "/v1/messages":
            shown = [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": word}}
                for word in words
            ]
            content = [{"type": "text", "text": "这是什么？"}, *shown]
            return {"model": "qqvl-demo", "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    parts = [{"type": "input_image", "image_url": url} for url in urls]
    content = [{"type": "input_text", "text": "这是什么？"}, *parts]
    return {"input": [{"role": "user", "content": content}], "max_output_tokens": 4}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_looked_at_is_told_at_every_door(server: RunningServer, name: str) -> None:
    data = REFUSED[name]
    for door in SEEING:
        answer = server.http.post(door, json=asked(door, data))
        assert answer.status_code == 400, (door, answer.text)
        error = answer.json()["error"]
        assert "图片" in error["message"]
        if door != "/v1/messages":
            assert error["param"].endswith("content[2]")
    body = private_body("看图", user=f"refused-{name}", images=(base64_of(SMALL), base64_of(data)), context_only=True)
    (warning,) = server.post("private", body).json()["warnings"]
    assert warning.startswith("第 2 张图没有看到")


def test_a_picture_cut_short_is_seen_and_told_at_every_door(server: RunningServer) -> None:
    for door in SEEING:
        answer = server.http.post(door, json=asked(door, CUT))
        assert answer.status_code == 200, (door, answer.text)
        told = answer.headers["X-Qqvl-Warning"]
        assert told.startswith("cut short: ")
        assert "content[2]" in told
    body = private_body("看图", user="cut-short", images=(base64_of(SMALL), base64_of(CUT)), context_only=True)
    (warning,) = server.post("private", body).json()["warnings"]
    assert warning.startswith("第 2 张图的文件不完整")
    assert len(server.messages("private", "cut-short")[0]["images"]) == 2


def test_a_later_frame_is_no_way_around_the_limit(server: RunningServer) -> None:
    data = gif((1, 1), gif_frame((1, 1), colour=(255, 0, 0)), gif_frame((12_000, 12_000)))
    for door in SEEING:
        plain = server.http.post(door, json=asked(door, gif((1, 1), gif_frame((1, 1), colour=(255, 0, 0)))))
        answer = server.http.post(door, json=asked(door, data))
        assert answer.status_code == plain.status_code == 200
        assert used(answer) == used(plain), "the first frame alone"


def used(answer: httpx.Response) -> int:
    usage = answer.json()["usage"]
    return int(usage.get("prompt_tokens") or usage["input_tokens"])


def slowly(server: RunningServer, scans: int, done: list[str]) -> threading.Thread:
    """A picture of some seconds, from somebody else."""
    data = base64_of(slow_jpeg(7000, 7000, scans))

    def send() -> None:
        body = private_body("看图", user=f"slow{scans}", images=(data,), context_only=True)
        with httpx.Client(base_url=server.base, timeout=120, trust_env=False) as http:
            assert http.post("/api/chat/private", json=body).json()["warnings"] == []
        done.append("slow")

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def decoding(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children(recursive=True)


def test_everybody_else_is_answered_while_slow_pictures_are_decoded(server: RunningServer) -> None:
    done: list[str] = []
    slow = [slowly(server, scans, done) for scans in (62, 61)]
    others: dict[str, Callable[[], httpx.Response]] = {
        "words": lambda: server.post("private", private_body("你好", user="beside-words")),
        "a long text": lambda: server.post(
            "private", private_body("你好" * 13_000, user="beside-long", context_only=True)
        ),
        "a small picture": lambda: server.post(
            "private", private_body("看图", user="beside-small", images=(base64_of(SMALL),))
        ),
        "an API caller": lambda: server.http.post(SEEING[0], json=asked(SEEING[0], SMALL)),
        "health": lambda: server.http.get("/health"),
    }
    for name, ask in others.items():
        answer = ask()
        assert answer.status_code == 200, (name, answer.text)
        done.append(name)
    for thread in slow:
        thread.join()
    assert done[-1] == "slow"


@pytest.mark.long
def test_a_stop_waits_for_no_decode_and_a_kill_leaves_none_behind(tmp_path: Path) -> None:
    flags = ("--max-new-tokens", "4", "--shutdown-grace-s", "0.5", "--decode-timeout-s", "60")
    with RunningServer(tmp_path / "data", *flags) as server:
        sending = [hung_up_on(server, scans) for scans in (62, 61, 60)]
        workers = started(server)
        server.terminate()
        assert server.process.wait(60) == 0
        # All three would take longer than that: what was left of them was ended.
        assert "已停止" in server.log()
        assert "Traceback" not in server.log()
        for thread in sending:
            thread.join()
        gone(workers)
        server.http.close()
        server.start()
        sending = [hung_up_on(server, scans) for scans in (62, 61)]
        workers = started(server)
        server.kill()
        for thread in sending:
            thread.join()
        gone(workers)


def hung_up_on(server: RunningServer, scans: int) -> threading.Thread:
    body = private_body("看图", user=f"late{scans}", images=(base64_of(slow_jpeg(7000, 7000, scans)),))
    base = server.base

    def send() -> None:
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as http:
            try:
                assert http.post("/api/chat/private", json=body).status_code in (200, 503)
            except httpx.TransportError:
                return

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def started(server: RunningServer) -> list[psutil.Process]:
    """The decoding processes, once the one for slow pictures is at work."""
    while len(workers := [child for child in decoding(server) if is_decoder(child)]) < 2:
        time.sleep(0.02)
    return workers


def is_decoder(process: psutil.Process) -> bool:
    try:
        return "qqvl_server.media.worker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
