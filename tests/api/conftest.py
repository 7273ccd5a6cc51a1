"""Servers that several files of this folder share; each start costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.running import RunningServer

KEY, OTHER_KEY = "sk-first-0123456789", "密钥-à-二"
QQ_KEY, OPENAI_KEY, ADMIN_KEY, TWO_KEY = "sk-qq==", "sk-openai:1", "sk-admin=x", "sk-two"


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that wants a key: two that open all, some that open a part, half of them in a file."""
    folder = tmp_path_factory.mktemp("keyed")
    file = folder / "keys"
    file.write_text(f"\ufeff# 密钥\n\nadmin={ADMIN_KEY}\n  qq={TWO_KEY}  \nopenai={TWO_KEY}\n", "utf-8")
    file.chmod(0o644)
    given = ",".join((KEY, OTHER_KEY, f"qq={QQ_KEY}", f"openai={OPENAI_KEY}"))
    flags = ("--max-new-tokens", "8", "--api-keys-file", str(file))
    with RunningServer(folder / "data", *flags, env={"QQVL_API_KEYS": given}) as server:
        yield server


@pytest.fixture(scope="session")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with little patience and a short queue."""
    folder = tmp_path_factory.mktemp("tight")
    flags = ("--max-new-tokens", "16", "--max-pending", "4", "--body-timeout-s", "2", "--max-body-mb", "2")
    with RunningServer(folder / "data", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The paged engine on the demo checkpoint, under two names, for all that asks the bare model."""
    folder = tmp_path_factory.mktemp("bare")
    names = "qqvl-demo,Qwen/Qwen3-VL-8B-Instruct"
    flags = ("--engine", "paged", "--served-model-name", names, "--media-allow", "127.0.0.1")
    with RunningServer(folder / "data", *flags) as server:
        yield server
