from __future__ import annotations

import json
from pathlib import Path

import pytest

from exo_lite.domain.errors import InvalidModel, InvalidRequest
from exo_lite.tokenizer.special_tokens import SpecialTokens
from exo_lite.tokenizer.template_files import check_chat_template, load_chat_template

SPECIAL = SpecialTokens("<s>", "</s>", None, None, 1, frozenset({2}))
MESSAGES = [{"role": "user", "content": "hi"}]


def test_the_file_goes_before_the_config(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config"}), encoding="utf-8")
    assert load_chat_template(tmp_path, SPECIAL).render(MESSAGES) == "config"
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert load_chat_template(tmp_path, SPECIAL).render(MESSAGES) == "file"


def test_of_several_named_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    assert load_chat_template(tmp_path, SPECIAL).render(MESSAGES) == "plain"


def test_named_templates_may_be_an_object_too(tmp_path: Path) -> None:
    config = {"chat_template": {"tool_use": "tools", "default": "plain"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_chat_template(tmp_path, SPECIAL).render(MESSAGES) == "plain"


def test_named_templates_without_a_default_are_named_where_a_chat_wants_one(tmp_path: Path) -> None:
    named = [{"name": "rag", "template": "documents"}, {"name": "tool_use", "template": "tools"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    check_chat_template(tmp_path, SPECIAL)  # which is no fault of the model for other uses
    with pytest.raises(InvalidRequest, match=r"\(rag, tool_use\).*--raw"):
        load_chat_template(tmp_path, SPECIAL, default="of another model")


@pytest.mark.parametrize(
    "named", [[{"name": []}], [{"name": "default"}], [3], {"default": {}}, [{"name": "default", "template": 3}]]
)
def test_named_templates_that_are_none_are_refused(tmp_path: Path, named: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8")
    with pytest.raises(InvalidModel, match=r"tokenizer_config\.json: chat_template has"):
        load_chat_template(tmp_path, SPECIAL)


@pytest.mark.parametrize("config", [{}, {"chat_template": None}, {"chat_template": []}])
def test_a_model_without_template_names_the_way_out(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InvalidRequest, match="--raw"):
        load_chat_template(tmp_path, SPECIAL)


def test_a_template_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 3}', encoding="utf-8")
    with pytest.raises(InvalidModel, match="chat_template must be text"):
        load_chat_template(tmp_path, SPECIAL)


def test_a_template_known_for_the_model_stands_in_for_a_missing_one_only(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path, SPECIAL, default="default").render(MESSAGES) == "default"
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert load_chat_template(tmp_path, SPECIAL, default="default").render(MESSAGES) == "file"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% if %}", "not valid"),
        ("{{ ''.__class__ .__mro__ }}", "does what templates may not"),
        ("{{ 'a' * 10**10 }}", "takes more memory"),
    ],
)
def test_a_check_refuses_what_misbehaves_and_names_the_way_out(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    with pytest.raises(InvalidModel, match=rf"{message}.*remove chat_template\.jinja"):
        check_chat_template(tmp_path, SPECIAL)


@pytest.mark.parametrize("source", ["{{ messages[0].content }}", "{{ raise_exception('a system message, please') }}"])
def test_a_check_lets_pass_what_only_wants_other_messages(tmp_path: Path, source: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    check_chat_template(tmp_path, SPECIAL)


def test_a_check_lets_pass_a_model_without_template(tmp_path: Path) -> None:
    check_chat_template(tmp_path, SPECIAL)
