"""How the owner's browser comes in without typing a key: links that work once, and what its cookie holds.

Knows files and time; no HTTP. All of it hangs on ``<data_dir>/page.key``: whoever can read that file is the owner.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from qqvl_server.errors import StorageFailed

LOCAL: Final = "local"
"""Who comes by a link, as ``keys.ApiKey.name`` names those who come by a key."""
VISIT_S: Final = 30 * 86400
"""How long a browser stays signed in, in seconds."""
LINK_S: Final = 12 * 3600
"""How long a link waits for its one use, in seconds."""
_KEY: Final = "page.key"
_ADDRESS: Final = "page.address"
PRIVATE: Final = (_KEY, _ADDRESS)
"""Its files: of one machine, and never part of a backup."""


class SignIn:
    """``boot`` names one run of the server: its links die with it. What was redeemed is known for as long."""

    def __init__(self, secret: bytes, boot: str) -> None:
        self._secret = secret
        self._boot = boot
        self._redeemed: dict[str, float] = {}

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Of the server that begins on this data folder.

        Raises:
            StorageFailed: its file cannot be read or written.
        """
        try:
            return cls(_kept(folder / _KEY), secrets.token_hex(8))
        except OSError as error:
            raise StorageFailed(f"读不了或写不进 data_dir 里的 {_KEY}：{error.strerror}。请检查权限") from error

    @property
    def cookie_name(self) -> str:
        """Browsers keep cookies by host, not by port: two servers on one machine must not sign each other out."""
        return f"qqvl_{hashlib.sha256(self._secret).hexdigest()[:8]}"

    @property
    def secret(self) -> str:
        """What programs of the owner's bring as a key."""
        return self._secret.decode()

    def link_token(self) -> str:
        """What stands in a link, for one use."""
        return self._signed("link", f"{self._boot}.{int(time.time() + LINK_S)}.{secrets.token_urlsafe(9)}")

    def redeem(self, token: str) -> bool:
        """Whether this lets its bearer in; the next time it does not."""
        text, now = self._opened("link", token), time.time()
        boot, expires, _ = text.split(".") if text is not None else ("", "0", "")
        if boot != self._boot or float(expires) < now or token in self._redeemed:
            return False
        self._redeemed = {old: until for old, until in self._redeemed.items() if until > now}
        self._redeemed[token] = float(expires)
        return True

    def cookie(self, who: str) -> str:
        return self._signed("visit", f"{who}.{int(time.time())}")

    def visitor(self, cookie: str) -> str | None:
        """Who it was given to; None where it is nobody's, or too old."""
        text = self._opened("visit", cookie)
        if text is None:
            return None
        who, _, since = text.rpartition(".")
        return who if time.time() - float(since) < VISIT_S else None

    def is_secret(self, given: bytes) -> bool:
        """Whether this is what stands in the file, which programs of the owner's may bring as a key."""
        return hmac.compare_digest(given, self._secret)

    def announce(self, folder: Path, url: str) -> None:
        """Let ``running`` find this server, whose address on this machine is ``url``. Raises StorageFailed."""
        try:
            _write(folder / _ADDRESS, json.dumps({"url": url, "boot": self._boot}).encode())
        except OSError as error:
            raise StorageFailed(f"写不进 data_dir 里的 {_ADDRESS}：{error.strerror}。请检查权限") from error

    def _signed(self, purpose: str, text: str) -> str:
        return f"{text}.{self._mark(purpose, text)}"

    def _opened(self, purpose: str, word: str) -> str | None:
        text, _, mark = word.rpartition(".")
        # As bytes: what a stranger sends need not be ASCII.
        return text if hmac.compare_digest(mark.encode(), self._mark(purpose, text).encode()) else None

    def _mark(self, purpose: str, text: str) -> str:
        digest = hmac.digest(self._secret, f"{purpose}\0{text}".encode("utf-8", "surrogatepass"), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass(frozen=True, slots=True)
class Running:
    """The server on a data folder: its address on this machine, and what makes links to it."""

    url: str
    sign_in: SignIn


def running(folder: Path) -> Running | None:
    """The server that was last started there; it may have ended without a word."""
    try:
        told = json.loads((folder / _ADDRESS).read_bytes())
        return Running(str(told["url"]), SignIn((folder / _KEY).read_bytes().strip(), str(told["boot"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def withdraw(folder: Path) -> None:
    """The server ends."""
    (folder / _ADDRESS).unlink(missing_ok=True)


def _kept(path: Path) -> bytes:
    try:
        kept = path.read_bytes().strip()
    except FileNotFoundError:
        kept = b""
    if len(kept) < 32:
        kept = secrets.token_urlsafe(32).encode()
        _write(path, kept + b"\n")
    return kept


def _write(path: Path, data: bytes) -> None:
    """For the owner's eyes only, from its first byte on; whole or not at all."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    os.replace(draft, path)
