"""What every door to the bare model (OpenAI, Anthropic) is given: the voice, the pictures, the names, the limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from qqvl_server.errors import ModelNotFound
from qqvl_server.generation.port import Voice
from qqvl_server.keys import Scope
from qqvl_server.media.image import ImageRef

_NAMES_TOLD: Final = 10


class PictureIntake(Protocol):
    """Pictures that callers hand in or point at, checked and kept.

    Raises ImageRejected: it cannot be used, or may not be fetched.
    """

    async def from_url(self, url: str) -> ImageRef:
        """A ``data:`` URI, an http(s) address (if fetching is allowed), or bare base64."""
        ...

    async def from_base64(self, data: str) -> ImageRef: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: ``name`` tells keys apart without being one; ``open`` where no key is set and none was brought.

    ``scopes`` are what a key, a cookie or the owner's token is good for; nothing without.
    """

    name: str
    scopes: frozenset[Scope] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelAccess:
    """``names`` are the model's served names, the first is its own; ``created`` is in Unix seconds.

    With ``any_name`` every other name is taken for the model as well.
    ``voice`` raises Loading or EngineDead while there is none. ``timeout_s`` is from a request's arrival to its end.
    """

    voice: Callable[[], Voice]
    pictures: PictureIntake
    names: tuple[str, ...]
    created: int
    timeout_s: float
    max_images: int
    any_name: bool = False


def served_name(access: ModelAccess, asked: str | None) -> str:
    """The name to answer under: the one asked for, or the model's own where none was.

    Raises:
        ModelNotFound: it is none of the served names, which are told.
    """
    if not asked:
        return access.names[0]
    if asked not in access.names and not access.any_name:
        served = "、".join(access.names[:_NAMES_TOLD]) + (" 等" if len(access.names) > _NAMES_TOLD else "")
        raise ModelNotFound(
            f"没有这个模型，这里有的是 {served}；要让任何名字都能用，启动时加 --any-model-name"
            "（the model does not exist, use one of these or start the server with --any-model-name）",
            param="model",
        )
    return asked
