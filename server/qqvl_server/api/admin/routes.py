"""GET /health, /ready, /metrics and /admin/link: what a supervisor asks, and how the line to QQ stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from qqvl_server.api import error_bodies
from qqvl_server.api.door import Door
from qqvl_server.generation.port import VoiceStatus
from qqvl_server.keys import Scope
from qqvl_server.observe.links import Links
from qqvl_server.observe.metrics import Metrics

# The word that ``/health`` says, and the voice's state.
Status = Callable[[], tuple[str, VoiceStatus]]


def build(status: Status, metrics: Metrics, links: Links) -> tuple[Door, ...]:
    return _health(status, links), _inside(metrics), _line(links)


def _health(status: Status, links: Links) -> Door:
    router = APIRouter(tags=["admin"])

    @router.get("/health")
    async def health() -> Response:
        """The spec's four fields; 503 while loading, stopping or broken. Touches no lock and no disk."""
        word, now = status()
        return JSONResponse(health_body(word, now), 200 if word == "healthy" else 503)

    @router.get("/ready")
    async def ready() -> Response:
        """503 exactly while new work is not taken: a lost QQ link is told, and takes no server from a balancer."""
        is_ready, link = is_healthy(status), links.link()
        body = {"ready": is_ready, "link": {"state": link.state, "since": link.since}}
        return JSONResponse(body, 200 if is_ready else 503)

    # Counted apart: supervisors ask for ever, and are told 503 while the model loads.
    open_to_all = frozenset({"/health", "/ready"})
    return Door("other", ("/health", "/ready"), Scope.ADMIN, router, error_bodies.openai, in_the_open=open_to_all)


def is_healthy(status: Status) -> bool:
    return status()[0] == "healthy"


def _inside(metrics: Metrics) -> Door:
    router = APIRouter(tags=["admin"])

    @router.get("/metrics")
    async def prometheus() -> Response:
        # It asks drivers.
        text = await asyncio.to_thread(metrics.render)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    # The framework answers with its document by itself.
    return Door("admin", ("/metrics", "/openapi.json"), Scope.ADMIN, router, error_bodies.openai)


def _line(links: Links) -> Door:
    router = APIRouter(tags=["admin"])

    @router.get("/admin/link")
    async def link() -> dict[str, Any]:
        """How the line to QQ stands, and when it last came and went, the oldest first."""
        now = links.link()
        told = [{"self_id": c.account, "state": c.state, "at": c.at, "reason": c.reason} for c in links.changes()]
        return {"state": now.state, "since": now.since, "reason": now.reason, "changes": told}

    return Door("admin", ("/admin/link",), Scope.ADMIN, router, error_bodies.own)


def health_body(word: str, status: VoiceStatus) -> dict[str, Any]:
    return {
        "status": word,
        "model_loaded": status.model_loaded,
        "processor_loaded": status.processor_loaded,
        "device": status.device,
    }
