"""The tokenizer of a model folder: which file it comes from, and what the files beside it add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exo_lite.checkpoint.json_files import optional_bool, read_json_object_if_present
from exo_lite.domain.errors import InvalidModel
from exo_lite.tokenizer import tiktoken_ranks
from exo_lite.tokenizer.added_tokens import AddedTokens, gather_added_tokens
from exo_lite.tokenizer.end_tokens import end_tokens
from exo_lite.tokenizer.model_tokenizer import Backend, ModelTokenizer
from exo_lite.tokenizer.sentencepiece_backend import Prefixed, SentencePieceBackend
from exo_lite.tokenizer.special_tokens import TokenSources, gather_special_tokens
from exo_lite.tokenizer.tokenizers_backend import read_tokenizer_json

MAX_MODEL_BYTES = 64 << 20
"""Several times the largest tokenizer.model known."""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A backend, and what its own file says where the model's JSON files are silent."""

    backend: Backend
    defaults: Mapping[str, str] = field(default_factory=dict)


def load_tokenizer(model_dir: Path) -> ModelTokenizer:
    """Read tokenizer.json, else tokenizer.model, which is of one of two kinds.

    Raises InvalidModel, UnsupportedModel.
    """
    newer = read_json_object_if_present(model_dir / "tokenizer_config.json")
    older = read_json_object_if_present(model_dir / "special_tokens_map.json")
    config = older | newer
    added = gather_added_tokens(read_json_object_if_present(model_dir / "added_tokens.json"), older, newer)
    vocabulary = _vocabulary(model_dir, config, added)
    backend = vocabulary.backend
    special = gather_special_tokens(
        TokenSources(
            tokenizer_config=config,
            generation_config=read_json_object_if_present(model_dir / "generation_config.json"),
            config=read_json_object_if_present(model_dir / "config.json"),
            token_to_id=backend.token_to_id,
            id_to_token=backend.id_to_token,
            defaults=vocabulary.defaults,
            end_tokens=_end_tokens(backend),
        )
    )
    adds_bos = optional_bool(config, "add_bos_token", file_name="tokenizer_config.json")
    if adds_bos is None:
        adds_bos = special.bos_token_id is not None and backend.leads_with(special.bos_token_id)
    return ModelTokenizer(backend, special, adds_bos=adds_bos)


def _end_tokens(backend: Backend) -> tuple[str, ...]:
    whole = backend.whole_tokens
    return end_tokens(whole.values(), [token for token_id, token in whole.items() if token_id in backend.special_ids])


def _vocabulary(model_dir: Path, config: Mapping[str, object], added: AddedTokens) -> _Vocabulary:
    if (model_dir / "tokenizer.json").is_file():
        return _Vocabulary(read_tokenizer_json(model_dir / "tokenizer.json", added))
    path = model_dir / "tokenizer.model"
    if not path.is_file():
        raise InvalidModel(
            f"{model_dir.name} has no tokenizer.json and no tokenizer.model: "
            "import a model folder that has its tokenizer files"
        )
    content = _read(path)
    if tiktoken_ranks.is_tiktoken_file(content):
        names = {"bos_token": tiktoken_ranks.BOS_TOKEN, "eos_token": tiktoken_ranks.EOS_TOKEN}
        backend = tiktoken_ranks.llama3_backend(content, added)
        return _Vocabulary(backend, defaults=names)
    sentencepiece = SentencePieceBackend(content, added, prefixed=_prefixed(config))
    return _Vocabulary(sentencepiece, defaults=sentencepiece.special_tokens)


def _prefixed(config: Mapping[str, object]) -> Prefixed:
    """`legacy` is what Meta's own code does, and transformers did at first."""
    if optional_bool(config, "add_prefix_space", file_name="tokenizer_config.json") is False:
        return "none"
    return "first" if optional_bool(config, "legacy", file_name="tokenizer_config.json") is False else "every"


def _read(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_MODEL_BYTES:
            raise InvalidModel(f"{path.name} takes {size_bytes} bytes, more than the {MAX_MODEL_BYTES} that are read")
        return path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{path.name} cannot be read: {error.strerror or error}") from error
