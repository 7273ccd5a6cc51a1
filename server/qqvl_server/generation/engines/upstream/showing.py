"""The pictures of a request, ready to be sent, or the words that stand for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from qqvl_server.errors import ImageRejected, InvalidRequest
from qqvl_server.generation.engines.upstream.pictures import Gallery
from qqvl_server.generation.port import GenerationRequest, ImagePart, Urgency
from qqvl_server.media.image import ImageRef

_UNREADABLE: Final = "[图片无法打开]"
_UNSEEN: Final = "[图片]"
BLIND: Final = "上游的模型不看图"


@dataclass(frozen=True, slots=True)
class Shown:
    """``unseen`` as ``Finished`` has it."""

    addresses: dict[ImageRef, tuple[str, ...] | str] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    def show(self, part: ImagePart) -> tuple[str, ...] | str:
        return self.addresses.get(part.image, _UNSEEN)


def pictures(request: GenerationRequest) -> list[ImagePart]:
    return [part for message in request.messages for part in message.parts if isinstance(part, ImagePart)]


def unseen(request: GenerationRequest) -> Shown:
    """Where the model sees nothing. Raises InvalidRequest: a caller of the API shows it something."""
    parts = pictures(request)
    if request.urgency is Urgency.API:
        raise InvalidRequest(f"{BLIND}（the upstream model takes no images）", param=parts[0].where)
    return Shown(unseen=(BLIND,))


def shown(request: GenerationRequest, gallery: Gallery) -> Shown:
    """Blocking. Raises ImageRejected: a picture of an API caller's cannot be shown; a chat goes on without it."""
    addresses: dict[ImageRef, tuple[str, ...] | str] = {}
    lost: dict[ImageRef, str] = {}
    for number, part in enumerate(pictures(request), 1):
        if part.image in addresses:
            continue
        try:
            addresses[part.image] = gallery.addresses(part.image)
        except ImageRejected as error:
            if request.urgency is Urgency.API:
                raise ImageRejected(f"第 {number} 张图：{error.message}", param=part.where) from error
            addresses[part.image] = _UNREADABLE
            lost[part.image] = error.message
    return Shown(addresses, tuple(lost.values()))
