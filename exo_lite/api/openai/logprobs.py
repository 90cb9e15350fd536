"""Log probabilities as OpenAI's two generating routes tell them."""

from __future__ import annotations

from collections.abc import Sequence

from exo_lite.api.daemon_api import TextModel
from exo_lite.api.openai.answer_documents import Document
from exo_lite.api.pieces import ScoredToken
from exo_lite.domain.request import Logprobs


def chat_logprobs(model: TextModel, scored: Sequence[ScoredToken]) -> Document:
    """`logprobs` of a chat choice."""
    content = [
        {
            **_token_document(model, one.token_id, one.logprobs.chosen),
            "top_logprobs": [_token_document(model, *top) for top in one.logprobs.top],
        }
        for one in scored
        if one.logprobs is not None
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(model: TextModel, scored: Sequence[ScoredToken]) -> Document:
    """`logprobs` of a completion choice: null for the first token of an echoed prompt."""
    return {
        "tokens": [_token_name(model, one.token_id) for one in scored],
        "token_logprobs": [one.logprobs and one.logprobs.chosen for one in scored],
        "top_logprobs": [_by_text(model, one) for one in scored],
        "text_offset": [one.text_offset for one in scored],
    }


def _token_document(model: TextModel, token_id: int, logprob: float) -> Document:
    """Part of a character becomes U+FFFD in `token`; `bytes` tells which."""
    data = model.token_bytes(token_id)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def echoed_tokens(model: TextModel, token_ids: Sequence[int], logprobs: Sequence[Logprobs]) -> list[ScoredToken]:
    """A prompt's tokens, of which all but the first have log probabilities."""
    stream = model.text_stream(())
    echoed: list[ScoredToken] = []
    for token_id, one in zip(token_ids, [None, *logprobs], strict=True):
        echoed.append(ScoredToken(token_id, one, stream.num_chars))
        stream.push(token_id)
    return echoed


def _by_text(model: TextModel, scored: ScoredToken) -> dict[str, float] | None:
    """The likeliest tokens and the sampled one. Of several with the same text, the sampled or else the likeliest."""
    if scored.logprobs is None:
        return None
    found = {_token_name(model, scored.token_id): scored.logprobs.chosen}
    for token_id, logprob in scored.logprobs.top:
        found.setdefault(_token_name(model, token_id), logprob)
    return found


def _token_name(model: TextModel, token_id: int) -> str:
    """Its text; parts of characters, which have none, in OpenAI's way: `bytes:\\xe3\\x81`."""
    data = model.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
