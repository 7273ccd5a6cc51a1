"""GET /v1/models: which names are served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from qqvl_server.api.desk import Desk, served_name


def add_to(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return listed()

    # Names are often ``owner/name``.
    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        # Some clients end the list's address with a slash.
        return _model(desk, served_name(desk, name)) if name else listed()

    def listed() -> dict[str, Any]:
        return {"object": "list", "data": [_model(desk, name) for name in desk.names]}


def _model(desk: Desk, name: str) -> dict[str, Any]:
    """``max_model_len`` and ``root`` as vLLM tells them. Raises Loading: nobody knows the context yet."""
    return {
        "id": name,
        "object": "model",
        "created": desk.created,
        "owned_by": "qqvl",
        "root": desk.names[0],
        "parent": None,
        "max_model_len": desk.voice().context_tokens,
    }
