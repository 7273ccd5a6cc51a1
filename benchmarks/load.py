"""The group-chat workload: C chats at once, several turns each, pictures on some, the whole history sent every time.

Speaks the OpenAI door of any server, or this project's QQ door. Words are one token each in the checkpoint's own
tokenizer, so that every server gets the same number of tokens.
"""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from figures import percentile
from PIL import Image
from wire import events, whole


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
        base: scheme, host and port, without ``/v1``.
        door: ``openai`` or ``qq``; the QQ door does not stream, so its first token comes with its last.

    Raises:
        As ``wire.events``.
    """
    pictures = {(c, t): work.picture(c, t) for c in range(work.chats) for t in work.picture_turns if t <= work.turns}
    one = _qq_chat if door == "qq" else _openai_chat
    target = Target(base, model, key)
    started = time.perf_counter()
    done = await asyncio.gather(*(one(target, work, chat, pictures) for chat in range(work.chats)))
    return Outcome(time.perf_counter() - started, [turn for turns in done for turn in turns])


@dataclass(frozen=True, slots=True)
class Target:
    base: str
    model: str = "m"
    key: str = ""


async def _openai_chat(
    target: Target, work: Workload, chat: int, pictures: Mapping[tuple[int, int], str]
) -> list[Turn]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": work.system()}]
    turns = []
    for number in range(1, work.turns + 1):
        messages.append(said(work.text(chat, number), pictures.get((chat, number))))
        more = {"ignore_eos": True, "min_tokens": work.max_tokens} if work.ignore_eos else {}
        turns.append(await ask(target, messages, work.max_tokens, chat=chat, number=number, **more))
        messages.append({"role": "assistant", "content": turns[-1].text})
        await asyncio.sleep(work.think_s)
    return turns


def said(text: str, picture: str | None = None) -> dict[str, Any]:
    """A user's message in OpenAI's shape; ``picture`` is a PNG in base64."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture:
        parts.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}})
    return {"role": "user", "content": parts}


async def ask(
    target: Target, messages: list[dict[str, Any]], max_tokens: int, *, chat: int = 0, number: int = 1, **more: Any
) -> Turn:
    """One streamed, greedy chat completion.

    Raises:
        As ``wire.events``.
    """
    body = {
        "model": target.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, **more,
    }  # fmt: skip
    started = time.perf_counter()
    first = 0.0
    pieces: list[str] = []
    usage: dict[str, Any] = {}
    async for event in events(target.base, "/v1/chat/completions", body, target.key):
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


async def _qq_chat(target: Target, work: Workload, chat: int, pictures: Mapping[tuple[int, int], str]) -> list[Turn]:
    turns = []
    for number in range(1, work.turns + 1):
        group = str(20_000_000 + work.seed * 100 + chat)
        turns.append(await ask_qq(target, group, work.text(chat, number), pictures.get((chat, number)), chat, number))
        await asyncio.sleep(work.think_s)
    return turns


async def ask_qq(
    target: Target, group: str, text: str, picture: str | None = None, chat: int = 0, number: int = 1
) -> Turn:
    """One message in a group through the QQ door; how long replies may be is the server's setting.

    Raises:
        As ``wire.post``.
    """
    body = {
        "type": "group", "group_id": group, "group_name": "load", "user_id": "10001", "user_nickname": "user",
        "user_card": "user", "content": text, "at_me": True, "timestamp": time.time(),
        "images": [{"data": picture, "format": "png"}] if picture else [],
    }  # fmt: skip
    started = time.perf_counter()
    answer = await whole(target.base, "/api/chat/group", body, target.key)
    total = time.perf_counter() - started
    usage = answer.get("usage") or {}
    prompt, cached, out = (
        int(usage.get(name) or 0) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    )
    return Turn(chat, number, total, total, prompt, cached, out, str(answer.get("reply")))
