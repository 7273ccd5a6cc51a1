"""Packages that a setting needs and that are not installed with the rest. No torch: asked before anything is loaded."""

from __future__ import annotations

import importlib.util

from qqvl_server import invocation
from qqvl_server.errors import ConfigError
from qqvl_server.settings import WeightsSettings


def check_extras(settings: WeightsSettings) -> None:
    """Raises ConfigError, with the command that installs what is missing."""
    if settings.attn == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        # Its build imports torch, which pip's isolated builds do not see.
        first, then = (
            invocation.install("ninja", "packaging", "wheel"),
            invocation.install("--no-build-isolation", "flash-attn"),
        )
        raise ConfigError(f"没有装 flash-attn：运行 {first} && {then}，或去掉 --attn flash_attention_2")
    if settings.quantization.startswith("bnb") and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"没有装 bitsandbytes：运行 {invocation.install('bitsandbytes')}，或去掉 --quantization")
