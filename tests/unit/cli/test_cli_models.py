from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from exo_lite.catalog.hf_config import spec_from_config
from exo_lite.catalog.table import load_table
from exo_lite.checkpoint.tensor_names import all_tensors

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 4,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
TABLE_KEYS = {"id", "aliases", "n_layers", "num_parameters", "weight_bytes", "local", "path"}


@pytest.fixture
def folder(tmp_path):
    """A sound Hugging Face folder, as small as they come."""
    path = tmp_path / "tiny-llama"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    shapes = all_tensors(spec_from_config(CONFIG))
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path / "model.safetensors")
    words = {"<s>": 0, "</s>": 1, "yes": 2, "no": 3}
    Tokenizer(WordLevel(words, unk_token="no")).save(str(path / "tokenizer.json"))
    return path


def test_models_is_the_shard_table(cli):
    documents = json.loads(cli("models", "--json").stdout)
    assert [document["id"] for document in documents] == [row.model_id for row in load_table().rows]
    assert all(document.keys() >= TABLE_KEYS for document in documents)
    assert not any(document["local"] or document["path"] for document in documents)
    layers = {document["id"]: document["n_layers"] for document in documents}
    assert (layers["llama-3-8b"], layers["llama-3-70b"]) == (32, 80)


def test_models_as_text_has_a_line_for_each(cli):
    lines = cli("models").stdout.splitlines()
    assert lines[0].split() == ["MODEL", "LAYERS", "PARAMETERS", "SIZE", "HERE", "FROM"]
    assert len(lines) == 1 + len(load_table().rows)
    line = next(line for line in lines if line.startswith("smollm2-135m "))
    assert line.split()[1:] == ["30", "135", "M", "256.6", "MiB", "no", "HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_show_has_every_dimension_and_takes_aliases(cli):
    document = json.loads(cli("show", "huggingfacetb/smollm2-135m-instruct", "--json").stdout)
    assert document.keys() >= TABLE_KEYS
    assert document["id"] == "smollm2-135m"
    assert document["weight_bytes"] == 2 * document["num_parameters"]
    assert (document["hidden_size"], document["num_key_value_heads"], document["dtype"]) == (576, 3, "bfloat16")
    text = cli("show", "smollm2-135m").stdout
    assert "hidden_size              576\n" in text
    assert "tie_word_embeddings      yes\n" in text


def test_show_of_an_unknown_model_names_close_ones(cli):
    result = cli("show", "smollm2-135")
    assert result.exit_code == 1
    assert "did you mean smollm2-135m" in result.stderr
    assert cli("show", "../etc").exit_code == 2


def test_import_show_and_remove(cli, folder, home):
    imported = cli("import", folder, "--as", "tiny")
    assert imported.exit_code == 0, imported.stderr
    path = home / "exo-lite" / "models" / "tiny"
    assert imported.stdout.startswith("tiny: 2 layers, ")
    assert "importing tiny: 100 %" in imported.stderr
    shown = json.loads(cli("show", "tiny", "--json").stdout)
    assert (shown["local"], shown["path"], shown["hidden_size"]) == (True, str(path), 8)
    assert json.loads(cli("models", "--json").stdout)[-1]["id"] == "tiny"
    assert cli("plan", "tiny", "--node", "a=1GiB", "--context", "32").exit_code == 0
    assert cli("rm", "tiny").stdout == "tiny: removed\n"
    assert not path.exists()
    assert cli("rm", "tiny").exit_code == 1


def test_import_under_another_name_of_a_model_keeps_it_where_requests_go(cli, folder):
    imported = cli("import", folder, "--as", "meta-llama/Llama-3.2-1B-Instruct")
    assert imported.exit_code == 0
    assert imported.stdout.startswith("llama-3.2-1b: 2 layers, ")
    assert "meta-llama/Llama-3.2-1B-Instruct is another name of llama-3.2-1b: kept as llama-3.2-1b" in imported.stderr
    assert "this is not the model that llama-3.2-1b stands for" in imported.stderr
    shown = json.loads(cli("show", "llama3.2:1b", "--json").stdout)
    assert (shown["id"], shown["local"]) == ("llama-3.2-1b", True)
    assert "2 num_hidden_layers, not 16" in shown["differences"]
    line = next(line for line in cli("models").stdout.splitlines() if line.startswith("llama-3.2-1b "))
    assert " other " in line
    assert cli("rm", "llama-3.2-1b-instruct").stdout == "llama-3.2-1b: removed\n"


def test_a_damaged_model_is_named_with_its_cause(cli, folder, home):
    cli("import", folder, "--as", "tiny")
    (home / "exo-lite" / "models" / "tiny" / "model.safetensors").write_bytes(b"")
    listed = cli("models")
    assert listed.exit_code == 0
    assert len(listed.stdout.splitlines()) == 1 + len(load_table().rows)
    assert "tiny is damaged (model.safetensors is missing or not of " in listed.stderr
    assert "`exo-lite rm tiny`, then import it again" in listed.stderr
    assert [one["id"] for one in json.loads(cli("models", "--json").stdout)] == [
        row.model_id for row in load_table().rows
    ]


def test_a_model_of_the_table_is_shown_as_it_is_on_disk(cli, folder, tmp_path):
    models_dir = tmp_path / "models"
    assert cli("import", folder, "--as", "smollm2-135m", "--models-dir", models_dir).exit_code == 0
    shown = json.loads(cli("show", "smollm2-135m", "--json", "--models-dir", models_dir).stdout)
    assert (shown["local"], shown["hidden_size"], shown["dtype"]) == (True, 8, "float32")
    assert not json.loads(cli("show", "smollm2-135m", "--json").stdout)["local"]


@pytest.mark.parametrize(
    ("model_id", "exit_code", "cause"), [("Up/Down", 2, "is not a model id"), ("tiny", 2, "there is no file or folder")]
)
def test_impossible_imports_say_why(cli, tmp_path, model_id, exit_code, cause):
    result = cli("import", tmp_path / "nothing", "--as", model_id)
    assert result.exit_code == exit_code
    assert cause in result.stderr


def test_import_needs_an_id(cli, folder):
    assert cli("import", folder).exit_code == 2
