"""What users point an import at: what is a model is taken in, what is none is named, with the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir

from exo_lite.domain.errors import ExoLiteError, InvalidModel, InvalidRequest, UnsupportedModel
from exo_lite.store.model_store import ModelStore
from tests.unit.store.tiny_models import SPEC, GGUFRecipe

REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
DIGEST = "ab" * 32


def quiet(num_written: int, num_bytes: int) -> None:
    pass


def source_of(store: ModelStore) -> str:
    text = (store.models_dir / "tiny" / "manifest.json").read_text(encoding="utf-8")
    return str(json.loads(text)["source"])


@pytest.fixture
def hub_root(tmp_path: Path, hf_folder: Path) -> Path:
    """A model as huggingface_hub's cache keeps it: blobs, and links to them."""
    root = tmp_path / "models--org--tiny-llama"
    snapshot = root / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(REVISION, encoding="ascii")
    for index, path in enumerate(sorted(hf_folder.iterdir())):
        path.rename(root / "blobs" / f"{index:040x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{index:040x}")
    return root


def test_the_library_of_the_hub_knows_this_cache(hub_root: Path) -> None:
    cache = scan_cache_dir(hub_root.parent)
    assert [(repo.repo_id, len(repo.revisions)) for repo in cache.repos] == [("org/tiny-llama", 1)]


@pytest.mark.parametrize("given", ["", f"snapshots/{REVISION}"])
def test_a_models_folder_in_the_hub_cache_is_taken_in(store: ModelStore, hub_root: Path, given: str) -> None:
    model = store.import_path(hub_root / given, "tiny", quiet)
    assert model.spec == SPEC
    assert not any(path.is_symlink() for path in model.path.iterdir())
    assert source_of(store) == (REVISION if given else "org/tiny-llama")


def test_a_gguf_repository_in_the_hub_cache_is_taken_in(store: ModelStore, tmp_path: Path, recipe: GGUFRecipe) -> None:
    root = tmp_path / "models--org--tiny-GGUF"
    (root / "snapshots" / REVISION).mkdir(parents=True)
    (root / "blobs").mkdir()
    recipe.write(root / "blobs" / "00")
    (root / "snapshots" / REVISION / "tiny.gguf").symlink_to("../../blobs/00")
    assert store.import_path(root, "tiny", quiet).spec == SPEC


def test_a_folder_whose_gguf_file_is_a_link_to_elsewhere_is_refused_and_the_link_itself_is_followed(
    store: ModelStore, tmp_path: Path, recipe: GGUFRecipe
) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "tiny.gguf"
    link.symlink_to(recipe.write(tmp_path / "elsewhere.gguf"))
    with pytest.raises(InvalidModel, match=r"tiny\.gguf is a link that leaves folder"):
        store.import_path(tmp_path / "folder", "tiny", quiet)
    assert store.import_path(link, "tiny", quiet).spec == SPEC


def test_of_several_revisions_main_is_taken(store: ModelStore, hub_root: Path) -> None:
    (hub_root / "snapshots" / "0ld").mkdir()
    assert store.import_path(hub_root, "tiny", quiet).spec == SPEC


def test_of_several_revisions_without_main_one_must_be_named(store: ModelStore, hub_root: Path) -> None:
    (hub_root / "snapshots" / "0ld").mkdir()
    (hub_root / "refs" / "main").unlink()
    with pytest.raises(InvalidRequest, match=f"holds 2 revisions.*snapshots/REVISION of 0ld, {REVISION}"):
        store.import_path(hub_root, "tiny", quiet)


def test_a_download_that_did_not_end_is_told(store: ModelStore, hub_root: Path) -> None:
    shutil.rmtree(hub_root / "snapshots" / REVISION)
    with pytest.raises(InvalidModel, match="holds no snapshot: its download did not end"):
        store.import_path(hub_root, "tiny", quiet)


def test_a_whole_hub_cache_names_its_models(store: ModelStore, hub_root: Path) -> None:
    hub = hub_root.parent / "hub"
    hub.mkdir()
    hub_root.rename(hub / hub_root.name)
    with pytest.raises(InvalidRequest, match="a hub's cache with 1 models: give one of its folders, as models--org--"):
        store.import_path(hub, "tiny", quiet)


def test_a_link_from_a_snapshot_to_other_places_is_refused(store: ModelStore, hub_root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}", encoding="utf-8")
    link = hub_root / "snapshots" / REVISION / "tokenizer_config.json"
    link.symlink_to(tmp_path / "secret.json")
    with pytest.raises(InvalidModel, match=r"tokenizer_config\.json is a link that leaves"):
        store.import_path(hub_root, "tiny", quiet)


def test_blobs_beside_a_folder_that_is_no_snapshot_are_other_places(
    store: ModelStore, hf_folder: Path, tmp_path: Path
) -> None:
    """Only a hub's own layout makes a folder named blobs part of a model."""
    (tmp_path / "blobs").mkdir()
    (hf_folder / "tokenizer.json").rename(tmp_path / "blobs" / "00")
    (hf_folder / "tokenizer.json").symlink_to("../blobs/00")
    with pytest.raises(InvalidModel, match="is a link that leaves"):
        store.import_path(hf_folder, "tiny", quiet)


@pytest.fixture
def ollama(tmp_path: Path, recipe: GGUFRecipe) -> Path:
    """A model in Ollama's folder; its manifest's path."""
    models = tmp_path / "ollama"
    manifest = models / "manifests/registry.ollama.ai/library/tiny/latest"
    manifest.parent.mkdir(parents=True)
    (models / "blobs").mkdir()
    recipe.write(models / "blobs" / "tiny.gguf").rename(models / "blobs" / f"sha256-{DIGEST}")
    write_manifest(manifest, ("model", DIGEST), ("template", "cd" * 32))
    return manifest


def write_manifest(path: Path, *layers: tuple[str, str]) -> None:
    document = {
        "schemaVersion": 2,
        "layers": [
            {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}", "size": 1}
            for kind, digest in layers
        ],
    }
    path.write_text(json.dumps(document), encoding="utf-8")


def test_a_blob_of_ollamas_is_a_gguf_file_without_ending(store: ModelStore, ollama: Path) -> None:
    blob = ollama.parents[4] / "blobs" / f"sha256-{DIGEST}"
    assert store.import_path(blob, "tiny", quiet).spec == SPEC


def test_a_manifest_of_ollamas_leads_to_its_blob(store: ModelStore, ollama: Path) -> None:
    assert store.import_path(ollama, "tiny", quiet).spec == SPEC


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([("model", DIGEST), ("adapter", "ef" * 32)], UnsupportedModel, r"an adapter \(LoRA\) on it"),
        ([("model", "ef" * 32)], InvalidModel, "names the blob sha256-efef.* not there: pull the model again"),
        ([("template", DIGEST)], UnsupportedModel, "has 0 files of weights"),
        ([("model", "../../../etc/passwd")], UnsupportedModel, "has 0 files of weights"),
    ],
)
def test_manifests_of_ollamas_that_lead_nowhere_say_so(
    store: ModelStore, ollama: Path, layers: list[tuple[str, str]], error: type[ExoLiteError], message: str
) -> None:
    write_manifest(ollama, *layers)
    with pytest.raises(error, match=message):
        store.import_path(ollama, "tiny", quiet)


def as_lora(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}', encoding="utf-8")


def as_lora_with_config(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def as_metas(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "consolidated.00.pth")
    (folder / "params.json").write_text("{}", encoding="utf-8")


def as_mistrals(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    (folder / "params.json").write_text("{}", encoding="utf-8")


def as_mistrals_with_config(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")


def as_pointer(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 99\n", "ascii")

    return apply


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (as_lora, UnsupportedModel, r"is an adapter \(LoRA\).*merge it into its base model"),
        (as_lora_with_config, UnsupportedModel, r"is an adapter \(LoRA\).*merge it into its base model"),
        (as_metas, UnsupportedModel, r"in Meta's own form.*convert_llama_weights_to_hf"),
        (as_mistrals, UnsupportedModel, r"in Mistral's own form.*convert_mistral_weights_to_hf"),
        (as_mistrals_with_config, UnsupportedModel, r"in Mistral's own form.*model\.safetensors"),
        (
            as_pointer("model.safetensors"),
            InvalidModel,
            r"model\.safetensors is a git-lfs pointer to a file of 99 bytes",
        ),
        (as_pointer("tokenizer.json"), InvalidModel, r"tokenizer\.json is a git-lfs pointer"),
        (as_pointer("config.json"), InvalidModel, r"config\.json is a git-lfs pointer"),
    ],
)
def test_what_is_no_model_says_what_it_is(
    store: ModelStore,
    hf_folder: Path,
    nothing_left: Callable[[], bool],
    change: Callable[[Path], None],
    error: type[ExoLiteError],
    message: str,
) -> None:
    change(hf_folder)
    with pytest.raises(error, match=message):
        store.import_path(hf_folder, "tiny", quiet)
    assert nothing_left()


def test_a_model_with_an_adapter_beside_it_is_taken_in_without_it(store: ModelStore, hf_folder: Path) -> None:
    (hf_folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    shutil.copy(hf_folder / "model.safetensors", hf_folder / "adapter_model.safetensors")
    notes: list[str] = []
    model = store.import_path(hf_folder, "tiny", quiet, notes.append)
    assert model.spec == SPEC
    assert not (model.path / "adapter_model.safetensors").exists()
    assert [note for note in notes if "adapter (LoRA) beside its weights: the model is taken in without it" in note]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", r"is one file of a model: give the folder that holds it"),
        ("config.json", r"is one file of a model: give the folder that holds it"),
        ("pytorch_model.bin", r"is a pickle"),
        ("imatrix.dat", r"is neither a Hugging Face model folder"),
    ],
)
def test_a_file_that_is_no_model_says_what_to_give(store: ModelStore, hf_folder: Path, name: str, message: str) -> None:
    (hf_folder / name).touch()
    with pytest.raises(UnsupportedModel, match=rf"{name} {message}"):
        store.import_path(hf_folder / name, "tiny", quiet)
