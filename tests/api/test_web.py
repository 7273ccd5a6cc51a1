"""The page's files: what browsers are told about them, and what is said where there are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx
import pytest

from qqvl_server.api import server as house
from qqvl_server.api.web import routes as web
from qqvl_server.observe.metrics import Metrics
from qqvl_server.settings import ServerSettings
from qqvl_server.signin import SignIn
from tests.running import RunningServer

pytestmark = pytest.mark.anyio
SCRIPT = b"console.log('" + b"x" * 2000 + b"')"
PAGES = ("/", "/try", "/bot", "/c/c_1", "/bot/group/1", "/try/x")


def opened(static: Path) -> httpx.AsyncClient:
    guard = house.build((web.build(SignIn(b"x" * 32, "boot"), static),), ServerSettings(), Metrics())
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text('<!doctype html><script type="module" src="/assets/index-1a2b.js"></script>')
    (tmp_path / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "assets" / "index-1a2b.js").write_bytes(SCRIPT)
    (tmp_path / "secret.txt").write_text("not for anybody")
    return tmp_path


async def test_every_page_is_the_shell_with_a_strict_policy(built: Path) -> None:
    async with opened(built) as http:
        for path in PAGES:
            page = await http.get(path)
            assert page.status_code == 200
            assert page.text.startswith("<!doctype html>")
            assert page.headers["content-type"] == "text/html; charset=utf-8"
            policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == "'self'"
            assert "unsafe" not in page.headers["content-security-policy"]
            assert policy["frame-ancestors"] == "'none'"
            assert "http" not in page.headers["content-security-policy"]
            assert page.headers["x-content-type-options"] == "nosniff"
            assert page.headers["cache-control"] == "no-cache"
            again = await http.get(path, headers={"If-None-Match": page.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


async def test_hashed_files_are_kept_for_ever_and_sent_packed(built: Path) -> None:
    async with opened(built) as http:
        plain = await http.get("/assets/index-1a2b.js", headers={"Accept-Encoding": "identity"})
        assert plain.content == SCRIPT
        assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
        assert "immutable" in plain.headers["cache-control"]
        packed = await http.get("/assets/index-1a2b.js", headers={"Accept-Encoding": "gzip"})
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) == len(gzip.compress(SCRIPT, mtime=0))
        assert packed.content == SCRIPT
        assert (await http.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"


async def test_nothing_but_the_built_files_is_there(built: Path) -> None:
    async with opened(built) as http:
        for path in (
            "/assets/..%2fsecret.txt", "/assets/../secret.txt", "/assets/%2e%2e/secret.txt", "/secret.txt",
            "/assets/", "/assets/.", "/assets/x%00.js", "/index.html", "/assets/none.js", "/docs/..%2froutes.py",
        ):  # fmt: skip
            answer = await http.get(httpx.URL("http://127.0.0.1", raw_path=path.encode()))
            assert answer.status_code == 404, path
            assert "not for anybody" not in answer.text
        for method in ("POST", "DELETE"):
            assert (await http.request(method, "/")).status_code == 405


async def test_a_page_that_was_not_built_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as http:
        page = await http.get("/")
        assert page.status_code == 503
        assert "npm run build" in page.text
        assert page.headers["content-security-policy"]
        # A build that comes later is found.
        (tmp_path / "index.html").write_text("<!doctype html>hello")
        assert (await http.get("/")).text == "<!doctype html>hello"


def test_the_document_of_the_api_is_drawn_without_a_remote_script(server: RunningServer, keyed: RunningServer) -> None:
    for one in (server, keyed):
        page = one.http.get("/docs")
        assert page.status_code == 200
        assert page.headers["content-security-policy"]
        assert "://" not in page.text
        for name in ("docs.js", "docs.css"):
            assert f"/docs/{name}" in page.text
            assert one.http.get(f"/docs/{name}").status_code == 200
    assert keyed.http.get("/openapi.json").status_code == 401
