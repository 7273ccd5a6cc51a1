"""What a command was killed in: done to its end, before anybody uses the folder again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from qqvl_server.errors import StorageFailed
from qqvl_server.keeping import forgetting, unfinished
from qqvl_server.keeping.places import Places


def finish(data: Path, url: str, say: Callable[[str], object]) -> None:
    """In a folder that is held. Raises QqvlError: it cannot be finished, or what was written down cannot be read."""
    told = unfinished.read(data)
    if told is None:
        return
    say("上一次的命令没有做完就断了，先把它做完")
    try:
        if told["kind"] == "restore":
            unfinished.finish_restore(data, told)
        else:
            where = Places(data, Path(told["client"]), url)
            asyncio.run(forgetting.carry_out(where, forgetting.plan_of(told), lambda _: None))
    except OSError as error:
        raise StorageFailed(f"上次没做完的事接不下去：{error.strerror}。请检查数据目录的权限和剩余空间") from error
