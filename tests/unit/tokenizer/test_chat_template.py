from __future__ import annotations

from datetime import datetime

import pytest

from exo_lite.domain.errors import InvalidModel, InvalidRequest
from exo_lite.tokenizer.chat_template import MAX_PROMPT_CHARACTERS, ChatTemplate
from exo_lite.tokenizer.special_tokens import SpecialTokens

SPECIAL = SpecialTokens("<s>", "</s>", None, None, 1, frozenset({2}))
MESSAGES = [{"role": "user", "content": "hi"}]


def render(source: str, messages: list[dict[str, object]] | None = None, *, add_generation_prompt: bool = True) -> str:
    template = ChatTemplate(source, SPECIAL, now=lambda: datetime(2024, 7, 26))
    return template.render(MESSAGES if messages is None else messages, add_generation_prompt=add_generation_prompt)


def test_messages_tokens_and_the_generation_prompt_reach_the_template() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert render(source) == "<s>[user]hi</s>[assistant]"
    assert render(source, add_generation_prompt=False) == "<s>[user]hi</s>"


def test_blocks_leave_no_white_space() -> None:
    assert render("{% for m in messages %}\n    {% if true %}\nx\n    {% endif %}\n{% endfor %}\n") == "x\n"


def test_the_vocabulary_of_transformers_is_there() -> None:
    assert render("{{ strftime_now('%d %b %Y') }}") == "26 Jul 2024"
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'
    assert render("{{ {'a': 1} | tojson(indent=2) }}") == '{\n  "a": 1\n}'
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% generation %}said{% endgeneration %}") == "said"
    assert render("{{ tools is none }}{{ custom is defined }}") == "TrueFalse"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7]['role'] }}",
        "{{ messages[0]['content'] + none }}",
        "{{ 1 // 0 }}",
        "{{ range(10**9) | length }}",
    ],
)
def test_messages_that_a_template_does_not_take_are_the_callers_fault(source: str) -> None:
    with pytest.raises(InvalidRequest, match="does not take these messages"):
        render(source)


def test_the_templates_own_words_are_passed_on() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_a_faulty_template_is_the_models_fault() -> None:
    with pytest.raises(InvalidModel, match="not valid"):
        ChatTemplate("{% if %}", SPECIAL)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ raise_exception.__globals__['json'] }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox_or_change_messages(source: str) -> None:
    messages: list[dict[str, object]] = [{"role": "user", "content": "hi"}]
    with pytest.raises((InvalidModel, InvalidRequest)):
        render(source, messages)
    assert messages == MESSAGES


def test_endless_output_is_cut_off() -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_PROMPT_CHARACTERS)):
        render("{% for i in range(90000) %}{% for j in range(90000) %}0123456789{% endfor %}{% endfor %}")


TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content EDIT }}</{{ m.role }}>{% endfor %}"
PREFILLED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " Well,  "}]


@pytest.mark.parametrize(
    ("edit", "prompt"),
    [
        ("", "<user>hi</user><assistant> Well,  "),
        ("| trim", "<user>hi</user><assistant>Well,"),
        ("| upper | lower", "<user>hi</user><assistant> well,  "),
    ],
)
def test_a_prompt_that_goes_on_ends_with_the_last_message_as_the_template_writes_it(edit: str, prompt: str) -> None:
    template = ChatTemplate(TURNS.replace("EDIT", edit), SPECIAL)
    if "lower" in edit:  # it does not write down what it is given
        with pytest.raises(InvalidRequest, match="can't be continued"):
            template.render(PREFILLED, add_generation_prompt=False, continues_last=True)
        return
    assert template.render(PREFILLED, add_generation_prompt=False, continues_last=True) == prompt


def test_variables_of_the_request_reach_the_template_and_hide_nothing() -> None:
    template = ChatTemplate("{{ enable_thinking }} {{ bos_token }} {{ messages | length }}", SPECIAL)
    variables = {"enable_thinking": False, "bos_token": "x", "messages": []}
    assert template.render(MESSAGES, variables=variables) == "False <s> 1"
