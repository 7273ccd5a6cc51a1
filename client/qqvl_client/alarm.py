"""Calls an address of the owner's when QQ itself cannot carry the news: Bark, ServerChan, ntfy or their like."""

from __future__ import annotations

import logging
from typing import Literal
from urllib.parse import urlsplit

import httpx

from qqvl_client.settings import Settings, is_loopback

LOG = logging.getLogger("qqvl.alarm")


class Alarm:
    """JSON by POST to `alert_url`; nothing where none is set."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.alert_url.get_secret_value()
        local = is_loopback(urlsplit(self._url).hostname)
        timeout = httpx.Timeout(2 * settings.connect_timeout_s, connect=settings.connect_timeout_s)
        self._http = httpx.AsyncClient(
            timeout=timeout, trust_env=False, proxy=None if local else settings.proxy or None
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ring(self, title: str, text: str, state: Literal["up", "down"], self_id: str) -> bool:
        """Whether it was taken, or nobody wants it; else it is worth another try.

        The words stand under every name that one of these services has for them: body (Bark), desp (ServerChan),
        content (PushPlus), message (ntfy, Gotify).
        """
        if not self._url:
            return True
        body = {"title": title, **dict.fromkeys(("body", "desp", "content", "message", "text"), text)}
        try:
            answer = await self._http.post(self._url, json=body | {"link": state, "self_id": self_id})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            LOG.warning("没能通知 alert_url（%s），等会儿再试", type(error).__name__)
            return False
        if answer.is_success:
            return True
        LOG.warning("alert_url 回答 %d，没有收下通知", answer.status_code)
        # Refused for what it is, it would be refused again.
        return answer.status_code < 500
