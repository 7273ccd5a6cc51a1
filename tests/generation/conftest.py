"""The demo checkpoint and its pictures, ready for the voice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qqvl_server.generation.prompts.preprocess import Preprocessor
from qqvl_server.media.image import ImageLimits
from qqvl_server.media.library import ImageLibrary
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import LoadedModel, load
from qqvl_server.weights.locate import locate
from qqvl_server.weights.processor import load_processor


def exact(demo: Path) -> LoadedModel:
    return load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="float32"))


def processor_of(folder: Path) -> Any:
    return load_processor(str(folder))


@pytest.fixture(scope="session")
def plain(demo: Path) -> LoadedModel:
    """For Transformers' own ``generate``: whoever takes its attention over loads another."""
    return exact(demo)


@pytest.fixture
def loaded(plain: LoadedModel) -> LoadedModel:
    return plain


@pytest.fixture
def library(tmp_path: Path) -> ImageLibrary:
    return ImageLibrary(tmp_path, 10**9, ImageLimits(20_000_000, 50_000_000, 4, 1024))


@pytest.fixture
def preprocessor(loaded: LoadedModel, library: ImageLibrary) -> Preprocessor:
    return Preprocessor(loaded.processor, library, 1024)
