"""The chat server as the client sees it: one POST per message, retried only where that is safe."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from qqvl_client.affinity import HEADER, session_of
from qqvl_client.bodies import reply_of, words_of
from qqvl_client.errors import AnswerLostError, ServerAwayError, ServerError, ServerRefusedError
from qqvl_client.message import Chat
from qqvl_client.outgoing import Reply, outgoing_of
from qqvl_client.pieces import Pieces
from qqvl_client.posting import Place, Posts, Trace
from qqvl_client.settings import Settings
from qqvl_client.sse import events
from qqvl_client.standing import connected, standing_with

LOG = logging.getLogger("qqvl.server")
NOT_ANSWERED = frozenset({408, 409, 425, 429, 502, 503, 504})
# A front's words for a server that went away: before it had the message, or while it answered.
PERHAPS_ANSWERED = frozenset({502, 504})
MAX_ANSWER = 10_000_000
EVENTS = "text/event-stream"
# The codes of error bodies, docs/qq.md: what an event stream tells in place of a status.
REFUSED = frozenset({"invalid_request", "image_rejected", "context_length_exceeded", "payload_too_large", "forbidden"})
BUSY = frozenset(
    {"busy", "rate_limit_exceeded", "model_loading", "shutting_down", "storage_failed", "engine_dead", "upstream_away"}
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One POST about a chat; ``trace`` hears how far it came, ``pieces`` what is finished of the answer."""

    chat: Chat
    path: str
    body: bytes
    request_id: str = ""
    trace: Trace | None = None
    pieces: Pieces | None = None


class ServerApi:
    """Asks the chat server; every failure is one of the three kinds of ServerError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http = connected(settings)
        self._posts = Posts(settings.parallel_chats)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def look(self) -> None:
        """Ask once, at the start, whether this is our server and takes our key, and tell the owner where not."""
        url = self._settings.server_url
        standing = await standing_with(self._http, self._settings)
        if standing.kind == "away":
            LOG.warning(
                "对话服务器 %s 现在没有回答（%s）：没启动就启动它，地址不对就改 server_url；会一直重试",
                url,
                standing.words,
            )
        elif standing.kind == "locked":
            LOG.error("对话服务器不让进：%s。api_key（QQVL_API_KEY）要与服务器的 api_keys 之一相同", standing.words)
        elif standing.kind == "foreign":
            LOG.error("%s 不是对话服务器：server_url 只写到端口，后面不要带 /v1 之类的路径", url)

    async def ask(
        self,
        chat: Chat,
        body: bytes,
        repeatable: bool,
        accepted: asyncio.Event,
        pieces: Pieces | None = None,
        request_id: str = "",
    ) -> Reply:
        """Post a message until it is answered, refused or too late.

        Args:
            repeatable: it carries a message_id.
            accepted: set once the server has the message, so that the chat's next may follow it.
            pieces: where what is finished of the answer is put meanwhile, should the server tell.
        """
        with self._posts.enter(chat.key) as place:
            await place.turn()
            retrying = AsyncRetrying(
                stop=_enough(self._settings, repeatable),
                wait=_pause(self._settings),
                retry=lambda state: state.outcome is not None and _worth_repeating(state.outcome.exception()),
                before_sleep=_log_retry,
                reraise=True,
            )
            asked = _Asked(chat, f"/api/chat/{chat.kind}", body, request_id, place.trace, pieces or Pieces())
            return await retrying(self._ask_once, asked, repeatable, place, accepted)

    async def tell(self, chat: Chat, path: str, body: bytes, request_id: str = "") -> Any:
        """Post something about a chat that is not a message, once; the answer's JSON. Raises ServerError."""
        return _said(*await self._post(_Asked(chat, path, body, request_id)))

    async def stands(self, status: bytes) -> bool:
        """Tell it how our line stands; whether it would take a message now. One that knows no such door would."""
        try:
            async with asyncio.timeout(2 * self._settings.connect_timeout_s):
                answer = await self._http.post("/api/client/status", content=status)
        except (httpx.HTTPError, TimeoutError):
            return False
        if answer.status_code != 200:
            return answer.status_code < 500
        said = _json(answer.text)
        return not (isinstance(said, dict) and said.get("ready") is False)

    async def _ask_once(self, asked: _Asked, repeatable: bool, place: Place, accepted: asyncio.Event) -> Reply:
        async with place.slot():
            place.on_settled(len(asked.body), accepted.set)
            if asked.pieces is not None:
                asked.pieces.begin()
            told = await self._post(asked)
            answer = _said(*told, is_lost=PERHAPS_ANSWERED if not repeatable else frozenset())
        return reply_of(asked.chat.kind, answer)

    async def _post(self, asked: _Asked) -> tuple[int, httpx.Headers, bytes]:
        headers = {HEADER: session_of(asked.chat, self._settings.api_key.get_secret_value())}
        if asked.request_id:
            headers["X-Request-ID"] = asked.request_id
        pieces = asked.pieces
        try:
            # httpx's read timeout starts anew with every byte; this one does not.
            async with asyncio.timeout(self._settings.server_timeout_s):
                extensions = {"trace": asked.trace} if asked.trace else {}
                stream = self._http.stream(
                    "POST", asked.path, content=asked.body, headers=headers, extensions=extensions
                )
                async with stream as answer:
                    told = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                    if pieces is not None and answer.status_code == 200 and told == EVENTS:
                        return 200, answer.headers, await _told_by_and_by(answer, pieces)
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


def _said(status: int, headers: httpx.Headers, payload: bytes, is_lost: frozenset[int] = frozenset()) -> Any:
    """The answer's JSON; raises ServerError for whatever else came back.

    Args:
        is_lost: statuses that leave it open whether there was an answer, where asking again would be asking twice.
    """
    if status in NOT_ANSWERED - is_lost:
        raise ServerAwayError(f"服务器回答 {status}：{words_of(payload)}", _retry_after(headers))
    if status >= 500 or 300 <= status < 400:
        raise AnswerLostError(f"服务器回答 {status}：{words_of(payload)}")
    if status >= 400:
        raise ServerRefusedError(f"服务器回答 {status}：{words_of(payload)}", status)
    try:
        return json.loads(payload)
    except ValueError:
        raise AnswerLostError("服务器的答复不是 JSON") from None


async def _told_by_and_by(answer: httpx.Response, pieces: Pieces) -> bytes:
    """The whole answer's JSON, which comes last; every message of it is handed on when it comes.

    The server answers 200 before it knows how it ends: its `error` is told here by its code, and may have run.
    """
    async for event in events(answer.aiter_text(), MAX_ANSWER):
        if event.name == "done":
            return event.data.encode("utf-8", "replace")
        if event.name == "error":
            raise _failure(event.data.encode("utf-8", "replace"))
        if event.name == "message" and (message := outgoing_of(_json(event.data))):
            pieces.put(message)
    raise AnswerLostError("服务器的答复断在半路")


def _failure(payload: bytes) -> ServerError:
    words = f"服务器说没有答成：{words_of(payload)}"
    code = _code(payload)
    if code in REFUSED:
        return ServerRefusedError(words, 400)
    return ServerAwayError(words) if code in BUSY else AnswerLostError(words)


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


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _code(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["error"]["code"])
    except (ValueError, TypeError, KeyError):
        return ""


def notice_for(error: ServerError) -> str:
    """What the asker may be told about a failure."""
    return f"（{error.notice}）"
