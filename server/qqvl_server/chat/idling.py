"""What is done for a chat while nothing else is to do: its talk read ahead, its old pictures described."""

from __future__ import annotations

from collections.abc import Callable

from qqvl_server.chat.captions import Captioner
from qqvl_server.chat.message import ChatKey, StoredMessage
from qqvl_server.chat.preferences import Preferences
from qqvl_server.chat.store import Store
from qqvl_server.chat.warming import Warmer
from qqvl_server.chat.window import Window
from qqvl_server.generation.port import Voice
from qqvl_server.observe.metrics import Metrics


class IdleWork:
    def __init__(
        self, store: Store, voice: Callable[[], Voice], window: Window, preferences: Preferences, metrics: Metrics
    ) -> None:
        self._warmer = Warmer(voice, window.messages)
        self._captioner = Captioner(store.books, voice, window, preferences, metrics)

    def make_way(self, chat: ChatKey) -> None:
        """A turn of the chat begins, or a line of it leaves: what is being done for it ends."""
        self._warmer.forget(chat)
        self._captioner.forget(chat)

    def rests(self, chat: ChatKey, heard: StoredMessage | None) -> None:
        """A turn of the chat has ended; ``heard`` is its last line where it is worth reading and was not answered."""
        if heard is not None:
            self._warmer.heard(chat, heard)
        self._captioner.rests(chat)

    async def aclose(self) -> None:
        await self._warmer.aclose()
        await self._captioner.aclose()
