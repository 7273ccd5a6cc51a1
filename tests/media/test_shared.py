"""Pictures that several servers show: what one keeps the others see, and what cannot be reached is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qqvl_server.errors import ConfigError, ImageRejected, StorageFailed
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.media.shared import SharedPictures
from tests.pictures import encoded, picture

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=50_000_000, max_frames=4, max_tokens=1024)


class Bucket:
    """An S3 store that speaks HTTP, moto's, with one bucket."""

    def __init__(self) -> None:
        self._server = moto().ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        httpx.put(f"{self.endpoint}/pictures", trust_env=False, timeout=60).raise_for_status()

    def stop(self) -> None:
        self._server.stop()


def moto() -> Any:
    # Imported late: it takes its time.
    import moto.server

    return moto.server


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    started = Bucket()
    try:
        yield started
    finally:
        started.stop()


def of(folder: Path, url: str) -> ImageLibrary:
    """A server's."""
    return ImageLibrary(folder, 10**9, LIMITS, SharedPictures(url))


def kept_by_one_and_shown_by_another(folder: Path, url: str) -> ImageLibrary:
    data = encoded(picture())
    ref = of(folder / "one", url).add(data)
    other = of(folder / "other", url)
    assert other.holds(ref)
    assert other.open(ref)[0].size == (256, 256)
    assert of(folder / "third", url).read(ref.sha256) == data
    never = of(folder / "elsewhere", f"{url.partition('?')[0]}/elsewhere{'?' * ('?' in url)}{url.partition('?')[2]}")
    assert not never.holds(ref)
    with pytest.raises(ImageRejected, match="过期"):
        never.open(ref)
    return other


def test_a_folder_that_servers_share(tmp_path: Path) -> None:
    kept_by_one_and_shown_by_another(tmp_path, f"file://{tmp_path / 'shared'}")
    # As a data folder has it, so that what is there already may be copied.
    (kept,) = (path for path in (tmp_path / "shared").rglob("*") if path.is_file())
    assert kept.parent.name == kept.name[:2]


def test_an_s3_store_over_http_and_what_is_said_when_it_is_away(tmp_path: Path, bucket: Bucket) -> None:
    url = f"s3://pictures/qqvl?endpoint={bucket.endpoint}&region=us-east-1"
    other = kept_by_one_and_shown_by_another(tmp_path, url)
    elsewhere = of(tmp_path / "one", url).add(encoded(picture((0, 0, 200))))
    mine = other.add(encoded(picture((0, 200, 0))))
    bucket.stop()
    # Not left out in silence: it is meant to be shown, and who tries hears why it cannot be.
    assert other.holds(elsewhere)
    with pytest.raises(ImageRejected, match="合用的图片库"):
        other.open(elsewhere)
    with pytest.raises(StorageFailed, match="合用的图片库"):
        other.add(encoded(picture((0, 0, 90))))
    assert other.open(mine)[0].size == (256, 256)


@pytest.mark.parametrize(
    "url", ["/mnt/pictures", "file://", "s3://", "s3://b/p?secret=1", "https://b", "file:///proc/no"]
)
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="s3://"):
        SharedPictures(url)


def test_a_damaged_copy_is_not_shown(tmp_path: Path) -> None:
    url = f"file://{tmp_path / 'shared'}"
    ref = of(tmp_path / "one", url).add(encoded(picture()))
    shared = tmp_path / "shared" / ref.sha256[:2] / ref.sha256
    shared.write_bytes(b"something else")
    shutil.rmtree(tmp_path / "one")
    other = of(tmp_path / "other", url)
    assert not other.holds(ref)
    with pytest.raises(ImageRejected):
        other.open(ref)
