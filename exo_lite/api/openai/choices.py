"""The choices of OpenAI's answers, whole and in chunks, for the two generating routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from exo_lite.api.openai.answer_documents import Document
from exo_lite.api.pieces import Collected, Piece, ScoredToken


@dataclass(frozen=True, slots=True)
class ChoiceDetails:
    """The fields of choices beside their text. `describe` makes the `logprobs` of the route, if they are wanted."""

    with_token_ids: bool
    describe: Callable[[Sequence[ScoredToken]], Document] | None = None

    def token_ids(self, token_ids: Sequence[int]) -> Document:
        return {"token_ids": list(token_ids)} if self.with_token_ids else {}

    def logprobs(self, scored: Sequence[ScoredToken]) -> Document | None:
        """Describe the tokens of a whole answer, if that is wanted."""
        return self.describe(scored) if self.describe else None

    def piece_logprobs(self, piece: Piece) -> Document | None:
        return self.logprobs(piece.scored) if piece.scored else None


def chat_choice(index: int, answer: Collected, details: ChoiceDetails) -> Document:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    tail = {"logprobs": details.logprobs(answer.scored), "finish_reason": answer.finish_reason}
    return {"index": index, "message": message, **tail, **details.token_ids(answer.token_ids)}


def chat_role_chunk(index: int) -> Document:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


def chat_chunks(index: int, piece: Piece, details: ChoiceDetails) -> list[Document]:
    """Make the deltas of one piece: its text, then, at the end of an answer, an empty one with the reason."""
    told = {"logprobs": details.piece_logprobs(piece), **details.token_ids(piece.token_ids)}
    end = {"index": index, "delta": {}, "finish_reason": piece.finish_reason}
    if not piece.text:
        return [{**end, **told}]
    text = {"index": index, "delta": {"content": piece.text}, "finish_reason": None, **told}
    return [text, {**end, "logprobs": None, **details.token_ids(())}] if piece.finish_reason else [text]


def completion_choice(
    index: int, answer: Collected, details: ChoiceDetails, *, echo: str, echoed: Sequence[ScoredToken] = ()
) -> Document:
    """`echoed` are the prompt's tokens, where they are scored."""
    scored = [*echoed, *(replace(one, text_offset=one.text_offset + len(echo)) for one in answer.scored)]
    tail = {"logprobs": details.logprobs(scored), "finish_reason": answer.finish_reason}
    return {"index": index, "text": echo + answer.text, **tail, **details.token_ids(answer.token_ids)}


def completion_chunk(index: int, piece: Piece, details: ChoiceDetails) -> Document:
    tail = {"logprobs": details.piece_logprobs(piece), "finish_reason": piece.finish_reason}
    return {"index": index, "text": piece.text, **tail, **details.token_ids(piece.token_ids)}
