#!/usr/bin/env bash
# transformers 5.23.0 reads `additional_special_tokens` of special_tokens_map.json after it has decided which tokens of
# added_tokens.json are special. In a folder as transformers 4.2x saved it (both files, no `added_tokens_decoder` in
# tokenizer_config.json) such a token is therefore plain: decode(..., skip_special_tokens=True) leaves it in the text.
# The same list in tokenizer_config.json makes it special.
#
# Seen with transformers 5.23.0, tokenizers 0.23.3:
#   special_tokens_map.json: 'hi<|user|>'
#   tokenizer_config.json: 'hi'
# Fails where that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3

found=$("$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer

for name in ("special_tokens_map.json", "tokenizer_config.json"):
    model = Path(sys.argv[1], name.partition(".")[0])
    model.mkdir()
    library = Tokenizer(models.BPE(vocab={"h": 0, "i": 1}, merges=[]))
    library.decoder = decoders.Fuse()
    library.save(str(model / "tokenizer.json"))
    files = {
        "config.json": {"model_type": "llama"},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
        "special_tokens_map.json": {},
        "added_tokens.json": {"<|user|>": 2},
    }
    files[name]["additional_special_tokens"] = ["<|user|>"]
    for file_name, content in files.items():
        (model / file_name).write_text(json.dumps(content))
    print(f"{name}: {AutoTokenizer.from_pretrained(model).decode([0, 1, 2], skip_special_tokens=True)!r}")
PYTHON
)
echo "$found"
expected="special_tokens_map.json: 'hi<|user|>'
tokenizer_config.json: 'hi'"
[ "$found" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
