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
from typing import TYPE_CHECKING, Any, Final, Protocol

from llguidance import LLMatcher, LLParserLimits

from qqvl_server.engine.steps.request import TokenMask
from qqvl_server.errors import Busy, InvalidRequest
from qqvl_server.generation.constraints.calling import WhileCalling
from qqvl_server.generation.constraints.json_schema import Tight, tightened
from qqvl_server.generation.constraints.masks import MatcherMask, cut, unended
from qqvl_server.generation.constraints.sources import TOO_COMPLEX, Compiled, Refused, compiled
from qqvl_server.generation.constraints.wrapup import WrappingUp, closing_tokens, margin
from qqvl_server.generation.port import GenerationRequest, Grammar, GrammarKind, Tool, ToolMode
from qqvl_server.generation.replies.tool_frames import CLOSING, OPENING
from qqvl_server.observe.logs import logger

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from tokenizers import AddedToken

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


class FastTokenizer(Protocol):
    """Transformers' `PreTrainedTokenizerFast`, as far as it is read here."""

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]: ...
    def get_vocab(self) -> dict[str, int]: ...


class GrammarCompiler:
    """Compiles on threads of its own, each distinct grammar once.

    Args:
        tokenizer: a fast one of Hugging Face; wrapping a vocabulary of 150,000 takes two seconds.
        end_tokens: what may come once the grammar is satisfied.
        vocab_size: how many logits the model has, more or fewer than the tokenizer's tokens; the tokenizer's own by
            default. What only one of the two knows is never allowed.
        is_loose: what of a schema cannot be compiled is given up instead of refused.

    Raises:
        ValueError: not a fast tokenizer.
    """

    def __init__(
        self,
        tokenizer: FastTokenizer,
        end_tokens: Collection[int],
        vocab_size: int | None = None,
        *,
        is_loose: bool = False,
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
        # What may come in a thought after which something must be said.
        self.unended = unended(end_tokens, self._width)
        self._frame = (vocabulary[OPENING], vocabulary[CLOSING]) if marked else None
        self._limits = LLParserLimits(**_LIMITS)
        self._pool = _deep_threads()
        self._compiled: OrderedDict[Grammar, Future[Compiled | Refused]] = OrderedDict()
        self._is_loose = is_loose

    async def compile(self, grammar: Grammar) -> Callable[[int], TokenMask]:
        """A maker of fresh masks, one per reply, that takes the most tokens the reply may have.

        Raises:
            InvalidRequest: the grammar is malformed, unsatisfiable, too large, or takes too long.
            Busy: others' grammars hold the compiler.
        """
        return functools.partial(self._mask, await self._matcher(grammar, COMPILE_S), grammar)

    def given_up(self, grammar: Grammar) -> tuple[str, ...]:
        future = self._compiled.get(grammar)
        outcome = future.result() if future is not None and future.done() and not future.cancelled() else None
        found = outcome.given_up if isinstance(outcome, Compiled) else ()
        return (*grammar.given_up, *(_field(grammar, number) + place.removeprefix("$") for number, place in found))

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
            logger().debug("工具调用不受约束", code=error.code)
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
        if isinstance(outcome, Refused):
            # A new one each time: a remembered exception would gather every caller's traceback.
            raise _refusal(outcome.message, _field(grammar, outcome.number))
        return outcome.matcher

    def _mask(self, matcher: LLMatcher, grammar: Grammar, budget: int) -> TokenMask:
        mask = MatcherMask(matcher.deep_copy(), self._width, self._spelt)
        holds_json = grammar.kind is GrammarKind.JSON_SCHEMA or "%json" in grammar.text
        return WrappingUp(mask, self._closing, budget, margin(grammar.text)) if holds_json else mask

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _future(self, grammar: Grammar) -> Future[Compiled | Refused]:
        future = self._compiled.get(grammar)
        if future is None or future.cancelled():
            future = self._compiled[grammar] = self._pool.submit(self._compile, grammar)
            if len(self._compiled) > _REMEMBERED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return future

    def _compile(self, grammar: Grammar) -> Compiled | Refused:
        outcome = compiled(grammar, self._matched, self._limits, is_loose=self._is_loose)
        if isinstance(outcome, Refused):
            return outcome
        trial = outcome.matcher.deep_copy()
        started = time.thread_time()
        first = cut(memoryview(bytearray(trial.compute_bitmask())).cast("i"), self._width)
        if time.thread_time() - started > _MASK_S:
            return Refused(TOO_COMPLEX)
        if trial.is_error() or not any(first):
            return Refused("没有任何文字能满足这个 schema 或文法（例如只引用自己的规则）")
        return outcome

    def _matched(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)


def _field(grammar: Grammar, number: int) -> str:
    """The request's field that a grammar's schema of that number comes from."""
    return grammar.params[number] if number < len(grammar.params) else ""


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


def constraint(request: GenerationRequest) -> Grammar | None:
    """What a reply to this must be: nothing but calls where one must come; else the grammar, or calls in its place.

    Raises:
        InvalidRequest: a schema that cannot be kept to, or a grammar that leaves no room for calls.
    """
    choice = request.tool_choice
    if choice.mode is ToolMode.REQUIRED or (request.shown_tools and request.grammar is not None):
        return tool_grammar(request.callable_tools, choice.named, choice.parallel, request.grammar)
    return request.grammar


def tool_grammar(tools: Sequence[Tool], forced: str | None, parallel: bool, answer: Grammar | None = None) -> Grammar:
    """Nothing but calls of these tools in Qwen's frame, arguments as their schemas want them.

    Args:
        forced: the one tool that must be called, once; None for any.
        parallel: several calls may follow one another.
        answer: the JSON that may be said in place of any call.

    Raises:
        InvalidRequest: no tool, no tool of that name, parameters that are not an object's schema, or an answer that
            is not a JSON schema. ``param`` is where the tool says it stands.
    """
    offered = [tool for tool in tools if forced in (None, tool.name)]
    if not offered:
        raise InvalidRequest("tool_choice 要求调用的工具不在 tools 里")
    several = parallel and forced is None
    rules = [
        'start: call ("\\n" call)*' if several else "start: call",
        "call: " + " | ".join(f"call_{number}" for number in range(len(offered))),
    ]
    schemas = [_tightened(tool.parameters, tool.where, arguments=True) for tool in offered]
    params = [tool.where for tool in offered]
    for number, tool in enumerate(offered):
        head = _quoted(_HEAD + _quoted(tool.name)[1:] + ', "arguments": ')
        rules.append(f'call_{number}: <tool_call> {head} arguments_{number} "}}\\n" </tool_call>')
        rules.append(f"arguments_{number}: %json {schemas[number].text}")
    if answer is not None:
        if answer.kind is not GrammarKind.JSON_SCHEMA:
            raise InvalidRequest("有 tools 时，回复只能约束成 JSON（json_object 或 json_schema）")
        rules[0] += " | answer"
        params.append(answer.params[0] if answer.params else "")
        schemas.append(_tightened(answer.text, params[-1]))
        rules.append(f"answer: %json {schemas[-1].text}")
    given_up = [f"{param}{place[1:]}" for param, tight in zip(params, schemas, strict=True) for place in tight.given_up]
    return Grammar(GrammarKind.LARK, "\n".join(rules), tuple(params), tuple(given_up))


def _refusal(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"参数 {param}：{message}" if param else message, param=param or None)


def _tightened(text: str, param: str, *, arguments: bool = False) -> Tight:
    try:
        return tightened(text, arguments=arguments)
    except InvalidRequest as error:
        raise _refusal(error.message, param) from None


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
