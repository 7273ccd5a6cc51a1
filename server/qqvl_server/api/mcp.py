"""Content blocks as the Model Context Protocol has them: clients hand a tool's result on as they got it.

Source: modelcontextprotocol.io, schema 2025-11-25, ``ContentBlock`` and ``CallToolResult``.
"""

from __future__ import annotations

from typing import Any

from qqvl_server.api.drafts import Pointer
from qqvl_server.generation.port import TextPart


def block(part: dict[str, Any], where: str) -> TextPart | Pointer | None:
    """A picture, an embedded resource or a link to one; None: it is no such block, or holds nothing to be seen."""
    match part:
        case {"type": "image", "data": str(data)}:
            return Pointer(data, where, is_base64=True)
        case {"type": "resource", "resource": {"text": str(text)}}:
            return TextPart(text)
        case {"type": "resource", "resource": {"blob": str(data), "mimeType": str(kind)}} if kind.startswith("image/"):
            return Pointer(data, where, is_base64=True)
        case {"type": "resource_link", "uri": str(uri)}:
            name = part.get("name")
            return TextPart(f"{name}: {uri}" if isinstance(name, str) and name else uri)
    return None


def unwrapped(result: Any) -> Any:
    """The content of a whole ``CallToolResult``; anything else as it is."""
    return result["content"] if isinstance(result, dict) and isinstance(result.get("content"), list) else result
