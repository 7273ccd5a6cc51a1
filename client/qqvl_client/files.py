"""Files that somebody else wrote: what a YAML one holds, and who may read one."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from qqvl_client.errors import SettingsError


def read_yaml(path: Path) -> dict[str, Any]:
    """Its mapping; raises SettingsError, which says what is wrong with it."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"读不了设置文件 {path}：{error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"第 {mark.line + 1} 行" if mark else ""
        raise SettingsError(f"设置文件 {path} {where}不是合法的 YAML") from None
    if not isinstance(found, dict | None):
        raise SettingsError(f"设置文件 {path} 的最外层要写成“名字: 值”")
    return found or {}


def shut_to_others(file: Path) -> bool:
    """Take a file that holds a token from the eyes of other accounts; true when that was needed and worked."""
    try:
        if not file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            return False
        file.chmod(0o600)
    except OSError:
        return False
    return True
