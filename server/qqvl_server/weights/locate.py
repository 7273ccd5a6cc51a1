"""Which checkpoint is meant, and is it whole? Knows folders and file names; loads nothing, imports no torch."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qqvl_server.errors import WeightsError

PREFERRED: Final = "Qwen3-VL-8B-Instruct"
DEMO: Final = "qqvl-demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``source`` is a folder or a hub id; ``weight_bytes`` is 0 when it is not on this disk yet."""

    source: str
    name: str
    is_demo: bool
    weight_bytes: int


def locate(model_path: str, root: Path) -> Checkpoint:
    """Find the checkpoint that ``model_path`` means, from the working directory, then from ``root``.

    Raises:
        WeightsError: no such folder, or a folder with parts missing.
    """
    if not model_path:
        preferred = root / "models" / PREFERRED
        if preferred.is_dir():
            return _folder(preferred)
        return _folder(root / "models" / DEMO, is_demo=True)
    for candidate in (Path(model_path), root / model_path, root / "models" / model_path):
        if candidate.is_dir():
            return _folder(candidate, is_demo=candidate.resolve() == (root / "models" / DEMO).resolve())
    if _HUB_ID.fullmatch(model_path) and not model_path.startswith("models/"):
        downloaded = root / "models" / model_path.split("/")[1]
        if downloaded.is_dir():
            return _folder(downloaded)
        return Checkpoint(model_path, model_path.split("/")[1], False, 0)
    raise WeightsError(
        f"找不到模型文件夹 {model_path}。先用 qqvl download Qwen/{PREFERRED} 下载，或检查 --model-path 是否写对"
    )


def _folder(folder: Path, is_demo: bool = False) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} 里没有 config.json，不是完整的模型文件夹；请重新下载（可断点续传）")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise WeightsError(f"{folder} 里没有分词器（tokenizer.json）；请重新下载（可断点续传）")
    size = sum(_whole_shard(shard) for shard in _shards(folder))
    return Checkpoint(str(folder), folder.resolve().name, is_demo, size)


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
            raise WeightsError(f"{index} 已损坏；请删除它后重新下载") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise WeightsError(
                f"{folder} 缺 {len(missing)} 个权重文件（如 {missing[0]}）；请重新运行 qqvl download，会接着下载"
            )
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
        # A pickle runs code when it is opened.
        raise WeightsError(f"{folder} 里只有 .bin 权重；出于安全只读 .safetensors，请下载 safetensors 版本")
    raise WeightsError(f"{folder} 里没有 model.safetensors；请重新下载（可断点续传）")


def _whole_shard(path: Path) -> int:
    """Size in bytes of a safetensors file, after comparing it with what its own header promises.

    Format: 8 bytes little-endian header length, JSON header with ``data_offsets``, data
    (https://github.com/huggingface/safetensors).
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("header longer than file")
            header = json.loads(file.read(length))
        promised = 8 + length + max(e["data_offsets"][1] for k, e in header.items() if k != "__metadata__")
    except (ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} 不是完整的权重文件（可能没下载完，或是 Git LFS 的占位文件）；请重新下载") from error
    if size < promised:
        raise WeightsError(f"{path} 只有 {size} 字节，应有 {promised}：没下载完，请重新运行 qqvl download")
    return size
