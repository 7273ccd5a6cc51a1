"""Fetch a checkpoint into a folder: resumable, with progress, checked against the hub's own checksums.

The hubs' SDKs do the transfer; this file chooses files, compares SHA-256 at the end and turns their many errors
into one line. No torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Literal

from tqdm import tqdm

from qqvl_server.errors import WeightsError
from qqvl_server.language import told
from qqvl_server.weights.locate import HUB_ID, UNFINISHED, is_whole, resume

Hub = Literal["hf", "modelscope"]
# Weights as safetensors only: a .bin or .pt is a pickle, which runs code when it is opened.
PATTERNS: Final = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.md", "LICENSE*"]
_BLOCK: Final = 1 << 20


def fetch(model: str, hub: Hub, folder: Path) -> None:
    """Download ``model`` (``owner/name``) into ``folder``; files already whole are not fetched again.

    Raises:
        WeightsError: one line that says what failed and what to try.
    """
    if not HUB_ID.fullmatch(model):
        raise WeightsError(f"模型名应写成 作者/名字，例如 Qwen/Qwen3-VL-8B-Instruct，而不是 {model!r}")
    try:
        checksums = _from_hf(model, folder) if hub == "hf" else _from_modelscope(model, folder)
    except WeightsError:
        raise
    except Exception as error:
        # The edge of two SDKs with dozens of error classes between them; what matters is the line.
        raise WeightsError(_explain(model, hub, folder, error)) from error
    verify(folder, checksums)
    (folder / UNFINISHED).unlink(missing_ok=True)


def _begin(model: str, hub: Hub, folder: Path) -> None:
    """Make the folder, now that there is something to put into it, and mark it until it is whole.

    A folder that is whole already stays so: an update that is broken off must not take it out of use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_whole(folder):
        (folder / UNFINISHED).write_text(json.dumps({"model": model, "from": hub}), encoding="utf-8")


def _check_room(model: str, folder: Path, sizes: Mapping[str, int]) -> None:
    """Say what is to come, in bytes by file, before gigabytes of it do.

    Raises:
        WeightsError: the disk has no room for what is not there yet.
    """
    wanted = {name: size for name, size in sizes.items() if any(fnmatch(name, pattern) for pattern in PATTERNS)}
    missing = sum(size for name, size in wanted.items() if not _is_there(folder / name, size))
    place = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    free, total = shutil.disk_usage(place).free, sum(wanted.values())
    if missing > free:
        raise WeightsError(
            f"{model} 还要下载 {missing / 1e9:.1f} GB，{place} 所在的磁盘只剩 {free / 1e9:.1f} GB，"
            f"差 {(missing - free) / 1e9:.1f} GB：腾出空间，或用 --into 放到别的磁盘上"
        )
    words = f"{model}：{len(wanted)} 个文件，共 {total / 1e9:.1f} GB，还要下载 {missing / 1e9:.1f} GB"
    sys.stderr.write(told(f"{words}；磁盘剩 {free / 1e9:.1f} GB") + "\n")


def _is_there(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _from_hf(model: str, folder: Path) -> dict[str, str]:
    import huggingface_hub

    info = huggingface_hub.HfApi().model_info(model, files_metadata=True)
    _check_room(model, folder, {file.rfilename: file.size or 0 for file in info.siblings or ()})
    _begin(model, "hf", folder)
    huggingface_hub.snapshot_download(model, revision=info.sha, local_dir=folder, allow_patterns=PATTERNS)
    return {
        file.rfilename: file.lfs.sha256
        for file in info.siblings or ()
        if file.lfs is not None and (folder / file.rfilename).exists()
    }


def _from_modelscope(model: str, folder: Path) -> dict[str, str]:
    import modelscope_hub

    hub = modelscope_hub.HubApi()
    files = hub.list_repo_files(model, "model", recursive=True)
    _check_room(model, folder, {file.path: file.size or 0 for file in files})
    _begin(model, "modelscope", folder)
    hub.download_repo(model, "model", local_dir=folder, allow_patterns=PATTERNS)
    return {file.path: file.sha256 for file in files if file.sha256 and (folder / file.path).exists()}


def verify(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compare each file's SHA-256 with what the hub promised.

    Raises:
        WeightsError: a file differs; it is deleted, so that the next run fetches it again.
    """
    total = sum((folder / name).stat().st_size for name in checksums)
    with tqdm(total=total, unit="B", unit_scale=True, desc=told("校验 SHA-256")) as progress:
        for name, promised in checksums.items():
            digest = hashlib.sha256()
            with (folder / name).open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    progress.update(len(block))
            if digest.hexdigest() != promised:
                (folder / name).unlink()
                raise WeightsError(f"{name} 校验不符，已删除；请重新运行同一条命令，会只下载这个文件")


def _explain(model: str, hub: Hub, folder: Path, error: Exception) -> str:
    kind = type(error).__name__
    other: Hub = "hf" if hub == "modelscope" else "modelscope"
    again, elsewhere = resume(model, hub, folder), resume(model, other, folder)
    if "NotFound" in kind or "NotExist" in kind:
        return f"没有找到模型 {model}：请检查名字，或换一个来源：{elsewhere}"
    if "Gated" in kind or "Auth" in kind or ("Permission" in kind and not isinstance(error, OSError)):
        return f"{model} 需要登录或申请权限才能下载，请先在网站上同意它的许可"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"磁盘满了，下载没有完成；腾出空间后接着下载：{again}"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
        return f"写不进 {folder}（{error.strerror}）：请检查权限，或用 --into 换一个文件夹"
    return f"下载 {model} 没有成功（{kind}）：请检查网络后接着下载：{again}；或换一个来源：{elsewhere}"
