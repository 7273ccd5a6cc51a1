"""The contract's spellings of base64: the client's side is tests/client/test_pictures.py."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from qqvl_server.errors import ImageRejected
from qqvl_server.media.image import decode_base64

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "contract" / "pictures.json"
CONTRACT: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))
SPELLINGS = CONTRACT["spellings"]


@pytest.mark.parametrize("spelling", SPELLINGS["written"])
def test_every_spelling_of_base64_is_the_same_bytes(spelling: str) -> None:
    assert decode_base64(SPELLINGS["written"][spelling], 10_000) == base64.b64decode(SPELLINGS["bytes"])


@pytest.mark.parametrize("text", CONTRACT["not_base64"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ImageRejected):
        decode_base64(text, 10_000)
