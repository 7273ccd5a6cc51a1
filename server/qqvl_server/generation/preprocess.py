"""Chat messages become token ids and patches: the one place that renders the chat template.

Knows the processor (tokenizer, template, picture arithmetic); no chats, no HTTP, no model. Not thread-safe,
because encoding user text as plain text flips a switch on the shared tokenizer: run it on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from qqvl_server.errors import ImageRejected
from qqvl_server.generation.detokenize import StreamDecoder
from qqvl_server.generation.port import ChatMessage, ImagePart, TextPart
from qqvl_server.media.image import ImageRef
from qqvl_server.media.library import ImageLibrary

if TYPE_CHECKING:
    from transformers import BatchFeature, ProcessorMixin

UNREADABLE: Final = "[图片无法打开]"
# A long chat is counted again on each of its turns; messages above the length are not worth the memory.
_COUNTED: Final = 8192
_COUNTED_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True)
class Prompt:
    """``inputs`` for ``model.generate``: input_ids (1, N), pixel_values (patches, C·T·P·P), image_grid_thw (n, 3)."""

    inputs: BatchFeature
    tokens: int
    # The leading system message, the same for many chats.
    shared_tokens: int
    patches_per_token: int


class Preprocessor:
    def __init__(self, processor: ProcessorMixin, library: ImageLibrary, max_image_tokens: int) -> None:
        self._processor: Any = processor
        self._library = library
        self._max_image_tokens = max_image_tokens
        self._qwen_pictures = hasattr(self._processor.image_processor, "get_number_of_image_patches")
        self._remembered = lru_cache(maxsize=_COUNTED)(self._count)

    def count(self, message: ChatMessage) -> int:
        """Exact prompt tokens of one message, its pictures included."""
        length = sum(len(part.text) for part in message.parts if isinstance(part, TextPart))
        return self._remembered(message) if length <= _COUNTED_CHARACTERS else self._count(message)

    def decoder(self) -> StreamDecoder:
        return StreamDecoder(self._processor.tokenizer.backend_tokenizer)

    def prepare(self, messages: Sequence[ChatMessage]) -> Prompt:
        """Render the whole prompt, the assistant's header included, and preprocess its pictures."""
        inputs = self._processor.apply_chat_template(
            [self._rendered(message) for message in messages],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            # User text that spells a special token is encoded as letters (transformers >= 5.23).
            sanitize_control_tokens=True,
            processor_kwargs=self._picture_kwargs(),
        )
        shared = self.count(messages[0]) if messages and messages[0].role == "system" else 0
        merge = int(getattr(self._processor.image_processor, "merge_size", 1))
        return Prompt(inputs, int(inputs["input_ids"].shape[-1]), shared, merge**2)

    def _count(self, message: ChatMessage) -> int:
        """Exact tokens of one message in its ChatML frame.

        ChatML frames begin and end with special tokens, which no merge crosses, so counts add up to the prompt's
        length but for the few tokens of the assistant's header.
        """
        ids = self._processor.tokenizer.apply_chat_template(
            [_placeholders(message)], tokenize=True, return_dict=False, sanitize_control_tokens=True
        )
        pictures = sum(self._picture_tokens(part.image) for part in message.parts if isinstance(part, ImagePart))
        return len(ids) + pictures

    def _picture_tokens(self, ref: ImageRef) -> int:
        """Tokens beyond the one placeholder per frame that the template writes."""
        if not self._qwen_pictures:
            return (self._max_image_tokens - 1) * len(ref.frames)
        width, height = self._target(ref)
        edge = self._edge()
        return (width // edge * (height // edge) - 1) * len(ref.frames)

    def _edge(self) -> int:
        """Pixels along one side of the square that one token sees."""
        images = self._processor.image_processor
        return int(images.patch_size * images.merge_size)

    def _limits(self, frames: int) -> tuple[int, int]:
        """Smallest and largest area of a picture in pixels; the frames of one animation share its tokens."""
        images = self._processor.image_processor
        tokens = max(self._max_image_tokens // frames, 4)
        largest = min(int(images.size["longest_edge"]), tokens * self._edge() ** 2)
        return min(int(images.size["shortest_edge"]), largest), largest

    def _target(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height in pixels that the processor will bring the picture to (Qwen's smart_resize)."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        smallest, largest = self._limits(len(ref.frames))
        height, width = smart_resize(ref.height, ref.width, self._edge(), min_pixels=smallest, max_pixels=largest)
        return width, height

    def _picture_kwargs(self) -> dict[str, Any]:
        if not self._qwen_pictures:
            return {}
        # Pictures arrive at their final size; an extra resize by the processor must be a no-op for all of them.
        return {"images_kwargs": {"size": {"shortest_edge": 1, "longest_edge": 2**40}}}

    def _rendered(self, message: ChatMessage) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                content.append({"type": "text", "text": part.text})
            else:
                content += self._frames(part.image)
        return {"role": message.role, "content": content}

    def _frames(self, ref: ImageRef) -> list[dict[str, Any]]:
        try:
            frames = self._library.open(ref)
        except ImageRejected:
            # Aged out between counting and rendering; the turn goes on without it.
            return [{"type": "text", "text": UNREADABLE}]
        if self._qwen_pictures:
            size = self._target(ref)
            frames = tuple(
                frame if frame.size == size else frame.resize(size, Image.Resampling.BICUBIC) for frame in frames
            )
        return [{"type": "image", "image": frame} for frame in frames]


def _placeholders(message: ChatMessage) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        else:
            content += [{"type": "image"}] * len(part.image.frames)
    return {"role": message.role, "content": content}
