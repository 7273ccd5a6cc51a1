"""What a chat template lets be chosen about thoughts. Knows the template's text only."""

from __future__ import annotations

import re
from typing import Any, Final

from qqvl_server.generation.port import Thinking
from qqvl_server.generation.replies.thoughts import OPENING

# What chat templates call the wishes of ``Thinking``.
_WISHES: Final = {"enable_thinking": "enabled", "thinking_budget": "budget", "reasoning_effort": "effort"}


class Switches:
    """``thinks``: the template knows of thoughts at all."""

    def __init__(self, template: str) -> None:
        self._known = [name for name in _WISHES if re.search(rf"\b{name}\b", template)]
        self.thinks = OPENING in template or bool(self._known)

    def of(self, wanted: Thinking) -> dict[str, Any]:
        """The template's arguments: what was wished for and can be chosen."""
        wishes = {name: getattr(wanted, _WISHES[name]) for name in self._known}
        return {name: value for name, value in wishes.items() if value is not None}
