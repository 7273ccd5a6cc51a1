"""The chat server as the client sees it: one POST per message, retried only where that is safe."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from qqvl_client.errors import AnswerLostError, ServerAwayError, ServerError, ServerRefusedError
from qqvl_client.message import IncomingMessage, Picture, Quote, Reply
from qqvl_client.settings import Settings, is_loopback

LOG = logging.getLogger("qqvl.server")
NOT_ANSWERED = frozenset({408, 409, 425, 429, 502, 503, 504})
MAX_ANSWER = 10_000_000
MAX_SEGMENTS = 1000


def body_of(message: IncomingMessage) -> bytes:
    """The request's JSON: the spec's fields first, then the optional ones."""
    event = message.event
    body: dict[str, Any] = {"type": event.chat.kind}
    if event.chat.kind == "group":
        body |= {"group_id": event.chat.id, "group_name": message.group_name}
    body |= {"user_id": event.sender.id, "user_nickname": event.sender.nickname}
    if event.chat.kind == "group":
        body["user_card"] = event.sender.card
    body |= {"content": message.content, "images": _images(message.pictures), "timestamp": event.sent_at}
    optional = {
        "message_id": event.id,
        "self_id": event.chat.self_id,
        "reply_to": _quote(message.quote),
        "segments": list(message.segments) if len(message.segments) <= MAX_SEGMENTS else [],
        "message_type": event.chat.kind,
        "sub_type": event.sub_type,
        "sender_role": event.sender.role if event.chat.kind == "group" else "",
        "self_nickname": message.self_nickname,
        "self_card": message.self_card,
    }
    body["at_me"] = message.at_me
    body |= {name: value for name, value in optional.items() if value}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def as_context(body: bytes) -> bytes:
    """The same request, to be remembered and not answered. Bodies hold megabytes: never parsed again for a word."""
    return body.removesuffix(b"}") + b', "context_only": true}'


def _images(pictures: tuple[Picture, ...]) -> list[dict[str, str]]:
    return [{"data": base64.b64encode(p.data).decode("ascii"), "format": p.format} for p in pictures]


def _quote(quote: Quote | None) -> dict[str, Any] | None:
    if quote is None:
        return None
    return {
        "id": quote.id,
        "text": quote.text,
        "user_id": quote.user_id,
        "user_nickname": quote.user_nickname,
        "images": _images(quote.pictures),
    }


def reply_of(kind: str, answer: Any) -> Reply:
    """What to say for an answer; raises AnswerLostError when it is not one of ours."""
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        raise AnswerLostError("服务器的答复里没有 status: success")
    if kind == "group" and answer.get("should_reply") is not True:
        return Reply(())
    messages = answer.get("messages")
    parts = [m.get("text") for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
    texts = parts or [answer.get("reply")]
    return Reply(tuple(text for text in texts if isinstance(text, str) and text.strip()))


class ServerApi:
    """Asks the chat server; every failure is one of the three kinds of ServerError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        timeout = httpx.Timeout(settings.server_timeout_s, connect=settings.connect_timeout_s, pool=None)
        key = settings.api_key.get_secret_value()
        local = is_loopback(urlsplit(settings.server_url).hostname)
        self._http = httpx.AsyncClient(
            base_url=settings.server_url,
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=timeout,
            trust_env=False,
            proxy=None if local else settings.proxy or None,
            limits=httpx.Limits(max_connections=settings.parallel_chats),
        )
        self._slots = asyncio.Semaphore(settings.parallel_chats)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def look(self) -> None:
        """Ask once, at the start, whether this is our server and takes our key, and tell the owner where not.

        A GET of the door that takes messages is refused for its method, after the key was looked at.
        """
        url, patience = self._settings.server_url, self._settings.connect_timeout_s
        try:
            health = await self._http.get("/health", timeout=patience)
            door = await self._http.get("/api/chat/private", timeout=patience)
        except httpx.HTTPError as error:
            name = type(error).__name__
            LOG.warning(
                "对话服务器 %s 现在没有回答（%s）：没启动就启动它，地址不对就改 server_url；会一直重试", url, name
            )
            return
        if door.status_code in (401, 403):
            LOG.error(
                "对话服务器不让进：%s。api_key（QQVL_API_KEY）要与服务器的 api_keys 之一相同", _words(door.content)
            )
        elif door.status_code == 404 or not _is_health(health):
            LOG.error("%s 不是对话服务器：server_url 只写到端口，后面不要带 /v1 之类的路径", url)

    async def ask(self, kind: Literal["group", "private"], body: bytes, repeatable: bool) -> Reply:
        """Post a message until it is answered, refused or too late. `repeatable`: it carries a message_id."""
        retrying = AsyncRetrying(
            stop=_enough(self._settings, repeatable),
            wait=_pause(self._settings),
            retry=lambda state: state.outcome is not None and _worth_repeating(state.outcome.exception()),
            before_sleep=_log_retry,
            reraise=True,
        )
        return await retrying(self._ask_once, kind, body)

    async def _ask_once(self, kind: str, body: bytes) -> Reply:
        async with self._slots:
            status, headers, payload = await self._post(kind, body)
        if status in NOT_ANSWERED:
            raise ServerAwayError(f"服务器回答 {status}：{_words(payload)}", _retry_after(headers))
        if status >= 500 or 300 <= status < 400:
            raise AnswerLostError(f"服务器回答 {status}：{_words(payload)}")
        if status >= 400:
            raise ServerRefusedError(f"服务器回答 {status}：{_words(payload)}", status)
        try:
            answer = json.loads(payload)
        except ValueError:
            raise AnswerLostError("服务器的答复不是 JSON") from None
        return reply_of(kind, answer)

    async def _post(self, kind: str, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        try:
            # httpx's read timeout starts anew with every byte; this one does not.
            async with asyncio.timeout(self._settings.server_timeout_s):
                async with self._http.stream("POST", f"/api/chat/{kind}", content=body) as answer:
                    payload = bytearray()
                    async for chunk in answer.aiter_bytes():
                        payload += chunk
                        if len(payload) > MAX_ANSWER:
                            raise AnswerLostError("服务器的答复太长")
                    return answer.status_code, answer.headers, bytes(payload)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise ServerAwayError(f"连不上服务器（{type(error).__name__}）") from None
        except (httpx.TimeoutException, TimeoutError):
            raise AnswerLostError("等不到服务器的答复") from None
        except httpx.HTTPError as error:
            raise AnswerLostError(f"服务器的答复断在半路（{type(error).__name__}）") from None


def _worth_repeating(error: BaseException | None) -> bool:
    return isinstance(error, ServerAwayError | AnswerLostError)


def _enough(settings: Settings, repeatable: bool) -> Callable[[RetryCallState], bool]:
    lost = 0
    lost_allowed = settings.lost_answer_retries if repeatable else 0

    def stop(state: RetryCallState) -> bool:
        nonlocal lost
        lost += isinstance(state.outcome and state.outcome.exception(), AnswerLostError)
        late = (state.seconds_since_start or 0) + state.upcoming_sleep > settings.answer_within_s
        return late or lost > lost_allowed

    return stop


def _pause(settings: Settings) -> Callable[[RetryCallState], float]:
    jitter = wait_random_exponential(multiplier=settings.retry_base_s, max=settings.retry_max_s)

    def pause(state: RetryCallState) -> float:
        error = state.outcome and state.outcome.exception()
        asked = error.retry_after if isinstance(error, ServerAwayError) else None
        return jitter(state) + (asked or 0)

    return pause


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    LOG.warning("%s；%.1f 秒后第 %d 次重试", error, state.upcoming_sleep, state.attempt_number)


def _retry_after(headers: httpx.Headers) -> float | None:
    value = headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def _is_health(answer: httpx.Response) -> bool:
    try:
        return "status" in answer.json()
    except (ValueError, TypeError):
        return False


def _words(payload: bytes) -> str:
    try:
        error = json.loads(payload).get("error")
        return f"{error['code']} {error['message']}"[:200]
    except (ValueError, TypeError, KeyError, AttributeError):
        return payload[:100].decode("utf-8", "replace")


def notice_for(error: ServerError) -> str:
    """What the asker may be told about a failure."""
    return f"（{error.notice}）"
