"""Who a request comes from: a key, the owner's token or a browser's cookie, and from where. Knows headers, no doors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope as AsgiScope

from qqvl_server import errors, keys
from qqvl_server.api.model_access import Caller
from qqvl_server.hosts import is_loopback
from qqvl_server.keys import ApiKey, Scope
from qqvl_server.signin import LOCAL, SignIn

# What reverse proxies and CDNs add to a request that they hand on; any of it says that the caller is not whom the
# connection comes from.
_PROXY_HEADERS: Final = re.compile(
    rb"forwarded|via|cdn-loop|.*-(client|connecting)-ip|(cf|proxy|x-proxy|x-varnish|akamai|x-akamai|x-appengine|x-cloud)-.*"
    rb"|(x-)?(original|rewrite|forwarded|real|client|cluster|proxyuser|envoy|azure|arr|amzn?|scheme|varnish)(-.*)?"
)
_READING: Final = ("GET", "HEAD")
EVERYTHING: Final = frozenset(Scope)


class Visitors:
    """``sign_in`` is None where no browser may sign in."""

    def __init__(self, known: Sequence[ApiKey], sign_in: SignIn | None) -> None:
        self._keys = known
        self._sign_in = sign_in

    def find(self, scope: AsgiScope, headers: Headers) -> Caller | None:
        """None for one who brought nothing that is good for anything.

        Raises:
            Forbidden: a browser signed in here is made to write by a page from elsewhere.
        """
        brought = tuple(_brought(headers))
        key = keys.find(self._keys, brought)
        if key is not None:
            return Caller(key.name, key.scopes)
        if self._sign_in is None:
            return None
        if is_near(scope) and any(map(self._sign_in.is_secret, brought)):
            return Caller(LOCAL, EVERYTHING)
        return self._by_cookie(self._sign_in, scope, headers) if "cookie" in headers else None

    def _by_cookie(self, sign_in: SignIn, scope: AsgiScope, headers: Headers) -> Caller | None:
        cookie = cookie_parser(headers["cookie"]).get(sign_in.cookie_name)
        who = sign_in.visitor(cookie) if cookie else None
        caller = self._named(scope, who) if who is not None else None
        if caller is None:
            return None
        # Pages of another port of this host are "same-site": SameSite=Strict does not keep their requests bare.
        fetched = headers.get("sec-fetch-site", "")
        if scope["method"] in _READING:
            return caller if fetched in ("", "same-origin", "none") else None
        is_own = headers.get("origin", "").partition("://")[2] == headers.get("host")
        if not is_own and fetched != "same-origin":
            raise errors.Forbidden("不接受来自其他网页的请求：请在 qqvl 自己的网页里操作")
        return caller

    def _named(self, scope: AsgiScope, who: str) -> Caller | None:
        if who == LOCAL:
            return Caller(LOCAL, EVERYTHING) if is_near(scope) else None
        return next((Caller(key.name, key.scopes) for key in self._keys if key.name == who), None)


def address(scope: AsgiScope) -> str:
    return str((scope.get("client") or ("",))[0])


def is_forwarded(scope: AsgiScope) -> bool:
    """Whether a reverse proxy stands between. Of its own accord nginx adds no header, but speaks HTTP/1.0."""
    return scope.get("http_version") == "1.0" or any(_PROXY_HEADERS.fullmatch(name) for name, _ in scope["headers"])


def is_near(scope: AsgiScope) -> bool:
    """Straight from this machine."""
    return is_loopback(address(scope)) and not is_forwarded(scope)


def _brought(headers: Headers) -> Iterator[bytes]:
    """What may be a key. As bytes (the framework reads headers as Latin-1): keys need not be ASCII."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield token.strip(" \t").encode("latin-1")
    if "x-api-key" in headers:
        yield headers["x-api-key"].encode("latin-1")
