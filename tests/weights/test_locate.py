"""Which checkpoint is meant, and what is said when it is not whole."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from qqvl_server.errors import WeightsError
from qqvl_server.weights.locate import UNFINISHED, locate


def shard(path: Path, size: int = 16, written: int | None = None) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size if written is None else written))


def folder(root: Path, name: str, *, shards: int = 0) -> Path:
    made = root / "models" / name
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "tokenizer.json").write_text("{}")
    (made / "preprocessor_config.json").write_text("{}")
    if not shards:
        shard(made / "model.safetensors")
        return made
    names = [f"model-{n}.safetensors" for n in range(shards)]
    for name_ in names:
        shard(made / name_)
    index = {"weight_map": {f"w{n}": name_ for n, name_ in enumerate(names)}}
    (made / "model.safetensors.index.json").write_text(json.dumps(index))
    return made


def test_the_real_model_is_taken_when_it_is_there_and_the_demo_otherwise(tmp_path: Path) -> None:
    folder(tmp_path, "qqvl-demo")
    assert locate("", tmp_path).is_demo
    folder(tmp_path, "Qwen3-VL-8B-Instruct", shards=3)
    found = locate("", tmp_path)
    assert (found.name, found.is_demo) == ("Qwen3-VL-8B-Instruct", False)
    assert found.weight_bytes > 3 * 16


def test_names_are_looked_up_here_then_in_the_project_then_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder(tmp_path, "Qwen3-VL-2B-Instruct")
    monkeypatch.chdir(tmp_path / "models")
    for path in ("./Qwen3-VL-2B-Instruct", "models/Qwen3-VL-2B-Instruct", str(made), "Qwen/Qwen3-VL-2B-Instruct"):
        assert locate(path, tmp_path).weight_bytes > 0
    with pytest.raises(WeightsError, match="download Qwen/Qwen3-VL-4B-Instruct"):
        locate("Qwen/Qwen3-VL-4B-Instruct", tmp_path)


def test_what_other_programs_have_downloaded_is_found_in_the_hubs_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    place = tmp_path / "hf" / "hub" / "models--Qwen--Qwen3-VL-4B-Instruct"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    with pytest.raises(WeightsError, match="download Qwen/Qwen3-VL-4B-Instruct"):
        locate("Qwen/Qwen3-VL-4B-Instruct", tmp_path)
    folder(tmp_path, "m").rename(tmp_path / "whole")
    (place / "snapshots").mkdir()
    shutil.copytree(tmp_path / "whole", place / "snapshots" / "abc")
    (tmp_path / "ms" / "models" / "Qwen").mkdir(parents=True)
    (tmp_path / "whole").rename(tmp_path / "ms" / "models" / "Qwen" / "Qwen2___5-VL")
    for name in ("Qwen3-VL-4B-Instruct", "Qwen2.5-VL"):
        found = locate(f"Qwen/{name}", tmp_path)
        assert (found.name, found.is_demo) == (name, False)
        assert found.weight_bytes > 0


EMPTY, HALF = "", '{"a": '


@pytest.mark.parametrize(
    ("harmed", "content"),
    [
        ("config.json", None),
        ("config.json", EMPTY),
        ("config.json", HALF),
        ("tokenizer.json", None),
        ("tokenizer.json", HALF),
        ("preprocessor_config.json", None),
        ("preprocessor_config.json", "[]"),
        ("model.safetensors.index.json", HALF),
        ("model.safetensors.index.json", "[]"),
        ("model-2.safetensors", None),
        ("model-2.safetensors", EMPTY),
        (UNFINISHED, HALF),
    ],
)
def test_a_real_model_that_is_not_whole_never_stands_in_the_demos_way(
    tmp_path: Path, harmed: str, content: str | None
) -> None:
    folder(tmp_path, "qqvl-demo")
    made = folder(tmp_path, "Qwen3-VL-8B-Instruct", shards=3)
    (made / harmed).unlink() if content is None else (made / harmed).write_text(content)
    found = locate("", tmp_path)
    assert found.is_demo
    assert "download Qwen/Qwen3-VL-8B-Instruct" in found.instead_of
    with pytest.raises(WeightsError, match="download Qwen/Qwen3-VL-8B-Instruct") as refused:
        locate("Qwen/Qwen3-VL-8B-Instruct", tmp_path)
    assert "\n" not in refused.value.message


def test_an_empty_folder_of_the_real_models_name_is_no_model(tmp_path: Path) -> None:
    folder(tmp_path, "qqvl-demo")
    (tmp_path / "models" / "Qwen3-VL-8B-Instruct").mkdir()
    assert locate("", tmp_path).is_demo


def test_a_download_goes_on_from_where_and_into_what_it_was_begun(tmp_path: Path) -> None:
    made = folder(tmp_path, "m")
    (made / UNFINISHED).write_text(json.dumps({"model": "me/x", "from": "hf"}))
    with pytest.raises(WeightsError, match=f"download me/x --from hf --into {made}"):
        locate(str(made), tmp_path)


def test_the_package_has_the_demo_where_the_project_has_none(tmp_path: Path) -> None:
    for path in ("", "qqvl-demo", "models/qqvl-demo"):
        found = locate(path, tmp_path)
        assert (found.name, found.is_demo) == ("qqvl-demo", True)


@pytest.mark.parametrize("path", ["/nowhere", "./models/x", "models/x", "nope"])
def test_a_wrong_path_says_what_to_do(tmp_path: Path, path: str) -> None:
    with pytest.raises(WeightsError, match="download"):
        locate(path, tmp_path)


def test_half_a_checkpoint_names_what_is_missing(tmp_path: Path) -> None:
    made = folder(tmp_path, "m", shards=3)
    (made / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-1\.safetensors"):
        locate(str(made), tmp_path)
    shard(made / "model-1.safetensors", size=100, written=7)
    with pytest.raises(WeightsError, match="没下载完"):
        locate(str(made), tmp_path)
    (made / "model-1.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(WeightsError, match="LFS"):
        locate(str(made), tmp_path)
    (made / "model.safetensors.index.json").write_text("{")
    with pytest.raises(WeightsError, match="已损坏"):
        locate(str(made), tmp_path)
    (made / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="分词器"):
        locate(str(made), tmp_path)
    (made / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json"):
        locate(str(made), tmp_path)


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    made = folder(tmp_path, "m")
    (made / "model.safetensors").unlink()
    (made / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match="safetensors"):
        locate(str(made), tmp_path)
