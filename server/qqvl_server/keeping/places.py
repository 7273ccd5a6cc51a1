"""Where the data of both programs lies, and who may change it: nobody while one of them runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from qqvl_server.chat.inspection import file_of
from qqvl_server.chat.store import sqlite_url
from qqvl_server.config import FOREIGN_SECTIONS, Resolved, project_root
from qqvl_server.errors import ConfigError
from qqvl_server.process import locked

PICTURES: Final = "images"
LOGS: Final = "logs"
JOURNALS: Final = "journal-*.db"
_CLIENT: Final = "client"
_CLIENT_FOLDER: Final = "QQVL_CLIENT_DATA_DIR"


@dataclass(frozen=True, slots=True)
class Places:
    """``client`` is the client's folder, which need not be there; ``settings`` the file of both programs, if any.

    ``words`` are files of blocked words that lie elsewhere. ``shares_pictures``: other servers have them, too.
    """

    data: Path
    client: Path
    url: str
    settings: Path | None = None
    words: tuple[Path, ...] = ()
    shares_pictures: bool = False

    @property
    def database(self) -> Path | None:
        """SQLite's file; None where the history lies in another database."""
        file = file_of(self.url)
        return None if file is None else Path(file).absolute()

    def check_there(self) -> None:
        """Raises ConfigError: nothing was ever kept here."""
        if not self.data.is_dir() or (self.database is not None and not self.database.is_file()):
            raise ConfigError(f"{self.data} 里还没有数据；用 --data-dir 指对文件夹")


def places(resolved: Resolved, data: Path, settings: Path | None, env: Mapping[str, str]) -> Places:
    chat, storage = resolved.settings.chat, resolved.settings.storage
    entries = [Path(entry) for entry in (*chat.block_words_in, *chat.block_words_out) if entry.endswith(".txt")]
    data = data.absolute()
    outside = tuple(file for file in dict.fromkeys(entries) if file.is_file() and not _is_in(file, data))
    client = _client_folder(data, settings, env)
    return Places(
        data, client, storage.database_url or sqlite_url(data), settings, outside, bool(storage.image_store_url)
    )


def _is_in(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _client_folder(data: Path, settings: Path | None, env: Mapping[str, str]) -> Path:
    """As the client finds it, but that its default lies in the folder we were given."""
    named: Any = env.get(_CLIENT_FOLDER)
    if not named and settings is not None:
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
            read = yaml.safe_load(settings.read_text(encoding="utf-8"))
            named = next((read[name].get("data_dir") for name in FOREIGN_SECTIONS if read.get(name)), None)
    return (project_root() / str(named)).absolute() if named else data / _CLIENT


@contextlib.contextmanager
def claimed(where: Places) -> Iterator[None]:
    """Hold both folders, so that neither program starts meanwhile.

    Raises:
        ConfigError: one of them runs.
    """
    with contextlib.ExitStack() as opened:
        opened.enter_context(locked(where.data))
        for lock in sorted(where.client.glob("*.lock")):
            handle = os.open(lock, os.O_RDWR)
            opened.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(f"客户端还在用 {where.client}；请先停掉它，做完再启动") from error
        yield
