"""Tiny random models, as Hugging Face folders and as GGUF files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models

from exo_lite.catalog.hf_config import spec_to_config
from exo_lite.checkpoint.tensor_names import all_tensors
from exo_lite.domain.model_spec import ModelSpec

SPEC = ModelSpec(
    model_type="llama",
    num_hidden_layers=2,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=12,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    dtype="float32",
)
TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "Ġ", "ab", "Ġa", "1", "2", "12", "<extra>"]
TOKEN_TYPES = [3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4]
MERGES = ["a b", "Ġ a", "1 2"]

Arrays = dict[str, npt.NDArray[Any]]


def random_tensors(spec: ModelSpec) -> Arrays:
    generator = np.random.default_rng(7)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in all_tensors(spec).items()}


def write_hf_folder(folder: Path, spec: ModelSpec, tensors: Mapping[str, npt.NDArray[Any]]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(spec_to_config(spec)), encoding="utf-8")
    tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(folder / "tokenizer.json"))
    save_file(dict(tensors), folder / "model.safetensors")
    return folder


def split_in_two(folder: Path) -> None:
    """The same weights in two files and an index."""
    tensors = random_tensors(SPEC)
    (folder / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for index, names in enumerate((list(tensors)[:5], list(tensors)[5:])):
        file_name = f"model-{index + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file_name)
        weight_map |= dict.fromkeys(names, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def interleaved(values: npt.NDArray[Any], num_heads: int) -> npt.NDArray[Any]:
    """Rows of each head in GGUF's order for Llama: first of the first half, first of the second half, and so on."""
    half = values.shape[0] // num_heads // 2
    order = [head * 2 * half + part * half + i for head in range(num_heads) for i in range(half) for part in range(2)]
    return values[order]


@dataclass
class GGUFRecipe:
    """What a test GGUF file holds; tests change what they are about. Metadata set to None is left out."""

    architecture: str = "llama"
    metadata: dict[str, object] = field(default_factory=dict)
    tensors: Arrays = field(default_factory=dict)
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32

    def write(self, path: Path, **split: Any) -> Path:
        """`split` is what the library's writer knows of that: it then writes several files, named after `path`."""
        writer = gguf.GGUFWriter(path, self.architecture, **split)
        for key, value in self.metadata.items():
            _add(writer, key, value)
        for name, values in self.tensors.items():
            if values.ndim > 1 and self.quantization != gguf.GGMLQuantizationType.F32:
                writer.add_tensor(name, gguf.quantize(values, self.quantization), raw_dtype=self.quantization)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)  # type: ignore[arg-type]  # a list, as the recipes have them


def recipe_for(spec: ModelSpec) -> GGUFRecipe:
    prefix = spec.model_type
    num_heads = {"q_proj": spec.num_attention_heads, "k_proj": spec.num_key_value_heads}
    tensors = {}
    for name, values in random_tensors(spec).items():
        rotated = next((count for part, count in num_heads.items() if part in name), None)
        is_interleaved = prefix == "llama" and rotated is not None
        tensors[gguf_name(name)] = interleaved(values, rotated or 1) if is_interleaved else values
    return GGUFRecipe(prefix, {**_dimensions(spec, prefix), **byte_level_metadata()}, tensors)


def _dimensions(spec: ModelSpec, prefix: str) -> dict[str, object]:
    return {
        f"{prefix}.block_count": spec.num_hidden_layers,
        f"{prefix}.context_length": spec.max_position_embeddings,
        f"{prefix}.embedding_length": spec.hidden_size,
        f"{prefix}.feed_forward_length": spec.intermediate_size,
        f"{prefix}.attention.head_count": spec.num_attention_heads,
        f"{prefix}.attention.head_count_kv": spec.num_key_value_heads,
        f"{prefix}.attention.layer_norm_rms_epsilon": spec.rms_norm_eps,
        f"{prefix}.rope.freq_base": spec.rope_theta,
        f"{prefix}.rope.dimension_count": spec.head_dim,
    }


def byte_level_metadata() -> dict[str, object]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": TOKEN_TYPES,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
