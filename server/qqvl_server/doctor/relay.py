"""The client's half: its own doctor, run as a program, because the two know each other by JSON alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server import language
from qqvl_server.config import FOREIGN_SECTIONS
from qqvl_server.doctor.finding import Finding, State, skipped

_PATIENCE_S: Final = 120
_CHECK: Final = "client"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller wants of it. ``config`` is both programs' settings file, ``picture`` an address to fetch."""

    config: Path | None
    send: bool
    picture: str


def findings(root: Path, env: Mapping[str, str], asked: Asked) -> list[tuple[str, Finding]]:
    """Each check of the client's by its name, with what it found."""
    command = _command(root)
    if command is None:
        return [(_CHECK, skipped("这里没有客户端"))]
    if not _is_set_up(root, env, asked.config):
        return [(_CHECK, skipped("没有设置过 QQ 客户端；要接 QQ 就按 README 的“接上 QQ”做"))]
    words = [*command, "doctor", "--json", *language.words()]
    words += ["--config", str(asked.config)] if asked.config else []
    words += [] if asked.send else ["--no-send"]
    words += ["--picture", asked.picture] if asked.picture else []
    try:
        done = subprocess.run(words, env=dict(env), capture_output=True, timeout=_PATIENCE_S, check=False)
        return [_parsed(one) for one in json.loads(done.stdout)["findings"]]
    except subprocess.TimeoutExpired:
        return [
            (_CHECK, Finding(State.FAILED, f"客户端的体检 {_PATIENCE_S} 秒没有做完", "客户端", "单独运行它的 doctor"))
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return [
            (
                _CHECK,
                Finding(State.FAILED, "客户端的体检没有做成", "客户端", "单独运行 ./run_client.sh doctor，看它说什么"),
            )
        ]


def _parsed(one: Mapping[str, Any]) -> tuple[str, Finding]:
    return str(one["check"]), Finding(State(one["state"]), str(one["message"]), str(one["field"]), str(one["value"]))


def _command(root: Path) -> Sequence[str] | None:
    """The client's own Python has what it needs to reach QQ; ours may lack it, which its doctor tells."""
    own = root / ".venv-client" / "bin" / "python"
    python = str(own) if own.is_file() else sys.executable
    entry = root / "client" / "qqbot_client_full.py"
    if entry.is_file():
        return (python, str(entry))
    return (sys.executable, "-m", "qqvl_client") if importlib.util.find_spec("qqvl_client") else None


def _is_set_up(root: Path, env: Mapping[str, str], config: Path | None) -> bool:
    """Whether anybody has meant to run it: who only uses the model's doors has no NapCat that could be wrong."""
    if any(name.startswith("QQVL_CLIENT_") for name in env) or (root / ".venv-client").is_dir():
        return True
    import yaml

    try:
        found = yaml.safe_load(config.read_text("utf-8")) if config else None
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return isinstance(found, dict) and any(found.get(section) for section in FOREIGN_SECTIONS)
