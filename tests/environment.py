"""The environment tests run in: the caller's, without what would steer the programs under test."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

import pytest

# Settings of ours, of the libraries and clients that are run here, of Python, of terminals; proxies and certificates.
_STEERING = re.compile(
    r"(QQVL|HF|HUGGINGFACE|HUGGING_FACE|TRANSFORMERS|MODELSCOPE|OPENAI|ANTHROPIC|CLAUDE|NCATBOT|NODE|NPM|TORCH|UVICORN|"
    r"LOG|FORCE|NO|CURL|SSL|REQUESTS|LC)_\w+|PYTHON\w+|CLICOLOR\w*|GOFLAGS|LANG|LANGUAGE|SERVER_URL|WEB_CONCURRENCY|COLUMNS|"
    r"LINES|\w+_PROXY",
    re.IGNORECASE,
)


def clear(environment: MutableMapping[str, str]) -> None:
    for name in list(environment):
        if _STEERING.fullmatch(name):
            del environment[name]
    environment["LC_ALL"] = "C.UTF-8"


def must_be_at_hand(there: bool, what: str) -> None:
    """Skip where something of the maker's own is missing, but fail where ``CI`` says that it must be there."""
    if there:
        return
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{what}, and CI is set")
    pytest.skip(what)
