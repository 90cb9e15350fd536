"""Write `integration/llama_cpp_ids.json`: how llama.cpp tokenizes a few texts in each way of cutting them.

    pip install --no-deps xllamacpp==2026.10.11549
    python -m tests.llama_cpp_ids

The vocabulary is Meta's for Llama 3, whichever way: a text's ids then depend on where it is cut.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path

import gguf
import numpy as np

from exo_lite.store.gguf.pre_tokenizers import CUTTINGS
from exo_lite.tokenizer.byte_level import byte_characters
from exo_lite.tokenizer.tiktoken_ranks import merges_by_rank, read_ranks
from tests.wheel_files import LLAMA3_TOKENIZER, fetch

CACHE = Path(__file__).parent.parent / ".cache" / "tokenizers"
IDS = Path(__file__).parent / "integration" / "llama_cpp_ids.json"
TEXTS = [
    "The capital of France is Paris.",
    "  leading and trailing  ",
    "def f(x):\n\treturn x ** 2\r\n\n\n#\t\ttabs \t mixed\n    }\n",
    "日本語の文章。中文句子,한국어 문장 カタカナ",
    "👍🏽 🇯🇵 ☕️ 😀😀",
    "العربية עברית ไทย አማርኛ हिन्दी",
    "0 12 345 6789 1234567890 3.14159 1e-9 10,000",
    "It's YOU'LL we'RE they've I'm he'd can't",
    "CamelCaseWords and XMLHttpRequest snake_case-kebab",
    "a" * 40 + "=" * 17 + "ab" * 9,
    "https://example.org/a/b?c=d&e=f#g (see [1], {2})",
    "\n\n\n \n \t\n  x",
    "price: $1,234.56 + 7% = `code` ^caret~ |pipe| <tag>",
    "Привет, мир! Ελληνικά Ünïcödé naïve façade",
    "…—“quotes” «guillemets» ‹low› ¿qué?",  # noqa: RUF001  # quotation marks of several languages
    "x1y2z3 v2.0.1-rc.4 0xFF 2024-11-30T10:30:00Z",
]


def main() -> None:
    ranks = read_ranks(fetch(LLAMA3_TOKENIZER, CACHE).read_bytes())
    ways = sorted({cutting: name for name, cutting in reversed(list(CUTTINGS.items()))}.values())
    ids = {way: _ids_of(way, ranks) for way in ways}
    IDS.write_text(json.dumps({"texts": TEXTS, "ids": ids}, ensure_ascii=False) + "\n", encoding="utf-8")


def _ids_of(way: str, ranks: dict[bytes, int]) -> list[list[int]]:
    import xllamacpp  # type: ignore[import-not-found]  # no dependency: only this script wants it

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        _write(path, way, ranks)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 64
        params.warmup = False
        params.port = 0
        server = xllamacpp.Server(params)
        return [_ask(f"{server.listening_address}/tokenize", text) for text in TEXTS]


def _ask(url: str, text: str) -> list[int]:
    body = json.dumps({"content": text, "add_special": False}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return list(json.load(reply)["tokens"])


def _write(path: Path, way: str, ranks: dict[bytes, int]) -> None:
    """A model of one layer: only its vocabulary is asked for."""
    characters = byte_characters()
    words = ["".join(characters[byte] for byte in token) for token in ranks]
    merges = [" ".join("".join(characters[byte] for byte in part) for part in pair) for pair in merges_by_rank(ranks)]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(way)
    writer.add_token_list([*words, "<s>", "</s>"])
    writer.add_token_types([1] * len(words) + [3, 3])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(words))
    writer.add_eos_token_id(len(words) + 1)
    square = np.zeros((32, 32), np.float32)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((len(words) + 2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
