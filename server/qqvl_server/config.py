"""Flags, environment and ``qqvl.yaml`` become one ``Settings``; each value remembers where it came from.

Written by hand instead of with pydantic-settings because ``show-config`` must name the source of every value
and a mistake must be one Chinese line that names the flag, variable or key, which that library's merged
sources cannot tell apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from qqvl_server import invocation, keys
from qqvl_server.client_variables import CLIENT_VARIABLES
from qqvl_server.errors import ConfigError
from qqvl_server.hosts import is_loopback
from qqvl_server.settings import EngineSettings, Settings

ENV_PREFIX = "QQVL_"
# Variables of the same prefix that are no settings of the server's: the scripts', the client's, the tests'.
OTHER_ENV = frozenset(("QQVL_CONFIG", "QQVL_TORCH", "QQVL_PLANT_FAULT", invocation.LAUNCHER)) | CLIENT_VARIABLES
# What is never printed.
SECRET = (
    "server.api_keys", "server.rate_store_url", "storage.database_url", "upstream.upstream_key",
    "upstream.upstream_proxy", "upstream.cluster_secret",
)  # fmt: skip
# Sections of the same file that other programs of this project read.
FOREIGN_SECTIONS = ("client",)
# Where files of before still have settings that live in a section of their own now.
_MOVED = {("generation", name): "engine" for name in EngineSettings.model_fields}


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting as every source spells it."""

    section: str
    name: str
    info: FieldInfo

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """A list may be typed one by one: ``--api-key a --api-key b`` is ``--api-keys a,b``."""
        return (self.flag, self.flag[:-1]) if self.is_list and self.flag.endswith("s") else (self.flag,)

    @property
    def is_list(self) -> bool:
        return isinstance(self.info.default, tuple)

    @property
    def is_switch(self) -> bool:
        """``--any-model-name`` alone is ``--any-model-name true``."""
        return isinstance(self.info.default, bool)

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def in_file_only(self) -> bool:
        return self.info.default_factory is not None


@dataclass(frozen=True, slots=True)
class Resolved:
    """``sources`` maps ``section.name`` to the flag, variable or file that decided it; ``advice`` is a line, if any."""

    settings: Settings
    sources: Mapping[str, str]
    advice: str = ""


def knobs() -> tuple[Knob, ...]:
    """Every setting, in the order of the settings file."""
    found = []
    for section, room in Settings.model_fields.items():
        assert isinstance(room.annotation, type)
        found += [Knob(section, name, info) for name, info in room.annotation.model_fields.items()]
    return tuple(found)


def variables() -> frozenset[str]:
    """The names of the variables that are settings of the server."""
    return frozenset(knob.env for knob in knobs() if not knob.in_file_only)


def project_root() -> Path:
    """The checkout this file lies in, or the working directory when the package was installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "models").is_dir() else Path.cwd()


def settings_file(given: str | None, env: Mapping[str, str]) -> Path | None:
    """The one that was named, else ``qqvl.yaml`` of the working directory or the project's root, where there is one."""
    named = given or env.get("QQVL_CONFIG")
    if named:
        return Path(named)
    for folder in (Path.cwd(), project_root()):
        if (folder / "qqvl.yaml").is_file():
            return folder / "qqvl.yaml"
    return None


def data_dir(resolved: Resolved) -> Path:
    named = resolved.settings.storage.data_dir
    return Path(named) if named else project_root() / "data"


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """Parse ``qqvl.yaml`` into ``{section: {name: value}}``.

    Raises:
        ConfigError: unreadable, no YAML, or an unknown section or key.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"读不了配置文件 {path}：{error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"第 {mark.line + 1} 行附近" if mark is not None else "请检查编码是否为 UTF-8"
        raise ConfigError(f"配置文件 {path} 不是合法的 YAML：{where}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"配置文件 {path} 的最外层应是“段名: 内容”，例如 server: 下写 port: 9999")
    known = {section: [k.name for k in knobs() if k.section == section] for section in Settings.model_fields}
    for section, body in document.items():
        if section in FOREIGN_SECTIONS:
            continue
        if section not in known:
            raise ConfigError(
                f"配置文件 {path} 里没有 {section!r} 这一段{_suggest(str(section), [*known, *FOREIGN_SECTIONS])}"
            )
        if body is not None and not isinstance(body, dict):
            raise ConfigError(f"配置文件 {path} 的 {section}: 下面应是“名字: 值”")
        for name in body or {}:
            if name not in known[section] and (section, name) not in _MOVED:
                moved = [name for old, name in _MOVED if old == section]
                hint = _suggest(str(name), [*known[section], *moved])
                raise ConfigError(f"配置文件 {path} 的 {section}: 段里没有 {name!r} 这个设置{hint}")
    return {section: body for section, body in document.items() if body and section in known}


def _settled(written: dict[str, dict[str, Any]], file: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Every setting in the section where it lives now, and a line that says which were elsewhere.

    Raises ConfigError: one stands in both places.
    """
    settled: dict[str, dict[str, Any]] = {}
    moved: dict[str, list[str]] = {}
    for section, body in written.items():
        for name, value in body.items():
            home = _MOVED.get((section, name), section)
            if home != section:
                if name in written.get(home, {}):
                    raise ConfigError(
                        f"配置文件 {file} 里 {name} 写了两次：请只留 {home}: 段里的，删掉 {section}: 段里的"
                    )
                moved.setdefault(f"{section}: 段里的 {{}} 现在属于 {home}: 段", []).append(name)
            settled.setdefault(home, {})[name] = value
    advice = "；".join(text.format("、".join(names)) for text, names in moved.items())
    return settled, f"配置文件 {file} 的 {advice}，请移过去；这次照旧读了" if advice else ""


def _suggest(word: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(word, choices, n=1)
    return f"，是不是想写 {near[0]}？" if near else f"；可用的有：{'、'.join(choices)}"


def resolve(flags: Mapping[str, str], env: Mapping[str, str], file: Path | None) -> Resolved:
    """Merge the sources: flag > environment > file > default.

    Args:
        flags: ``{field name: word}`` as typed on the command line.
        env: the process environment.
        file: a settings file, or None.

    Raises:
        ConfigError: one line that names the source and says what to do.
    """
    written, advice = _settled(read_file(file), file) if file is not None else ({}, "")
    _refuse_unknown_env(env)
    values: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for knob in knobs():
        if knob.name in flags:
            value: Any = flags[knob.name]
            source = knob.flag
        elif knob.env in env and not knob.in_file_only:
            value, source = env[knob.env], knob.env
        elif knob.name in written.get(knob.section, {}):
            value, source = written[knob.section][knob.name], str(file)
        else:
            sources[knob.key] = "默认"
            continue
        values.setdefault(knob.section, {})[knob.name] = value
        sources[knob.key] = source
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, values, sources)) from None
    settings = _with_keys(settings, sources)
    _refuse_silent_exposure(settings, sources)
    return Resolved(settings, sources, advice)


def _with_keys(settings: Settings, sources: dict[str, str]) -> Settings:
    """The keys of ``api_keys_file`` added to those given directly; all of them checked."""
    server = settings.server
    if sources["server.api_keys"].startswith("--") and not server.api_keys:
        # A server meant to be locked must not start open because a shell variable was empty.
        raise ConfigError("--api-key 后面是空的；不要密钥就不要写这个参数")
    if server.api_keys_file:
        server = server.model_copy(update={"api_keys": server.api_keys + keys.read_file(Path(server.api_keys_file))})
        sources["server.api_keys"] = server.api_keys_file
    keys.parse(server.api_keys)
    return settings.model_copy(update={"server": server})


def _refuse_unknown_env(env: Mapping[str, str]) -> None:
    """Every name is known as a whole: a key misspelt must not leave the server open."""
    own = variables()
    for name in env:
        if name.upper().startswith(ENV_PREFIX.rstrip("_")) and name not in own | OTHER_ENV:
            # The client's come after the server's: of QQVL_API_KEYZ it is the server that speaks.
            near = difflib.get_close_matches(name.upper(), sorted(own), n=1, cutoff=0.85)
            near = near or difflib.get_close_matches(name.upper(), sorted(own | OTHER_ENV), n=1)
            hint = f"，是不是想写 {near[0]}？" if near else f"；用 {invocation.command('serve', '--help')} 看全部设置"
            raise ConfigError(f"没有 {name} 这个环境变量{hint}")


def _explain(error: ValidationError, values: dict[str, dict[str, Any]], sources: dict[str, str]) -> str:
    first = error.errors(include_url=False)[0]
    section, name = str(first["loc"][0]), str(first["loc"][1]) if len(first["loc"]) > 1 else ""
    context = first.get("ctx", {})
    limits = {
        "greater_than_equal": f"不能小于 {context.get('ge')}",
        "greater_than": f"必须大于 {context.get('gt')}",
        "less_than_equal": f"不能大于 {context.get('le')}",
        "literal_error": f"只能是 {str(context.get('expected')).replace(' or ', '、').replace(', ', '、')}",
        "string_pattern_mismatch": f"写法不对，例如 {_example(section, name)}",
        "bool_parsing": "应是 true 或 false",
        "int_parsing": "应是整数",
        "int_from_float": "应是整数",
        "float_parsing": "应是数字",
        "bool_type": "应是 true 或 false",
        "finite_number": "应是有限的数字",
        "value_error": str(context.get("error")),
    }
    reason = limits.get(first["type"], "类型不对，请对照 README 的设置表")
    shown = "******" if f"{section}.{name}" in SECRET else repr(values[section][name])
    return f"{sources[f'{section}.{name}']} 的值 {shown} 不行：{name} {reason}"


def _example(section: str, name: str) -> str:
    knob = next(k for k in knobs() if (k.section, k.name) == (section, name))
    return str((knob.info.examples or [knob.info.default])[0])


def _refuse_silent_exposure(settings: Settings, sources: Mapping[str, str]) -> None:
    server = settings.server
    if is_loopback(server.host) or server.api_keys or sources["server.host"] == "--host":
        return
    raise ConfigError(
        f"{sources['server.host']} 把监听地址设为 {server.host}，但没有设置密钥：任何能连到这台机器的人都能用你的模型。"
        "请设置 api_keys（或环境变量 QQVL_API_KEYS）；确实要裸奔就在命令行写 --host"
    )
