"""Checkpoints that come quantised, made on the spot from the demo: they stay packed, and answer what they stand for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qqvl_server.engine import build
from qqvl_server.engine.forward.sdpa import SdpaBackend
from qqvl_server.engine.steps.request import Request, SamplingParams
from qqvl_server.errors import ConfigError, WeightsError
from qqvl_server.settings import EngineSettings, WeightsSettings
from qqvl_server.weights.load import LoadedModel, load, place
from qqvl_server.weights.locate import Checkpoint, locate
from tests.engine.twins import PROMPTS
from tests.weights import quantising, test_load
from tests.weights.test_devices import card, machine

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": quantising.GROUP, "checkpoint_format": "gptq"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": quantising.GROUP, "version": "gemm", "zero_point": True}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}


def compressed(layout: str, bits: int, kind: str = "int", *, symmetric: bool = True) -> dict[str, Any]:
    """Settings of compressed-tensors, as llm-compressor writes them."""
    weights = {"num_bits": bits, "type": kind, "symmetric": symmetric}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}


KINDS: dict[str, tuple[dict[str, Any], Callable[..., quantising.Layer]]] = {
    "GPTQ": (GPTQ, quantising.gptq()),
    "GPTQ in order of activations": (GPTQ, quantising.gptq(act_order=True, symmetric=False)),
    "GPTQ v2 of 8 bits": (
        {**GPTQ, "bits": 8, "checkpoint_format": "gptq_v2"},
        quantising.gptq(8, symmetric=False, version=2),
    ),
    "AWQ": (AWQ, quantising.awq),
    "compressed-tensors": (compressed("pack-quantized", 4), quantising.pack_quantized()),
    "compressed-tensors with zeros": (
        compressed("pack-quantized", 4, symmetric=False),
        quantising.pack_quantized(symmetric=False),
    ),
    "FP8": (FP8, quantising.fp8_blocks),
    "FP8 by outputs": (compressed("float-quantized", 8, "float"), quantising.by_outputs(torch.float8_e4m3fn)),
    "integers of 8 bits": (compressed("int-quantized", 8), quantising.by_outputs(torch.int8)),
}


def made(demo: Path, into: Path, kind: str) -> tuple[Path, Path]:
    return quantising.checkpoint(demo, into, *KINDS[kind])


def loaded(folder: Path, dtype: Any = "float32") -> LoadedModel:
    return load(locate(str(folder), folder.parent), WeightsSettings(device="cpu", dtype=dtype))


# One of each layout, with all that may be odd about it; the others are the same but for less.
SHORT = ("GPTQ in order of activations", "AWQ", "compressed-tensors with zeros", "FP8")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in SHORT else [pytest.mark.long]) for kind in KINDS]
)
def test_a_quantised_checkpoint_loads_without_a_library_and_is_what_it_stands_for(
    kind: str, demo: Path, tmp_path: Path
) -> None:
    """Every product of every layer: given each input alone, it gives the weights of that."""
    packed, plain = made(demo, tmp_path, kind)
    model = loaded(packed).model
    expected = load_file(plain / "model.safetensors")
    seen = 0
    with torch.inference_mode():
        for name in (name for name in expected if name.endswith("_proj.weight")):
            layer = model.get_submodule(name.removesuffix(".weight"))
            assert not isinstance(layer, torch.nn.Linear)
            found = layer(torch.eye(expected[name].shape[1])).T
            torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-6)
            seen += 1
    assert seen == 7 * len(model.model.language_model.layers)


def requests(model: LoadedModel) -> list[Request]:
    sampling = SamplingParams(6, temperature=0)
    words = ["".join(part for part in prompt if isinstance(part, str)) for prompt in PROMPTS]
    ids = [model.processor.tokenizer(text)["input_ids"] for text in words]
    return [Request(str(n), str(n), one, sampling) for n, one in enumerate(ids)]


def answers(model: LoadedModel, settings: EngineSettings) -> list[list[int]]:
    """All at once, through the engine as it is served."""
    core = build.build(model.model, settings, 1024)
    asked = requests(model)
    for request in asked:
        core.add(request, {})
    core.step()
    assert len(core.scheduler.running) == len(asked)
    while core.has_work:
        core.step()
    return [request.output for request in asked]


@pytest.mark.parametrize(("kind", "kernels"), [("GPTQ", "auto"), ("FP8", "off")])
def test_quantised_models_are_answered_together_by_the_paged_engine(
    kind: str, kernels: Any, demo: Path, tmp_path: Path
) -> None:
    packed, plain = made(demo, tmp_path, kind)
    settings = EngineSettings(cpu_kernels=kernels, kv_cache_gb=0.02)
    by_itself = loaded(plain)
    expected = []
    with torch.inference_mode():
        for request in requests(by_itself):
            ids = torch.tensor([request.prompt])
            whole = by_itself.model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
            expected.append(whole[0, ids.shape[1] :].tolist())
    assert answers(loaded(packed), settings) == expected


def held(model: Any) -> int:
    """Bytes of all that ``model`` keeps, each once."""
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.state_dict().values()}
    kept |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.buffers()}
    return sum(kept.values())


@pytest.mark.parametrize("kind", ["GPTQ in order of activations", "FP8"])
def test_weights_stay_packed_from_loading_to_answering(kind: str, demo: Path, tmp_path: Path) -> None:
    packed, _ = made(demo, tmp_path, kind)
    limit = 1.15 * locate(str(packed), tmp_path).weight_bytes
    model = loaded(packed, "bfloat16")
    assert held(model.model) <= limit
    # Without the layouts of plain layers, which are nobody's to see.
    core = build.assemble(model.model, SdpaBackend(), blocks=40, step_tokens=64, requests=8)
    for request in requests(model):
        core.add(request, {})
    while core.has_work:
        core.step()
    assert held(model.model) <= limit


@pytest.mark.parametrize("kind", ["GPTQ in order of activations"])
def test_torchs_own_kernel_for_four_bits_gives_the_same_in_bf16(kind: str, demo: Path, tmp_path: Path) -> None:
    from qqvl_server.engine.cpu import four_bits

    packed, plain = made(demo, tmp_path, kind)
    ids = torch.arange(30, 60).unsqueeze(0)
    with torch.inference_mode():
        expected = loaded(plain).model(input_ids=ids).logits
        model = loaded(packed, "bfloat16").model
        if four_bits.swap(model) == 0:
            pytest.skip("这个处理器没有 4 位乘法的算子")
        assert held(model) <= 1.15 * locate(str(packed), tmp_path).weight_bytes
        found = model(input_ids=ids).logits.float()
    assert float((found - expected).abs().max() / expected.std()) < 0.3


def test_a_family_with_other_names_in_its_files_is_found_its_layers(tmp_path: Path, assets: Path) -> None:
    """Qwen2.5-VL's text layers are ``model.layers`` on the hub, elsewhere in Transformers."""
    source = test_load.make("qwen2.5", tmp_path / "m", assets)
    packed, plain = quantising.checkpoint(source, tmp_path, AWQ, quantising.awq)
    assert any(name.startswith("model.layers.0.") for name in load_file(packed / "model.safetensors"))
    ids = torch.arange(30, 50).unsqueeze(0)
    with torch.inference_mode():
        found, expected = (loaded(folder).model(input_ids=ids).logits for folder in (packed, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def rewritten(folder: Path, settings: dict[str, Any]) -> Path:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**GPTQ, "bits": 3}, "3 位的 gptq.*pip install .*optimum gptqmodel"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "marlin 格式的 GPTQ.*gptqmodel"),
        ({**AWQ, "version": "gemv"}, "gemv 格式的 AWQ.*pip install .*gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install .*bitsandbytes"),
        (compressed("nvfp4-pack-quantized", 4, "float"), "4 位 float.*pip install .*compressed-tensors"),
        ({"quant_method": "hqq"}, "pip install .*hqq"),
        ({"quant_method": "eetq"}, r"pip install .*kernels.*huggingface\.co"),
    ],
    ids=str,
)
def test_what_a_library_must_compute_is_one_line_with_what_installs_it(
    settings: dict[str, Any], said: str, demo: Path, tmp_path: Path
) -> None:
    folder = rewritten(Path(shutil.copytree(demo, tmp_path / "m")), settings)
    with pytest.raises(ConfigError, match=said) as refused:
        loaded(folder)
    assert "\n" not in refused.value.message


def test_a_quantised_checkpoint_is_not_quantised_again(demo: Path, tmp_path: Path) -> None:
    packed, _ = made(demo, tmp_path, "FP8")
    wanted = WeightsSettings(device="cpu", quantization="bnb-4bit")
    with pytest.raises(ConfigError, match="自带量化"):
        load(locate(str(packed), tmp_path), wanted)


def test_tensors_that_fit_no_layer_or_one_another_are_one_line(demo: Path, tmp_path: Path) -> None:
    packed, _ = made(demo, tmp_path, "GPTQ")
    whole = load_file(packed / "model.safetensors")
    name = "model.language_model.layers.0.mlp.up_proj."
    strange = {key.replace("layers.0.mlp.up_proj", "layers.0.mlp.side_proj"): value for key, value in whole.items()}
    torn = {**whole, f"{name}scales": whole[f"{name}scales"][:5].contiguous()}
    for tensors, said in ((strange, "side_proj"), (torn, r"up_proj.*对不上")):
        save_file(tensors, packed / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=said) as refused:
            loaded(packed)
        assert "\n" not in refused.value.message


def test_packed_weights_take_what_they_take_whatever_the_type_of_the_rest() -> None:
    """6 of 7 GB are packed: in float32 the rest doubles, they do not."""
    model = Checkpoint("/m", "8B-GPTQ", False, 7 * 1024**3)
    fits = place(model, WeightsSettings(dtype="float32"), machine(card(8, 6, gb=9)), 6 * 1024**3)
    assert fits.device == "cuda:0"
    with pytest.raises(WeightsError, match="GB"):
        place(model, WeightsSettings(dtype="float32", device="cuda:0"), machine(card(8, 6, gb=9)))
