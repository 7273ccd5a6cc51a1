"""What an upstream is and can do, found out by asking it: once when it is first reached, and again when it comes back.

Asking costs one token of a reply, at most three times.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qqvl_server.generation.engines.upstream.fleet import Profile, Upstream
from qqvl_server.generation.engines.upstream.kinds import KINDS, OLD_VLLM, OWNERS, Counting, Kind
from qqvl_server.generation.engines.upstream.pictures import data_of
from qqvl_server.generation.engines.upstream.wire import Told, UpstreamHttp
from qqvl_server.observe.logs import logger
from qqvl_server.upstreams import Preset

PATIENCE_S: Final = 5
"""For questions that no model is needed for."""
# A server that loads its model for the first call, as Ollama does, answers it late: better assumed than waited for.
_MODEL_S: Final = 15
# Where a server that tells no owner is told by an address that no other has.
_TELLTALES: Final = {
    "/props": "llamacpp", "/get_server_info": "sglang", "/api/v0/models": "lmstudio", "/api/version": "ollama",
    "/version": "vllm",
}  # fmt: skip
_AT_MOST: Final = 8
_TEXT: Final = "hi"
_SQUARE: Final = (64, 64)


@dataclass(frozen=True, slots=True)
class Prober:
    """``model`` as the settings name it, or nothing."""

    http: UpstreamHttp
    preset: Preset
    model: str

    async def is_there(self, upstream: Upstream) -> bool:
        """Whether it answers at all; one that is still loading or broken says so by its status."""
        told = await self.http.ask(f"{upstream.url}/models", timeout_s=PATIENCE_S)
        return told is not None and told.status < 500

    async def look(self, upstream: Upstream) -> Profile | None:
        """None where it does not answer, or only that it cannot."""
        told = await self.http.ask(f"{upstream.url}/models", timeout_s=PATIENCE_S)
        if told is None or told.status >= 500:
            return None
        if told.status in (401, 403):
            logger().error("上游不认我们的密钥，请检查 upstream_key", upstream=upstream.name, status=told.status)
        listed = _listed(told)
        kind = await self._kind(upstream, listed)
        model = self.model or str((listed[0] if listed else {}).get("id", "")) or "default"
        entry = next((one for one in listed if one.get("id") == model), {})
        if listed and not entry and kind.name not in ("qqvl", "llamacpp"):
            logger().warning("上游没有列出这个模型，请检查 upstream_model", upstream=upstream.name, model=model)
        context = await self._context(upstream, kind, model, entry)
        sees, logprobs = await self._abilities(upstream, model, kind)
        counts, frame, header = await self._counts(upstream, kind, model, sees=sees)
        return Profile(kind, model, context, sees, logprobs, counts, frame, header)

    async def _kind(self, upstream: Upstream, listed: list[dict[str, Any]]) -> Kind:
        name: str = self.preset
        if name == "auto":
            owners = [OWNERS[one["owned_by"]] for one in listed if one.get("owned_by") in OWNERS]
            name = owners[0] if owners else await self._by_telltale(upstream)
        if name != "vllm":
            return KINDS[name]
        told = await self._get(upstream, "/version")
        version = re.match(r"(\d+)\.(\d+)", str(told.get("version", "")))
        return OLD_VLLM if version and (int(version[1]), int(version[2])) < (0, 12) else KINDS[name]

    async def _by_telltale(self, upstream: Upstream) -> str:
        for path, name in _TELLTALES.items():
            if await self._get(upstream, path):
                return name
        return "openai"

    async def _context(self, upstream: Upstream, kind: Kind, model: str, entry: Mapping[str, Any]) -> int | None:
        told = [entry.get("max_model_len"), _at(entry, "meta", "n_ctx")]
        match kind.name:
            case "llamacpp":
                props = await self._get(upstream, "/props")
                told += [_at(props, "default_generation_settings", "n_ctx"), props.get("n_ctx")]
            case "lmstudio":
                known = (await self._get(upstream, "/api/v0/models")).get("data", [])
                ours = [one for one in known if isinstance(one, dict) and one.get("id") == model]
                told += [one.get(n) for one in ours for n in ("loaded_context_length", "max_context_length")]
            case "ollama":
                running = (await self._get(upstream, "/api/ps")).get("models", [])
                told += [
                    one.get("context_length") for one in running if isinstance(one, dict) and one.get("name") == model
                ]
        return next((found for found in told if isinstance(found, int) and found > 0), None)

    async def _abilities(self, upstream: Upstream, model: str, kind: Kind) -> tuple[bool, bool]:
        """Whether it sees pictures, and tells log-probabilities; what it does not say in time is assumed."""
        picture = {"type": "image_url", "image_url": {"url": data_of(*_SQUARE)}}
        seen = await self._said(upstream, model, kind, [picture, {"type": "text", "text": _TEXT}], logprobs=True)
        if seen is None:
            return True, kind.name in ("vllm", "sglang", "qqvl", "llamacpp")
        if seen.status == 200:
            return True, _has_logprobs(seen.value)
        words = await self._said(upstream, model, kind, _TEXT, logprobs=True)
        if words is not None and words.status == 200:
            return False, _has_logprobs(words.value)
        alone = await self._said(upstream, model, kind, [picture, {"type": "text", "text": _TEXT}], logprobs=False)
        return alone is not None and alone.status == 200, False

    async def _said(self, upstream: Upstream, model: str, kind: Kind, content: Any, *, logprobs: bool) -> Told | None:
        body = {"model": model, "messages": [{"role": "user", "content": content}], kind.reply_field: 1}
        more = {"logprobs": True, "top_logprobs": 2} if logprobs else {}
        return await self.http.ask(f"{upstream.url}/chat/completions", body | more, timeout_s=_MODEL_S)

    async def _counts(self, upstream: Upstream, kind: Kind, model: str, *, sees: bool) -> tuple[bool, int, int]:
        """Whether ``/tokenize`` counts all that is sent; a message's frame, and an answer's header."""
        if kind.counting is Counting.NONE:
            return False, 0, 0
        if kind.counting is Counting.CONTENT:
            # It knows no pictures, and no template: a frame takes no more than this.
            return not sees and await self.text_tokens(upstream, kind, model, _TEXT) is not None, _AT_MOST, _AT_MOST
        user: dict[str, Any] = {"role": "user", "content": _TEXT}
        bot = user | {"role": "assistant"}
        picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_of(*_SQUARE)}},
                                               {"type": "text", "text": _TEXT}]}  # fmt: skip
        asked = [[user], [user, bot, user], [picture]]
        one, three, shown = await asyncio.gather(*(self.tokens(upstream, model, talk) for talk in asked))
        text = await self.text_tokens(upstream, kind, model, _TEXT)
        if one is None or three is None or text is None or (sees and (shown is None or shown < one + 4)):
            return False, 0, 0
        frame = max(-(-(three - one) // 2) - text, 0)
        # A system prompt that the template adds by itself is in it.
        return True, frame, max(one - text - frame, 0)

    async def tokens(self, upstream: Upstream, model: str, talk: list[dict[str, Any]]) -> int | None:
        """As the template renders them, with the header of an answer."""
        body = {"model": model, "messages": talk}
        return _count(await self.http.ask(f"{upstream.root}/tokenize", body, timeout_s=PATIENCE_S))

    async def text_tokens(self, upstream: Upstream, kind: Kind, model: str, text: str) -> int | None:
        body: dict[str, Any] = {"content": text}
        if kind.counting is Counting.MESSAGES:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
        return _count(await self.http.ask(f"{upstream.root}/tokenize", body, timeout_s=PATIENCE_S))

    async def _get(self, upstream: Upstream, path: str) -> dict[str, Any]:
        told = await self.http.ask(f"{upstream.root}{path}", timeout_s=PATIENCE_S)
        return told.value if told is not None and told.status == 200 and isinstance(told.value, dict) else {}


def _listed(told: Told) -> list[dict[str, Any]]:
    data = told.value.get("data") if isinstance(told.value, dict) else None
    return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []


def _at(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _count(told: Told | None) -> int | None:
    if told is None or told.status != 200 or not isinstance(told.value, dict):
        return None
    count, tokens = told.value.get("count"), told.value.get("tokens")
    return count if isinstance(count, int) else len(tokens) if isinstance(tokens, list) else None


def _has_logprobs(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    content = _at(first, "logprobs", "content")
    return isinstance(content, list) and bool(content) and bool(_at(content[0], "top_logprobs"))
