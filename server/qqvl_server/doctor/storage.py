"""The data folder, room on its disk, the database, and whether the clock goes with what is stored."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from qqvl_server.chat import inspection
from qqvl_server.chat.postgres import is_address as is_shared
from qqvl_server.chat.store import sqlite_url
from qqvl_server.doctor.finding import Case, Finding, failed, ok, skipped
from qqvl_server.errors import StorageFailed
from qqvl_server.process import is_held

_GB: Final = 1e9
# Below this SQLite, its log and a few pictures have no room to breathe.
_LEAST_FREE: Final = 0.5 * _GB
# Kept free beside the pictures.
_SPARE: Final = 1 * _GB
_AHEAD_S: Final = 60
_DAY_S: Final = 86400
_ELSEWHERE: Final = os.path.expanduser("~/qqvl-data")


def folder(case: Case) -> Finding:
    """Writing is tried, not asked about: a read-only mount, a full quota and root's own rights are found so.

    Nothing is created that a start would create: it would belong to whoever runs the doctor.
    """
    there = case.data_dir
    where = case.where("storage.data_dir")
    if not there.exists():
        above = next(one for one in there.absolute().parents if one.exists())
        return _written(above, there, where, "还没有，第一次启动时建")
    if case.running is None and not is_shared(_url(case)) and is_held(there):
        return failed(
            f"数据目录 {there} 正被另一个 qqvl 服务使用，而它不在 {case.settings.server.port} 端口上",
            where,
            f"停掉那个服务，或换成另一个文件夹，如 {_ELSEWHERE}",
        )
    return _written(there, there, where, "可以读写")


def _written(place: Path, there: Path, where: str, fine: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"qqvl")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failed(
            f"写不进数据目录 {there}：{error.strerror}",
            where,
            f"一个能写的文件夹，如 {_ELSEWHERE}；或让它归运行服务的用户所有：chown -R <用户> {there}",
        )
    return ok(f"{there} {fine}")


def disk(case: Case) -> Finding:
    place = next(one for one in (case.data_dir, *case.data_dir.absolute().parents) if one.exists())
    usage = psutil.disk_usage(str(place))
    free = usage.free
    if not usage.total:
        return skipped(f"{place} 不在磁盘上")
    limit = case.settings.storage.image_store_gb
    if free < _LEAST_FREE:
        return failed(
            f"{place} 所在的磁盘只剩 {free / _GB:.1f} GB",
            case.where("storage.data_dir"),
            f"腾出空间，或换成一块空一点的磁盘上的文件夹，如 {_ELSEWHERE}",
        )
    kept = sum(file.stat().st_size for file in (case.data_dir / "images").rglob("*") if file.is_file())
    room = (free + kept - _SPARE) / _GB
    if limit > room:
        return failed(
            f"图片最多存 {limit:g} GB，而磁盘只剩 {free / _GB:.1f} GB：存满之前磁盘先满，消息就存不进了",
            case.where("storage.image_store_gb"),
            f"{max(room, 0.1):.1f}",
        )
    return ok(f"还剩 {free / _GB:.1f} GB，图片最多用 {limit:g} GB")


def database(case: Case) -> Finding:
    try:
        there = inspection.examine(_url(case))
    except StorageFailed as error:
        outside = bool(case.settings.storage.database_url)
        return failed(
            error.message,
            case.where("storage.database_url" if outside else "storage.data_dir"),
            "数据库现在的地址"
            if outside
            else f"先照上面说的处理 {case.data_dir} 里的文件，或换一个文件夹，如 {_ELSEWHERE}",
        )
    return ok("完好，可以读写" if there else "还没有，第一次启动时建")


def clock(case: Case) -> Finding:
    """Nothing here asks the network; what the other side's clock says, the client's half tells."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    # A machine without a battery starts its clock long before this program was made.
    made = Path(__file__).stat().st_mtime
    newest = inspection.newest(_url(case)) or 0
    if now < made - _DAY_S or newest - now > _AHEAD_S:
        return failed(f"系统时间 {shown} 不对：已经存下的东西比它还晚", "系统时间", "timedatectl set-ntp true")
    return ok(shown)


def _url(case: Case) -> str:
    return case.settings.storage.database_url or sqlite_url(case.data_dir)
