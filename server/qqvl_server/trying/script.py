"""A played group as a file."""

from __future__ import annotations

import json
from pathlib import Path

from qqvl_server.chat.playscript import Script, parsed
from qqvl_server.errors import ConfigError, InvalidRequest


def read(path: Path) -> Script:
    """Raises ConfigError: it cannot be read, or where it is wrong."""
    try:
        return parsed(json.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ConfigError(f"读不了脚本 {path}：{error.strerror}") from error
    except InvalidRequest as error:
        raise ConfigError(f"脚本 {path} 的 {error.message}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"脚本 {path} 不是合法的 JSON（UTF-8）") from error
