"""What a request turned out to be about, for the line that the log has of it: whoever answers it says so."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope


def facts_of(scope: Scope) -> dict[str, Any]:
    """To be added to. ``code`` is the error it ended with; texts are kept only where the owner wants them."""
    facts: dict[str, Any] = scope.setdefault("qqvl.facts", {})
    return facts
