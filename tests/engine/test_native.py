"""Our own kernels for a CPU: built and trusted as promised, and the same tokens through them."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qqvl_server.engine.cache.kv_cache import KVCache, kv_shape
from qqvl_server.engine.cpu import checking, compiling, packing
from qqvl_server.engine.cpu.backend import CpuBackend
from qqvl_server.engine.cpu.kernels import Kernels, TextShape, text_shape
from qqvl_server.engine.cpu.layers import text_of
from qqvl_server.engine.forward.runner import ModelRunner
from qqvl_server.settings import WeightsSettings
from qqvl_server.weights.load import load
from qqvl_server.weights.locate import locate
from tests.engine.twins import Twins
from tests.engine.wide import model, paged_logits, plain_logits
from tests.resident import resident

CPU = torch.device("cpu")
SMALL = TextShape(hidden=64, inner=128, heads=4, kv_heads=2, head_dim=32)
SHAPES = [
    SMALL,
    TextShape(hidden=192, inner=512, heads=6, kv_heads=3, head_dim=32),
    TextShape(hidden=2048, inner=6144, heads=16, kv_heads=8, head_dim=128),
    TextShape(hidden=128, inner=64, heads=8, kv_heads=1, head_dim=96),
    TextShape(hidden=64, inner=64, heads=5, kv_heads=5, head_dim=256),
]
DTYPES = [torch.float32, torch.bfloat16]


def kernels(dtype: torch.dtype = torch.float32, shape: TextShape = SMALL) -> Kernels:
    if shutil.which(compiling.COMPILER) is None:
        pytest.skip("no C++ compiler")
    found = checking.find(CPU, dtype, shape)
    # A kernel that errs is done without, also here: not finding them is what a mistake in them looks like.
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.heads}/{shape.kv_heads}x{shape.head_dim}")
def test_every_kernel_gives_what_torch_gives(dtype: torch.dtype, shape: TextShape) -> None:
    assert checking.is_right(kernels(dtype, shape), dtype, shape)


@pytest.mark.parametrize(
    "shape",
    [
        TextShape(hidden=64, inner=128, heads=4, kv_heads=2, head_dim=24),
        TextShape(hidden=64, inner=128, heads=9, kv_heads=1, head_dim=32),
        TextShape(hidden=64, inner=128, heads=5, kv_heads=2, head_dim=32),
        TextShape(hidden=72, inner=128, heads=4, kv_heads=2, head_dim=32),
        TextShape(hidden=64, inner=100, heads=4, kv_heads=2, head_dim=32),
        TextShape(hidden=64, inner=128, heads=256, kv_heads=64, head_dim=32),
    ],
)
def test_shapes_it_was_not_built_for_are_declined(shape: TextShape) -> None:
    kernels()
    assert checking.find(CPU, torch.float32, shape) is None


def test_other_devices_and_types_are_declined() -> None:
    assert checking.find(torch.device("cuda"), torch.bfloat16, SMALL) is None
    assert checking.find(CPU, torch.float16, SMALL) is None


def off(method: str) -> Callable[[Kernels], object]:
    """``method`` of the kernels gives what it should, moved by one."""

    def broken(inner: Kernels) -> object:
        class Off:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

        def moved(*given: Any) -> Any:
            found = getattr(inner, method)(*given)
            if found is None:
                # ``run`` changes its rows in place.
                given[1].add_(1)
                return None
            return tuple(part + 1 for part in found) if isinstance(found, tuple) else found + 1

        made = Off()
        setattr(made, method, moved)
        return made

    return broken


@pytest.mark.parametrize(
    "method", ["norm", "sum_and_norm", "rotate_and_store", "silu_multiply", "attend", "matmul", "run"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_kernel_that_errs_is_not_trusted(method: str, dtype: torch.dtype) -> None:
    real = kernels(dtype)
    if method in ("matmul", "run") and not real.has_matmul(torch.zeros(4, 32, dtype=dtype)):
        pytest.skip("no products of our own for this type on this processor")
    broken: Any = off(method)(real)
    assert not checking.is_right(broken, dtype, SMALL)


def compiler(folder: Path, script: str, shell: str = "/bin/sh") -> str:
    made = folder / "compiler"
    made.write_text(f"#!{shell}\n{script}\n")
    made.chmod(made.stat().st_mode | stat.S_IXUSR)
    return str(made)


@pytest.mark.parametrize("script", ["exit 1", 'for last; do :; done; echo "not a library" > "$last"'])
def test_a_compiler_that_fails_or_makes_rubbish_is_done_without(tmp_path: Path, script: str) -> None:
    used = compiler(tmp_path, script)
    assert checking.find(CPU, torch.float32, SMALL, folder=tmp_path / "kept", compiler=used) is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("s/Index hidden, inner,/Index inner, hidden,/", "NativeLayer"),
        ("s/float first_eps,/Index another; float first_eps,/", "NativeLayer"),
        ("s/Index block_size, decodes,/Index decodes, block_size,/", "NativeStep"),
        ("s/Index row, start, count, blocks;/std::int32_t row, start, count, blocks;/", "NativeChunk"),
        ("s/enum class Kind : int { float32, bfloat16 }/enum class Kind : int { bfloat16, float32 }/", "bytes"),
    ],
)
def test_structures_that_are_not_ours_are_told_before_anything_is_called(
    tmp_path: Path, changed: str, told: str
) -> None:
    """Fields in another order, one more, of another type; kinds by other numbers: else memory would be overwritten."""
    kernels()
    sources = tmp_path / "sources"
    shutil.copytree(compiling.SOURCES, sources)
    # Unoptimised, for it is only loaded.
    script = f"""sed -i '{changed}' {sources}/*
exec c++ -std=c++17 -march=native -fPIC -pthread -shared {sources}/kernels.cpp -o "${{@: -1}}\""""
    used = compiler(tmp_path, script, shell="/bin/bash")
    library = compiling.built(tmp_path / "kept", used)
    with pytest.raises(OSError, match=told):
        Kernels(library)
    assert checking.find(CPU, torch.float32, SMALL, folder=tmp_path / "kept", compiler=used) is None


def test_without_a_compiler_or_a_place_to_keep_it_torch_does(tmp_path: Path) -> None:
    assert checking.find(CPU, torch.float32, SMALL, folder=tmp_path, compiler="no-such-compiler") is None
    (tmp_path / "file").write_text("")
    assert checking.find(CPU, torch.float32, SMALL, folder=tmp_path / "file" / "kept") is None


def test_it_is_compiled_once(tmp_path: Path) -> None:
    kernels()
    counted = compiler(tmp_path, f'echo >> {tmp_path}/calls; exec c++ "$@"')
    for _ in range(2):
        assert checking.find(CPU, torch.float32, SMALL, folder=tmp_path / "kept", compiler=counted) is not None
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    assert len(list((tmp_path / "kept").iterdir())) == 1, "nothing half made is left behind"


class NativeTwins(Twins):
    """The engine through our kernels; the oracle is that of ``twins``."""

    def __init__(self, twins: Twins, demo: Path) -> None:
        self.plain, self.processor = twins.plain, twins.processor
        self.inputs, self.expected = twins.inputs, twins.expected
        self.paged = self._load(demo)
        config = self.paged.model.config
        self.kernels = kernels(shape=text_shape(config, kv_shape(config)))

    def backend(self, size: int) -> CpuBackend:
        return CpuBackend(self.kernels, size)


@pytest.fixture(scope="module")
def own(twins: Twins, demo: Path) -> NativeTwins:
    return NativeTwins(twins, demo)


@pytest.mark.parametrize(
    "shape",
    [{"tokens": 2048}, {"tokens": 7}, {"tokens": 64, "size": 4}, {"tokens": 64, "size": 8, "blocks": 40}],
    ids=lambda shape: ",".join(f"{k}={v}" for k, v in shape.items()),
)
def test_the_tokens_are_those_of_generate(own: NativeTwins, shape: dict[str, Any]) -> None:
    """Batches, chunks, preemption, and again from the cache, which holds what these kernels wrote there."""
    engine = own.engine(**shape)
    assert own.run(engine, own.add_all(engine, "a")) == own.expected
    assert own.run(engine, own.add_all(engine, "b")) == own.expected


def test_the_workspace_is_given_back_with_other_memory(own: NativeTwins) -> None:
    backend = own.backend(16)
    engine = own.engine(backend=backend)
    if backend.workspace is None:
        pytest.skip("no products of our own for this type on this processor")
    for name in "ab":
        assert own.run(engine, own.add_all(engine, name)) == own.expected
        assert backend.workspace.size > 0
        own.runner.release_memory()
        assert backend.workspace.size == 0


def test_weights_read_anew_are_packed_and_their_files_pages_given_back(demo: Path) -> None:
    """The text's by our kernels, the eye's by torch's; the two layouts never stand in memory together."""
    if not packing.pays(torch.zeros(4, 32, dtype=torch.bfloat16)):
        pytest.skip("this processor has no packed bf16 kernels")
    file = demo / "model.safetensors"
    before = resident(file)
    made = load(locate(str(demo), demo.parents[1]), WeightsSettings(device="cpu", dtype="bfloat16")).model
    shape = text_shape(made.config, kv_shape(made.config))
    runner = ModelRunner(made, CpuBackend(kernels(torch.bfloat16, shape)), blocks=4, feature_bytes=0)
    # Of a tied head the plain weight stays: it is the embedding, and nobody has read it yet.
    assert resident(file) - before < file.stat().st_size / 4
    assert any(isinstance(module, packing.PackedLinear) for module in made.model.visual.modules())
    assert runner is not None


def test_all_layers_of_the_demo_are_fused(own: NativeTwins) -> None:
    own.engine()
    layers = own.paged.model.model.language_model.layers
    assert {type(layer).__name__ for layer in layers} == {"FusedLayer"}


def test_where_products_are_our_own_words_go_through_all_layers_at_once(own: NativeTwins) -> None:
    model = own.paged.model
    own.engine()
    cache = KVCache(kv_shape(model.config), 4, 16, dtype=model.dtype, device="cpu")
    ours = own.kernels.has_matmul(torch.zeros(4, 32, dtype=model.dtype))
    assert (text_of(model, own.kernels, cache) is not None) == ours


@pytest.mark.parametrize("chunk", [1000, 17, 1])
def test_logits_equal_those_of_the_plain_forward(chunk: int) -> None:
    found = paged_logits(model(), kernels(), chunk)
    torch.testing.assert_close(found, plain_logits(model()), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("chunk", [1000, 17, 1])
def test_logits_are_the_same_where_products_are_torchs(chunk: int) -> None:
    """As on a processor for which there is none of our own: layers go step by step."""

    class NoProducts(Kernels):
        def has_matmul(self, weight: torch.Tensor) -> bool:
            return False

    kernels()
    found = paged_logits(model(), NoProducts(compiling.built()), chunk)
    torch.testing.assert_close(found, plain_logits(model()), atol=1e-3, rtol=1e-3)


def test_bfloat16_is_as_near_to_the_truth_as_transformers_own() -> None:
    exact = plain_logits(model())
    plain = plain_logits(model().bfloat16()).float()
    ours = paged_logits(model().bfloat16(), kernels(torch.bfloat16)).float()
    assert (ours - exact).abs().mean() <= 1.2 * (plain - exact).abs().mean()


def strange_activation() -> Any:
    made = model()
    made.config.text_config.hidden_act = "gelu"
    return made


def strange_layers() -> Any:
    class Other(type(model().model.language_model.layers[0])):  # type: ignore[misc]
        """Not what the fused layer was written for, whatever it does."""

    made = model()
    for layer in made.model.language_model.layers:
        layer.__class__ = Other
    return made


def quantised_layers() -> Any:
    class Quantised(nn.Linear):
        """As quantised layers are: a linear layer whose weight is not what it seems."""

    made = model()
    for layer in made.model.language_model.layers:
        layer.mlp.down_proj.__class__ = Quantised
    return made


@pytest.mark.parametrize("strange", [strange_activation, strange_layers, quantised_layers])
def test_layers_that_are_not_known_keep_their_own_arithmetic(strange: Callable[[], Any]) -> None:
    """Attention still goes through the kernels."""
    made = strange()
    found = paged_logits(made, kernels())
    assert not any(type(layer).__name__ == "FusedLayer" for layer in made.model.language_model.layers)
    torch.testing.assert_close(found, plain_logits(strange()), atol=1e-3, rtol=1e-3)
