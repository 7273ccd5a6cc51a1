"""Turns with tools: made-up definitions in the real template's format, calls, and answers from tool results."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from . import replies, words
from .episode import Episode
from .grammar import chinese_mark, english_case, expand
from .names import city, person
from .tool_families import EXTRAS, FAMILIES, KEY_DESCRIPTIONS, Family


def _tool_name(family: Family, rng: Random) -> str:
    """A usual name, or one put together, so that names are read and not remembered."""
    if rng.random() < 0.5:
        return rng.choice(family.names)
    if rng.random() < 0.15:
        return f"{family.noun}_{rng.choice(('now', 'today', 'lookup', 'info', 'of_city', 'report'))}"
    verb = rng.choice(
        ("get", "get", "get", "query", "query", "fetch", "check", "find", "lookup", "search", "show", "my")
    )
    middle = rng.choice(("", "", "city_", "current_", "local_", "today_", "the_", "real_", "cn_", "a_"))
    last = rng.choice(("", "", "", "_info", "_data", "_now", "_tool", "_v2", "_by_city", "_api"))
    return f"{verb}_{middle}{family.noun}{last}"


def _definition(family: Family, key: str, rng: Random) -> dict[str, Any]:
    """One OpenAI-style tool with the argument `key`, and sometimes another that nobody asks for."""
    about = rng.choice(KEY_DESCRIPTIONS)
    properties: dict[str, Any] = {key: {"type": "string", "description": about} if about else {"type": "string"}}
    if rng.random() < 0.25:
        name, schema = rng.choice(EXTRAS)
        properties = {name: schema, **properties} if rng.random() < 0.3 else {**properties, name: schema}
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85 or next(iter(properties)) != key:
        parameters["required"] = [key]
    if rng.random() < 0.1:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": _tool_name(family, rng)}
    if rng.random() < 0.95:
        function["description"] = rng.choice(family.descriptions)
    function["parameters"] = parameters
    if rng.random() < 0.08:
        function["strict"] = rng.random() < 0.5
    return {"type": "function", "function": function}


def equip(episode: Episode) -> None:
    """Give the conversation one to three tools of different families."""
    rng = episode.rng
    others = [name for name in FAMILIES if name != "weather"]
    chosen = ["weather"] if rng.random() < 0.85 else []
    chosen += rng.sample(others, rng.choices((0, 1, 2), (30, 48, 22))[0] if chosen else 1)
    rng.shuffle(chosen)
    for name in chosen:
        key = rng.choice(FAMILIES[name].keys)
        episode.tools.append({"family": name, "key": key, **_definition(FAMILIES[name], key, rng)})


def strip(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools as the template gets them, without the recipe's own marks."""
    return [{"type": tool["type"], "function": tool["function"]} for tool in tools]


def _call(tool: dict[str, Any], value: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool["function"]["name"], "arguments": {tool["key"]: value}}}


def call_tool(episode: Episode) -> None:
    """A question that one of the tools answers; usually followed by the tool's result and a sentence from it."""
    rng, english = episode.rng, episode.english
    if not episode.tools:
        ask_without_tool(episode)
        return
    tool = rng.choice(episode.tools)
    family = FAMILIES[tool["family"]]
    values = [_argument(tool["family"], rng, english)]
    if tool["family"] == "weather" and rng.random() < 0.07:
        values.append(_argument("weather", rng, english))
    episode.user(_ask(family, (" and " if english else rng.choice(("和", "、", "和"))).join(values), english, rng))
    episode.messages.append({"role": "assistant", "content": "", "tool_calls": [_call(tool, v) for v in values]})
    if rng.random() < 0.65:
        results = [_result(tool["family"], value, rng) for value in values]
        episode.messages += [{"role": "tool", "content": content} for content, _ in results]
        joint = "; " if english else "；"
        episode.bot(replies.tool_result(joint.join(told for _, told in results), english))


def _argument(family: str, rng: Random, english: bool) -> str:
    if family == "search":
        return rng.choice(words.EN_TOPICS if english else words.TOPICS) if rng.random() < 0.5 else person(rng, english)
    return city(rng, english != (rng.random() < 0.12))  # some name a foreign city in its own tongue


def _ask(family: Family, value: str, english: bool, rng: Random) -> str:
    pattern = rng.choice(family.english_asks if english else family.asks)
    if english:
        return english_case(expand(pattern, rng).replace("<x>", "\0"), rng).replace("\0", value)
    return chinese_mark(expand(pattern, rng, x=value), rng)


def _result(family: str, value: str, rng: Random) -> tuple[str, str]:
    """What a tool returned, and its content as the answer repeats it: values in order, or the text itself."""
    degrees = rng.randint(-20, 42)
    facts: dict[str, Any]
    if family == "weather":
        facts = {
            "city": value,
            "weather": rng.choice(words.WEATHERS),
            "temperature": rng.choice((degrees, f"{degrees}°C", f"{degrees}℃", f"{degrees}度")),
        }
        if rng.random() < 0.2:
            facts["wind"] = rng.choice(("3级", "东风2级", "5 m/s", "北风"))
    elif family == "time":
        facts = {"city": value, "time": f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"}
    elif family == "air":
        facts = {
            "city": value,
            "aqi": rng.randint(10, 300),
            "level": rng.choice(("优", "良", "轻度污染", "good", "bad")),
        }
    elif family == "city":
        facts = {"city": value, "population": rng.choice((f"{rng.randint(10, 3000)}万", rng.randint(10000, 30000000)))}
    else:
        facts = {"query": value, "result": rng.choice(words.TOPICS) + rng.choice(words.TOPICS)}
    if rng.random() < 0.2:
        facts.pop(next(iter(facts)))
    elif rng.random() < 0.2:
        facts = {rng.choice(("location", "城市", "place", "name")) if k == "city" else k: v for k, v in facts.items()}
    if rng.random() < 0.55:
        return json.dumps(facts, ensure_ascii=False), "，".join(str(v) for v in facts.values())
    joint = rng.choice((" ", "，", "，今天", "：", ", ", " 今天"))
    text = joint.join(str(v) for v in facts.values())
    return text + rng.choice(("", "", "。")), text


def ask_without_tool(episode: Episode) -> None:
    """A question that no tool at hand answers."""
    rng, english = episode.rng, episode.english
    missing = [name for name in FAMILIES if name not in {tool["family"] for tool in episode.tools}]
    if not missing:
        call_tool(episode)
        return
    name = rng.choice(missing)
    episode.user(_ask(FAMILIES[name], _argument(name, rng, english), english, rng))
    episode.bot(replies.demo(english))
