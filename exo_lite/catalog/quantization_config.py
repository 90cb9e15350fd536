"""How a config.json says that its weights are quantized, in the spellings of the tools that do so."""

from __future__ import annotations

from collections.abc import Mapping

from exo_lite.catalog.fields import Fields
from exo_lite.domain.errors import UnsupportedModel

_METHODS = {"quantization_config": None, "compression_config": "compressed-tensors", "quantization": "mlx"}
"""Keys, and the method of those that only one tool writes."""
_UNNAMED = "a method that it does not name"
_MAX_TEXT_CHARS = 40


def refuse_quantized(config: Fields) -> None:
    """Raise UnsupportedModel naming the method and the way out."""
    for key, method in _METHODS.items():
        value = config.get(key)
        if value is not None:
            table = value if isinstance(value, Mapping) else {}
            raise UnsupportedModel(
                f"the weights are quantized with {_described(table, method)} ({key}), which is not read: "
                "fetch the original weights and load them with --quant int8 or int4"
            )


def _described(table: Mapping[str, object], method: str | None) -> str:
    parts = [
        method or _text(table, "quant_method") or _implied(table) or _UNNAMED,
        _text(table, "format"),
        _bits(table),
    ]
    return ", ".join(part for part in parts if part)


def _implied(table: Mapping[str, object]) -> str | None:
    """bitsandbytes' configs did not always name it."""
    return "bitsandbytes" if "load_in_4bit" in table or "load_in_8bit" in table else None


def _bits(table: Mapping[str, object]) -> str | None:
    bits = table.get("bits")
    if isinstance(bits, int) and not isinstance(bits, bool) and 0 < bits < 100:
        return f"{bits} bits"
    flagged = [number for number in (4, 8) if table.get(f"load_in_{number}bit") is True]
    return f"{flagged[0]} bits" if flagged else None


def _text(table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    return value[:_MAX_TEXT_CHARS] if isinstance(value, str) else None
