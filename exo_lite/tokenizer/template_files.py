"""The choice of a chat template: the model's own, else the one in the shard table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exo_lite.checkpoint.json_files import read_json_object_if_present
from exo_lite.domain.errors import InvalidModel, InvalidRequest
from exo_lite.tokenizer.bounded_template import BoundedTemplate
from exo_lite.tokenizer.chat_template import ChatTemplate
from exo_lite.tokenizer.special_tokens import SpecialTokens

_PLAIN_TEXT = "ask it to complete plain text instead (`exo-lite run --raw`, or POST /v1/completions)"
_TRIAL = [{"role": "user", "content": "Hello"}]


def load_chat_template(
    model_dir: Path, special: SpecialTokens, *, default: str | None = None
) -> BoundedTemplate | ChatTemplate:
    """The template in a model's files, which anybody may have written, or the trusted `default`.

    Raises InvalidRequest where there is neither, InvalidModel for files that cannot be read.
    """
    source = _read_source(model_dir)
    if source is not None:
        return BoundedTemplate(source, special)
    if default is not None:
        return ChatTemplate(default, special)
    raise InvalidRequest(
        f"{model_dir.name} has no chat template: {_PLAIN_TEXT}",
        param="model",
    )


def check_chat_template(model_dir: Path, special: SpecialTokens) -> None:
    """Raises InvalidModel where the files have a template that is not valid or takes what it may not."""
    try:
        source = _read_source(model_dir)
        if source is not None:
            BoundedTemplate(source, special).render(_TRIAL)
    except InvalidRequest:
        return  # it wants other messages, or none of several templates is the default
    except InvalidModel as error:
        raise InvalidModel(
            f"{error}; to take the model in without it, remove chat_template.jinja, chat_template in "
            "tokenizer_config.json, or tokenizer.chat_template in a GGUF file"
        ) from error


def _read_source(model_dir: Path) -> str | None:
    path = model_dir / "chat_template.jinja"
    if not path.is_file():
        return _configured_source(read_json_object_if_present(model_dir / "tokenizer_config.json"))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{path.name} cannot be read: {error}") from error


def _configured_source(tokenizer_config: Mapping[str, object]) -> str | None:
    """chat_template is one template, or several named ones of which `default` is taken, as in transformers."""
    value = tokenizer_config.get("chat_template")
    if isinstance(value, list | Mapping):
        named = _named_templates(value)
        if named and "default" not in named:
            raise InvalidRequest(
                f"the model has several chat templates ({', '.join(sorted(named))}), and none is the default: "
                f"{_PLAIN_TEXT}, or name one of them default in tokenizer_config.json and import it again",
                param="model",
            )
        value = named.get("default")
    if value is None or isinstance(value, str):
        return value
    raise InvalidModel(f"tokenizer_config.json: chat_template must be text, not {type(value).__name__}")


def _named_templates(value: list[object] | Mapping[str, object]) -> dict[str, str]:
    """Read templates by name from an object, or from a list of objects with a name and a template each."""
    entries = [{"name": key, "template": one} for key, one in value.items()] if isinstance(value, Mapping) else value
    named = {}
    for one in entries:
        name, template = (one.get("name"), one.get("template")) if isinstance(one, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(template, str):
            raise InvalidModel(f"tokenizer_config.json: chat_template has {one!r:.80}, not a named template")
        named[name] = template
    return named
