"""Loading: what is read, from where, into how much memory, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exo_lite.checkpoint.weight_index import INDEX_FILE, SINGLE_FILE
from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.domain.ids import ModelId
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c import weights
from exo_lite.engine.torch_c.weights import load_shard

NAME = "model.layers.1.self_attn.k_proj.weight"


def load(model, start_layer=0, end_layer=2, dtype="float32", on_progress=lambda fraction: None):
    shard = Shard(ModelId("random"), start_layer, end_layer, 3)
    return load_shard(model.path, model.spec, shard, dtype=dtype, device="cpu", on_progress=on_progress)


def rewrite(model, change):
    """Change the tensors of a single-file checkpoint."""
    tensors = load_file(model.path / SINGLE_FILE)
    change(tensors)
    save_file(tensors, model.path / SINGLE_FILE)


def test_loads_through_an_index(random_model, token_ids):
    model = random_model(max_shard_size="20KB")
    assert len(list(model.path.glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(model.pipeline(1).prefill(token_ids), model.logits(token_ids), atol=1e-4, rtol=0)


def test_reads_only_the_files_of_its_own_tensors(random_model):
    model = random_model(max_shard_size="20KB")
    weight_map = json.loads((model.path / INDEX_FILE).read_text())["weight_map"]
    needed = {file for name, file in weight_map.items() if name.startswith("model.layers.1.")}
    others = set(weight_map.values()) - needed
    for file in others:
        (model.path / file).unlink()
    assert others
    assert load(model, 1, 1).layers[0].mlp.down.weight.shape == (32, 48)


def test_a_tensor_longer_than_a_block(random_model, token_ids, monkeypatch):
    monkeypatch.setattr(weights, "BLOCK_BYTES", 64)
    model = random_model("qwen2", tie_word_embeddings=True)
    torch.testing.assert_close(model.pipeline(0).prefill(token_ids), model.logits(token_ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_converts_the_checkpoint_s_type(stored, dtype, random_model):
    model = random_model()
    model.reference.to(stored).save_pretrained(model.path)
    shard = load(model, dtype=dtype)
    assert shard.dtype == shard.norm.dtype == getattr(torch, dtype)
    down = model.reference.model.layers[2].mlp.down_proj.weight
    assert torch.equal(shard.layers[2].mlp.down.weight, down.to(shard.dtype))


def test_a_tied_head_is_shared_where_both_ends_are_here(random_model):
    model = random_model(tie_word_embeddings=True)
    whole, first, last = load(model), load(model, 0, 1), load(model, 2, 2)
    assert whole.lm_head.weight is whole.embedding
    assert first.lm_head is None
    assert last.embedding is None
    assert torch.equal(last.lm_head.weight, first.embedding)
    assert whole.num_bytes == 4 * model.spec.num_parameters


def test_a_head_beside_a_tied_embedding_must_be_its_copy(random_model):
    """Imports of earlier versions kept another one without a word, and it was not used."""
    model = random_model(tie_word_embeddings=True)
    embedding = load_file(model.path / SINGLE_FILE)["model.embed_tokens.weight"]
    rewrite(model, lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    assert load(model).lm_head.weight is not None
    rewrite(model, lambda tensors: tensors.update({"lm_head.weight": -embedding}))
    with pytest.raises(InvalidModel, match=r"lm_head\.weight is another matrix than the embedding.*import it again"):
        load(model, 2, 2)
    assert load(model, 0, 1).lm_head is None


def test_counts_the_bytes_that_it_keeps(random_model):
    model = random_model(attention_bias=True, mlp_bias=True)
    assert load(model).num_bytes == 4 * model.spec.num_parameters
    assert load(model, 1, 1).num_bytes == 4 * model.spec.layer_parameters


def test_progress_rises_to_one(random_model):
    fractions: list[float] = []
    load(random_model(), on_progress=fractions.append)
    assert fractions == sorted(fractions)
    assert len(fractions) > 20
    assert fractions[-1] == 1.0


def test_frequencies_of_old_checkpoints_are_ignored(random_model):
    model = random_model()
    rewrite(model, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert load(model).num_bytes == 4 * model.spec.num_parameters


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda tensors: tensors.pop(NAME),
            InvalidModel,
            rf"tensor {NAME} is missing; expected one of shape \[16, 32\]",
        ),
        (lambda tensors: tensors.pop("lm_head.weight"), InvalidModel, r"tensor lm_head\.weight is missing"),
        (
            lambda tensors: tensors.update({NAME: torch.zeros(32, 16)}),
            InvalidModel,
            rf"model\.safetensors: tensor {NAME} has the shape \[32, 16\], the config asks for \[16, 32\]",
        ),
        (
            lambda tensors: tensors.update({NAME: torch.zeros(16, 32, dtype=torch.int8)}),
            UnsupportedModel,
            rf"tensor {NAME} is of type I8; only F32, BF16, F16 can be read",
        ),
        (
            lambda tensors: tensors[NAME].fill_(float("nan")),
            InvalidModel,
            rf"tensor {NAME} holds values that are not finite",
        ),
        (
            lambda tensors: tensors.update({"model.layers.1.self_attn.q_proj.bias": torch.zeros(32)}),
            InvalidModel,
            r"holds model\.layers\.1\.self_attn\.q_proj\.bias, which a model of its config does not have",
        ),
    ],
)
def test_a_checkpoint_that_contradicts_its_config(change, error, message, random_model):
    model = random_model()
    rewrite(model, change)
    with pytest.raises(error, match=message):
        load(model)


def test_a_value_too_great_for_the_wanted_type(random_model):
    model = random_model()
    rewrite(model, lambda tensors: tensors[NAME].fill_(1e6))
    with pytest.raises(InvalidModel, match=r"not finite in torch\.float16; load it with `--dtype bfloat16`"):
        load(model, dtype="float16")


MEASURE = """
import sys
from pathlib import Path
import psutil, resource, torch
from exo_lite.domain.ids import ModelId
from exo_lite.domain.model_spec import ModelSpec
from exo_lite.domain.shard import Shard
from exo_lite.engine.torch_c.weights import load_shard

def peak_bytes():
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at what the parent had there
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

spec = ModelSpec("llama", 4, 1024, 2816, 16, 8, 64, 4000, 128)
torch.zeros(2**20, dtype=torch.bfloat16).add_(1).aminmax()
for rows in (1, 2, 4, 8):  # the libraries' own memory is no shard's
    x, weight = (torch.zeros((n, 1024), dtype=getattr(torch, sys.argv[2])) for n in (rows, 512))
    torch.nn.functional.linear(x, weight)
before = psutil.Process().memory_info().rss
shard = Shard(ModelId("medium"), int(sys.argv[3]), int(sys.argv[4]), 4)
shard = load_shard(Path(sys.argv[1]), spec, shard, dtype=sys.argv[2], device="cpu", on_progress=lambda fraction: None)
print(shard.num_bytes, peak_bytes() - before)
"""


def medium_tensors(dtype):
    tensors = {"model.embed_tokens.weight": (4000, 1024), "model.norm.weight": (1024,), "lm_head.weight": (4000, 1024)}
    for layer in range(4):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": (1024,),
            prefix + "self_attn.q_proj.weight": (1024, 1024),
            prefix + "self_attn.k_proj.weight": (512, 1024),
            prefix + "self_attn.v_proj.weight": (512, 1024),
            prefix + "self_attn.o_proj.weight": (1024, 1024),
            prefix + "post_attention_layernorm.weight": (1024,),
            prefix + "mlp.gate_proj.weight": (2816, 1024),
            prefix + "mlp.up_proj.weight": (2816, 1024),
            prefix + "mlp.down_proj.weight": (1024, 2816),
        }
    return {name: torch.ones(shape, dtype=dtype) for name, shape in tensors.items()}


@pytest.mark.parametrize(
    ("stored", "dtype", "start_layer", "end_layer"),
    [("bfloat16", "bfloat16", 0, 3), ("float32", "bfloat16", 0, 3), ("bfloat16", "float32", 1, 3)],
)
def test_memory_peaks_at_a_tenth_more_than_is_kept(stored, dtype, start_layer, end_layer, tmp_path):
    save_file(medium_tensors(getattr(torch, stored)), tmp_path / "model.safetensors")
    arguments = [str(tmp_path), dtype, str(start_layer), str(end_layer)]
    root = Path(__file__).parents[4]
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], check=True, capture_output=True, text=True, cwd=root
    )
    kept_bytes, peak_bytes = map(int, output.stdout.split())
    assert kept_bytes > 90 * 2**20
    assert peak_bytes < 1.1 * kept_bytes
