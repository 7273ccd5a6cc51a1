"""What small files hide: later frames, other pictures, profiles, passes; and what is shown of files cut short."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from qqvl_server.errors import ImageRejected
from qqvl_server.media.image import ImageLimits, check, pixels
from tests.media.hostile import chunk, gif, gif_frame, png, slow_jpeg
from tests.pictures import encoded, picture

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=50_000_000, max_frames=4, max_tokens=1024)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
PHOTO = picture(RED, size=(320, 240))
OTHER = Image.new("RGB", (160, 120), BLUE)


def seen(data: bytes, limits: ImageLimits = LIMITS) -> list[tuple[int, int, int]]:
    """The colour in the middle of each frame that is shown."""
    ref = check(data, limits)
    frames = pixels(data, ref, limits)
    assert len(frames) == len(ref.frames)
    middles = [frame.getpixel((frame.width // 2, frame.height // 2)) for frame in frames]
    return [tuple(round(value / 255) * 255 for value in middle) for middle in middles]  # type: ignore[union-attr, misc]


def refused(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(ImageRejected) as error:
        check(data, limits)
    return error.value.message


def test_frames_are_cut_to_the_screen_and_never_cost_more_than_a_first_frame_may() -> None:
    huge = gif((1, 1), gif_frame((1, 1), colour=RED), gif_frame((12_000, 12_000)))
    far = gif((40, 40), gif_frame((40, 40), colour=RED), gif_frame((10, 10), at=(60_000, 60_000)))
    for data, size in ((huge, (1, 1)), (far, (40, 40))):
        ref = check(data, LIMITS)
        assert (ref.width, ref.height) == size
        assert seen(data) == [RED]
    over = gif((40, 40), gif_frame((40, 40), colour=RED), gif_frame((90, 90)))
    ref = check(over, LIMITS)
    assert [frame.size for frame in pixels(over, ref, LIMITS)] == [(40, 40), (40, 40)]
    assert seen(over) == [RED, BLUE]


def test_a_first_frame_larger_than_the_screen_is_the_screen() -> None:
    for screen in ((10, 10), (0, 0)):
        data = gif(screen, gif_frame((200, 100), at=(5, 5)))
        ref = check(data, LIMITS)
        assert (ref.width, ref.height) == (200, 100)
        assert seen(data) == [BLUE]
    assert "尺寸太大" in refused(gif((1, 1), gif_frame((12_000, 12_000))))


def test_an_animation_of_endless_frames_is_seen_by_its_beginning() -> None:
    data = gif((10, 10), gif_frame((10, 10), colour=RED), *([gif_frame((10, 10))] * 30_000))
    assert seen(data) == [RED, BLUE]


def animated_png(frames: int, size: tuple[int, int] = (60, 60)) -> bytes:
    first, *rest = [Image.new("RGB", size, (255 * (n % 2), 0, 255 * ((n + 1) % 2))) for n in range(frames)]
    return encoded(first, "PNG", save_all=True, append_images=rest, duration=40)


def test_an_animated_png_is_what_its_frames_are_not_what_it_says() -> None:
    good = animated_png(3)
    for claim in (1, 3, 2**31 - 1):
        lying = good.replace(b"acTL" + struct.pack(">I", 3), b"acTL" + struct.pack(">I", claim))
        assert len(seen(lying)) == 2
    first_frame = good.index(b"fcTL") + 8
    beyond = good[:first_frame] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + good[first_frame + 8 :]
    assert seen(beyond) == [BLUE], "the still picture in front of a broken animation"


def test_a_png_whose_still_picture_is_no_frame_shows_its_frames() -> None:
    control = struct.pack(">IIIIHHBB", 64, 64, 0, 0, 1, 10, 0, 0)
    blue = zlib.compress(b"".join(b"\0" + bytes(BLUE) * 64 for _ in range(64)))
    green = zlib.compress(b"".join(b"\0" + b"\0\xff\0" * 64 for _ in range(64)))
    frames = b"".join(
        chunk(b"fcTL", struct.pack(">I", 2 * n) + control) + chunk(b"fdAT", struct.pack(">I", 2 * n + 1) + data)
        for n, data in enumerate((blue, green))
    )
    data = png(chunk(b"acTL", struct.pack(">II", 2, 0)), end=frames + chunk(b"IEND", b""))
    assert seen(data) == [BLUE, (0, 255, 0)]


@pytest.mark.parametrize("format_", ["MPO", "TIFF", "AVIF"])
def test_only_gif_apng_and_webp_are_animations(format_: str) -> None:
    out = io.BytesIO()
    PHOTO.save(out, format_, save_all=True, append_images=[OTHER.resize(PHOTO.size)] * 2)
    assert seen(out.getvalue()) == [RED]
    assert check(out.getvalue(), LIMITS).frames == (0,)


def test_pictures_kept_by_an_earlier_version_as_two_are_still_shown() -> None:
    out = io.BytesIO()
    PHOTO.save(out, "MPO", save_all=True, append_images=[OTHER])
    ref = check(out.getvalue(), LIMITS)
    object.__setattr__(ref, "frames", (0, 1))
    assert len(pixels(out.getvalue(), ref, LIMITS)) == 2


BESIDE: dict[str, bytes] = {
    "unreadable eXIf": chunk(b"eXIf", b"LoremIpsum"),
    "endless eXIf": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(1_000_000)),
    "eXIf that points nowhere": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "iCCP bomb": chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(60_000_000))),
    "iCCP of no method": chunk(b"iCCP", b"a\0\x07"),
    "zTXt bombs": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 100,
    "iTXt bomb": chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(60_000_000))),
    "empty chunks": b"".join(chunk(kind, b"") for kind in (b"sRGB", b"cHRM", b"pHYs", b"gAMA", b"tRNS", b"acTL")),
    "unknown chunks": chunk(b"abCd", b"x" * 1000) + chunk(b"iDOT", b""),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"\0",
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_the_pixels_changes_nothing(name: str) -> None:
    tracemalloc.start()
    assert seen(png(BESIDE[name])) == [RED]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert seen(png(end=BESIDE[name] + chunk(b"IEND", b""))) == [RED]


def test_a_jpegs_application_segments_are_not_read_but_for_how_it_is_turned() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(PHOTO, "JPEG", exif=turned)
    block = b"\xff\xe1" + struct.pack(">H", 65_000) + b"Exif\0\0" + b"\xff" * 64_992
    for odd in (block * 100, b"\xff\xe2\0\x08MPF\0\xff\xff", b"\xff\xe2\0\x0fICC_PROFILE\0\1", b"\xff\xed\0\x04\0\0"):
        at = data.index(b"\xff\xdb")
        ref = check(data[:at] + odd + data[at:], LIMITS)
        assert (ref.width, ref.height) == (240, 320)
    profile = encoded(PHOTO.convert("CMYK"), "JPEG", icc_profile=bytes(100_000))
    assert seen(profile) == [RED]


TOO_MUCH: dict[str, Callable[[], bytes]] = {
    "a JPEG of 1,500 passes": lambda: slow_jpeg(7000, 7000, 1500),
    "a JPEG of 30,000 passes": lambda: slow_jpeg(8, 8, 30_000),
    "a JPEG of a million comments": lambda: b"\xff\xd8" + b"\xff\xfe\0\x02" * 1_000_000 + encoded(PHOTO, "JPEG")[2:],
    "a GIF in blocks of one byte": lambda: gif(
        (9, 9), b"\x2c" + struct.pack("<HHHH", 0, 0, 9, 9) + b"\0\x08" + b"\1\x80" * 400_000 + b"\0"
    ),
    "a PNG of a million pieces": lambda: png(pixels=chunk(b"IDAT", b"") * 400_000),
    "a bitmap of long runs": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 1078, 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0)
        + bytes(1024) + b"\1\1" * 1_100_000
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MUCH)
def test_work_is_bounded_before_it_is_begun(name: str) -> None:
    assert "太多" in refused(TOO_MUCH[name]())


def test_many_passes_over_few_pixels_are_no_work() -> None:
    assert len(seen(slow_jpeg(64, 64, 1500))) == 1
    assert seen(encoded(PHOTO, "JPEG", progressive=True)) == [RED]


def test_whatever_a_decoder_raises_is_a_refusal() -> None:
    for format_ in ("AVIF", "TIFF", "HEIF", "ICO", "WEBP"):
        data = heic() if format_ == "HEIF" else encoded(PHOTO, format_)
        for cut in range(8, len(data), max(len(data) // 25, 1)):
            flipped = bytearray(data)
            flipped[cut] ^= 0xFF
            for damaged in (data[:cut], bytes(flipped)):
                with contextlib.suppress(ImageRejected):
                    seen(damaged)


def heic(image: Image.Image = PHOTO) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=90)
    return out.getvalue()


def test_what_phones_and_browsers_make_is_seen() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for format_ in ("AVIF", "TIFF", "ICO", "WEBP"):
        assert seen(encoded(picture(RED), format_)) == [RED], format_
    assert seen(encoded(picture(RED), "ICO", bitmap_format="bmp")) == [RED]
    for format_ in ("AVIF", "TIFF", "WEBP", "PNG"):
        data = encoded(PHOTO, format_, exif=turned.tobytes())
        ref = check(data, LIMITS)
        (frame,) = pixels(data, ref, LIMITS)
        assert (ref.width, ref.height) == frame.size == (240, 320), format_
    data = heic()
    assert check(data, LIMITS).format == "heif"
    assert seen(data) == [RED]


def test_an_icon_is_bounded_by_what_it_holds_not_by_what_it_says() -> None:
    huge = encoded(Image.new("1", (12_000, 12_000)))
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(huge), 22)
    assert "尺寸太大" in refused(b"\0\0\1\0\1\0" + entry + huge)


def test_without_its_library_heic_is_refused_by_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install -c constraints.txt -e '.[heif]'" in refused(data)


def test_other_containers_are_refused() -> None:
    for data in (encoded(PHOTO, "JPEG2000"), encoded(PHOTO.resize((512, 512)), "ICNS"), encoded(PHOTO, "PPM")):
        assert "支持" in refused(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG interlaced", "GIF"])
def test_a_picture_cut_short_is_shown_as_far_as_it_goes(kind: str) -> None:
    noisy = Image.merge("RGB", [Image.effect_noise((200, 200), 60) for _ in range(3)])
    noisy.paste(RED, (0, 0, 200, 40))
    data = interlaced(noisy) if kind == "PNG interlaced" else encoded(noisy, kind)
    whole = check(data, LIMITS)
    assert whole.share == 1
    most = data[: len(data) * 9 // 10]
    ref = check(most, LIMITS)
    assert 0.6 < ref.share < 1
    (frame,) = pixels(most, ref, LIMITS)
    assert frame.size == (200, 200)
    assert near(frame.getpixel((100, 10)), RED)
    if kind != "PNG interlaced":
        assert frame.getpixel((100, 199)) == WHITE
    little = data[: len(data) * 3 // 10]
    assert refused(little)
    generous = ImageLimits(LIMITS.max_bytes, LIMITS.max_pixels, 4, 1024, min_share=0.05)
    if kind != "PNG interlaced":
        assert check(little, generous).share < 0.5
    strict = ImageLimits(LIMITS.max_bytes, LIMITS.max_pixels, 4, 1024, min_share=1)
    assert "不完整" in refused(most, strict)


def test_a_progressive_jpeg_cut_short_is_shown_whole_but_told() -> None:
    noisy = Image.merge("RGB", [Image.effect_noise((200, 200), 60) for _ in range(3)])
    data = encoded(noisy, "JPEG", progressive=True, quality=95)
    ref = check(data[: len(data) * 8 // 10], LIMITS)
    assert ref.share == 0.99
    assert refused(data[: data.index(b"\xff\xda") + 30])


@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "PNG", "GIF"])
def test_what_lacks_its_end_only_is_whole(kind: str) -> None:
    format_, _, progressive = kind.partition(" ")
    data = encoded(PHOTO, format_, **({"progressive": True} if progressive else {}))
    end = {"JPEG": 2, "PNG": 12, "GIF": 1}[format_]
    assert seen(data[:-end]) == [RED]
    ref = check(data[:-end], LIMITS)
    assert ref.share == (0.99 if progressive else 1)
    if format_ == "PNG":
        cut_in_text = data[:-12] + struct.pack(">I", 10) + b"tEXtabc"
        assert check(cut_in_text, LIMITS).share == 1


def test_half_a_frame_of_an_animation_is_left_out_and_told() -> None:
    frames = [Image.effect_noise((80, 80), 90).convert("P") for _ in range(3)]
    for format_ in ("GIF", "PNG"):
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
        whole, cut = check(data, LIMITS), check(data[:-2000], LIMITS)
        assert (len(whole.frames), whole.share) == (3, 1)
        assert (len(cut.frames), cut.share) == (2, 0.99)


def near(got: object, wanted: tuple[int, int, int]) -> bool:
    assert isinstance(got, tuple)
    return all(abs(a - b) < 30 for a, b in zip(got, wanted, strict=True))


def interlaced(image: Image.Image) -> bytes:
    """Adam7, which Pillow does not write: seven passes over ever finer grids (PNG 1.2 §2.6)."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = bytearray()
    for left, top, across, down in passes:
        for y in range(top, image.height, down):
            rows += b"\0"
            for x in range(left, image.width, across):
                pixel = image.getpixel((x, y))
                assert isinstance(pixel, tuple)
                rows += bytes(int(value) for value in pixel)
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    body = chunk(b"IDAT", zlib.compress(bytes(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")
