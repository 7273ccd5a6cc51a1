"""A script is played at a server's real QQ door, line by line, and what comes is held against what is expected."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

import httpx

from qqvl_server.chat.playscript import Expected, Line, Script, answered
from qqvl_server.errors import QqvlError

# What the server itself waits at most for the same speaker's next line; behind a longer pause nothing is merged.
_PAUSE_S: Final = 10.0
_TIMEOUT_S: Final = 330.0
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Played:
    """``wrong`` is what was expected and did not come; empty where all is well."""

    line: Line
    speaker: str
    said: str
    reason: str
    wrong: tuple[str, ...] = ()


class Play:
    """One run of a script against the server at ``url``; use as a context manager."""

    def __init__(self, script: Script, url: str, headers: Mapping[str, str]) -> None:
        self._script = script
        self._http = httpx.Client(base_url=url, headers=dict(headers), timeout=_TIMEOUT_S, trust_env=False)
        self._group = f"try-{secrets.token_hex(6)}"
        self._began = time.time()
        self._said: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="qqvl-try")

    def __enter__(self) -> Play:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        try:
            self._http.delete(f"/api/page/tries/{self._group}")
        except httpx.HTTPError:
            # A day later the server deletes it by itself.
            pass
        finally:
            self._http.close()

    def run(self) -> Iterator[Played]:
        """Each line as soon as it and all before it are answered.

        Raises:
            QqvlError: the server cannot be reached, or refuses.
        """
        if self._script.settings:
            self._post(f"/admin/chats/group/{self._group}/settings", self._script.settings)
        waiting: list[tuple[Line, Future[dict[str, Any]]]] = []
        for number, line in enumerate(self._script.lines):
            future = self._pool.submit(self._play, line)
            waiting.append((line, future))
            later = self._script.lines[number + 1].at_s if number + 1 < len(self._script.lines) else float("inf")
            # As in a group: who speaks soon after may be answered together with what was said before.
            wait([future], timeout=None if later - line.at_s >= _PAUSE_S else later - line.at_s)
            while waiting and waiting[0][1].done():
                yield self._played(*waiting.pop(0))
        for line, future in waiting:
            yield self._played(line, future)

    def _play(self, line: Line) -> dict[str, Any]:
        if line.recall is not None:
            body = {"group_id": self._group, "message_id": _sent_id(line.recall)}
            return self._post("/api/chat/group/recall", body)
        answer = self._post("/api/chat/group", self._body(line))
        if answer["should_reply"]:
            ids = [f"{line.id}/reply/{number}" for number in range(len(answer["messages"]))]
            self._said |= zip(ids, (_text_of(message) for message in answer["messages"]), strict=True)
            report = {"group_id": self._group, "message_id": line.id, "sent_ids": ids}
            self._post("/api/chat/group/sent", report)
        return answer

    def _body(self, line: Line) -> dict[str, Any]:
        script, bot = self._script, self._script.bot
        member = script.member(line.sender or "")
        names = {bot.id: bot.card or bot.name} | {one.id: one.card or one.name or one.id for one in script.members}
        segments: list[dict[str, Any]] = [
            {"type": "at", "user_id": who, "text": f"@{names.get(who, who)} "} for who in line.at
        ]
        text = line.text
        for who in line.at:
            # A mention that is written out in the words is the one that is meant.
            text = text.replace(f"@{names.get(who, who)}", "", 1)
        segments.append({"type": "text", "text": text.strip()})
        body = {
            "type": "group", "group_id": self._group, "group_name": script.group.name, "user_id": member.id,
            "user_nickname": member.name, "user_card": member.card, "sender_role": member.role,
            "sender_is_bot": member.is_bot, "content": "".join(segment["text"] for segment in segments),
            "segments": segments, "images": [{"data": data} for data in line.images], "message_id": line.id,
            "self_id": bot.id, "self_nickname": bot.name, "self_card": bot.card, "at_me": bot.id in line.at,
            "timestamp": self._began + line.at_s,
        }  # fmt: skip
        return body if line.quote is None else body | {"reply_to": self._quoted(line.quote, names)}

    def _quoted(self, quote: str, names: Mapping[str, str]) -> dict[str, Any]:
        if answered(quote):
            bot, sent = self._script.bot, _sent_id(quote)
            return {"id": sent, "text": self._said.get(sent, ""), "user_id": bot.id, "user_nickname": bot.name}
        line = next(line for line in self._script.lines if line.id == quote)
        sender = line.sender or ""
        return {"id": line.id, "text": line.text, "user_id": sender, "user_nickname": names.get(sender, sender)}

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise QqvlError(f"连不上服务器 {self._http.base_url}：请检查地址，它要在运行") from error
        if answer.status_code != 200:
            raise QqvlError(f"服务器不接受（{answer.status_code}）：{_reason(answer)}")
        value: dict[str, Any] = answer.json()
        return value

    def _played(self, line: Line, future: Future[dict[str, Any]]) -> Played:
        answer = future.result()
        if line.recall is not None:
            return Played(line, "", "", "recall")
        member = self._script.member(line.sender or "")
        said, reason = answer["reply"] if answer["should_reply"] else "", answer.get("reason", "")
        name = member.card or member.name or member.id
        return Played(line, name, said, reason, tuple(_wrong(line.expect, said, reason)))


def _sent_id(name: str) -> str:
    """What a line, or what the bot said to it, goes by in this group."""
    found = answered(name)
    return f"{found[0]}/reply/{found[1]}" if found else name


def _text_of(message: Mapping[str, Any]) -> str:
    if message.get("text") is not None:
        return str(message["text"])
    if message.get("segments"):
        return "".join(str(segment["data"].get("text", "")) for segment in message["segments"])
    return "\n".join(str(node["text"]) for node in message.get("forward") or ())


def _wrong(expected: Expected, said: str, reason: str) -> Iterator[str]:
    if expected.speaks is not None and expected.speaks != bool(said):
        yield "应该回答，却没说话" if expected.speaks else "不该说话，却说了"
    if expected.reason is not None and expected.reason != reason:
        yield f"原因应是 {expected.reason}，却是 {reason}"
    for word in expected.contains:
        if word not in said:
            yield f"回答里应有“{word}”"
    for word in expected.not_contains:
        if word in said:
            yield f"回答里不该有“{word}”"
    if expected.matches is not None and not re.search(expected.matches, said):
        yield f"回答里应找得到 {expected.matches}"


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "没有说明"


def shown(played: Played) -> str:
    """A line for people."""
    if played.line.recall is not None:
        return f"  {played.line.id} 撤回 {played.line.recall}"
    said = " ".join(played.said.split())
    told = f"“{said[:_SHOWN]}{'…' if len(said) > _SHOWN else ''}”" if said else "不说话"
    text = " ".join(played.line.text.split())[:_SHOWN] or "[图片]"
    mark = "✗" if played.wrong else "✓"
    return f"{mark} {played.line.id} {played.speaker}：{text} → {told}（{played.reason}）" + "".join(
        f"\n    {wrong}" for wrong in played.wrong
    )
