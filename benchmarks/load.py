"""The group-chat workload: C chats at once, several turns each, pictures on some, the whole history sent every time.

Speaks the OpenAI door of any server, or this project's QQ door. Words are one token each in the checkpoint's own
tokenizer, so that every server gets the same number of tokens.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image


@dataclass(frozen=True, slots=True)
class Workload:
    """``picture_turns`` count from 1; ``edge`` is a picture's side in pixels; ``words`` are those to draw from."""

    words: Sequence[str]
    chats: int = 4
    turns: int = 6
    words_a_turn: int = 60
    picture_turns: tuple[int, ...] = (1, 4)
    edge: int = 448
    max_tokens: int = 64
    system_words: int = 40
    ignore_eos: bool = False
    think_s: float = 0.0
    seed: int = field(default_factory=lambda: time.time_ns() % 1_000_000)

    def text(self, chat: int, turn: int) -> str:
        drawn = random.Random(f"{self.seed}/{chat}/{turn}")
        return " ".join(drawn.choices(self.words, k=self.words_a_turn))

    def system(self) -> str:
        return " ".join(random.Random("system").choices(self.words, k=self.system_words))

    def picture(self, chat: int, turn: int) -> str:
        """A PNG of coloured tiles as base64; another one for every chat and turn."""
        drawn = random.Random(f"{self.seed}/{chat}/{turn}/picture")
        tiles = Image.frombytes("RGB", (14, 14), drawn.randbytes(14 * 14 * 3))
        out = io.BytesIO()
        tiles.resize((self.edge, self.edge), Image.Resampling.NEAREST).save(out, "PNG")
        return base64.b64encode(out.getvalue()).decode()


@dataclass(frozen=True, slots=True)
class Turn:
    """Times in seconds since the turn was sent; tokens as the server counted them."""

    chat: int
    turn: int
    first_s: float
    total_s: float
    prompt: int
    cached: int
    out: int
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    wall_s: float
    turns: list[Turn]

    def row(self) -> dict[str, Any]:
        """The figures of one run."""
        from figures import percentile

        first = [turn.first_s for turn in self.turns]
        out = sum(turn.out for turn in self.turns)
        prompt = sum(turn.prompt for turn in self.turns)
        gaps = [(turn.total_s - turn.first_s) / (turn.out - 1) for turn in self.turns if turn.out > 1]
        return {
            "out_tok_s": out / self.wall_s, "ttft_mean_s": sum(first) / len(first),
            "ttft_p95_s": percentile(first, 95), "turn_p95_s": percentile([t.total_s for t in self.turns], 95),
            "ms_per_token": 1000 * sum(gaps) / len(gaps) if gaps else None, "prompt_tokens": prompt,
            "cached": sum(turn.cached for turn in self.turns) / prompt if prompt else 0.0,
        }  # fmt: skip


async def group_chat(base: str, model: str, work: Workload, *, key: str = "", door: str = "openai") -> Outcome:
    """Run the workload to its end.

    Args:
        base: scheme, host and port; ``/v1`` is added for the OpenAI door.
        door: ``openai`` or ``qq``; the QQ door does not stream, so its first token comes with its last.

    Raises:
        httpx.HTTPStatusError: a turn was refused.
    """
    pictures = {(c, t): work.picture(c, t) for c in range(work.chats) for t in work.picture_turns if t <= work.turns}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=600, limits=limits, trust_env=False) as client:
        one = _qq_chat if door == "qq" else _openai_chat
        started = time.perf_counter()
        done = await asyncio.gather(*(one(client, model, work, chat, pictures) for chat in range(work.chats)))
        return Outcome(time.perf_counter() - started, [turn for turns in done for turn in turns])


async def _openai_chat(
    client: httpx.AsyncClient, model: str, work: Workload, chat: int, pictures: dict[tuple[int, int], str]
) -> list[Turn]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": work.system()}]
    turns = []
    for number in range(1, work.turns + 1):
        parts: list[dict[str, Any]] = [{"type": "text", "text": work.text(chat, number)}]
        if (chat, number) in pictures:
            url = f"data:image/png;base64,{pictures[chat, number]}"
            parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
        messages.append({"role": "user", "content": parts})
        body = {
            "model": model, "messages": messages, "max_tokens": work.max_tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if work.ignore_eos:
            body |= {"ignore_eos": True, "min_tokens": work.max_tokens}
        turns.append(await stream(client, body, chat, number))
        messages.append({"role": "assistant", "content": turns[-1].text})
        await asyncio.sleep(work.think_s)
    return turns


async def stream(client: httpx.AsyncClient, body: dict[str, Any], chat: int = 0, number: int = 1) -> Turn:
    """One streamed chat completion.

    Raises:
        httpx.HTTPStatusError: it was refused.
        RuntimeError: it failed under way.
    """
    started = time.perf_counter()
    first = 0.0
    pieces: list[str] = []
    usage: dict[str, Any] = {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            await answer.aread()
            raise httpx.HTTPStatusError(answer.text[:300], request=answer.request, response=answer)
        async for line in answer.aiter_lines():
            if not line.startswith("data:") or line.endswith("[DONE]"):
                continue
            event = json.loads(line[5:])
            if event.get("error"):
                raise RuntimeError(str(event["error"])[:300])
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                piece = (choice.get("delta") or {}).get("content")
                if piece:
                    first = first or time.perf_counter() - started
                    pieces.append(piece)
    total = time.perf_counter() - started
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    out = usage.get("completion_tokens") or len(pieces)
    return Turn(chat, number, first or total, total, usage.get("prompt_tokens") or 0, cached, out, "".join(pieces))


async def _qq_chat(
    client: httpx.AsyncClient, model: str, work: Workload, chat: int, pictures: dict[tuple[int, int], str]
) -> list[Turn]:
    turns = []
    for number in range(1, work.turns + 1):
        picture = pictures.get((chat, number))
        body = {
            "type": "group", "group_id": str(20_000_000 + work.seed * 100 + chat), "group_name": "load",
            "user_id": str(10_000 + chat), "user_nickname": "user", "user_card": "user",
            "content": work.text(chat, number), "at_me": True, "timestamp": time.time(),
            "images": [{"data": picture, "format": "png"}] if picture else [],
        }  # fmt: skip
        started = time.perf_counter()
        answer = await client.post("/api/chat/group", json=body)
        answer.raise_for_status()
        total = time.perf_counter() - started
        usage = answer.json().get("usage") or {}
        out = usage.get("completion_tokens") or work.max_tokens
        prompt, cached = usage.get("prompt_tokens") or 0, usage.get("cached_tokens") or 0
        turns.append(Turn(chat, number, total, total, prompt, cached, out, answer.json()["reply"]))
        await asyncio.sleep(work.think_s)
    return turns
