"""GET /v1/models: which names are served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from qqvl_server.api.model_access import ModelAccess, served_name


def add_to(router: APIRouter, access: ModelAccess) -> None:
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return listed()

    # Names are often ``owner/name``.
    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        # Some clients end the list's address with a slash.
        return _model(access, served_name(access, name)) if name else listed()

    def listed() -> dict[str, Any]:
        return {"object": "list", "data": [_model(access, name) for name in access.names]}


def _model(access: ModelAccess, name: str) -> dict[str, Any]:
    """``max_model_len`` and ``root`` as vLLM tells them. Raises Loading: nobody knows the context yet."""
    return {
        "id": name,
        "object": "model",
        "created": access.created,
        "owned_by": "qqvl",
        "root": access.names[0],
        "parent": None,
        "max_model_len": access.voice().context_tokens,
    }
