"""What the local voice stands on: who makes prompts, who turns tokens into more tokens, who compiles grammars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from qqvl_server.engine.steps.meter import Meter
from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.generation.port import ChatMessage, GenerationRequest, Grammar, Tool
from qqvl_server.generation.replies.channel import TokenChannel
from qqvl_server.generation.replies.detokenize import TokenDecoder


class PreparedPrompt(Protocol):
    @property
    def tokens(self) -> int: ...
    @property
    def unseen(self) -> tuple[str, ...]:
        """As ``Finished.unseen``."""
        ...

    @property
    def opens_thought(self) -> bool:
        """Whether the template began a thought, so that only its end will be written."""
        ...

    @property
    def thinks(self) -> bool:
        """Whether the template knows of thoughts at all."""
        ...


POut = TypeVar("POut", bound=PreparedPrompt, covariant=True)
PIn = TypeVar("PIn", bound=PreparedPrompt, contravariant=True)


class PromptMaker(Protocol[POut]):
    """Thread-safe; everything here may take long and is called off the event loop, but for ``decoder`` and
    ``spell``."""

    def count(self, message: ChatMessage) -> int: ...
    def prepare(self, request: GenerationRequest) -> POut: ...
    def tokenize(self, request: GenerationRequest) -> tuple[int, ...]: ...
    def detokenize(self, ids: Sequence[int]) -> str: ...
    def encode(self, text: str) -> tuple[int, ...]:
        """Plain text: what spells a special token is encoded as letters."""
        ...

    def decoder(self) -> TokenDecoder: ...
    def spell(self, token: int) -> bytes:
        """The token's own bytes."""
        ...

    def spellings(self) -> Sequence[bytes]:
        """Those of all tokens, in order; nothing for special ones."""
        ...


class Engine(Protocol[PIn]):
    @property
    def alive(self) -> bool: ...
    @property
    def meter(self) -> Meter:
        """Whose requests its time went to."""
        ...

    def submit(
        self, prompt: PIn, request: GenerationRequest, channel: TokenChannel, mask: TokenMask | None = None
    ) -> None:
        """Start one reply, from any thread and at once, for it is called on the event loop too: tokens go into
        ``channel``, then one end or error.

        An abandoned channel stops it. ``mask`` is the request's compiled grammar.
        """
        ...

    def score(
        self, prompt: PIn, candidates: Sequence[Sequence[int]], request: GenerationRequest, channel: TokenChannel
    ) -> None:
        """Log-probability of each continuation (token ids): one ``Scores`` or an error goes into ``channel``."""
        ...

    def warm(self, prompt: PIn, request: GenerationRequest) -> None:
        """Read the prompt into the cache when idle; engines without a cache do nothing."""
        ...

    def close(self) -> None: ...


class GrammarCompiler(Protocol):
    @property
    def unended(self) -> Sequence[int]:
        """The mask (as ``TokenMask`` has them) that lets every token come but those that end a reply."""
        ...

    async def compile(self, grammar: Grammar) -> Callable[[int], TokenMask]:
        """Makes a fresh mask on each call, one per choice. Raises InvalidRequest: the grammar cannot be compiled."""
        ...

    def given_up(self, grammar: Grammar) -> tuple[str, ...]:
        """Places in the request that its replies need not keep to; known once it is compiled."""
        ...

    async def while_calling(self, tools: Sequence[Tool], *, strict: bool) -> Callable[[int], TokenMask] | None:
        """Masks for replies that may call these tools, ``strict`` for no others at all; None where there are none."""
        ...
