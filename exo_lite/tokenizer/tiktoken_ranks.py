"""Llama 3's `tokenizer.model` in tiktoken's format: a line for each token, its bytes in base64 and its rank."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors

from exo_lite.domain.errors import InvalidModel, UnsupportedModel
from exo_lite.tokenizer.added_tokens import AddedToken, AddedTokens, check_distinct
from exo_lite.tokenizer.byte_level import LLAMA3_WORDS, byte_characters
from exo_lite.tokenizer.merges import pairs_of
from exo_lite.tokenizer.tokenizers_backend import TokenizersBackend, add_named_tokens
from exo_lite.tokenizer.whole_tokens import library_token

BOS_TOKEN = "<|begin_of_text|>"
EOS_TOKEN = "<|end_of_text|>"

NUM_RANKS = 128_000
NUM_SPECIAL_TOKENS = 256

_NAMED = (
    BOS_TOKEN,
    EOS_TOKEN,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d{1,9}\r?\n")

Ranks = dict[bytes, int]


def is_tiktoken_file(content: bytes) -> bool:
    """Decide by the first line; a SentencePiece file is a protobuf and starts with a byte that no such line has."""
    return _LINE.match(content) is not None


def llama3_backend(content: bytes, added: AddedTokens) -> TokenizersBackend:
    """Raises InvalidModel, and UnsupportedModel for the ranks of another model."""
    ranks = read_ranks(content)
    if len(ranks) != NUM_RANKS:
        raise UnsupportedModel(
            f"tokenizer.model has {len(ranks)} ranks; of this format, only Llama 3's with {NUM_RANKS} is known: "
            "put the model's tokenizer.json beside it"
        )
    check_distinct(added.by_id)
    special = _special_tokens(added.by_id)
    library = _byte_level_bpe(ranks, special)
    library.add_tokens([library_token(token) for token in special])
    add_named_tokens(library, added)
    library.post_processor = processors.TemplateProcessing(
        single=[special[0].content, "$A"], special_tokens=[(special[0].content, NUM_RANKS)]
    )
    return TokenizersBackend(library)


def read_ranks(content: bytes) -> Ranks:
    """Rank by the token's bytes. Raises InvalidModel unless the ranks count from 0 and every byte has one."""
    ranks: Ranks = {}
    for number, line in enumerate(content.splitlines()):
        encoded, _, rank = line.partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise InvalidModel(f"tokenizer.model: line {number + 1} is not base64 and a rank") from error
        if token in ranks or rank != b"%d" % number:
            raise InvalidModel(f"tokenizer.model: line {number + 1} repeats a token or is not of rank {number}")
        ranks[token] = number
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise InvalidModel("tokenizer.model lacks some of the 256 single bytes")
    return ranks


def _special_tokens(added: Mapping[int, AddedToken]) -> list[AddedToken]:
    """Return the tokens after the ranks in the order of their ids; the model's JSON files overrule Meta's own names."""
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(2, NUM_SPECIAL_TOKENS)]
    names = [*_NAMED, *reserved][:NUM_SPECIAL_TOKENS]
    tokens = {NUM_RANKS + index: AddedToken(name, is_special=True) for index, name in enumerate(names)} | dict(added)
    if sorted(tokens) != list(range(NUM_RANKS, NUM_RANKS + len(tokens))):
        raise InvalidModel(f"the added tokens of tokenizer.model do not have the ids from {NUM_RANKS} on, without gaps")
    ordered = [tokens[token_id] for token_id in sorted(tokens)]
    if len({token.content for token in ordered}) != len(ordered):
        raise InvalidModel("tokenizer_config.json gives one of Llama 3's special tokens another id")
    return ordered


def _byte_level_bpe(ranks: Ranks, special: list[AddedToken]) -> tokenizers.Tokenizer:
    characters = byte_characters()
    words = {token: token.decode("latin-1").translate(characters) for token in ranks}
    vocab = {words[token]: rank for token, rank in ranks.items()}
    for index, token in enumerate(special):
        if vocab.setdefault(token.content, len(ranks) + index) < len(ranks):
            raise InvalidModel(f"the added token {token.content!r} stands in tokenizer.model already")
    merges = [(words[left], words[right]) for left, right in merges_by_rank(ranks)]
    library = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_WORDS), behavior="isolated", invert=False)
    to_characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([split, to_characters])
    library.decoder = decoders.ByteLevel()
    return library


def merges_by_rank(ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two others, the token with the lowest rank first.

    tiktoken always joins the neighbours whose whole ranks lowest; a list of merges in this order does the same.
    """
    return [pair for token in sorted(ranks, key=ranks.__getitem__) for pair in _ranked_pairs(token, ranks)]


def _ranked_pairs(token: bytes, ranks: Ranks) -> list[tuple[bytes, bytes]]:
    return sorted(pairs_of(token, ranks), key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
