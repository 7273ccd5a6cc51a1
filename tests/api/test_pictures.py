"""Pictures through the door: every way they are spelled, every kind, the broken, the huge; none spoils a chat."""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.api.wire import check_error, forget_peak, peak_memory_mb, watching_health
from tests.pictures import base64_of, encoded, picture
from tests.running import RunningServer, private_body

RED = picture(size=(96, 96))
PNG = encoded(RED)
WORD = base64_of(PNG)


def say(server: RunningServer, user: str, data: str, content: str = "看图", **extra: Any) -> Any:
    return server.post("private", private_body(content, user=user, images=(data,), **extra))


def animated(format_: str, frames: int = 5, size: tuple[int, int] = (60, 60)) -> bytes:
    first, *rest = [Image.new("RGB", size, (n * 50 % 256, n * 90 % 256, 255 - n)) for n in range(frames)]
    return encoded(first, format_, save_all=True, append_images=rest, duration=40)


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(size=(120, 60)), "JPEG", exif=exif)


SPELLINGS: dict[str, str] = {
    "plain": WORD,
    "data URI": f"data:image/png;base64,{WORD}",
    "data URI, wrong label": f"data:image/jpeg;base64,{WORD}",
    "data URI, capitals": f"DATA:IMAGE/PNG;BASE64,{WORD}",
    "data URI with a name": f"data:image/png;name=a.png;base64,{WORD}",
    "data URI, no type": f"data:;base64,{WORD}",
    "spaces in front": f"  \n data:image/png;base64,{WORD}",
    "lines": "\n".join(WORD[i : i + 76] for i in range(0, len(WORD), 76)),
    "CRLF lines": "\r\n".join(WORD[i : i + 64] for i in range(0, len(WORD), 64)) + "\r\n",
    "spaces": " ".join(WORD[i : i + 5] for i in range(0, len(WORD), 5)),
    "URL-safe": base64.urlsafe_b64encode(PNG).decode(),
    "URL-safe, unpadded": base64.urlsafe_b64encode(PNG + b"\x00").decode().rstrip("="),
    "unpadded": base64_of(PNG + b"\x00").rstrip("="),
    "over-padded": base64_of(PNG + b"\x00").rstrip("=") + "====",
}


def test_every_spelling_of_base64_is_the_same_picture(server: RunningServer) -> None:
    kept = {hashlib.sha256(PNG + tail).hexdigest() for tail in (b"", b"\x00")}
    for number, (name, word) in enumerate(SPELLINGS.items()):
        answer = say(server, f"spelling{number}", word, context_only=True)
        assert answer.status_code == 200, name
        assert answer.json()["warnings"] == [], name
        (stored,) = server.messages("private", f"spelling{number}")
        assert set(stored["images"]) <= kept, name
        assert len(stored["images"]) == 1, name


def test_the_bytes_decide_not_the_declared_format(server: RunningServer) -> None:
    for number, declared in enumerate(("png", "jpeg", "mp4", "", "../../etc", "x" * 500, "图")):
        body = private_body("看图", user=f"declared{number}", context_only=True)
        body["images"] = [{"data": WORD, "format": declared}]
        assert server.post("private", body).json()["warnings"] == []


SIXTEEN = RED.convert("L").point(lambda v: v * 256, "I").convert("I;16")
KINDS: dict[str, bytes] = {
    **{f: encoded(RED, f) for f in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "MPO")},
    **{f"PNG {mode}": encoded(RED.convert(mode)) for mode in ("RGBA", "LA", "L", "P", "1")},
    "PNG palette with a clear colour": encoded(RED.convert("P"), transparency=0),
    "PNG 16 bit": encoded(SIXTEEN),
    "PNG interlaced by its size": encoded(picture(size=(97, 31))),
    "JPEG CMYK": encoded(RED.convert("CMYK"), "JPEG"),
    "JPEG grey": encoded(RED.convert("L"), "JPEG"),
    "JPEG progressive": encoded(RED, "JPEG", progressive=True),
    "WEBP with alpha": encoded(RED.convert("RGBA"), "WEBP"),
    "GIF clear": encoded(Image.new("P", (50, 50)), "GIF", transparency=0),
    "GIF animated": animated("GIF"),
    "WEBP animated": animated("WEBP"),
    "all clear": encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0))),
    **{f"EXIF {turn}": oriented(turn) for turn in (2, 3, 6, 8)},
    **{f"{w}x{h}": encoded(picture(size=(w, h))) for w, h in ((30, 305), (27, 27), (305, 30), (28, 28), (3, 3))},
}


def test_every_common_kind_is_seen_and_answered(server: RunningServer) -> None:
    for number, (name, data) in enumerate(KINDS.items()):
        answer = say(server, f"kind{number}", base64_of(data), context_only=True)
        assert answer.json()["warnings"] == [], name
    blind = server.post("private", private_body("看图", user="kinds-blind")).json()["usage"]["prompt_tokens"]
    words = [base64_of(data) for data in KINDS.values()]
    for start in range(0, len(words), 10):
        body = private_body("看图", user=f"kinds{start}", images=tuple(words[start : start + 10]))
        answer = server.post("private", body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["prompt_tokens"] > blind + 10


def test_extreme_sizes_are_answered_or_told(server: RunningServer) -> None:
    sizes = ((1, 1), (1, 20000), (20000, 1), (2, 2), (1, 150), (7000, 20), (4000, 4000))
    words = tuple(base64_of(encoded(Image.new("RGB", size, "red"))) for size in sizes)
    for size, word in zip(sizes, words, strict=True):
        assert say(server, "sizes", word, "", context_only=True).status_code in (200, 400), size
        assert say(server, "sizes", word, "看图", context_only=True).status_code == 200, size
    answer = server.post("private", private_body("看图", user="sizes", images=words))
    assert answer.status_code == 200, answer.text


def test_an_animation_costs_no_more_than_its_shown_frames(server: RunningServer) -> None:
    def tokens(frames: int) -> int:
        answer = say(server, f"frames{frames}", base64_of(animated("GIF", frames, (200, 200))))
        return int(answer.json()["usage"]["prompt_tokens"])

    assert tokens(1) < tokens(4) == tokens(60)


def header_only(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes never fill."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def claiming(data: bytes, at: int, form: str, width: int, height: int) -> bytes:
    size = struct.pack(form, width, height)
    return data[:at] + size + data[at + len(size) :]


JPEG, GIF, WEBP, BMP = (encoded(RED, f) for f in ("JPEG", "GIF", "WEBP", "BMP"))
BOMBS: dict[str, bytes] = {
    "PNG 169 MP": header_only(13000, 13000),
    "PNG 51 MP": header_only(5100, 10000),
    "PNG 4 TP": header_only(2**31 - 1, 2**31 - 1),
    "PNG 0": header_only(0, 100),
    "GIF": claiming(GIF, 6, "<HH", 65535, 65535),
    "BMP": claiming(BMP, 18, "<ii", 60000, 60000),
    "BMP negative": claiming(BMP, 18, "<ii", -60000, -60000),
    "JPEG": claiming(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH", 65000, 65000),
    "WEBP": encoded(Image.new("L", (9000, 9000)), "WEBP", quality=1, method=0),
    "PNG real, 64 MP": encoded(Image.new("1", (8000, 8000))),
}
BROKEN: dict[str, str] = {
    "empty": "", "blank": " \n", "not base64": "这不是图片", "one letter": "A", "stars": "****", "only padding": "====",
    "data URI without data": "data:image/png;base64,", "data URI, bad": "data:image/png;base64,@@@", "comma": ",",
    "text": base64_of(b"hello, world"), "zeros": base64_of(bytes(5000)), "SVG": base64_of(b"<svg xmlns='x'/>"),
    "PDF": base64_of(b"%PDF-1.4 " + bytes(100)), "EPS": base64_of(b"%!PS-Adobe-3.0 EPSF-3.0\n" + b"showpage\n" * 9),
    "JPEG 2000": base64_of(encoded(RED, "JPEG2000")), "PPM": base64_of(encoded(RED, "PPM")),
    "pickle": base64_of(pickle.dumps({"a": 1})), "zip": base64_of(b"PK\x03\x04" + bytes(60)),
    "HTML": base64_of(b"<html><img src=x></html>"), "ELF": base64_of(b"\x7fELF" + bytes(60)),
    **{f"signature of {n}": base64_of(d[:8]) for n, d in (("PNG", PNG), ("JPEG", JPEG), ("WEBP", WEBP), ("BMP", BMP))},
    **{f"a third of a {n}": base64_of(d[: len(d) // 3]) for n, d in (("PNG", PNG), ("WEBP", WEBP), ("BMP", BMP))},
    **{f"bomb {name}": base64_of(data) for name, data in BOMBS.items()},
}  # fmt: skip


def test_an_unreadable_picture_alone_is_refused_and_beside_words_is_told(server: RunningServer) -> None:
    before = forget_peak(server.process.pid)
    with watching_health(server):
        for number, (name, word) in enumerate(BROKEN.items()):
            alone = say(server, f"broken{number}", word, "")
            assert alone.status_code == 400, (name, alone.text)
            check_error(alone, 400, hidden=(word,) if len(word) > 8 else ())
            beside = say(server, f"broken{number}", word, "你好", context_only=True)
            assert beside.status_code == 200, (name, beside.text)
            (warning,) = beside.json()["warnings"]
            assert len(warning) < 200, name
            (stored,) = server.messages("private", f"broken{number}")
            assert stored["images"] == [], name
            assert "图片无法打开" in stored["content"], name
    assert peak_memory_mb(server.process.pid) - before < 300


def test_truncated_and_flipped_pictures_never_break_the_server(server: RunningServer) -> None:
    sources = {"png": PNG, "jpeg": JPEG, "gif": animated("GIF", 3), "webp": animated("WEBP", 3), "bmp": BMP}
    for name, data in sources.items():
        for step in range(1, 13):
            cut = data[: len(data) * step // 13]
            flipped = bytearray(data)
            for position in range(step * 7, len(data), 97):
                flipped[position] ^= 0x5A
            for damaged in (cut, bytes(flipped)):
                answer = say(server, f"damaged-{name}", base64_of(damaged), "你好", context_only=True)
                assert answer.status_code == 200, (name, step)
                assert len(answer.json()["warnings"]) <= 1


def test_a_chat_goes_on_after_an_unreadable_picture(server: RunningServer) -> None:
    spoiled = say(server, "spoiled", base64_of(PNG[:200]), "这是什么颜色？")
    assert spoiled.status_code == 200
    assert spoiled.json()["reply"]
    assert spoiled.json()["warnings"]
    later = say(server, "spoiled", WORD, "这是什么颜色？")
    assert later.json()["warnings"] == []
    assert later.json()["reply"]
    assert server.private("谢谢", user="spoiled")


def test_one_bad_picture_among_good_ones_is_named(server: RunningServer) -> None:
    body = private_body("看图", user="mixed", images=(WORD, "@@@", WORD), context_only=True)
    (warning,) = server.post("private", body).json()["warnings"]
    assert "第 2 张" in warning
    assert len(server.messages("private", "mixed")[0]["images"]) == 2


def test_many_pictures_are_looked_at_up_to_the_limit(server: RunningServer) -> None:
    many = server.post("private", private_body("看图", user="many", images=(WORD,) * 40)).json()
    assert len(many["warnings"]) == 1
    assert len(server.messages("private", "many")[0]["images"]) == 16
    bad = server.post("private", private_body("", user="many-bad", images=("@@@",) * 1000))
    check_error(bad, 400)
    too_many = server.post("private", private_body("", user="many-bad", images=("@@@",) * 1001))
    check_error(too_many, 400)


def test_a_file_over_the_byte_limit_is_refused_before_it_is_decoded(server: RunningServer) -> None:
    heavy = base64_of(PNG + bytes(20_500_000))
    check_error(say(server, "heavy", heavy, ""), 400)
    assert say(server, "heavy", heavy, "你好", context_only=True).json()["warnings"]


N = 7000
HUGE: dict[str, Callable[[Image.Image], bytes]] = {
    "palette with a clear colour": lambda grey: encoded(grey.convert("P"), compress_level=1, transparency=5),
    "16 bit": lambda grey: encoded(grey.convert("I").convert("I;16"), compress_level=1),
    "progressive JPEG": lambda grey: encoded(grey.convert("RGB"), "JPEG", progressive=True, quality=30),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_picture_of_49_megapixels_costs_less_than_700_mb(server: RunningServer, kind: str) -> None:
    grey = Image.radial_gradient("L").resize((N, N), Image.Resampling.NEAREST)
    word = base64_of(HUGE[kind](grey))
    before = forget_peak(server.process.pid)
    with watching_health(server):
        answer = say(server, f"huge {kind}", word)
    assert answer.json()["warnings"] == []
    assert peak_memory_mb(server.process.pid) - before < 700


def test_an_animated_webp_that_would_cost_more_is_told(server: RunningServer) -> None:
    buffer = io.BytesIO()
    Image.new("L", (N, N)).save(buffer, "WEBP", quality=1, method=0)
    before = forget_peak(server.process.pid)
    answer = say(server, "huge webp", base64_of(buffer.getvalue()), context_only=True)
    assert answer.status_code == 200
    assert peak_memory_mb(server.process.pid) - before < 700
