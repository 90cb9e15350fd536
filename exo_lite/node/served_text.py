"""A served model's text side: its tokenizer and chat template, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from exo_lite.domain.chat import PromptFormat
from exo_lite.tokenizer.bounded_template import BoundedTemplate
from exo_lite.tokenizer.chat_template import ChatTemplate
from exo_lite.tokenizer.incremental import IncrementalDetokenizer
from exo_lite.tokenizer.model_tokenizer import ModelTokenizer
from exo_lite.tokenizer.stop_strings import StopStrings
from exo_lite.tokenizer.template_files import load_chat_template
from exo_lite.tokenizer.tokenizer_files import load_tokenizer


class AnswerText:
    """The text of one answer, token by token; ends before a stop string that begins after `min_tokens` tokens."""

    def __init__(
        self, tokenizer: ModelTokenizer, stops: Sequence[str], *, min_tokens: int = 0, skip_special: bool = True
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(tokenizer, skip_special=skip_special)
        self._stops = StopStrings(stops)
        self._num_tokens_left = min_tokens
        self.num_chars = 0
        """Decoded so far, those included that may belong to a stop string."""

    def push(self, token_id: int) -> tuple[str, bool]:
        """The text that is now certain, and whether a stop string was met."""
        text = self._detokenizer.push(token_id)
        self.num_chars += len(text)
        if self._num_tokens_left > 0:
            self._num_tokens_left -= 1
            return text, False
        return self._stops.push(text)

    def finish(self) -> str:
        """Return the text held back so far."""
        text, _ = self._stops.push(self._detokenizer.finish())
        return text + self._stops.finish()


class ServedText:
    """Usable from any thread. `default_template` serves where the model's files have no chat template of their own.

    Raises InvalidModel or UnsupportedModel.
    """

    def __init__(self, model_dir: Path, context_length: int, *, default_template: str | None = None) -> None:
        self.context_length = context_length
        self._model_dir = model_dir
        self._default_template = default_template
        self._tokenizer = load_tokenizer(model_dir)

    @property
    def stop_token_ids(self) -> frozenset[int]:
        return self._tokenizer.stop_token_ids

    def encode(self, text: str, *, add_bos: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_bos=add_bos)

    def min_tokens(self, text: str) -> int:
        return self._tokenizer.min_tokens(text)

    def render_chat(self, messages: Sequence[Mapping[str, object]], prompt_format: PromptFormat | None = None) -> str:
        """Raises InvalidRequest, InvalidModel or NotReady."""
        prompt_format = prompt_format or PromptFormat()
        return self._chat_template.render(
            messages,
            add_generation_prompt=prompt_format.add_generation_prompt,
            continues_last=prompt_format.continues_last,
            variables=prompt_format.variables,
        )

    @cached_property
    def _chat_template(self) -> BoundedTemplate | ChatTemplate:
        return load_chat_template(self._model_dir, self._tokenizer.special, default=self._default_template)

    def text_stream(self, stops: Sequence[str], *, min_tokens: int = 0, skip_special: bool = True) -> AnswerText:
        return AnswerText(self._tokenizer, stops, min_tokens=min_tokens, skip_special=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id)
