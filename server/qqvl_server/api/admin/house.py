"""What an owner sees and changes of the whole server: settings, personas, word lists, the ledger, who changed what."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from qqvl_server import language
from qqvl_server.api import error_bodies
from qqvl_server.api.admin.auditing import Auditor
from qqvl_server.api.body import read_object
from qqvl_server.api.document import request_body
from qqvl_server.api.door import Door, Lock
from qqvl_server.api.fields import Model
from qqvl_server.api.validation import validated
from qqvl_server.chat.audit import Audit
from qqvl_server.chat.books import Books
from qqvl_server.chat.persona_files import PersonaFiles
from qqvl_server.chat.steering import Steering
from qqvl_server.chat.words.files import Side, WordFiles
from qqvl_server.keys import Scope

_LIMITS = ("user_messages_per_day", "group_messages_per_day", "user_seconds_per_day", "group_seconds_per_day")
# Each may be null; what else it may be is said by the settings.
_SETTINGS = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "properties": {"chat.group_reply": {}}}}},
    }
}


class TextBody(Model):
    """A whole file."""

    text: Annotated[str, Field(max_length=1_000_000)]


class WordsBody(TextBody):
    """``blocks``: what comes from QQ (in), what the model says (out), or both; null leaves it as it is."""

    blocks: Side | None = None


@dataclass(frozen=True, slots=True)
class House:
    """``words`` is the folder of the lists that are made here."""

    steering: Steering
    books: Books
    audit: Audit
    personas: PersonaFiles
    words: Path


def build(house: House) -> Door:
    router = APIRouter(tags=["admin"])
    auditor = Auditor(house.audit)
    _add_settings(router, house, auditor)
    _add_personas(router, house, auditor)
    _add_words(router, house, auditor)
    _add_books(router, house)
    prefixes = ("/admin/settings", "/admin/personas", "/admin/words", "/admin/ledger", "/admin/audit")
    return Door("admin", prefixes, Scope.ADMIN, router, error_bodies.own, lock=Lock.WRITES)


def _add_settings(router: APIRouter, house: House, auditor: Auditor) -> None:
    def listed(lang: str) -> list[dict[str, Any]]:
        found = house.steering.listed()
        if lang != "en":
            return found
        return [one | {"description": language.english(one["description"])} for one in found]

    @router.get("/admin/settings")
    async def settings(lang: Literal["zh", "en"] = Query("zh")) -> dict[str, Any]:
        """Every setting with its value, where it comes from, and whether it can be changed here. ``lang`` is that of
        the descriptions."""
        return {"settings": listed(lang)}

    @router.post("/admin/settings", openapi_extra=_SETTINGS)
    async def change(request: Request) -> Response:
        """Settings by ``section.name``; null is as without the page. Those that hold at once: chat and observe."""
        for name, (before, after) in (await house.steering.change(await read_object(request))).items():
            await auditor.note(request, f"settings {name}", before, after)
        return JSONResponse({"settings": listed(request.query_params.get("lang", "zh"))})


def _add_personas(router: APIRouter, house: House, auditor: Auditor) -> None:
    @router.get("/admin/personas")
    async def personas() -> dict[str, Any]:
        return {"personas": [asdict(one) for one in await asyncio.to_thread(house.personas.all)]}

    @router.post("/admin/personas/{file}", openapi_extra=request_body(TextBody))
    async def write(request: Request, file: str) -> dict[str, Any]:
        """The whole file, front matter and prompt; it holds at once. One that would not work is refused."""
        body = validated(TextBody, await read_object(request))
        before = await asyncio.to_thread(house.personas.get, file)
        after = await asyncio.to_thread(house.personas.write, file, body.text)
        await auditor.note(request, f"persona {file}", before and before.text, after.text)
        return asdict(after)

    @router.delete("/admin/personas/{file}")
    async def delete(request: Request, file: str) -> dict[str, bool]:
        before = await asyncio.to_thread(house.personas.get, file)
        await asyncio.to_thread(house.personas.delete, file)
        await auditor.note(request, f"persona {file}", before and before.text)
        return {"deleted": True}


def _add_words(router: APIRouter, house: House, auditor: Auditor) -> None:
    def files() -> WordFiles:
        # Those that the page itself named could be any file of this machine.
        named = house.steering.below.settings.chat
        return WordFiles(house.words, named.block_words_in, named.block_words_out)

    @router.get("/admin/words")
    async def words() -> dict[str, Any]:
        """The files that the settings name and the lists that were made here; words that stand in block_words_in and
        block_words_out themselves are settings."""
        return {"lists": [asdict(one) for one in await asyncio.to_thread(files().all)]}

    @router.post("/admin/words/{name}", openapi_extra=request_body(WordsBody))
    async def write(request: Request, name: str) -> dict[str, Any]:
        """A whole list, a word a line; it holds within a second. A new name makes a new list."""
        body = validated(WordsBody, await read_object(request))
        before = await asyncio.to_thread(files().get, name)
        after = await asyncio.to_thread(files().write, name, body.text, body.blocks)
        await auditor.note(request, f"words {name}", before and before.text, after.text)
        return asdict(after)

    @router.delete("/admin/words/{name}")
    async def delete(request: Request, name: str) -> dict[str, bool]:
        """A list that was made here; those that the settings name stay."""
        before = await asyncio.to_thread(files().get, name)
        await asyncio.to_thread(files().delete, name)
        await auditor.note(request, f"words {name}", before and before.text)
        return {"deleted": True}


def _add_books(router: APIRouter, house: House) -> None:
    @router.get("/admin/ledger")
    async def ledger(day: str = Query("", pattern=r"^(\d{4}-\d\d-\d\d)?$")) -> dict[str, Any]:
        """What people and groups had of the bot on a day; today, where none is named."""
        meant = day or time.strftime("%Y-%m-%d")
        now = house.steering.now.settings.chat
        limits = {name: getattr(now, name) for name in _LIMITS}
        return {"day": meant, "rows": await house.books.day(meant), "limits": limits}

    @router.get("/admin/audit")
    async def audit(
        before: int | None = Query(None, ge=1, le=2**62), limit: int = Query(100, ge=1, le=1000)
    ) -> dict[str, Any]:
        """What was changed by these doors, the newest first."""
        return {"changes": [asdict(change) for change in await house.audit.page(before, limit)]}
