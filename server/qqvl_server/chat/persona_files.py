"""Personas as files that an owner edits in the browser: read, written whole, deleted. Blocking; knows no database."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qqvl_server.chat import personas
from qqvl_server.chat.personas import Personas
from qqvl_server.errors import InvalidRequest, NotFound, StorageFailed

# Letters of any language; nothing that could leave the folder, be hidden, or be another file elsewhere.
_STEM: Final = re.compile(r"[^\W_](?:[\w -]{0,62}\w)?")
_MOST: Final = 64_000


@dataclass(frozen=True, slots=True)
class PersonaFile:
    """``error`` says why it cannot be used as it is."""

    file: str
    text: str
    name: str
    mode: str | None
    error: str | None


class PersonaFiles:
    def __init__(self, folder: Path, known: Personas) -> None:
        self._folder = folder
        self._known = known

    def all(self) -> tuple[PersonaFile, ...]:
        return tuple(self._told(path) for path in sorted(self._folder.glob("*.md")))

    def get(self, file: str) -> PersonaFile | None:
        path = self._path(file)
        return self._told(path) if path.is_file() else None

    def write(self, file: str, text: str) -> PersonaFile:
        """Raises InvalidRequest: the name, or what is wrong with the text; nothing is changed then. StorageFailed."""
        path = self._path(file)
        if len(text) > _MOST:
            raise InvalidRequest(f"人设太长，最多 {_MOST} 字", param="text")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(dir=self._folder, prefix=".")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as written:
                    written.write(text)
                try:
                    personas.read(Path(draft))
                except ValueError as error:
                    raise InvalidRequest(f"这个人设用不了：{personas.reason(error)}", param="text") from None
                os.replace(draft, path)
            finally:
                with suppress(OSError):
                    os.unlink(draft)
        except OSError as error:
            raise StorageFailed("人设写不进 data_dir 下的 personas/，请检查权限和剩余空间") from error
        self._known.changed()
        return self._told(path)

    def delete(self, file: str) -> None:
        """Raises NotFound, StorageFailed."""
        try:
            self._path(file).unlink()
        except FileNotFoundError:
            raise NotFound("没有这个人设") from None
        except OSError as error:
            raise StorageFailed("人设删不掉，请检查 data_dir 下 personas/ 的权限") from error
        self._known.changed()

    def _path(self, file: str) -> Path:
        if not _STEM.fullmatch(file):
            raise InvalidRequest("人设的文件名只能有字母、数字、汉字、空格、短横，最多 64 个", param="file")
        return self._folder / f"{file}.md"

    def _told(self, path: Path) -> PersonaFile:
        try:
            text = path.read_text(encoding="utf-8-sig")
            persona = personas.read(path)
        except (OSError, ValueError) as error:
            return PersonaFile(path.stem, "", path.stem, None, personas.reason(error))
        return PersonaFile(path.stem, text, persona.name, persona.mode, None)
