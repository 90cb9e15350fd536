#!/usr/bin/env bash
# gguf 0.19.0 (PyPI): GGUFReader gives an array of arrays back as one flat list.
#
# Its own GGUFWriter writes [[1, 2], [3, 4]]; the file holds both levels, and ReaderField.types tells of two of them, but
# contents() is [1, 2, 3, 4]. So whoever reads nested metadata with it cannot tell how it was grouped.
# Seen: [1, 2, 3, 4] ['ARRAY', 'ARRAY', 'INT32']. Expected: [[1, 2], [3, 4]].
# Exit code 0: it still does so; 1: it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0

seen=$("$folder/venv/bin/python" - "$folder/nested.gguf" <<'PY'
import sys

import gguf

writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_array("pairs", [[1, 2], [3, 4]])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.close()
field = gguf.GGUFReader(sys.argv[1]).fields["pairs"]
print(field.contents(), [one.name for one in field.types])
PY
)
echo "gguf 0.19.0: wrote [[1, 2], [3, 4]], read $seen"
[ "$seen" = "[1, 2, 3, 4] ['ARRAY', 'ARRAY', 'INT32']" ]
