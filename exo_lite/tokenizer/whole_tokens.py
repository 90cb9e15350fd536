"""A text split into its added tokens and the parts between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import tokenizers
from tokenizers import models

from exo_lite.tokenizer.added_tokens import AddedToken

_BETWEEN = ""
"""Names the one word of the library's vocabulary; no added token is empty."""


def library_token(token: AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.is_special,
    )


class WholeTokens:
    """Finds added tokens as the tokenizers library does, with the white space that they take in.

    It tokenizes with a vocabulary of these tokens alone: all that stands between two of them is one unknown word.
    """

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        """The texts of the tokens are distinct and not empty."""
        self._library = tokenizers.Tokenizer(models.WordLevel({_BETWEEN: 0}, unk_token=_BETWEEN))
        self._library.add_tokens([library_token(token) for token in tokens.values()])
        self._token_ids = {self._library.token_to_id(token.content): token_id for token_id, token in tokens.items()}

    def cut(self, text: str) -> Iterator[tuple[int | None, slice]]:
        """Each added token's id with its part of the text, and None with each part in between."""
        [encoding] = self._library.encode_batch(
            [text], add_special_tokens=False
        )  # lets other threads run, unlike encode
        for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            yield self._token_ids.get(index), slice(start, end)
