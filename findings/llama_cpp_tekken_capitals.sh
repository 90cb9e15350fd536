#!/usr/bin/env bash
# GGUF, `tokenizer.ggml.pre` = tekken: Mistral's expression cuts a word where a small letter is followed by a capital one
# (\p{Ll}, \p{Lu}). llama.cpp's stands for it with ASCII's letters, so that a word like "éÉ" or "приветМир" stays whole
# there, and merges across the cut can give other tokens than the model was trained on.
#
# Seen with xllamacpp 2026.10.11549 (llama.cpp) and tokenizers 0.23.3, one vocabulary of bytes with é, É and éÉ:
#   Mistral's expression: aA [64, 32], éÉ [256, 257]
#   llama.cpp: aA [64, 32], éÉ [258]
# Fails where that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    xllamacpp==2026.10.11549 tokenizers==0.23.3 gguf==0.19.0

cat >"$folder/tekken.py" <<'PYTHON'
import json
import sys
import urllib.request

import gguf
import numpy as np
import xllamacpp
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

TEXTS = ["aA", "éÉ"]
MISTRALS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
small, capital = "Ã©", "Ãī"  # the bytes of é and É in the alphabet of byte-level BPE
printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
tokens = [*map(chr, printable), *(chr(256 + n) for n in range(68)), small, capital, small + capital]
merges = [(small[0], small[1]), (capital[0], capital[1]), (small, capital)]
assert len(tokens) == 259

model = models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
library = Tokenizer(model)
cut = pre_tokenizers.Split(Regex(MISTRALS), "isolated")
library.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
ids = [library.encode(text).ids for text in TEXTS]
print("Mistral's expression:", ", ".join(f"{text} {one}" for text, one in zip(TEXTS, ids)))

writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_block_count(1)
writer.add_feed_forward_length(32)
writer.add_head_count(1)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("tekken")
writer.add_token_list([*tokens, "<s>", "</s>"])
writer.add_token_types([1] * len(tokens) + [3, 3])
writer.add_token_merges([f"{left} {right}" for left, right in merges])
writer.add_bos_token_id(259)
writer.add_eos_token_id(260)
for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))
for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
    writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
writer.add_tensor("token_embd.weight", np.zeros((261, 32), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 64
params.warmup = False
params.port = 0  # on loopback
server = xllamacpp.Server(params)
ids = []
for text in TEXTS:
    body = json.dumps({"content": text, "add_special": False}).encode()
    request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        ids.append(json.load(reply)["tokens"])
print("llama.cpp:", ", ".join(f"{text} {one}" for text, one in zip(TEXTS, ids)))
PYTHON

found=$("$folder/venv/bin/python" "$folder/tekken.py" "$folder/tiny.gguf" 2>/dev/null)
echo "$found"
expected="Mistral's expression: aA [64, 32], éÉ [256, 257]
llama.cpp: aA [64, 32], éÉ [258]"
[ "$found" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
