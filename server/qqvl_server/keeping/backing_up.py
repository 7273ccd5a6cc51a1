"""``qqvl backup``: everything that is kept, in one file, while both programs run."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qqvl_server.chat import inspection
from qqvl_server.errors import ConfigError, QqvlError
from qqvl_server.keeping import copying
from qqvl_server.keeping.archive import Tell, Writer
from qqvl_server.keeping.places import JOURNALS, LOGS, PICTURES, Places
from qqvl_server.signin import PRIVATE as SIGN_IN
from qqvl_server.version import VERSION

DATABASE: Final = "server/qqvl.sqlite3"
SUFFIX: Final = ".qqvl.tar"
ASIDE: Final = "before-restore-"
RETURNED: Final = "from-backup"
"""Settings of a backup are put into this folder of the data: they hold addresses and keys of another machine."""
BROKEN: Final = ".broken-"
_SCRATCH: Final = ".qqvl-backup-"


@dataclass(frozen=True, slots=True)
class Backup:
    """``lost`` pictures are named in the history but no longer there."""

    file: Path
    bytes: int
    chats: int | None
    messages: int | None
    pictures: int
    lost: int
    database: str


def default_file() -> Path:
    return Path.cwd() / f"qqvl-{time.strftime('%Y%m%d-%H%M%S')}{SUFFIX}"


def back_up(where: Places, file: Path, tell: Tell) -> Backup:
    """Raises ConfigError: nothing is kept there, or the file cannot be written; QqvlError: what is kept is damaged."""
    where.check_there()
    file = file.absolute()
    if file.is_dir():
        raise ConfigError(f"{file} 是文件夹：要写文件名，如 {file / default_file().name}")
    try:
        with _scratch(file.parent) as scratch, Writer(file) as archive:
            # The journal first: what it has as done by then, the later copy of the history has as well.
            for journal in sorted(where.client.glob(JOURNALS)):
                copying.copy(journal, scratch / journal.name, tell)
                archive.add(f"client/{journal.name}", scratch / journal.name)
            for spill in sorted(where.client.glob("journal-*.spill")):
                archive.add(f"client/{spill.name}", spill)
            counts: dict[str, int] = {}
            if where.database is not None:
                copy = scratch / "qqvl.sqlite3"
                copying.copy(where.database, copy, tell)
                counts = copying.without_trials(copy)
                archive.add(DATABASE, copy)
            shown = copying.pictures(copy) if where.database is not None else _all_pictures(where)
            kept, lost = _add_pictures(archive, where, shown, tell)
            _add_files(archive, where)
            told = _told(where, counts, kept, lost)
            size = archive.finish(told)
    except OSError as error:
        raise ConfigError(f"备份写不到 {file}：{error.strerror}。请检查文件夹、权限和剩余空间") from error
    return Backup(file, size, counts.get("chats"), counts.get("messages"), kept, lost, told["database"])


def _told(where: Places, counts: dict[str, int], pictures: int, lost: int) -> dict[str, Any]:
    return {
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "qqvl": VERSION,
        "schema": inspection.scripts()[1].get_current_head(),
        "database": "sqlite" if where.database is not None else where.url.partition(":")[0].partition("+")[0],
        **counts,
        "pictures": pictures,
        "lost_pictures": lost,
    }


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for copies. What a killed backup left of its own is cleared away."""
    for left in folder.glob(f"{_SCRATCH}*"):
        if not _is_alive(left.name.removeprefix(_SCRATCH)):
            shutil.rmtree(left, ignore_errors=True)
    scratch = folder / f"{_SCRATCH}{os.getpid()}"
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True
    return True


def _all_pictures(where: Places) -> set[str]:
    return {path.name for path in (where.data / PICTURES).glob("*/*")}


def _add_pictures(archive: Writer, where: Places, shown: set[str], tell: Tell) -> tuple[int, int]:
    kept = 0
    for number, sha256 in enumerate(sorted(shown), 1):
        # It may age out at any moment; one that cannot be read for another reason ends the backup.
        with contextlib.suppress(FileNotFoundError):
            archive.add(f"server/{PICTURES}/{sha256[:2]}/{sha256}", where.data / PICTURES / sha256[:2] / sha256)
            kept += 1
        tell(f"图片 {number}/{len(shown)}")
    return kept, len(shown) - kept


def _add_files(archive: Writer, where: Places) -> None:
    """Personas, gates, lists of words, and the settings' file."""
    for path in own_files(where):
        with contextlib.suppress(FileNotFoundError):
            archive.add(f"server/{path.relative_to(where.data).as_posix()}", path)
    if where.settings is not None and where.settings.is_file():
        archive.add("settings/qqvl.yaml", where.settings)
    for file in where.words:
        archive.add(f"settings/words/{file.name}", file)


def own_files(where: Places) -> Iterator[Path]:
    """What else lies in the server's folder and is no program's passing state."""
    for top in own_entries(where):
        if top.name == PICTURES or top.name == RETURNED:
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                yield path


def own_entries(where: Places) -> Iterator[Path]:
    """The entries of the server's folder that a restore replaces."""
    for top in sorted(where.data.iterdir()):
        is_passing = top.name.startswith((".", ASIDE)) or top.name in (LOGS, *SIGN_IN) or BROKEN in top.name
        is_database = where.database is not None and top.name.startswith(where.database.name)
        if not is_passing and not is_database and top != where.client and not top.name.endswith((SUFFIX, ".part")):
            yield top


def check_kind(manifest: dict[str, Any], where: Places) -> None:
    """Raises QqvlError: the backup's history lies in another kind of database than ours."""
    if (manifest.get("database") == "sqlite") != (where.database is not None):
        raise QqvlError(
            "备份和现在的设置用的不是同一种数据库：SQLite 的备份要在没有设 database_url 时恢复；"
            "PostgreSQL 的聊天记录用 pg_restore 恢复"
        )
