"""Every change by an owner's door leaves a line: who, from where, what, from what to what."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from qqvl_server.api.model_access import Caller
from qqvl_server.api.visitors import address
from qqvl_server.chat.audit import Audit, Change


class Auditor:
    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def note(self, request: Request, what: str, before: Any = None, after: Any = None) -> None:
        """Raises StorageFailed."""
        caller: Caller = request.scope["qqvl.caller"]
        await self._audit.add(Change(caller.name, address(request.scope), what, before, after))
