"""Which checkpoint is meant, and is it whole? Knows folders and file names; loads nothing, imports no torch."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from qqvl_server import invocation
from qqvl_server.errors import WeightsError
from qqvl_server.weights.caches import cached

PREFERRED: Final = "Qwen3-VL-8B-Instruct"
DEMO: Final = "qqvl-demo"
# Where the package itself carries the demo model: a link to models/ in a checkout, the files in a wheel.
_CARRIED: Final = Path(__file__).resolve().parents[1] / "demo"
# What a download leaves in a folder that it has not been through yet: where from, to go on.
UNFINISHED: Final = ".qqvl-download"
_JSON: Final = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``source`` is a folder; ``instead_of`` says why it is not the one that would have been taken, if so.

    One that ``is_elsewhere`` is loaded by an upstream: ``source`` is its tokenizer's folder, or nothing.
    """

    source: str
    name: str
    is_demo: bool
    weight_bytes: int
    instead_of: str = ""
    is_elsewhere: bool = False


def locate(model_path: str, root: Path) -> Checkpoint:
    """Find the checkpoint that ``model_path`` means, from the working directory, then from ``root``.

    Raises:
        WeightsError: no such folder, or a folder with parts missing.
    """
    if not model_path:
        return _unasked(root)
    for candidate in (Path(model_path), root / model_path, root / "models" / model_path):
        if candidate.is_dir():
            return _folder(candidate, is_demo=candidate.resolve() == _demo(root).resolve())
    if Path(model_path).name == DEMO:
        return _folder(_demo(root), is_demo=True)
    if HUB_ID.fullmatch(model_path) and not model_path.startswith("models/"):
        downloaded = root / "models" / model_path.split("/")[1]
        if downloaded.is_dir():
            return _folder(downloaded)
        if elsewhere := cached(model_path):
            return replace(_folder(elsewhere), name=model_path.split("/")[1])
        raise WeightsError(
            f"这台机器上还没有 {model_path}。先下载：{invocation.command('download', model_path)}"
            f"（连不上 ModelScope 就加 --from hf），再用 --model-path {model_path} 启动"
        )
    raise WeightsError(
        f"找不到模型文件夹 {model_path}。检查 --model-path 是否写对，"
        f"或先下载：{invocation.command('download', f'Qwen/{PREFERRED}')}"
    )


def elsewhere(name: str, model_path: str, root: Path) -> Checkpoint:
    """A model that an upstream loads under ``name``; ``model_path`` means its tokenizer, or nothing.

    Raises:
        WeightsError: no such folder, or no tokenizer in it.
    """
    if not model_path:
        return Checkpoint("", name, False, 0, is_elsewhere=True)
    folders = [Path(model_path), root / model_path, root / "models" / model_path]
    if HUB_ID.fullmatch(model_path):
        folders += [root / "models" / model_path.split("/")[1], *filter(None, [cached(model_path)])]
    found = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
    if found is None:
        raise WeightsError(
            f"{model_path} 里没有 tokenizer.json。engine: upstream 时 model_path 是上游模型的分词器的文件夹，不写也行"
        )
    return Checkpoint(str(found), name, False, 0, is_elsewhere=True)


def _unasked(root: Path) -> Checkpoint:
    """The real model where it is whole, else the demo: what worked yesterday must start today."""
    preferred = root / "models" / PREFERRED
    if not preferred.is_dir():
        return _folder(_demo(root), is_demo=True)
    try:
        return _folder(preferred)
    except WeightsError as error:
        return replace(_folder(_demo(root), is_demo=True), instead_of=f"{error.message}。这次先用演示模型")


def _demo(root: Path) -> Path:
    ours = root / "models" / DEMO
    return ours if ours.is_dir() else _CARRIED


def is_whole(folder: Path) -> bool:
    try:
        _folder(folder)
    except WeightsError:
        return False
    return True


def _folder(folder: Path, is_demo: bool = False) -> Checkpoint:
    if (folder / UNFINISHED).is_file():
        raise WeightsError(f"{folder} 还没下载完；接着下载：{_again(folder)}")
    try:
        _check_json(folder, "config.json")
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
            raise WeightsError(f"{folder} 里没有分词器（tokenizer.json）")
        present = [name for name in _JSON if (folder / name).exists()]
        if not {"preprocessor_config.json", "processor_config.json"} & set(present):
            raise WeightsError(f"{folder} 里没有处理图片的设置（preprocessor_config.json）")
        for name in present:
            _check_json(folder, name)
        size = sum(_whole_shard(shard) for shard in shards(folder))
    except WeightsError as error:
        raise WeightsError(f"{error.message}；{_mend(folder, is_demo)}") from error
    return Checkpoint(str(folder), DEMO if is_demo else folder.resolve().name, is_demo, size)


def _mend(folder: Path, is_demo: bool) -> str:
    if is_demo:
        return "演示模型随项目附带，请重新取一份项目（git checkout models/qqvl-demo）或重新安装"
    return f"重新下载（已有的不会再下）：{_again(folder)}"


def _again(folder: Path) -> str:
    """The command that goes on with the download of ``folder``, as far as the folder tells where it came from."""
    try:
        note: Any = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))
        model, hub = str(note["model"]), str(note["from"])
    except (OSError, ValueError, KeyError, TypeError):
        owner = "Qwen" if folder.name.startswith("Qwen") else "作者"
        model, hub = f"{owner}/{folder.name}", "modelscope"
    return resume(model, hub, folder)


def resume(model: str, hub: str, folder: Path) -> str:
    """The command that downloads ``model`` into ``folder``, or goes on with it."""
    usual = folder.resolve().parent.name == "models" and folder.name == model.rpartition("/")[2]
    into = [] if usual else ["--into", str(folder)]
    return invocation.command("download", model, *(["--from", hub] if hub != "modelscope" else []), *into)


def _check_json(folder: Path, name: str) -> None:
    """A file that a full disk or a cut line left empty or half is there, and yet no use."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} 里没有 {name}，不是完整的模型文件夹") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / name} 已损坏或读不了") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{folder / name} 已损坏")


def shards(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights. Raises WeightsError: one is not there, or none is."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise WeightsError(f"{index} 已损坏，请先删除它") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise WeightsError(f"{folder} 缺 {len(missing)} 个权重文件（如 {missing[0]}）")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
        # A pickle runs code when it is opened.
        raise WeightsError(f"{folder} 里只有 .bin 权重；出于安全只读 .safetensors，请换 safetensors 版本")
    raise WeightsError(f"{folder} 里没有 model.safetensors")


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
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} 不是完整的权重文件（可能没下载完，或是 Git LFS 的占位文件）") from error
    if size < promised:
        raise WeightsError(f"{path} 只有 {size} 字节，应有 {promised}：没下载完")
    return size
