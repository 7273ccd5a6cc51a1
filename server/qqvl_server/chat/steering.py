"""The settings of sections ``chat`` and ``observe`` while the server runs: listed with their source, changed at once.

Knows settings, preferences and what the page keeps; no HTTP, no SQL.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from qqvl_server import config, overrides
from qqvl_server.chat.page_settings import PageSettings
from qqvl_server.config import SECRET, Knob, Resolved
from qqvl_server.errors import ConfigError, InvalidRequest
from qqvl_server.observe import logs
from qqvl_server.settings import Settings

_HIDDEN: Final = "******"


class Steering:
    """``resolved`` is what flags, environment and file say, and stays ``below``; ``now`` is what holds. ``apply`` makes
    the bot heed other settings of its own.

    Raises ConfigError from ``apply``: they cannot be heeded.
    """

    def __init__(
        self, resolved: Resolved, kept: Mapping[str, Any], store: PageSettings, apply: Callable[[Settings], None]
    ) -> None:
        self.below = resolved
        self._kept = dict(kept)
        self._store = store
        self._apply = apply
        self.now = overrides.over(resolved, kept)
        try:
            self._heed(resolved)
        except ConfigError as error:
            logs.logger().warning("网页里改过的设置用不了，先用别处写的", reason=error.message)
            self._kept, self.now = {}, resolved

    def listed(self) -> list[dict[str, Any]]:
        """Every setting there is."""
        return [self._told(knob) for knob in config.knobs()]

    async def change(self, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings by ``section.name``; None is as without the page. Gives what each was and is.

        Raises:
            InvalidRequest: no such setting, one that cannot be changed here, or a bad value.
            StorageFailed
        """
        known = {knob.key: knob for knob in config.knobs()}
        for name, value in values.items():
            knob = known.get(name)
            if knob is None:
                raise InvalidRequest("没有这个设置；名字写成 段.名字，如 chat.group_reply")
            if not overrides.may_change(knob, self.below.sources[name]):
                source = self.below.sources[name]
                pinned = knob.section in overrides.SECTIONS and not knob.in_file_only
                reason = f"已由 {source} 定下，去掉它才能在这里改" if pinned else "要改设置文件并重启"
                raise InvalidRequest(f"{name} {reason}", param=name)
            if value is not None:
                overrides.checked(knob, value)
        old = {name: self._kept[name] for name in values if name in self._kept}
        kept = {name: value for name, value in {**self._kept, **values}.items() if value is not None}
        before, after = self.now, overrides.over(self.below, kept)
        await self._store.keep(values)
        self._kept, self.now = kept, after
        try:
            self._heed(before)
        except ConfigError as error:
            self._kept = {name: value for name, value in self._kept.items() if name not in values} | old
            self.now = before
            await self._store.keep({name: old.get(name) for name in values})
            raise InvalidRequest(error.message) from error
        return {name: (_value(before, known[name]), _value(after, known[name])) for name in values}

    def adopt(self, kept: Mapping[str, Any]) -> None:
        """Another server changed what is kept."""
        old, before = self._kept, self.now
        self._kept, self.now = dict(kept), overrides.over(self.below, kept)
        try:
            self._heed(before)
        except ConfigError as error:
            logs.logger().warning("别的服务器改的设置在这里用不了，先用原来的", reason=error.message)
            self._kept, self.now = old, before

    def _heed(self, before: Resolved) -> None:
        """Let what holds now be heeded, where it is not as ``before``. Raises ConfigError; all stays as it was."""
        now, was = self.now.settings, before.settings
        if now.chat != was.chat:
            self._apply(now)
        if now.observe != was.observe:
            logs.configure(now.observe)

    def _told(self, knob: Knob) -> dict[str, Any]:
        source = self.now.sources[knob.key]
        kind, choices = _kind(knob)
        default = knob.info.get_default(call_default_factory=True)
        return {
            "key": knob.key,
            "value": _value(self.now, knob),
            "default": _HIDDEN if knob.key in SECRET and default else default,
            "source": source,
            "below": _value(self.below, knob),
            "editable": overrides.may_change(knob, self.below.sources[knob.key]),
            "description": knob.info.description,
            "kind": kind,
            "choices": choices,
        }


def _value(resolved: Resolved, knob: Knob) -> Any:
    value = getattr(getattr(resolved.settings, knob.section), knob.name)
    if knob.key in SECRET and value:
        return _HIDDEN
    return list(value) if isinstance(value, tuple) else value


def _kind(knob: Knob) -> tuple[str, list[str]]:
    """How it is best typed, and the words that it may be."""
    words = _literals(knob.info.annotation)
    if words:
        return "choice", words
    if knob.in_file_only:
        return "map", []
    if knob.is_list:
        return "list", []
    if knob.is_switch:
        return "switch", []
    return ("text" if isinstance(knob.info.default, str) else "number"), []


def _literals(kind: Any) -> list[str]:
    if typing.get_origin(kind) is Literal:
        return [str(word) for word in typing.get_args(kind)]
    return [word for part in typing.get_args(kind) for word in _literals(part)]
