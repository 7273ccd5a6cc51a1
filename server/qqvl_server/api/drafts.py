"""Messages as a door has read them, before their pictures are looked at. Knows no door's spelling."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from qqvl_server.api.left_out import LeftOut
from qqvl_server.api.model_access import PictureIntake
from qqvl_server.api.validation import bad
from qqvl_server.errors import ImageRejected
from qqvl_server.generation.port import ChatMessage, ImagePart, Part, Role, TextPart, ToolCall
from qqvl_server.media.image import ImageRef

# Long conversations show many pictures; each costs tokens, but looking at it comes first.
_MESSAGES_OF_PICTURES: Final = 8
# Far pictures take turns, so that one request cannot open hundreds of connections.
_FETCHES: Final = 4


@dataclass(frozen=True, slots=True)
class Pointer:
    """A picture not yet looked at: a ``data:`` URI, an address, or base64; ``where`` it stands in the request.

    ``is_base64`` says that it may be nothing else: an address in its place is not fetched.
    """

    url: str
    where: str
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    role: Role
    parts: tuple[TextPart | Pointer, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def shown(self) -> int:
        """How many pictures it holds."""
        return sum(isinstance(part, Pointer) for part in self.parts)

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


def ordered(drafts: Sequence[Draft], param: str, max_images: int) -> tuple[Draft, ...]:
    """All system messages as one at the front, then the rest in order.

    Args:
        param: the request's name for the list, which is to blame for too many pictures.

    Raises:
        InvalidRequest: there are too many pictures.
    """
    most = max_images * _MESSAGES_OF_PICTURES
    if sum(draft.shown for draft in drafts) > most:
        raise bad(param, f"里的图片太多，最多 {most} 张（has too many images）")
    merged = "\n\n".join(draft.text for draft in drafts if draft.role == "system" and draft.text)
    rest = tuple(draft for draft in drafts if draft.role != "system")
    return (Draft("system", (TextPart(merged),)), *rest) if merged else rest


async def resolve_pictures(
    drafts: Sequence[Draft], pictures: PictureIntake, left_out: LeftOut
) -> tuple[ChatMessage, ...]:
    """The messages with their pictures checked and kept; the same picture is looked at once.

    A picture whose file is cut short is shown as far as it goes; ``left_out`` tells.

    Raises:
        ImageRejected: one of the pictures cannot be used.
    """
    pointers = {part.url: part for draft in drafts for part in draft.parts if isinstance(part, Pointer)}
    room = asyncio.Semaphore(_FETCHES)

    async def fetch(pointer: Pointer) -> ImageRef:
        async with room:
            try:
                return await (pictures.from_base64 if pointer.is_base64 else pictures.from_url)(pointer.url)
            except ImageRejected as error:
                raise ImageRejected(error.message, param=pointer.where) from None

    # All are awaited even when one is bad: none may go on behind the answer's back.
    found = await asyncio.gather(*map(fetch, pointers.values()), return_exceptions=True)
    seen: dict[str, ImageRef] = {}
    for url, image in zip(pointers, found, strict=True):
        if isinstance(image, BaseException):
            raise image
        seen[url] = image
        if image.share < 1:
            left_out.add(pointers[url].where, "cut short")

    def part_of(part: TextPart | Pointer) -> Part:
        return ImagePart(seen[part.url], part.where) if isinstance(part, Pointer) else part

    return tuple(
        ChatMessage(draft.role, tuple(map(part_of, draft.parts)), draft.tool_calls, draft.tool_call_id)
        for draft in drafts
    )
