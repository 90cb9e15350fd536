"""Integer weights: near the float model, and exact: a token's numbers never depend on what is computed beside it."""

from __future__ import annotations

import itertools
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from exo_lite.domain.errors import MalformedStep
from exo_lite.domain.ids import ModelId
from exo_lite.domain.load_options import LoadOptions
from exo_lite.domain.model_spec import DType
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import SequenceChunk
from exo_lite.engine.torch_c import portable
from exo_lite.engine.torch_c.integer_shard import IntegerShard
from exo_lite.engine.torch_c.integer_weights import load_integer_shard
from exo_lite.engine.torch_c.layers import Linear
from exo_lite.engine.torch_c.native import build
from exo_lite.engine.torch_c.native import kernels as native
from exo_lite.engine.torch_c.native.build import load_library
from exo_lite.engine.torch_c.native.kernels import NativeKernels
from exo_lite.engine.torch_c.native.layout import declare
from exo_lite.engine.torch_c.quantized import QuantizedLinear, empty_linear
from exo_lite.engine.torch_c.quantizing import portable_int4, quantize_rows
from exo_lite.engine.torch_c.weight_format import TILE, Kind
from tests.planned import shard_bytes
from tests.unit.engine.torch_c.clang import write_clang
from tests.unit.engine.torch_c.conftest import RandomModel

CONTEXT = 700
WIDE = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": CONTEXT, "vocab_size": 203}
KINDS: list[Kind] = ["int8", "int4"]
VARIANTS = {
    "llama": ("llama", {"head_dim": 32}),
    "mha": ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "odd-rows": ("llama", {"intermediate_size": 160, "num_key_value_heads": 1}),
}


def load(
    model: RandomModel,
    kind: Kind | Literal["w8a8"],
    start: int = 0,
    end: int = 2,
    *,
    dtype: DType = "float32",
    is_native: bool = True,
) -> IntegerShard:
    shard = load_integer_shard(
        model.path,
        model.spec,
        Shard(ModelId("m"), start, end, model.spec.n_layers),
        kind="int8" if kind == "w8a8" else kind,
        activation_bytes=1 if kind == "w8a8" else 2,
        dtype=dtype,
        device="cpu",
        on_progress=lambda _: None,
    )
    if not is_native:
        shard._kernels = None
    return shard


@pytest.fixture(params=["native", "portable"])
def is_native(request: pytest.FixtureRequest) -> bool:
    if request.param == "native":
        assert native.native_library() is not None, "the suite needs a C compiler"
    return request.param == "native"


@pytest.fixture
def prompt() -> Tensor:
    return torch.randint(0, WIDE["vocab_size"], (600,), generator=torch.Generator().manual_seed(1))


def run(shard: IntegerShard, tokens: Tensor, sizes: list[int], sequence_index: int = 0) -> Tensor:
    """Hidden states of a sequence, computed in chunks of these sizes, in a cache of its own."""
    cache = shard.new_cache(4, CONTEXT)
    parts, position = [], 0
    for size in sizes:
        chunk = SequenceChunk(sequence_index, position, size)
        parts.append(shard.forward(tokens[position : position + size], [chunk], cache))
        position += size
    return torch.cat(parts)


@pytest.mark.parametrize("kind", [*KINDS, "w8a8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_of_any_size_give_the_same_bits(
    random_model: Callable[..., RandomModel], prompt: Tensor, variant: str, kind: Kind, is_native: bool
):
    model_type, changes = VARIANTS[variant]
    shard = load(random_model(model_type, **{**WIDE, **changes}), kind, is_native=is_native)
    num_tokens = 150 if is_native else 40
    whole = run(shard, prompt, [num_tokens])
    one_by_one = run(shard, prompt, [1] * num_tokens)
    mixed = run(shard, prompt, [7, num_tokens // 2, 1, 1, num_tokens - num_tokens // 2 - 9])
    assert torch.equal(whole, one_by_one)
    assert torch.equal(whole, mixed)
    assert torch.equal(shard.logits(whole)[-1], shard.logits(whole[-1:])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_has_the_same_logits_in_a_batch_and_alone(
    random_model: Callable[..., RandomModel], prompt: Tensor, kind: Kind, is_native: bool
):
    shard = load(random_model(**WIDE), kind, is_native=is_native)
    cache = shard.new_cache(8, CONTEXT)
    for index in range(8):
        shard.forward(prompt[index : index + 20], [SequenceChunk(index, 0, 20)], cache)
    alone = shard.new_cache(1, CONTEXT)
    shard.forward(prompt[3:23], [SequenceChunk(0, 0, 20)], alone)
    for step in range(5):
        tokens = prompt[100 + step : 108 + step]
        batch = shard.logits(shard.forward(tokens, [SequenceChunk(index, 20 + step, 1) for index in range(8)], cache))
        single = shard.logits(shard.forward(tokens[3:4], [SequenceChunk(0, 20 + step, 1)], alone))
        assert torch.equal(batch[3], single[0])
    beside_a_prompt = shard.forward(
        torch.cat((prompt[:1], prompt[200:300])), [SequenceChunk(3, 25, 1), SequenceChunk(5, 0, 100)], cache
    )
    assert torch.equal(beside_a_prompt[:1], shard.forward(prompt[:1], [SequenceChunk(0, 25, 1)], alone))


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_gives_the_same_bits(random_model: Callable[..., RandomModel], prompt: Tensor, kind: Kind):
    model = random_model(**WIDE)
    whole = load(model, kind)
    expected = whole.logits(run(whole, prompt, [50]))
    for end in range(model.spec.n_layers - 1):
        first, second = load(model, kind, 0, end), load(model, kind, end + 1, 2)
        hidden = run(first, prompt, [50])
        found = second.logits(second.forward(hidden, [SequenceChunk(0, 0, 50)], second.new_cache(1, CONTEXT)))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_computes_what_a_float_model_of_the_same_rounded_weights_does(
    random_model: Callable[..., RandomModel], prompt: Tensor, variant: str, kind: Kind, is_native: bool
):
    model_type, changes = VARIANTS[variant]
    model = random_model(model_type, **{**WIDE, **changes})
    quantized, floats = load(model, kind, is_native=is_native), model.shard()
    for layer, exact in zip(floats.layers, quantized.layers, strict=True):
        _round_to(exact.qkv, layer.attention.qkv)
        _round_to(exact.output, layer.attention.output)
        _round_to(exact.gate_up, layer.mlp.gate_up, is_paired=True)
        _round_to(exact.down, layer.mlp.down)
    hidden = floats.forward(prompt[:40], [SequenceChunk(0, 0, 40)], model.cache(floats, context_length=64))
    found = run(quantized, prompt, [40])
    assert (found - hidden).norm() / hidden.norm() < 3e-3


def _round_to(quantized: QuantizedLinear, linear: Linear, *, is_paired: bool = False) -> None:
    weight = quantized.dequantized()
    if is_paired:
        weight = (
            weight.unflatten(0, (-1, 2, TILE))
            .transpose(0, 1)
            .flatten(1, 2)[:, : linear.weight.shape[0] // 2]
            .flatten(0, 1)
        )
    linear.weight.copy_(weight)


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.008), ("int4", 0.08)])
def test_rounded_weights_are_near_the_given_ones(kind: Kind, worst: float):
    weight = torch.randn(300, 576, generator=torch.Generator().manual_seed(0)) * torch.rand(300, 1)
    weight[7] = 0
    weight[8, :32] = 3.5
    linear = empty_linear(kind, 300, 576)
    quantize_rows(linear, torch.arange(300), weight)
    restored = linear.dequantized()
    assert (restored - weight).norm() / weight.norm() < worst
    assert torch.equal(restored[7], torch.zeros(576))
    assert restored[8, :32].allclose(weight[8, :32], rtol=5e-3)  # int4's bytes reach to 119


def test_int4_keeps_weights_that_were_published_in_four_bits():
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 16, (64, 12, 32), generator=generator)
    steps, minima = (
        torch.rand((64, 12, 1), generator=generator) + 0.5,
        -8 * torch.rand((64, 12, 1), generator=generator),
    )
    weight = (q * steps + minima).flatten(1)
    linear = empty_linear("int4", 64, 384)
    quantize_rows(linear, torch.arange(64), weight)
    assert (
        linear.dequantized() - weight
    ).norm() / weight.norm() < 0.012  # int8: 0.008; four bits of other weights: 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_native_and_portable_products_are_the_same_bits(random_model: Callable[..., RandomModel], kind: Kind):
    shard = load(random_model(**WIDE), kind)
    assert shard._kernels is not None
    layer = shard.layers[0]
    for linear in (layer.qkv, layer.gate_up, layer.down):
        for num_rows, num_bytes in itertools.product((1, 2, 3, 4, 5, 6, 13), (2, 1)):
            x = torch.randn(num_rows, linear.num_inputs) * 5
            product = portable.linear(linear, portable.quantize(x, None, 0.0, num_bytes))
            assert torch.equal(shard._kernels.linear(linear, x, None, 0.0, activation_bytes=num_bytes), product)


def test_native_and_portable_quantizing_err_as_little():
    units = (torch.randn(40, 96, generator=torch.Generator().manual_seed(0)) * 30).clamp_(-119, 119)
    units[3, :32] = 7
    library = native.native_library()
    assert library is not None
    errors = []
    for q, steps, minima in (native.to_int4(library, units), portable_int4(units)):
        steps, minima = (part.int().repeat_interleave(32, 1) for part in (steps, minima))
        errors.append(float((q * steps // 16 + minima - 128 - units).norm()))
        assert torch.equal(q[3, :32] * steps[3, :32] // 16 + minima[3, :32], torch.full((32,), 135))
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def other_instructions() -> dict[str, tuple[str, ...]]:
    """Compiler flags that leave out what this processor has beyond others."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return {"generic": ("-fno-tree-vectorize",)}
    return {"avx2": ("-mno-avx512f",), "generic": ("-mno-avx512f", "-mno-avx2", "-mno-fma")}


@pytest.mark.parametrize("kind", ["int8", "int4", "w8a8"])
@pytest.mark.parametrize("other_build", [*other_instructions(), "clang"])
def test_every_instruction_set_and_compiler_gives_the_same_bits(
    random_model: Callable[..., RandomModel],
    prompt: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: Kind,
    other_build: str,
):
    model = random_model("qwen3", **{**WIDE, "head_dim": 16})
    expected = load(model, kind)
    if other_build == "clang":
        monkeypatch.setenv("CC", str(write_clang(tmp_path)))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, *other_instructions().get(other_build, ())))
    library = load_library()
    assert library is not None
    declare(library)
    other = load(model, kind)
    other._kernels = NativeKernels(library)
    hidden = run(expected, prompt, [70, 1, 2, 3])
    assert torch.equal(run(other, prompt, [70, 1, 2, 3]), hidden)
    assert torch.equal(other.logits(hidden), expected.logits(hidden))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_that_planning_promised(random_model: Callable[..., RandomModel], kind: Kind):
    model = random_model(**WIDE)
    options = LoadOptions("bfloat16", kind, context_length=64, num_slots=2)
    for start, end in ((0, 0), (1, 1), (2, 2), (0, 2)):
        planned = shard_bytes(model.spec, Shard(ModelId("m"), start, end, 3), options)
        shard = load(model, kind, start, end, dtype="bfloat16")
        assert shard.num_bytes == planned.weight_bytes
        assert shard.new_cache(2, 64).num_bytes == planned.kv_cache_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_load_reads_the_first_ones_work(random_model: Callable[..., RandomModel], prompt: Tensor, kind: Kind):
    model = random_model(**WIDE)
    first = load(model, kind)
    expected = run(first, prompt, [20])
    kept = sorted(path.name for path in (model.path / "quantized").glob("*/*"))
    assert kept == ["head.safetensors", *(f"layer-{layer:05d}.safetensors" for layer in range(3))]
    second = load(model, kind)
    assert torch.equal(run(second, prompt, [20]), expected)
    mapped = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
    assert str(model.path) not in mapped, "mapped files have small pages"
    damaged = next((model.path / "quantized").glob("*/layer-00001.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert torch.equal(run(load(model, kind), prompt, [20]), expected)
    shutil.rmtree(model.path / "quantized")
    (model.path / "quantized").write_text("no folder can be made here")
    assert torch.equal(run(load(model, kind), prompt, [20]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_fill_no_tile_or_group_serve_too(
    random_model: Callable[..., RandomModel], prompt: Tensor, kind: Kind
):
    model = random_model(**{**WIDE, "intermediate_size": 42})
    native_, portable_ = load(model, kind), load(model, kind, is_native=False)
    expected = run(portable_, prompt, [9])
    assert (run(native_, prompt, [9]) - expected).norm() / expected.norm() < 1e-3
    planned = shard_bytes(model.spec, Shard(ModelId("m"), 0, 2, 3), LoadOptions("float32", kind, context_length=64))
    assert native_.num_bytes == planned.weight_bytes


def test_nan_and_gaps_are_refused(random_model: Callable[..., RandomModel]):
    second = load(random_model(**WIDE), "int8", 1, 2)
    cache = second.new_cache(1, CONTEXT)
    with pytest.raises(MalformedStep, match="NaN"):
        second.forward(torch.full((1, 64), torch.nan), [SequenceChunk(0, 0, 1)], cache)
    with pytest.raises(MalformedStep, match="starts at 5"):
        second.forward(torch.zeros(1, 64), [SequenceChunk(0, 5, 1)], cache)
    with pytest.raises(MalformedStep, match=r"torch\.bfloat16"):
        second.forward(torch.zeros(1, 64, dtype=torch.bfloat16), [SequenceChunk(0, 0, 1)], cache)


def test_without_a_compiler_the_portable_path_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EXO_LITE_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert load_library() is None
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert load_library() is None
    assert list(tmp_path.iterdir()) == []
