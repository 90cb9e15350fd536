from __future__ import annotations

import pytest

from exo_lite.api.daemon_api import TextModel
from exo_lite.api.prompts import Prompt, encode_within_context, read_prompts
from exo_lite.domain.chat import AnswerOptions, ChatRequest, CompletionRequest
from exo_lite.domain.errors import ContextLengthExceeded, InvalidRequest
from exo_lite.domain.request import Sampling
from tests.unit.api.scripted_daemon import BOS, MODEL, LetterModel

OPTIONS = AnswerOptions(MODEL, Sampling())


class CountedModel(LetterModel):
    """Notes what it had to read."""

    def __init__(self) -> None:
        self.num_read = 0

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        self.num_read += 1
        return super().encode(text, add_bos=add_bos)


def test_a_prompt_that_must_be_too_long_is_refused_unread():
    model = CountedModel()
    counted: TextModel = model
    fitting = encode_within_context(counted, "a" * (model.context_length - 1), add_bos=True, param="prompt")
    assert (len(fitting), model.num_read) == (model.context_length, 1)
    with pytest.raises(ContextLengthExceeded, match=r"64 in the prompt.*by the fewest tokens") as refused:
        encode_within_context(counted, "a" * model.context_length, add_bos=True, param="prompt")
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
    assert model.num_read == 1


def test_a_chat_is_one_prompt_as_its_template_writes_it() -> None:
    request = ChatRequest(OPTIONS, ({"role": "user", "content": "Hi"},))
    assert read_prompts(LetterModel(), request) == [Prompt(tuple(map(ord, "<user>Hi<assistant>")))]


def test_texts_and_token_ids_are_prompts_with_what_their_answers_begin_with() -> None:
    request = CompletionRequest(OPTIONS, ("a", (98, 99)), is_echoed=True)
    assert read_prompts(LetterModel(), request) == [Prompt((BOS, 97), "a"), Prompt((98, 99), "bc")]


@pytest.mark.parametrize(
    ("prompt", "error"), [((), InvalidRequest), ((1,) * 64, ContextLengthExceeded), ("a" * 63, ContextLengthExceeded)]
)
def test_a_prompt_leaves_room_for_an_answer(prompt: str | tuple[int, ...], error: type[InvalidRequest]) -> None:
    with pytest.raises(error) as refused:
        read_prompts(LetterModel(), CompletionRequest(OPTIONS, (prompt,)))
    assert refused.value.param == "prompt"
