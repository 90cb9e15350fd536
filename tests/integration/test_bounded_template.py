"""Chat templates as an enemy would write them, rendered by a real process."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from exo_lite.domain.errors import InvalidModel, InvalidRequest, NotReady
from exo_lite.tokenizer.bounded_template import BoundedTemplate
from exo_lite.tokenizer.chat_template import ChatTemplate
from exo_lite.tokenizer.render_loop import MAX_MEMORY_BYTES
from exo_lite.tokenizer.special_tokens import SpecialTokens

SPECIAL = SpecialTokens("<s>", "</s>", None, None, 1, frozenset({2}))
MESSAGES = [{"role": "user", "content": "hi \ud800 «é» 😀"}]
DOUBLING = "{%% set ns = namespace(x='ab') %%}{%% for i in range(64) %%}%s{%% endfor %%}{{ ns.x }}"
SLOW_MACHINE_S = 15
"""Over and above the second of processor time that a template has, for a machine that does much else meanwhile."""

TOO_MUCH = [
    "{{ 'a' * 10**10 }}",
    "{{ ('a' * 10**10) | length }}",
    "{{ [1] * 10**10 }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a'.ljust(10**10) | length }}",
    "{{ 'a' | center(10**10) }}",
    "{{ 'a' | indent(10**10) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ 'a'.join(['b'] * 10**9) }}",
    "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "{{ [1] | batch(10**10, 0) | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ {'a': 1} | tojson(indent=10**10) }}",
    "{{ lipsum(n=10**7) }}",
    "{{ range(100000) | map('string') | map('center', 100000) | list }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set x = range(99999) | list %}{% for i in x %}{% set y = x | sum %}{% endfor %}",
    "{{ (7 ** 9999999) | string | length }}",
    DOUBLING % "{% set ns.x = ns.x ~ ns.x %}",
    DOUBLING % "{% set ns.x = ns.x + ns.x %}",
    DOUBLING % "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    DOUBLING % "{% set ns.x = [ns.x, ns.x] %}",
    DOUBLING % "{% set ns.x = {'a': ns.x, 'b': ns.x} %}",
]
REFUSED = [
    "{{ 'a' * 10**30 }}",
    "{{ 'ab' * 10**6 }}",
    "{{ range(10**9) | list }}",
    "{% for i in range(99999) %}{{ 'ab' * 99999 }}{% endfor %}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('a' * 10**7) }}",
    "{{ " + "(" * 100_000 + " }}",
    "{{ " + "-" * 100_000 + "1 }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{% if %}",
]


@pytest.mark.parametrize("source", TOO_MUCH)
def test_a_template_that_takes_too_much_is_the_models_fault(source: str) -> None:
    started_at = time.monotonic()
    with pytest.raises(InvalidModel, match=r"takes (too long|more memory)"):
        BoundedTemplate(source, SPECIAL).render(MESSAGES)
    assert time.monotonic() - started_at < 1 + SLOW_MACHINE_S


@pytest.mark.parametrize("source", REFUSED)
def test_a_template_that_goes_wrong_has_a_short_and_clear_error(source: str) -> None:
    with pytest.raises((InvalidModel, InvalidRequest), match="chat") as raised:
        BoundedTemplate(source, SPECIAL).render(MESSAGES)
    assert len(str(raised.value)) <= 500


@pytest.mark.parametrize(
    "source",
    [
        "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
        "{% if add_generation_prompt %}a{% else %}b{% endif %}",
    ],
)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_sound_template_renders_as_without_bounds(source: str, add_generation_prompt: bool) -> None:
    expected = ChatTemplate(source, SPECIAL).render(MESSAGES, add_generation_prompt=add_generation_prompt)
    assert BoundedTemplate(source, SPECIAL).render(MESSAGES, add_generation_prompt=add_generation_prompt) == expected


def test_what_a_request_adds_comes_through_the_bounds() -> None:
    source = "{{ x }}{% for m in messages %}<{{ m.content }}>{% endfor %}"
    how: dict[str, Any] = {"add_generation_prompt": False, "continues_last": True, "variables": {"x": [1, {"y": None}]}}
    expected = ChatTemplate(source, SPECIAL).render(MESSAGES, **how)
    assert BoundedTemplate(source, SPECIAL).render(MESSAGES, **how) == expected
    assert expected.startswith("[1, {'y': None}]<")
    assert not expected.endswith(">")


def test_the_longest_prompt_fits_through() -> None:
    content = "😀" * 2**20
    template = BoundedTemplate("{{ messages[0].content }}", SPECIAL)
    assert template.render([{"role": "user", "content": content}]) == content


def test_errors_keep_their_kind_and_name_the_messages() -> None:
    template = BoundedTemplate("{{ raise_exception('roles must alternate') }}", SPECIAL)
    with pytest.raises(InvalidRequest, match="roles must alternate") as raised:
        template.render(MESSAGES)
    assert raised.value.param == "messages"


WHIMSICAL = "{% if messages[0].content == 'loop' %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
WHIMSICAL += "{% endfor %}{% elif messages[0].content == 'eat' %}{{ 'a' * 10**10 }}{% endif %}{{ messages[0].content }}"


def test_after_a_bad_rendering_the_next_one_works() -> None:
    template = BoundedTemplate(WHIMSICAL, SPECIAL)
    for content in ("good", "loop", "good", "eat", "good"):
        message = {"role": "user", "content": content}
        if content == "good":
            assert template.render([message]) == content
        else:
            with pytest.raises(InvalidModel):
                template.render([message])


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "exo_lite.tokenizer.render_loop" in one.cmdline()]


def test_one_process_serves_all_renderings_and_ends_with_its_template() -> None:
    before = {one.pid for one in children()}

    def render_many() -> psutil.Process:
        template = BoundedTemplate("{{ messages[0].content }}", SPECIAL)
        with ThreadPoolExecutor(8) as threads:
            prompts = list(threads.map(lambda i: template.render([{"role": "user", "content": str(i)}]), range(50)))
        assert prompts == [str(i) for i in range(50)]
        [process] = [one for one in children() if one.pid not in before]
        assert process.memory_info().rss < MAX_MEMORY_BYTES / 4
        return process

    process = render_many()
    gc.collect()
    assert not process.is_running()


def test_a_process_that_was_killed_between_two_renderings_is_replaced() -> None:
    before = {one.pid for one in children()}
    template = BoundedTemplate("{{ messages[0].content }}", SPECIAL)
    assert template.render([{"role": "user", "content": "a"}]) == "a"
    [process] = [one for one in children() if one.pid not in before]
    process.send_signal(signal.SIGKILL)
    try:
        prompt = template.render([{"role": "user", "content": "b"}])
    except NotReady:  # it died under this very job
        prompt = template.render([{"role": "user", "content": "b"}])
    assert prompt == "b"


def test_the_process_ends_where_its_parent_is_gone() -> None:
    command = [sys.executable, "-m", "exo_lite.tokenizer.render_loop"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
