"""Checkpoints that other programs have downloaded already: the folders of the hubs' own caches."""

from __future__ import annotations

import os
from pathlib import Path


def cached(model: str) -> Path | None:
    """Where ``model`` (``owner/name``) lies in the cache of Hugging Face or ModelScope, whole or not.

    Layouts: ``models--owner--name/snapshots/<commit>`` with the commit of a branch in ``refs/``
    (https://huggingface.co/docs/huggingface_hub/guides/manage-cache); ``models/owner/name``, dots as ``___``.
    """
    home = Path(os.path.expanduser("~/.cache"))
    hugging_face = Path(os.environ.get("HF_HOME") or home / "huggingface") / "hub"
    place = Path(os.environ.get("HF_HUB_CACHE") or hugging_face) / f"models--{model.replace('/', '--')}"
    try:
        snapshot = place / "snapshots" / (place / "refs" / "main").read_text(encoding="ascii").strip()
        if snapshot.is_dir():
            return snapshot
    except (OSError, UnicodeDecodeError):
        pass
    for base in (Path(os.environ.get("MODELSCOPE_CACHE") or home / "modelscope"),):
        for folder in (base / "hub" / "models", base / "models"):
            for name in (model, model.replace(".", "___")):
                if (folder / name).is_dir():
                    return folder / name
    return None
