"""Constrained decoding: schemas, patterns and grammars become masks over the vocabulary, by llguidance.

Knows tokens and grammars; no chats, no HTTP. Qwen's tool-call frame is written here as a grammar and read in ``tools``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from llguidance import LLMatcher, LLParserLimits

from qqvl_server.engine.request import TokenMask
from qqvl_server.errors import Busy, InvalidRequest
from qqvl_server.generation.calling import WhileCalling
from qqvl_server.generation.masks import MatcherMask, cut
from qqvl_server.generation.port import Grammar, GrammarKind, Tool
from qqvl_server.generation.schema import tightened
from qqvl_server.generation.sources import TOO_COMPLEX, reason, source_of
from qqvl_server.generation.tools import CLOSING, OPENING
from qqvl_server.generation.wrapup import WrappingUp, closing_tokens, margin
from qqvl_server.observe.logs import logger

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedTokenizerBase

MAX_CHARACTERS: Final = 256_000
# What Qwen's frame spells between a call's opening token and the function's name.
_HEAD: Final = '\n{"name": "'
_ANY_ARGUMENTS: Final = '{"type":"object"}'
COMPILE_S: Final = 5.0
# Tools that need not be called are not worth more of a wait; the compile goes on, and the next request finds it done.
_FAVOUR_S: Final = 0.5
# A native compile cannot be interrupted: two that run for long leave the rest of the server its cores.
_THREADS: Final = 2
# Reserved, not used: a chain of thousands of rules overflows the usual 8 MB, which ends the process.
_STACK_BYTES: Final = 512 * 1024**2
_REMEMBERED: Final = 32
# Of the engine's thread, per token: a grammar whose first mask takes longer would hold every other reply up.
_MASK_S: Final = 0.2
# Less of most than the library's own, which let one request hold 500 MB and a thread for seconds; more items in a row,
# because an object with a thousand optional keys has four thousand.
_LIMITS: Final[dict[str, Any]] = {
    "max_items_in_row": 5_000,
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 25_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}


class GrammarCompiler:
    """Compiles on threads of its own, each distinct grammar once.

    Args:
        tokenizer: a fast one of Hugging Face; wrapping a vocabulary of 150,000 takes two seconds.
        end_tokens: what may come once the grammar is satisfied.
        vocab_size: how many logits the model has, more or fewer than the tokenizer's tokens; the tokenizer's own by
            default. What only one of the two knows is never allowed.

    Raises:
        ValueError: not a fast tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_tokens: Collection[int], vocab_size: int | None = None
    ) -> None:
        # Brings Transformers with it, which whoever only writes a grammar need not wait for.
        from llguidance import hf

        vocabulary = tokenizer.get_vocab()
        # Not its length: ids may leave gaps.
        known = max(vocabulary.values()) + 1
        self._width = vocab_size or known
        self._tokenizer: LLTokenizer = hf.from_tokenizer(
            tokenizer, n_vocab=max(known, self._width), eos_token=sorted(end_tokens)
        )
        vocabulary = {piece: token for piece, token in vocabulary.items() if token < self._width}
        self._closing = closing_tokens(vocabulary, end_tokens, self._width)
        added = tokenizer.added_tokens_decoder.items()
        self._spelt = {token: self._tokenizer.greedy_tokenize(one.content)[0] for token, one in added if one.content}
        marked = OPENING in vocabulary and CLOSING in vocabulary
        self._frame = (vocabulary[OPENING], vocabulary[CLOSING]) if marked else None
        self._limits = LLParserLimits(**_LIMITS)
        self._pool = _deep_threads()
        self._compiled: OrderedDict[Grammar, Future[LLMatcher | InvalidRequest]] = OrderedDict()

    async def compile(self, grammar: Grammar) -> Callable[[int], TokenMask]:
        """A maker of fresh masks, one per reply, that takes the most tokens the reply may have.

        Raises:
            InvalidRequest: the grammar is malformed, unsatisfiable, too large, or takes too long.
            Busy: others' grammars hold the compiler.
        """
        return functools.partial(self._mask, await self._matcher(grammar, COMPILE_S), grammar)

    async def while_calling(self, tools: Sequence[Tool], *, strict: bool) -> Callable[[int], TokenMask] | None:
        """The same for replies that may call these tools; ``strict`` lets no other name be as much as written.

        Schemas that cannot be compiled, or not at once, leave the arguments free but not the name; None where not
        even that can be had.
        """
        frame = self._frame
        if frame is None:
            return None
        # Looked at before the schemas are read: that happens on the event loop.
        short = sum(len(tool.parameters) for tool in tools) <= MAX_CHARACTERS
        matcher = await self._favoured(tools) if short else None
        matcher = matcher or await self._favoured([Tool(tool.name, None, _ANY_ARGUMENTS) for tool in tools])
        if matcher is None:
            return None
        head = None if strict else _HEAD.encode()
        spell = self._tokenizer.decode_bytes

        def fresh() -> TokenMask:
            return MatcherMask(matcher.deep_copy(), self._width, self._spelt)

        return lambda _budget: WhileCalling(fresh, spell, *frame, head)

    async def _favoured(self, tools: Sequence[Tool]) -> LLMatcher | None:
        try:
            return await self._matcher(tool_grammar(tools, None, parallel=False), _FAVOUR_S)
        except (InvalidRequest, Busy) as error:
            logger().debug("工具调用不受约束", reason=error.message)
            return None

    async def _matcher(self, grammar: Grammar, patience_s: float) -> LLMatcher:
        if len(grammar.text) > MAX_CHARACTERS:
            raise InvalidRequest(f"约束输出的 schema 或文法太长，最多 {MAX_CHARACTERS} 个字符")
        future = self._future(grammar)
        waiting = asyncio.wrap_future(future)
        done, _ = await asyncio.wait([waiting], timeout=patience_s)
        if not done:
            if future.running():
                raise InvalidRequest(f"约束输出的 schema 或文法太复杂，{patience_s:g} 秒内没有编译完")
            raise Busy("正在编译的约束太多，请稍后再试", retry_after=5)
        outcome = waiting.result()
        if isinstance(outcome, InvalidRequest):
            # A new one each time: a remembered exception would gather every caller's traceback.
            raise InvalidRequest(outcome.message)
        return outcome

    def _mask(self, matcher: LLMatcher, grammar: Grammar, budget: int) -> TokenMask:
        mask = MatcherMask(matcher.deep_copy(), self._width, self._spelt)
        holds_json = grammar.kind is GrammarKind.JSON_SCHEMA or "%json" in grammar.text
        return WrappingUp(mask, self._closing, budget, margin(grammar.text)) if holds_json else mask

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _future(self, grammar: Grammar) -> Future[LLMatcher | InvalidRequest]:
        future = self._compiled.get(grammar)
        if future is None or future.cancelled():
            future = self._compiled[grammar] = self._pool.submit(self._compile, grammar)
            if len(self._compiled) > _REMEMBERED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return future

    def _compile(self, grammar: Grammar) -> LLMatcher | InvalidRequest:
        try:
            source = source_of(grammar)
            matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        except InvalidRequest as error:
            return error
        except ValueError:
            return InvalidRequest(reason(grammar.kind, ""))
        if matcher.is_error():
            return InvalidRequest(reason(grammar.kind, matcher.get_error()))
        trial = matcher.deep_copy()
        started = time.thread_time()
        first = cut(memoryview(bytearray(trial.compute_bitmask())).cast("i"), self._width)
        if time.thread_time() - started > _MASK_S:
            return InvalidRequest(TOO_COMPLEX)
        if trial.is_error() or not any(first):
            return InvalidRequest("没有任何文字能满足这个 schema 或文法（例如只引用自己的规则）")
        return matcher


def _deep_threads() -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="qqvl-grammar")
    ready = threading.Barrier(_THREADS + 1)
    usual = threading.stack_size(_STACK_BYTES)
    try:
        for _ in range(_THREADS):
            pool.submit(ready.wait)
    finally:
        threading.stack_size(usual)
    ready.wait()
    return pool


def tool_grammar(tools: Sequence[Tool], forced: str | None, parallel: bool, answer: Grammar | None = None) -> Grammar:
    """Nothing but calls of these tools in Qwen's frame, arguments as their schemas want them.

    Args:
        forced: the one tool that must be called, once; None for any.
        parallel: several calls may follow one another.
        answer: the JSON that may be said in place of any call.

    Raises:
        InvalidRequest: no tool, no tool of that name, parameters that are not an object's schema, or an answer that
            is not a JSON schema.
    """
    offered = [tool for tool in tools if forced in (None, tool.name)]
    if not offered:
        raise InvalidRequest("tool_choice 要求调用的工具不在 tools 里")
    several = parallel and forced is None
    rules = [
        'start: call ("\\n" call)*' if several else "start: call",
        "call: " + " | ".join(f"call_{number}" for number in range(len(offered))),
    ]
    for number, tool in enumerate(offered):
        head = _quoted(_HEAD + _quoted(tool.name)[1:] + ', "arguments": ')
        rules.append(f'call_{number}: <tool_call> {head} arguments_{number} "}}\\n" </tool_call>')
        rules.append(f"arguments_{number}: %json {tightened(tool.parameters, arguments=True)}")
    if answer is not None:
        if answer.kind is not GrammarKind.JSON_SCHEMA:
            raise InvalidRequest("有 tools 时，回复只能约束成 JSON（json_object 或 json_schema）")
        rules[0] += " | answer"
        rules.append(f"answer: %json {tightened(answer.text)}")
    return Grammar(GrammarKind.LARK, "\n".join(rules))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
