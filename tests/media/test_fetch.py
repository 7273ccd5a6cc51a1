"""Pictures behind addresses: whom the server asks, whom never, and how long and how much it listens."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.errors import ImageRejected
from qqvl_server.media.addresses import SystemResolver, is_public
from qqvl_server.media.fetch import Fetcher

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG picture"
LARGEST = 100_000
NOT_PUBLIC = "不是公网地址"


class Far:
    """A web server on loopback that sends raw bytes; ``heads`` is what it was asked, by whom ``hung`` waits."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.answers: dict[str, bytes] = {}
        self.hung = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            # A fetch that was called off between connecting and asking.
            writer.close()
            return
        self.heads.append(head)
        path = head.split(" ")[1]
        try:
            if path == "/drip":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            if path == "/endless":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(b"x" * 50_000)
                    await writer.drain()
            if path == "/silent":
                await self.hung.wait()
            writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with serving() as far:
        yield far


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Far]:
    far = Far()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0, ssl=tls)
    far.port = server.sockets[0].getsockname()[1]
    far.answers["/a.png"] = ok(PICTURE)
    try:
        yield far
    finally:
        far.hung.set()
        server.close()


def ok(body: bytes, *lines: str) -> bytes:
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines))
    return head.encode() + b"\r\n\r\n" + body


def to(where: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\n\r\n".encode()


class Names:
    """A name server whose answers a test decides; each name's answers in turn, the last for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(turns) for name, turns in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        turns = self.answers.get(host, [()])
        return turns.pop(0) if len(turns) > 1 else turns[0]


def fetcher(*allow: str, mode: Any = "public", timeout_s: float = 20, **options: Any) -> Fetcher:
    return Fetcher(mode, allow, LARGEST, timeout_s, **options)


async def got(source: Fetcher, url: str) -> bytes:
    async with source.fetched(url) as data:
        return data


async def refused(source: Fetcher, url: str, word: str = "") -> None:
    with pytest.raises(ImageRejected) as error:
        await got(source, url)
    assert word in error.value.message, (url, error.value.message)
    assert "127.0.0.1" not in error.value.message
    assert len(error.value.message) < 100


async def test_a_listed_host_is_asked_for_the_picture_and_told_nothing(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for allow in (f"127.0.0.1:{far.port}", "127.0.0.1"):
        assert await got(fetcher(allow), f"http://127.0.0.1:{far.port}/a.png#part") == PICTURE
    head = far.heads[-1].lower()
    assert head.startswith("get /a.png http/1.1\r\n")
    assert f"host: 127.0.0.1:{far.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    for word in ("cookie", "authorization", "referer", "origin"):
        assert word not in head


async def test_a_name_is_asked_once_and_the_address_that_was_judged_is_dialled(far: Far) -> None:
    names = Names(pictures_test=[["127.0.0.1"], ["203.0.113.9"]])
    source = fetcher(f"PICTURES.test:{far.port}", resolve=names)
    assert await got(source, f"http://Pictures.Test:{far.port}/a.png") == PICTURE
    assert names.asked == ["pictures.test"]
    assert f"Host: pictures.test:{far.port}" in far.heads[0]


async def test_the_next_address_is_tried_when_one_cannot_be_reached(far: Far) -> None:
    names = Names(pictures_test=[["127.255.255.254", "127.0.0.1"]])
    assert await got(fetcher("pictures.test", resolve=names), f"http://pictures.test:{far.port}/a.png") == PICTURE


PRIVATE_HOSTS = (
    "127.0.0.1", "127.0.0.1:80", "127.1.2.3:443", "localhost", "LOCALHOST", "localhost.", "0.0.0.0", "0", "[::1]",
    "2130706433", "0x7f000001", "0x7f.1", "127.1", "[::]", "017700000001", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::7f00:1]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]",
    "169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.200",
    "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "168.63.129.16",
    "192.88.99.1", "[fec0::1]", "[2001:db8::1]",
)  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_what_is_not_public_is_refused_however_it_is_spelled(host: str) -> None:
    for scheme in ("http", "https"):
        port = host.rpartition(":")[2]
        if port not in ("80", "443") or scheme == "http":
            await refused(fetcher(), f"{scheme}://{host}/a.png", NOT_PUBLIC)


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    for answer in (["93.184.216.34", "10.0.0.1"], ["2606:4700::1111", "::1"], [], ["not an address"]):
        await refused(fetcher(resolve=Names(mixed_test=[answer])), "http://mixed.test/", NOT_PUBLIC)


ADDRESSES = (
    "http://user:secret@127.0.0.1/a.png", "http://user@127.0.0.1/", "http://127.0.0.1:22/", "http://127.0.0.1:8080/",
    "http://127.0.0.1:0/", "http://127.0.0.1:99999/", "http:///a.png", "http:a.png", "http://", "http://[::1/",
    "//127.0.0.1/", "http://0177.0.0.1/",
    "http://127.0.0.1\\@example.org/", "http://a b/", "http://\x00/", "http://①②⑦.⓪.⓪.①/", "file:///etc/passwd",
    "ftp://127.0.0.1/a", "http://127.0.0.1/" + "a" * 9000, "http://.../", "http://-/", "http://[fe80::1%25lo]/",
    "http://127.0.0.1#@example.org/", "http://127.0.0.1%2f@x/", "http://xn--/", "http://%31%32%37.0.0.1/",
)  # fmt: skip


async def test_odd_addresses_are_refused_in_our_own_words() -> None:
    for url in ADDRESSES:
        await refused(fetcher(resolve=Names()), url)


async def test_a_listed_port_opens_no_other(far: Far) -> None:
    source = fetcher("127.0.0.1:1", f"other.test:{far.port}")
    await refused(source, f"http://127.0.0.1:{far.port}/a.png")
    await refused(source, f"http://localhost:{far.port}/a.png")
    assert not far.heads


async def test_fetching_can_be_off_or_for_listed_hosts_alone(far: Far) -> None:
    url = f"http://127.0.0.1:{far.port}/a.png"
    await refused(fetcher("127.0.0.1", mode="off"), url, "不取")
    listed = fetcher("127.0.0.1", mode="listed", resolve=Names())
    await refused(listed, "http://93.184.216.34/a.png", "名单")
    assert await got(listed, url) == PICTURE
    assert len(far.heads) == 1


async def test_redirects_are_followed_a_few_times_and_judged_each_time(far: Far) -> None:
    here = f"http://127.0.0.1:{far.port}"
    far.answers |= {"/1": to("/2"), "/2": to(f"{here}/3"), "/3": to("a.png"), "/0": to("/1"), "/loop": to("/loop")}
    source = fetcher(f"127.0.0.1:{far.port}", resolve=Names(inner_test=[["10.0.0.1"]], moving_test=[["127.0.0.1"]]))
    assert await got(source, f"{here}/1") == PICTURE
    assert not [head for head in far.heads if "ookie" in head]
    await refused(source, f"{here}/0", "太多次")
    await refused(source, f"{here}/loop", "太多次")
    elsewhere = (
        "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/", "http://inner.test/", "http://moving.test/", "http://2130706433/", "file:///etc/passwd",
        "data:image/png,x", f"http://a:b@127.0.0.1:{far.port}/a.png", "http://127.0.0.1:22/", "gopher://127.0.0.1/",
        "http://[", "",
    )  # fmt: skip
    asked = len(far.heads)
    for number, where in enumerate(elsewhere):
        far.answers["/away"] = to(where)
        await refused(source, f"{here}/away")
        if where:
            assert len(far.heads) == asked + number + 1, where


async def test_a_redirect_to_a_name_that_changed_is_refused(far: Far) -> None:
    names = Names(moving_test=[["127.0.0.1"], ["10.0.0.1"]])
    far.answers["/away"] = to("http://moving.test/a.png")
    await refused(fetcher(f"moving.test:{far.port}", resolve=names), f"http://moving.test:{far.port}/away", NOT_PUBLIC)
    assert len(names.asked) == 2


BAD_ANSWERS: dict[str, bytes] = {
    "not found": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\nx",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 300 + b"\r\n\r\nx",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nx",
    "gzip": ok(gzip.compress(bytes(1_000_000)), "Content-Encoding: gzip"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 100_000,
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "redirect to nowhere": b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_what_far_servers_answer_badly_is_refused(far: Far, name: str) -> None:
    far.answers["/bad"] = BAD_ANSWERS[name]
    await refused(fetcher("127.0.0.1"), f"http://127.0.0.1:{far.port}/bad")


NO_COMPRESSIONS = (
    "utf-8",
    "UTF-8",
    "binary",
    "aws-chunked",
    "identity",
    "none",
    "base64",
    "8bit",
    "",
    "image/png",
    ",",
)


@pytest.mark.parametrize("coding", NO_COMPRESSIONS)
async def test_a_coding_that_is_no_compression_is_the_picture_as_it_is(far: Far, coding: str) -> None:
    far.answers["/odd"] = ok(PICTURE, f"Content-Encoding: {coding}")
    assert await got(fetcher("127.0.0.1"), f"http://127.0.0.1:{far.port}/odd") == PICTURE


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "br", "deflate", "zstd", "utf-8, gzip", "compress"])
async def test_a_real_compression_is_refused_for_it_was_not_asked_for(far: Far, coding: str) -> None:
    far.answers["/odd"] = ok(PICTURE, f"Content-Encoding: {coding}")
    await refused(fetcher("127.0.0.1"), f"http://127.0.0.1:{far.port}/odd", "压缩")


async def test_a_part_that_is_all_is_taken_and_a_real_part_is_not(far: Far) -> None:
    size = len(PICTURE)
    for span, whole in (
        (f"bytes 0-{size - 1}/{size}", True), (f"Bytes 0-{size - 1}/{size}", True), (f"bytes 0-{size - 1}/*", False),
        (f"bytes 0-{size - 1}/{size + 1}", False), (f"bytes 1-{size}/{size + 1}", False), ("", False), ("bytes", False),
    ):  # fmt: skip
        far.answers["/part"] = ok(PICTURE, f"Content-Range: {span}").replace(b"200 OK", b"206 Partial Content")
        url = f"http://127.0.0.1:{far.port}/part"
        if whole:
            assert await got(fetcher("127.0.0.1"), url) == PICTURE
        else:
            await refused(fetcher("127.0.0.1"), url)


async def test_slow_and_endless_answers_are_given_up(far: Far) -> None:
    here = f"http://127.0.0.1:{far.port}"
    for path in ("/drip", "/silent"):
        await refused(fetcher("127.0.0.1", timeout_s=0.3), here + path, "超时")
    await refused(fetcher("127.0.0.1"), f"{here}/endless", "太大")


async def test_a_name_server_that_never_answers_is_given_up() -> None:
    async def silent(_host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    await refused(fetcher(timeout_s=0.1, resolve=silent), "http://slow.test/", "超时")


async def test_a_closed_port_and_a_dead_host_are_told_apart_by_nobody() -> None:
    await refused(fetcher("127.0.0.1:1"), "http://127.0.0.1:1/", "连不上")


async def test_one_slow_host_holds_no_other_up(far: Far) -> None:
    names = Names(slow_test=[["127.0.0.1"]], quick_test=[["127.0.0.1"]])
    source = fetcher("slow.test", "quick.test", resolve=names)
    waiting = [asyncio.create_task(got(source, f"http://slow.test:{far.port}/silent")) for _ in range(100)]
    while len(far.heads) < 4:
        await asyncio.sleep(0.01)
    assert await got(source, f"http://quick.test:{far.port}/a.png") == PICTURE
    assert not [task for task in waiting if task.done()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await got(source, f"http://slow.test:{far.port}/a.png") == PICTURE


async def test_the_certificate_must_be_for_the_name_not_for_the_address(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not at hand to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=x", "-addext", "subjectAltName=DNS:pictures.test", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mine.load_cert_chain(certificate, key)
    names = Names(pictures_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    trusting = ssl.create_default_context(cafile=certificate)
    async with serving(mine) as far:
        source = fetcher("pictures.test", "other.test", resolve=names, tls=trusting)
        assert await got(source, f"https://pictures.test:{far.port}/a.png") == PICTURE
        await refused(source, f"https://other.test:{far.port}/a.png", "连不上")
        stranger = fetcher("pictures.test", resolve=names)
        await refused(stranger, f"https://pictures.test:{far.port}/a.png", "连不上")


async def test_the_systems_resolver_reads_names_and_numbers() -> None:
    resolve: Callable[[str], Awaitable[Sequence[str]]] = SystemResolver()
    assert "127.0.0.1" in await resolve("localhost")
    assert await resolve("2130706433") == ("127.0.0.1",)
    assert await resolve("a" * 300) == ()


def test_what_is_public() -> None:
    for address in ("8.8.8.8", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert is_public(address), address
    for address in (
        "64:ff9b:1::1",
        "2001::1",
        "3fff::1",
        "203.0.113.5",
        "::1%lo",
        "",
        "localhost",
        "8.8.8.8:80",
        "::ffff:0:127.0.0.1",
    ):
        assert not is_public(address), address
