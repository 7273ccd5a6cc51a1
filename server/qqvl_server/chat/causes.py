"""What a failing database means for its owner: one line that names the cause and what to do. Knows SQLite's codes.

https://www.sqlite.org/rescode.html; the low byte is the primary code.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError

from qqvl_server.errors import StorageFailed

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REFUSED: Final = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
)
_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})

_MEND: Final = "：下次启动会把它改名留底，从空的记录开始；有备份就先停下服务，用 restore 恢复"
DAMAGED_AT_START: Final = "聊天记录数据库 {name} 已损坏" + _MEND
FOREIGN_AT_START: Final = "数据库 {name} 里的表不是 qqvl 的，没有启动。文件没有动过：请把它移走，或换一个 --data-dir"
_AT_START: Final = {
    _LOCKED: "聊天记录数据库 {name} 正被另一个程序锁着。请关掉打开着它的程序（sqlite3、备份、同步软件等）再启动",
    frozenset({sqlite3.SQLITE_NOTADB}): ("{name} 不是 SQLite 数据库（可能被别的文件盖掉了）" + _MEND),
    _DAMAGED: DAMAGED_AT_START,
    _REFUSED: "打不开聊天记录数据库 {name}：没有读写的权限。请检查 --data-dir 里文件的主人和权限",
    _NO_ROOM: "打不开聊天记录数据库 {name}：磁盘满了或读写出错。请检查剩余空间和磁盘",
    frozenset({sqlite3.SQLITE_ERROR}): FOREIGN_AT_START,
}
_WHILE_RUNNING: Final = {
    _LOCKED: "聊天记录数据库正被另一个程序锁着，这次没有存取成功；请关掉打开着它的程序",
    _DAMAGED: (
        "聊天记录数据库已损坏，这次没有存取成功；请停下服务，用 restore 从备份恢复；"
        "没有备份就重新启动：坏的会改名留底，从空的记录开始"
    ),
    _REFUSED: "聊天记录数据库不让读写，这次没有存取成功；请检查数据目录的权限，磁盘是不是变成了只读",
    _NO_ROOM: "聊天记录写不进磁盘，这次没有保存；请检查剩余空间和磁盘",
}


def code_of(error: Exception) -> int | None:
    """SQLite's primary code; None for another database, or an error that is not the database's."""
    inner = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(inner, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def is_of_disk(error: Exception) -> bool:
    """Whether it says nothing about the statement: whatever were written now would fail alike."""
    return isinstance(error, OSError) or _of(_WHILE_RUNNING, code_of(error)) is not None


def is_damage(error: Exception) -> bool:
    return code_of(error) in _DAMAGED


def set_aside(name: str, aside: str) -> str:
    return f"聊天记录数据库 {name} 已损坏，改名为 {aside} 留底，从空的记录开始；有备份就停下服务，用 restore 恢复"


def at_start(error: Exception, name: str) -> StorageFailed:
    found = _of(_AT_START, code_of(error))
    return StorageFailed((found or "打不开聊天记录数据库 {name}：请检查地址、权限和磁盘").format(name=name))


def while_running(error: Exception) -> StorageFailed:
    return StorageFailed(_of(_WHILE_RUNNING, code_of(error)) or "聊天记录存取失败，这次没有保存；请看日志")


def from_later(name: str, written: str, ours: str | None) -> StorageFailed:
    return StorageFailed(
        f"聊天记录数据库 {name} 是更新的 qqvl 写的：它的版本是 {written}，这个程序只认到 {ours}，没有启动。"
        "请升级 qqvl，或者换一个 --data-dir"
    )


def _of(table: dict[frozenset[int], str], code: int | None) -> str | None:
    return next((text for codes, text in table.items() if code in codes), None)
