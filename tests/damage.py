"""Sound files with random damage, always the same for a seed."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**300, 0.5, 1e30, float("nan"), float("inf"), "", "x", "..",
    "a" * 300, "\ud800", "\0", "../x", "/etc/passwd", [], [[]], [None] * 5, [{"name": []}], ["default"], {}, {"a": {}},
    {"content": 1}, {"rope_type": "linear", "factor": 4.0}, {"type": []}, {"quant_method": []},
)  # fmt: skip
ODD_KEYS = (
    "architectures", "model_type", "dtype", "torch_dtype", "head_dim", "rope_scaling", "layer_types", "eos_token_id",
    "quantization_config", "bos_token", "added_tokens_decoder", "sliding_window", "pad_token", "weight_map",
)  # fmt: skip
"""chat_template is not among them: each one that is rendered takes a process."""
ODD_TEXTS = ("", "]", "{", "\\ud800", "1e999", "-", "[" * 5000, '{"a":' * 5000, "1" * 5000, "\0")


def damaged_document(document: Any, random: Random) -> Any:
    """The same with one to three values lost, replaced or added, at any depth."""
    changed = copy.deepcopy(document)
    for _ in range(random.randint(1, 3)):
        _change_one(changed, random)
    return changed


def damaged_json(document: Any, random: Random) -> bytes:
    """A damaged document as JSON, which now and then is none."""
    text = json.dumps(damaged_document(document, random), ensure_ascii=random.random() < 0.9)
    position = random.randrange(len(text))
    kind = random.random()
    if kind < 0.1:
        text = text[:position] + random.choice(ODD_TEXTS) + text[position + 1 :]
    elif kind < 0.15:
        text = text[:position]
    return text.encode(errors="surrogatepass")


def damaged_bytes(content: bytes, random: Random, *, header_bytes: int) -> bytes:
    """The same with some bytes changed, most of them in the first `header_bytes`, or with its end cut off."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 6)):
        position = random.randrange(header_bytes if random.random() < 0.9 else len(changed))
        length = random.choice((1, 1, 1, 4, 8))
        changed[position : position + length] = bytes([random.choice((0, 1, 255, random.randrange(256)))]) * length
    return bytes(changed[: random.randrange(len(changed))] if random.random() < 0.1 else changed)


def _change_one(node: Any, random: Random) -> None:
    while isinstance(node, dict | list) and node:
        key = random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.7:
            node = node[key]
            continue
        kind = random.random()
        if kind < 0.6:
            node[key] = copy.deepcopy(random.choice(ODD_VALUES))
        elif kind < 0.8:
            del node[key]
        elif isinstance(node, dict):
            node[random.choice(ODD_KEYS)] = copy.deepcopy(random.choice(ODD_VALUES))
        return
