"""Requests become token ids and patches: the one place that renders the chat template and reads the tokenizer.

Knows the processor (tokenizer, template, picture arithmetic); no chats, no HTTP, no model. Thread-safe: user text as
plain text flips a switch on the shared tokenizer, so that is used under a lock; pictures are cut outside it.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from PIL import Image
from transformers import BatchFeature

from qqvl_server.errors import ImageRejected, InvalidRequest
from qqvl_server.generation.port import ChatMessage, GenerationRequest, ImagePart, Sampling, Urgency
from qqvl_server.generation.prompts.conversation import Entry, mended, template_message, template_tool
from qqvl_server.generation.prompts.length import LengthGuard, texts_of
from qqvl_server.generation.prompts.pictures import Patches, PictureMaker, expanded
from qqvl_server.generation.prompts.switches import Switches
from qqvl_server.generation.replies.detokenize import TokenDecoder, Vocabulary
from qqvl_server.generation.replies.thoughts import opens_thought
from qqvl_server.media.image import ImageRef
from qqvl_server.media.library import ImageLibrary
from qqvl_server.observe.logs import logger

if TYPE_CHECKING:
    from transformers import ProcessorMixin

T = TypeVar("T")

UNREADABLE: Final = "[图片无法打开]"
_UNREADABLE: Final[Entry] = {"type": "text", "text": UNREADABLE}
_PLACEHOLDER: Final[Entry] = {"type": "image"}
# A long chat is counted again on each of its turns; messages above the length are not worth the memory.
_COUNTED: Final = 8192
_COUNTED_CHARACTERS: Final = 2000
# Tokens of the assistant's header to look at.
_HEADER: Final = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """``inputs`` for ``model.generate``: input_ids (1, N), pixel_values (patches, C·T·P·P), image_grid_thw (n, 3)."""

    inputs: BatchFeature
    tokens: int
    # The leading system block with its tools, the same for many chats.
    shared_tokens: int
    patches_per_token: int
    # Of each row of image_grid_thw, where they are known: hashing takes as long as a small model's step.
    digests: tuple[bytes, ...] = ()
    # Why pictures of a chat's history are not shown, in words for its people.
    unseen: tuple[str, ...] = ()
    opens_thought: bool = False
    # Whether the template knows of thoughts at all.
    thinks: bool = False


class Preprocessor:
    """``context_tokens`` is for refusing texts many times too long before they hold up the tokenizer; 0 for never."""

    def __init__(
        self, processor: ProcessorMixin, library: ImageLibrary, max_image_tokens: int, context_tokens: int = 0
    ) -> None:
        self._processor: Any = processor
        self._tokenizer = self._processor.tokenizer
        self._lengths = LengthGuard(self._tokenizer.backend_tokenizer, context_tokens)
        self._lock = threading.Lock()
        self._vocabulary = Vocabulary(self._tokenizer.backend_tokenizer)
        # Asked once: it looks into signatures.
        self._tells_kinds = "mm_token_type_ids" in self._processor.model_input_names
        self._pictures = PictureMaker(processor, library, max_image_tokens)
        self._pads: list[Any] = [getattr(processor, f"{kind}_token_id", None) for kind in ("image", "video")]
        added = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.content.strip()]
        self._control = re.compile("|".join(map(re.escape, added)) or "(?!)")
        # What callers may never say: which template, and how it is encoded.
        self._switches = Switches(f"{self._tokenizer.chat_template} {self._processor.chat_template}")
        self._reserved = {"messages", *_parameters(self._processor), *_parameters(self._tokenizer)}
        self._remembered = lru_cache(maxsize=_COUNTED)(self._count)
        self._asked = lru_cache(maxsize=_COUNTED)(self._ask)

    def count(self, message: ChatMessage) -> int:
        """Exact prompt tokens of one message in its ChatML frame, its pictures included.

        ChatML frames begin and end with special tokens, which no merge crosses, so counts add up to the prompt's
        length but for the few tokens of the assistant's header; tool results in a row share one frame and cost less.
        What is many times the context is counted only until that is sure.
        """
        length = sum(map(len, texts_of(message)))
        return self._remembered(message) if length <= _COUNTED_CHARACTERS else self._count(message)

    def prepare(self, request: GenerationRequest) -> Prompt:
        """Render the whole prompt, the assistant's header and opening included, and preprocess its pictures.

        Raises:
            InvalidRequest: the template refuses the messages, or a token id is outside the vocabulary.
            ImageRejected: a picture that an API caller sends along cannot be shown; a chat goes on without it.
            PromptTooLong: the texts are many times longer than the context.
        """
        self._check_ids(request.sampling)
        self._lengths.check(request)
        if request.raw is not None:
            return self._prompt(self._raw_ids(request.raw), [], 0)
        if not self._pictures.qwen:
            return self._by_processor(request)
        made, lost = self._each(request, self._pictures.patches)
        header = self._ids(request, set(lost))
        ids = [*header, *self.encode(request.opening)] if request.opening else header
        shown = [made[ref] for ref in _images(request.messages) if ref in made]
        prompt = self._prompt(ids, shown, self._shared(request, ids))
        thought = self._opens_thought(header)
        return replace(prompt, unseen=tuple(lost.values()), opens_thought=thought, thinks=self._switches.thinks)

    def tokenize(self, request: GenerationRequest) -> tuple[int, ...]:
        """Raises as ``prepare``."""
        self._lengths.check(request)
        if request.raw is not None:
            return tuple(self._raw_ids(request.raw))
        if not self._pictures.qwen:
            return tuple(self.prepare(request).inputs["input_ids"][0].tolist())
        return (*self._ids(request, set()), *self.encode(request.opening))

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._vocabulary.text(ids)

    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text: what spells a special token is encoded as letters."""
        with self._lock:
            return tuple(self._tokenizer.encode(mended(text), add_special_tokens=False, split_special_tokens=True))

    def decoder(self) -> TokenDecoder:
        return self._vocabulary.decoder()

    def spell(self, token: int) -> bytes:
        return self._vocabulary.data(token)

    def spellings(self) -> list[bytes]:
        return self._vocabulary.spellings()

    def _count(self, message: ChatMessage) -> int:
        if (rough := self._lengths.far_too_many(texts_of(message))) is not None:
            return rough
        rendered = template_message(message, lambda ref: [_PLACEHOLDER] * len(ref.frames), self._control)
        extra = sum((self._cost(ref) - 1) * len(ref.frames) for ref in _images([message]))
        return len(self._template(self._tokenizer, [rendered], return_dict=False)) + extra

    def _cost(self, ref: ImageRef) -> int:
        """Tokens of one frame of a picture."""
        return self._pictures.tokens(ref) if self._pictures.qwen else self._asked(ref.width, ref.height)

    def _ask(self, width: int, height: int) -> int:
        """Tokens that the processor shows a picture of this size as, of a family whose arithmetic only it knows."""
        shown = {"images": [Image.new("RGB", (width, height))], "text": [self._processor.image_token]}
        with self._lock:
            return len(self._processor(**shown, add_special_tokens=False)["input_ids"][0])

    def _each(
        self, request: GenerationRequest, make: Callable[[ImageRef], T]
    ) -> tuple[dict[ImageRef, T], dict[ImageRef, str]]:
        """What ``make`` makes of each picture, and why not of the others."""
        made: dict[ImageRef, T] = {}
        lost: dict[ImageRef, str] = {}
        for number, part in enumerate(_image_parts(request.messages), 1):
            if (ref := part.image) in made or ref in lost:
                continue
            try:
                made[ref] = make(ref)
            except ImageRejected as error:
                if request.urgency is Urgency.API:
                    raise ImageRejected(f"第 {number} 张图：{error.message}", param=part.where) from error
                lost[ref] = error.message
        return made, lost

    def _ids(self, request: GenerationRequest, lost: set[ImageRef]) -> list[int]:
        """The rendered prompt, without an opening, each picture as its run; ``lost`` pictures are told in words."""
        messages = self._conversation(
            request, lambda ref: [_UNREADABLE] if ref in lost else [_PLACEHOLDER] * len(ref.frames)
        )
        extras = self._extras(request)
        ids = self._template(self._tokenizer, messages, return_dict=False, add_generation_prompt=True, **extras)
        runs = [self._pictures.tokens(ref) for ref in _images(request.messages) if ref not in lost for _ in ref.frames]
        return expanded(ids, self._pads[0], runs)

    def _by_processor(self, request: GenerationRequest) -> Prompt:
        """For families whose picture arithmetic only their processor knows."""
        if request.opening:
            raise InvalidRequest("这个模型不支持续写，最后一条消息不能是助手的")
        opened, lost = self._each(request, self._pictures.open)

        def shown(ref: ImageRef) -> list[Entry]:
            return [_UNREADABLE] if ref in lost else [{"type": "image", "image": frame} for frame in opened[ref]]

        extras = self._extras(request) | {"return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
        inputs = self._template(self._processor, self._conversation(request, shown), **extras)
        ids = inputs["input_ids"][0].tolist()
        per_token, thought = self._pictures.patches_per_token, self._opens_thought(ids)
        unseen = tuple(lost.values())
        return Prompt(
            inputs, len(ids), 0, per_token, unseen=unseen, opens_thought=thought, thinks=self._switches.thinks
        )

    def _conversation(self, request: GenerationRequest, shown: Callable[[ImageRef], list[Entry]]) -> list[Entry]:
        if not request.messages:
            raise InvalidRequest("至少要有一条消息")
        return [template_message(message, shown, self._control) for message in request.messages]

    def _extras(self, request: GenerationRequest) -> dict[str, Any]:
        if any(name in self._reserved for name, _ in request.template):
            raise InvalidRequest("对话模板的参数里有不能改的")
        tools = [template_tool(tool, self._control) for tool in request.shown_tools]
        return {**dict(request.template), **self._switches.of(request.thinking), "tools": tools or None}

    def _template(self, renderer: Any, messages: list[Entry], **extras: Any) -> Any:
        try:
            with self._lock:
                # Text that spells a control token is encoded as letters (transformers >= 5.23).
                return renderer.apply_chat_template(
                    mended(messages), tokenize=True, sanitize_control_tokens=True, **mended(extras)
                )
        except Exception as error:
            # The edge of the checkpoint's own program, which refuses conversations by raising anything.
            logger().warning("对话模板报错", kind=type(error).__name__)
            raise InvalidRequest("模型的对话模板不接受这些消息") from error

    def _prompt(self, ids: list[int], pictures: Sequence[Patches], shared: int) -> Prompt:
        tokens = torch.tensor([ids])
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if pictures:
            inputs["pixel_values"] = _joined([patches.pixel_values for patches in pictures])
            inputs["image_grid_thw"] = _joined([patches.grids for patches in pictures])
        if self._tells_kinds:
            inputs["mm_token_type_ids"] = torch.eq(tokens, self._pads[0]).long()
        digests = tuple(digest for patches in pictures for digest in patches.digests)
        return Prompt(BatchFeature(inputs), len(ids), shared, self._pictures.patches_per_token, digests)

    def _opens_thought(self, ids: list[int]) -> bool:
        return opens_thought(self.detokenize([token for token in ids[-_HEADER:] if token in self._vocabulary]))

    def _shared(self, request: GenerationRequest, ids: list[int]) -> int:
        """Length of the leading system block, tools included; what API callers write there is theirs alone."""
        leads = bool(request.shown_tools) or request.messages[0].role == "system"
        end = self._tokenizer.eos_token_id
        # In ChatML the block's end token is followed by one newline token.
        return ids.index(end) + 2 if leads and request.urgency is not Urgency.API and end in ids else 0

    def _raw_ids(self, raw: str | tuple[int, ...]) -> list[int]:
        """The caller's whole prompt: special tokens in it are meant."""
        if isinstance(raw, str):
            with self._lock:
                ids = list(self._tokenizer(mended(raw), split_special_tokens=False)["input_ids"])
        else:
            self._check_known(raw)
            ids = list(raw)
        if not ids:
            raise InvalidRequest("提示不能为空")
        if any(pad is not None and pad in ids for pad in self._pads):
            raise InvalidRequest("原始提示里不能有图片或视频的占位符")
        return ids

    def _check_ids(self, sampling: Sampling) -> None:
        self._check_known([token for token, _ in sampling.logit_bias])
        self._check_known(sampling.stop_token_ids)

    def _check_known(self, ids: Sequence[int]) -> None:
        if any(token not in self._vocabulary for token in ids):
            raise InvalidRequest("token 编号超出词表")


def _parameters(renderer: Any) -> set[str]:
    return set(inspect.signature(renderer.apply_chat_template).parameters)


def _images(messages: Sequence[ChatMessage]) -> list[ImageRef]:
    return [part.image for part in _image_parts(messages)]


def _image_parts(messages: Sequence[ChatMessage]) -> list[ImagePart]:
    return [part for message in messages for part in message.parts if isinstance(part, ImagePart)]


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """One alone is handed on as it is: a picture's patches are megabytes."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
