"""What exactness costs in attention: our kernel, which adds in one order whatever is computed beside, next to torch's.

    python -m tests.bench.exactness [--contexts 512 2048 8192] [--threads 2] [--rounds 5]

A prompt's last 256 tokens attend to a context, in Llama-3.2-1B's heads and a bfloat16 cache: ours as one layer with
almost nothing beside attention (its linears are 32 wide); torch's `scaled_dot_product_attention` in float32 and in
bfloat16, whose sums follow the shape of the call. Integer products add to the same bits in any order: theirs costs
nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - the name that every torch program gives it

from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.domain.step import PREFILL_CHUNK_TOKENS, SequenceChunk
from exo_lite.engine.torch_c.integer_shard import IntegerLayer, IntegerShard
from exo_lite.engine.torch_c.native.kernels import NativeKernels, native_library
from exo_lite.engine.torch_c.quantized import QuantizedLinear, empty_linear
from exo_lite.engine.torch_c.quantizing import quantize_rows
from tests.bench.shapes import spec_of

WIDTH = 32
SHAPE = "1b"


def attention_layer(spec: ModelSpec) -> IntegerShard:
    """One layer in the middle of a model."""
    library = native_library()
    if library is None:
        raise SystemExit("there is no C compiler: the exact kernel cannot be measured")
    ones = torch.ones(WIDTH)
    layer = IntegerLayer(
        attention_norm=ones,
        mlp_norm=ones,
        qk_norm=None,
        qkv=_linear(spec.q_size + 2 * spec.kv_size, WIDTH),
        output=_linear(WIDTH, spec.q_size),
        gate_up=_linear(2 * WIDTH, WIDTH),
        down=_linear(WIDTH, WIDTH),
    )
    return IntegerShard(
        spec,
        Shard(ModelId(SHAPE), 1, 1, spec.n_layers),
        layers=(layer,),
        embedding=None,
        norm=None,
        lm_head=None,
        kv_dtype=torch.bfloat16,
        device=torch.device("cpu"),
        kernels=NativeKernels(library),
    )


def _linear(num_outputs: int, num_inputs: int) -> QuantizedLinear:
    linear = empty_linear("int8", num_outputs, num_inputs)
    quantize_rows(linear, torch.arange(num_outputs), torch.randn(num_outputs, num_inputs))
    return linear


def exact_attention(spec: ModelSpec, context: int) -> Callable[[], object]:
    shard = attention_layer(spec)
    cache = shard.new_cache(1, context)
    start = context - PREFILL_CHUNK_TOKENS
    for position in range(0, start, PREFILL_CHUNK_TOKENS):
        shard.forward(
            torch.randn(PREFILL_CHUNK_TOKENS, WIDTH), [SequenceChunk(0, position, PREFILL_CHUNK_TOKENS)], cache
        )
    hidden = torch.randn(PREFILL_CHUNK_TOKENS, WIDTH)
    return lambda: shard.forward(hidden, [SequenceChunk(0, start, PREFILL_CHUNK_TOKENS)], cache)


def torch_attention(spec: ModelSpec, context: int, dtype: torch.dtype) -> Callable[[], object]:
    queries = torch.randn(1, spec.num_attention_heads, PREFILL_CHUNK_TOKENS, spec.head_dim, dtype=dtype)
    keys, values = torch.randn(2, 1, spec.num_key_value_heads, context, spec.head_dim, dtype=dtype)
    allowed = torch.ones(PREFILL_CHUNK_TOKENS, context, dtype=torch.bool).tril(context - PREFILL_CHUNK_TOKENS)
    return lambda: F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, enable_gqa=True)


def median_ms(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Of each, in turn."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, own in zip(works, times, strict=True):
            began_s = time.perf_counter()
            work()
            if number:  # the first one finds memory and kernels
                own.append((time.perf_counter() - began_s) * 1e3)
    return [statistics.median(own) for own in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = replace(spec_of(SHAPE), hidden_size=WIDTH, intermediate_size=WIDTH)
    print("| context | ours, exact | torch float32 | torch bfloat16 |\n|---|---|---|---|")
    with torch.inference_mode():
        for context in arguments.contexts:
            others = [torch_attention(spec, context, dtype) for dtype in (torch.float32, torch.bfloat16)]
            ours, *theirs = median_ms([exact_attention(spec, context), *others], arguments.rounds)
            cells = [f"{ours:.1f} ms", *(f"{one:.1f} ms" for one in theirs)]
            print(f"| {context} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
