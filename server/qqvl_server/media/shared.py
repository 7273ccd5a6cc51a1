"""Pictures that several servers show: on a shared folder or in an S3-compatible store, by the hash of their bytes.

Blocking. Nothing is deleted there: how long pictures stay is for its owner to say, by a lifecycle rule or a cron job.
"""

from __future__ import annotations

import importlib.util
import threading
import time
import urllib.parse
from collections import OrderedDict
from datetime import timedelta
from typing import Any, Final

from qqvl_server import invocation
from qqvl_server.errors import ConfigError
from qqvl_server.observe.logs import logger

_TIMEOUT_S: Final = 10
_CONNECT_S: Final = 3
# For how long a store that did not answer is not asked.
_AWAY_S: Final = 5.0
# And one that is not there is not looked for again: an old chat asks for its lost pictures with every turn.
_GONE_S: Final = 60.0
_MOST_GONE: Final = 10_000
_S3_OPTIONS: Final = ("endpoint", "region")


class Unreachable(Exception):
    """Whether a picture is there cannot be told."""


class SharedPictures:
    """``file:///mnt/pictures`` or ``s3://bucket/prefix?endpoint=https://…&region=…``; the keys of an S3 store are in
    ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, as every S3 program reads them.

    Raises ConfigError: another address, or the library is not installed.
    """

    def __init__(self, url: str) -> None:
        if importlib.util.find_spec("obstore") is None:
            raise ConfigError(f"没有装 obstore：运行 {invocation.install('obstore')}，或去掉 image_store_url")
        import obstore.exceptions

        self._missing = (obstore.exceptions.NotFoundError, FileNotFoundError)
        self._errors = (obstore.exceptions.BaseError, OSError)
        try:
            self._store = _opened(url)
        except (ValueError, *self._errors) as error:
            raise ConfigError(
                "image_store_url 写得不对，或那个文件夹不能写；应像 file:///mnt/pictures 或 "
                "s3://桶/前缀?endpoint=https://主机&region=地区"
            ) from error
        self._lock = threading.Lock()
        self._away_until = 0.0
        self._is_away = False
        self._gone: OrderedDict[str, float] = OrderedDict()

    def put(self, sha256: str, data: bytes) -> None:
        """Raises Unreachable."""
        import obstore

        self._ask(lambda: obstore.put(self._store, _path(sha256), data))
        with self._lock:
            self._gone.pop(sha256, None)

    def get(self, sha256: str) -> bytes | None:
        """None where it is not there. Raises Unreachable."""
        import obstore

        with self._lock:
            if time.monotonic() < self._gone.get(sha256, 0.0):
                return None
        try:
            return bytes(self._ask(lambda: obstore.get(self._store, _path(sha256)).bytes()))
        except self._missing:
            with self._lock:
                self._gone[sha256] = time.monotonic() + _GONE_S
                if len(self._gone) > _MOST_GONE:
                    self._gone.popitem(last=False)
            return None

    def _ask(self, work: Any) -> Any:
        with self._lock:
            if time.monotonic() < self._away_until:
                raise Unreachable
        try:
            got = work()
        except self._missing:
            self._told(is_away=False)
            raise
        except self._errors as error:
            self._told(is_away=True, kind=type(error).__name__)
            raise Unreachable from error
        self._told(is_away=False)
        return got

    def _told(self, *, is_away: bool, kind: str = "") -> None:
        with self._lock:
            self._away_until = time.monotonic() + _AWAY_S if is_away else 0.0
            was, self._is_away = self._is_away, is_away
        if is_away and not was:
            logger().error("合用的图片库连不上：新的图存不进，别的服务器收的图看不到", kind=kind)
        elif was and not is_away:
            logger().info("合用的图片库又连上了")


def _path(sha256: str) -> str:
    """As in ``images`` of a data folder, so that one may be copied to the other as it is."""
    return f"{sha256[:2]}/{sha256}"


def _opened(url: str) -> Any:
    from obstore.store import LocalStore, S3Store

    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
        return LocalStore(urllib.parse.unquote(parts.path), mkdir=True)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError
    options = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    if not options.keys() <= set(_S3_OPTIONS):
        raise ValueError
    endpoint = options.get("endpoint", "")
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config={name: value for name, value in options.items() if value},  # type: ignore[arg-type]
        client_options={
            "timeout": timedelta(seconds=_TIMEOUT_S),
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=_TIMEOUT_S)},
    )
