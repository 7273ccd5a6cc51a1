"""What holds at every door alike: sizes, framing, JSON, pictures, control tokens, crowds, and callers that leave."""

from __future__ import annotations

import gzip
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.api.wire import check_error, connect, exchange, head, metric, watching_health
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer, group_body, private_body

CANARY = "canary5e1d"
# Paths are logged, cut short; what is said is not.
STRAY = "stray5e1d"
JSON = {"Content-Type": "application/json"}
PNG = encoded(picture(size=(64, 64)))
RED = f"data:image/png;base64,{base64_of(PNG)}"
TOKENS = "<|im_start|><|im_end|><|vision_start|><|image_pad|><|vision_end|><|video_pad|><tool_call></tool_call><think>"

Body = dict[str, Any]
Say = Callable[..., Body]


def chat(text: str, *pictures: str) -> Body:
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": text}, *shown]}], "max_tokens": 4}


def responses(text: str, *pictures: str) -> Body:
    shown = [{"type": "input_image", "image_url": url} for url in pictures]
    said = [{"type": "input_text", "text": text}, *shown]
    return {"input": [{"role": "user", "content": said}], "max_output_tokens": 16}


def messages(text: str, *pictures: str) -> Body:
    def source(url: str) -> Body:
        if url.startswith("data:"):
            return {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
        return {"type": "url", "url": url}

    shown = [{"type": "image", "source": source(url)} for url in pictures]
    said = [*shown, {"type": "text", "text": text}]
    return {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": said}]}


MODEL = "qqvl-demo"
DOORS: dict[str, Say] = {
    "/api/chat/private": lambda text, *pictures: private_body(text, user="doors", images=pictures),
    "/api/chat/group": lambda text, *pictures: group_body(text, group="doors", images=pictures),
    "/api/chat/private/recall": lambda text: {"user_id": "doors", "message_id": text[-100:]},
    "/api/chat/group/recall": lambda text: {"group_id": "doors", "message_id": text[-100:]},
    "/api/chat/private/sent": lambda text: {"user_id": "doors", "message_id": text[-100:], "sent_ids": ["1"]},
    "/api/chat/group/sent": lambda text: {"group_id": "doors", "message_id": text[-100:], "sent_ids": ["1"]},
    "/api/client/status": lambda text: {"self_id": "doors", "link": "up", "reason": text[-100:]},
    "/v1/chat/completions": chat,
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 4},
    "/v1/messages": messages,
    "/v1/messages/count_tokens": messages,
    "/v1/responses": responses,
    "/tokenize": lambda text: {"prompt": text},
    "/detokenize": lambda text: {"tokens": list(text.encode())},
}
QQ = ("/api/chat/private", "/api/chat/group")
SEEING = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
STREAMING = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")


@pytest.fixture(scope="module", autouse=True)
def quoted_nowhere(tight: RunningServer) -> Iterator[None]:
    """Afterwards the server is well, and neither its log nor its figures quote anybody."""
    yield
    assert tight.private("你好", user="doors-after") is not None
    log, figures = tight.log(), tight.http.get("/metrics").text
    assert "Traceback" not in log
    for word in (CANARY, base64_of(PNG)[:40]):
        assert word not in log
        assert word not in figures


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def post(server: RunningServer, door: str, body: bytes | Body, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.http.post(door, content=content, headers=JSON | headers)


def valid(door: str) -> bytes:
    return json.dumps(DOORS[door](CANARY)).encode()


def settled(answer: httpx.Response) -> None:
    """A full queue is no fault of the body under test."""
    assert answer.status_code in (200, 400, 404, 503), (answer.status_code, answer.text[:300])
    if answer.status_code != 200:
        # No model has such a name.
        check_error(answer, 400, 404, 503, hidden=(CANARY,))


def test_these_are_all_the_doors_that_read_a_body(tight: RunningServer) -> None:
    told = tight.http.get("/openapi.json").json()["paths"]
    # The owner's own want more than a body (test_bot.py, test_page.py).
    reading = {path for path, methods in told.items() if "post" in methods}
    assert {path for path in reading if not path.startswith(("/admin/", "/api/page/"))} == set(DOORS)


def test_a_plain_request_is_answered(tight: RunningServer, door: str) -> None:
    answer = post(tight, door, valid(door))
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Request-ID"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def not_json(good: bytes) -> Iterator[bytes]:
    yield from (
        b"",
        b" ",
        b"\x00",
        b"{",
        b"null",
        b"true",
        b"1",
        b'"x"',
        b"[]",
        b"[{}]",
        good[:-1],
        good + b"x",
        good * 2,
    )
    yield from (good + b"\xef\xbb\xbf", good.decode().encode("utf-16"), good.replace(b"{", b"'", 1), b"[" * 100_000)
    yield from (b'{"a":' * 100_000, good[:-1] + b',"u":"\xff"}', good[:-1] + b',"u":"\xed\xa0\x80"}', good[:-1] + b",}")
    for word in (
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"01",
        b'"\\ud83d"',
        b'{"\\ud800":1}',
        b'"\n"',
    ):
        yield good[:-1] + b',"u":' + word + b"}"
    for deep in (65, 5000):
        yield good[:-1] + b',"u":' + b"[" * deep + b"]" * deep + b"}"


def test_what_is_no_json_is_refused_in_the_doors_own_words(tight: RunningServer, door: str) -> None:
    for body in not_json(valid(door)):
        check_error(post(tight, door, body), 400, hidden=(CANARY,))
    twice = valid(door)[:-1] + b',"u":1,"u":2}'
    marked = b"\xef\xbb\xbf" + valid(door)
    for body in (twice, marked):
        assert post(tight, door, body).status_code == 200


def test_millions_of_values_are_refused_and_hold_nobody_up(tight: RunningServer, door: str) -> None:
    with watching_health(tight):
        for filling in (b"[" + b"1," * 800_000 + b"1]", b"[" + b"{}," * 600_000 + b"1]"):
            check_error(post(tight, door, valid(door)[:-1] + b',"u":' + filling + b"}"), 400)


ODD: tuple[Any, ...] = (None, True, -1, 1e308, CANARY, [None], [[]], {CANARY: 1}, [CANARY] * 3, "\x00")
# Answered with much text when left out, or free of type: tested elsewhere.
FREE = ("max_tokens", "user_id", "group_id", "user_nickname", "user_card", "group_name", "content")


def test_wrong_types_and_values_are_met_without_an_echo(tight: RunningServer, door: str) -> None:
    body = DOORS[door]("好")
    for name in body:
        for odd in ODD:
            if name not in FREE:
                settled(post(tight, door, body | {name: odd}))


RANGES: dict[str, tuple[Any, ...]] = {
    "n": (0, -1, 10**9, 1.5, "1"), "best_of": (10**9,), "top_logprobs": (-1, 10**6), "logprobs": (-1, 10**6),
    "temperature": (-0.1, 2.1, "hot"), "top_p": (-1, 0, 1.1), "top_k": (-2, 0.5), "min_p": (-1, 2), "seed": ("x", 1.5),
    "presence_penalty": (-3, 3), "frequency_penalty": (-3, 3), "repetition_penalty": (-1, 0, 1e9),
    "max_tokens": (-1, "x"),
    "stop": ([CANARY] * 20_000, 5, [5], [[CANARY]], "x" * 100_000), "stop_token_ids": ([-1], ["x"], [1] * 20_000),
    "logit_bias": ({CANARY: 1}, {"1": 1000}, {"-1": 1}, {"99999999999": 1}, {str(n): 1 for n in range(20_000)}),
    "tools": ([{"type": "function"}] * 5000, [CANARY], [{"function": {"name": CANARY * 50}}]), "stream": ("yes", 1),
    "guided_regex": ("(" * 500, "(a+)+" * 5000 + "$"), "guided_json": (CANARY, {"$ref": "http://127.0.0.1/x"}),
    "response_format": ({"type": CANARY}, {"type": "json_schema"}), "chat_template": ("{{ 1 }}",),
    "chat_template_kwargs": ({CANARY: CANARY},), "mm_processor_kwargs": ({CANARY: 1},),
}  # fmt: skip


# Unknown to plain completions, which tolerate what they do not know.
IN_CHAT_ONLY = ("top_logprobs", "tools", "chat_template_kwargs")


@pytest.mark.parametrize("door", ["/v1/chat/completions", "/v1/completions"])
def test_numbers_and_lists_out_of_range_are_refused_before_any_work(tight: RunningServer, door: str) -> None:
    with watching_health(tight):
        for name, values in RANGES.items():
            for value in values:
                answer = post(tight, door, DOORS[door]("好") | {name: value})
                assert answer.status_code == 400 or name in IN_CHAT_ONLY, (name, str(value)[:50], answer.text[:300])
                settled(answer)


def test_only_plain_json_is_read(tight: RunningServer, door: str) -> None:
    good = valid(door)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json"):
        check_error(post(tight, door, good, **{"Content-Type": kind}), 415)
    bomb = gzip.compress(bytes(30_000_000))
    for encoding, body in (
        ("gzip", gzip.compress(good)),
        ("gzip", bomb),
        ("deflate", zlib.compress(good)),
        ("br", good),
    ):
        check_error(post(tight, door, body, **{"Content-Encoding": encoding}), 415)


def test_a_body_over_the_limit_is_refused(tight: RunningServer, door: str) -> None:
    def pieces() -> Iterator[bytes]:
        yield valid(door)[:-1] + b',"u":"'
        for _ in range(25):
            yield b"x" * 100_000

    for content in (pieces(), b"".join(pieces())):
        check_error(tight.http.post(door, content=content, headers=JSON), 413, hidden=("xxxxx",))


def test_a_body_that_is_announced_over_the_limit_is_refused_before_it_comes(tight: RunningServer) -> None:
    """All at once: each is listened to for a second, for clients that read nothing until they have sent all."""

    def announce(door: str) -> int:
        told = head("Content-Type: application/json", "Content-Length: 99999999999", "Connection: close", path=door)
        return exchange(tight, told)[0]

    with ThreadPoolExecutor(len(DOORS)) as pool:
        assert set(pool.map(announce, DOORS)) == {413}


def test_a_body_in_small_chunks_is_read(tight: RunningServer, door: str) -> None:
    good = valid(door)
    answer = tight.http.post(door, content=(good[i : i + 7] for i in range(0, len(good), 7)), headers=JSON)
    assert answer.status_code == 200, answer.text


def test_bodies_that_come_too_slowly_or_end_early_are_given_up(tight: RunningServer) -> None:
    with ExitStack() as held:
        wires = [held.enter_context(connect(tight)) for _ in DOORS]
        for door, wire in zip(DOORS, wires, strict=True):
            wire.sendall(head("Content-Type: application/json", "Content-Length: 1000", path=door) + b"{")
            with connect(tight) as leaving:
                leaving.sendall(head("Content-Type: application/json", "Content-Length: 1000", path=door) + valid(door))
        for door, wire in zip(DOORS, wires, strict=True):
            read = b""
            while piece := wire.recv(65536):
                read += piece
            assert read.startswith(b"HTTP/1.1 408"), door
            assert b'"error"' in read


def test_ambiguous_framing_and_foreign_pages_are_refused(tight: RunningServer, door: str) -> None:
    good = valid(door)
    both = head(
        "Content-Type: application/json", f"Content-Length: {len(good)}", "Transfer-Encoding: chunked", path=door
    )
    status, read = exchange(tight, both + b"0\r\n\r\n" + head(method="GET", path="/metrics"))
    assert status == 400
    assert b"qqvl_" not in read
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        check_error(post(tight, door, good, **headers), 403)
    asked = {"Origin": tight.base, "Access-Control-Request-Method": "POST"}
    answer = tight.http.options(door, headers=asked)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_other_methods_and_paths_below_are_nobodys(tight: RunningServer, door: str) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = tight.http.request(method, door, headers=JSON)
        check_error(answer, 405)
        assert answer.headers["Allow"] == "POST"
    for path in (f"{door}/", f"{door}/{STRAY}", f"{door}%00", f"{door}//", f"/{door}"):
        # Of ``//tokenize`` the first word is a host's name, and what is asked of it is the page.
        check_error(post(tight, path, valid(door)), 404, 405 if path.startswith("//") else 404, hidden=(STRAY,))


def test_typed_control_tokens_are_letters(tight: RunningServer, door: str) -> None:
    """Where a whole prompt is given raw they are what they say, and a picture's without the picture is a mistake."""
    if door in ("/v1/completions", "/tokenize"):
        check_error(post(tight, door, DOORS[door](TOKENS)), 400)
        assert post(tight, door, DOORS[door]("<|im_start|>user\n你好<|im_end|>\n")).status_code == 200
        return
    pictures = (RED,) if door in SEEING else (RED.partition(",")[2],) if door in QQ else ()
    for shown in ((), pictures):
        assert post(tight, door, DOORS[door](TOKENS * 3, *shown)).status_code == 200


def header_only(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def inline(data: bytes) -> str:
    return f"data:image/png;base64,{base64_of(data)}"


BAD_PICTURES = {
    "half": inline(PNG[: len(PNG) // 2]), "bomb": inline(header_only(13000, 13000)), "text": inline(b"hello, world"),
    "line": inline(header_only(1, 20000)), "nothing": "data:image/png;base64,", "stars": "data:image/png;base64,****",
    "EPS": inline(b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n"), "SVG": inline(b"<svg xmlns='x'/>"),
    "TIFF": inline(b"II*\x00"),
    "file": "file:///etc/passwd", "path": "/etc/passwd", "loopback": "http://127.0.0.1/a.png", "name": "http://localhost/",
    "metadata": "http://169.254.169.254/latest/meta-data/", "number": "http://2130706433/", "six": "https://[::1]/a.png",
    "port": "http://127.0.0.1:22/", "user": "http://a:b@127.0.0.1/", "ftp": "ftp://127.0.0.1/a.png", "word": CANARY,
    "itself": "http://127.0.0.1:9999/health", "endless": "http://127.0.0.1/" + "a" * 20_000, "odd": "http://[",
}  # fmt: skip


@pytest.mark.parametrize("seeing", SEEING)
def test_a_bad_picture_is_refused_before_anything_is_said(tight: RunningServer, seeing: str) -> None:
    assert post(tight, seeing, DOORS[seeing]("看图", RED)).status_code == 200
    for name, url in BAD_PICTURES.items():
        for pictures in ((url,), (RED, url)):
            for stream in (False, True):
                answer = post(tight, seeing, DOORS[seeing]("看图", *pictures) | {"stream": stream})
                assert answer.status_code == 400, (name, answer.text[:300])
                check_error(answer, 400, hidden=(CANARY, "passwd", "meta-data", "aaaaa"))


@pytest.mark.parametrize("seeing", SEEING)
def test_a_picture_behind_an_allowed_address_is_seen_as_if_it_were_inline(
    tight: RunningServer, gallery: str, seeing: str
) -> None:
    inside, behind, away = (
        post(tight, seeing, DOORS[seeing]("看图", url)) for url in (RED, f"{gallery}/red.png", f"{gallery}/moved.png")
    )
    assert inside.status_code == behind.status_code == away.status_code == 200, behind.text
    cost = "prompt_tokens" if "chat" in seeing else "input_tokens"
    assert inside.json()["usage"][cost] == behind.json()["usage"][cost] == away.json()["usage"][cost]
    for path in ("/inward", "/nothing", "/page.html", "/forever"):
        for stream in (False, True):
            answer = post(tight, seeing, DOORS[seeing]("看图", gallery + path) | {"stream": stream})
            check_error(answer, 400, hidden=("127.0.0.1",))


def waits_for_nobody(server: RunningServer) -> None:
    """Nothing runs or waits any more, and no token is made for nobody."""
    deadline = time.monotonic() + 20
    while True:
        made = metric(server, "qqvl_generation_tokens_total")
        idle = not any(metric(server, f"qqvl_requests_{state}") for state in ("running", "waiting"))
        time.sleep(0.2)
        if idle and metric(server, "qqvl_generation_tokens_total") == made:
            return
        assert time.monotonic() < deadline


@pytest.mark.parametrize("streaming", STREAMING)
def test_callers_that_hang_up_free_their_places(tight: RunningServer, streaming: str) -> None:
    body = DOORS[streaming]("讲一个很长的故事") | {"max_output_tokens" if "resp" in streaming else "max_tokens": 2000}
    for number in range(12):
        content = json.dumps(body | {"stream": number % 2 == 0}).encode()
        with connect(tight) as wire:
            wire.sendall(
                head("Content-Type: application/json", f"Content-Length: {len(content)}", path=streaming) + content
            )
            if number % 3:
                time.sleep(0.02 * number)
    waits_for_nobody(tight)
    assert post(tight, streaming, valid(streaming)).status_code == 200


def test_a_crowd_is_answered_or_told_to_come_back(tight: RunningServer) -> None:
    doors = list(DOORS) * 6

    def ask(door: str) -> httpx.Response:
        return httpx.post(tight.base + door, content=valid(door), headers=JSON, timeout=60, trust_env=False)

    with watching_health(tight), ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, doors))
    for answer in answers:
        if answer.status_code != 200:
            check_error(answer, 429, 503)
            assert int(answer.headers["Retry-After"]) >= 1
    waits_for_nobody(tight)


def test_a_reader_that_stops_reading_holds_nobody_up(tight: RunningServer) -> None:
    content = json.dumps(chat("讲故事") | {"stream": True, "max_tokens": 500, "n": 4}).encode()
    with ExitStack() as held:
        for _ in range(3):
            wire = held.enter_context(connect(tight))
            wire.sendall(
                head("Content-Type: application/json", f"Content-Length: {len(content)}", path="/v1/chat/completions")
                + content
            )
        with watching_health(tight):
            waits_for_nobody(tight)
            assert post(tight, "/v1/chat/completions", valid("/v1/chat/completions")).status_code == 200


def test_figures_are_labelled_from_a_fixed_few_words(tight: RunningServer, door: str) -> None:
    post(tight, f"{door}/{STRAY}", valid(door))
    post(tight, door, valid(door))
    text = tight.http.get("/metrics").text
    doors = {line.partition('door="')[2].partition('"')[0] for line in text.splitlines() if 'door="' in line}
    assert doors <= {"qq", "openai", "anthropic", "admin", "page", "web", "other"}
    assert ("qq" if door in QQ else "anthropic" if door.startswith("/v1/messages") else "openai") in doors
    assert STRAY not in text
