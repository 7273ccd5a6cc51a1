"""The part of the composition that is the page's and the owner's: what stands behind those doors. ``app`` calls it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qqvl_server import keys
from qqvl_server.api.admin import chats, house
from qqvl_server.api.admin.auditing import Auditor
from qqvl_server.api.admin.chats import Chats
from qqvl_server.api.admin.house import House
from qqvl_server.api.admin.routes import Status
from qqvl_server.api.door import Door
from qqvl_server.api.model_access import ModelAccess
from qqvl_server.api.page import conversations, live, pictures, plays, session, tries
from qqvl_server.api.page.conversations import Talks
from qqvl_server.api.page.session import Desk
from qqvl_server.api.web import routes as web
from qqvl_server.chat.audit import Audit
from qqvl_server.chat.care import Care
from qqvl_server.chat.conversations.talking import Talking
from qqvl_server.chat.page_settings import PageSettings
from qqvl_server.chat.persona_files import PersonaFiles
from qqvl_server.chat.plays import Plays
from qqvl_server.chat.retelling import Retelling
from qqvl_server.chat.service import ChatService
from qqvl_server.chat.steering import Steering
from qqvl_server.chat.store import Store
from qqvl_server.config import Resolved
from qqvl_server.generation.port import Voice
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.links import Links
from qqvl_server.observe.metrics import Metrics
from qqvl_server.observe.pulse import Pulse
from qqvl_server.signin import SignIn


@dataclass(frozen=True, slots=True)
class Rooms:
    """What ``app`` has built. ``voice`` raises while there is none; ``status`` is as /health tells it."""

    resolved: Resolved
    data_dir: Path
    is_demo: bool
    store: Store
    service: ChatService
    access: ModelAccess
    voice: Callable[[], Voice]
    status: Status
    library: ImageLibrary
    metrics: Metrics
    links: Links
    sign_in: SignIn


@dataclass(frozen=True, slots=True)
class Front:
    """``idle`` returns once no answer is being made for the page."""

    doors: tuple[Door, ...]
    idle: Callable[[], Awaitable[None]]


@asynccontextmanager
async def opened(rooms: Rooms) -> AsyncIterator[Front]:
    """What runs beside the doors ends with this; answers that are not whole then are kept as far as they came.

    Raises StorageFailed.
    """
    settings, store, access = rooms.resolved.settings, rooms.store, rooms.access
    talking = Talking(
        store.conversations, access.voice, rooms.library, conversations.wishes_of, access.timeout_s, access.names[0]
    )
    page_settings = PageSettings(store.database)
    steering = Steering(
        rooms.resolved, await page_settings.kept(), page_settings, lambda new: rooms.service.heed(new.chat)
    )
    page_settings.listen(steering.adopt)
    care = Care(store, rooms.service.preferences, steering, rooms.service.make_way)
    pulse = Pulse(rooms.metrics, lambda: _now(rooms, talking))
    doors = (
        web.build(rooms.sign_in),
        session.build(Desk(rooms.sign_in, keys.parse(settings.server.api_keys), lambda: _told(rooms))),
        conversations.build(Talks(talking, access.pictures, access.max_images)),
        pictures.build(rooms.library.read, store.conversations.shows),
        tries.build(care),
        plays.build(Plays(store.database)),
        live.build(pulse, lambda: rooms.service.is_draining),
        *_owners(rooms, steering, care),
    )
    beating = asyncio.create_task(pulse.beat())
    try:
        yield Front(doors, talking.idle)
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
        await talking.aclose()


def _owners(rooms: Rooms, steering: Steering, care: Care) -> tuple[Door, ...]:
    service, audit = rooms.service, Audit(rooms.store.database)
    generation = rooms.resolved.settings.generation
    retelling = Retelling(rooms.store, rooms.voice, rooms.library, service.preferences, generation)
    files = PersonaFiles(rooms.data_dir / "personas", service.preferences.personas)
    return (
        chats.build(Chats(service, care, retelling, Auditor(audit))),
        house.build(House(steering, service.books, audit, files, rooms.data_dir / "words")),
    )


def _told(rooms: Rooms) -> dict[str, Any]:
    word, now = rooms.status()
    return {
        "model": rooms.access.names[0],
        "is_demo": rooms.is_demo,
        "status": word,
        "device": now.device,
        "max_images": rooms.access.max_images,
        "max_image_mb": rooms.resolved.settings.media.max_image_mb,
        "context_tokens": rooms.access.voice().context_tokens if word == "healthy" else None,
    }


def _now(rooms: Rooms, talking: Talking) -> dict[str, Any]:
    """What of the state is no figure."""
    word, status = rooms.status()
    now, link = time.time(), rooms.links.link()
    return {
        "status": word,
        "model": rooms.access.names[0],
        "device": status.device,
        "link": {"state": link.state, "since": link.since, "reason": link.reason},
        "conversations_running": talking.running,
        "running_chats": [
            {"kind": turn.chat.kind, "id": turn.chat.id, "name": turn.members[0].chat_name if turn.members else "",
             "seconds": now - min((member.came_at for member in turn.members), default=now)}
            for turn in rooms.service.running_turns()
        ],
    }  # fmt: skip
