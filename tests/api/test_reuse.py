"""Nothing is computed twice: long chats read only what is new, and a picture is looked at once."""

from __future__ import annotations

import re

from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer


def counted(server: RunningServer, name: str) -> float:
    found = re.search(rf"^qqvl_{name}_total (\S+)$", server.http.get("/metrics").text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_a_long_chat_reads_little_more_than_what_is_new(bare: RunningServer) -> None:
    """Forty turns, so that the window is cut on the way: it is cut seldom, and between cuts everything is reused."""
    read, cached = counted(bare, "prompt_tokens"), counted(bare, "prefix_cached_tokens")
    for turn in range(40):
        bare.private(f"第 {turn} 句：今天我们聊一聊怎样把一盆绿萝养好，先说浇水，再说光照", user="long-chat")
    read, cached = counted(bare, "prompt_tokens") - read, counted(bare, "prefix_cached_tokens") - cached
    assert read > 10_000
    assert cached / read > 0.8


def test_turns_through_the_openai_door_say_what_was_reused(bare: RunningServer) -> None:
    before = 0
    messages = [{"role": "system", "content": "你是 qqvl，一个友好的聊天机器人。" * 3}]
    for turn in range(4):
        messages.append({"role": "user", "content": f"第 {turn} 句：我家的猫今天又把水杯推到了地上，你说怎么办"})
        answer = bare.http.post("/v1/chat/completions", json={"messages": messages, "temperature": 0}).json()
        usage = answer["usage"]
        if turn:
            # All but the last, unfinished block of the turn before.
            assert usage["prompt_tokens_details"]["cached_tokens"] >= before - 16
        before = usage["prompt_tokens"]
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})


def test_a_picture_sent_again_is_not_looked_at_again(bare: RunningServer) -> None:
    meme = base64_of(encoded(picture((0, 0, 255), "star", (200, 180))))
    bare.private("这是什么颜色？", user="meme-0", images=(meme,))
    looked = counted(bare, "vision_cache_misses")
    for user in range(1, 6):
        assert "蓝" in bare.private("这是什么颜色？", user=f"meme-{user}", images=(meme,))
        assert "蓝" in bare.group("这是什么颜色？", group=f"meme-{user}", images=(meme,))["reply"]
    assert counted(bare, "vision_cache_misses") == looked
