"""QQ and OpenAI at once on one engine: everybody gets their own answer, and nothing is left over."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

from tests.pictures import COLOURS, base64_picture
from tests.running import RunningServer

NAMES = ("小明", "小红", "小刚", "小丽")


def test_busy_chats_and_busy_streams_each_get_their_own_answer(bare: RunningServer) -> None:
    def chat(number: int) -> tuple[bool, bool]:
        name, colour = NAMES[number % 4], list(COLOURS)[number]
        user = f"both-{number}"
        bare.private(f"我叫{name}", user=user)
        seen = bare.private("这是什么颜色？", user=user, images=(base64_picture(COLOURS[colour]),))
        return colour in seen, name in bare.private("我叫什么名字？", user=user)

    def stream(number: int) -> tuple[bool, bool]:
        colour = list(COLOURS)[-1 - number]
        url = f"data:image/png;base64,{base64_picture(COLOURS[colour])}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "这是什么颜色？"}]
        body = {"messages": [{"role": "user", "content": parts}], "stream": True, "temperature": 0}
        with bare.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
        deltas = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
        return colour in "".join(deltas), events[-1] == "[DONE]"

    with ThreadPoolExecutor(12) as pool:
        chats = [pool.submit(chat, number) for number in range(6)]
        streams = [pool.submit(stream, number) for number in range(6)]
        outcomes = [future.result() for future in chats + streams]
    # One of the tiny model's answers may be wrong; a mix-up would cost many.
    assert sum(right for outcome in outcomes for right in outcome) >= 2 * len(outcomes) - 1
    for gauge in ("running", "waiting"):
        found = re.search(rf"^qqvl_requests_{gauge} (\S+)$", bare.http.get("/metrics").text, re.MULTILINE)
        assert found is not None
        assert float(found[1]) == 0
