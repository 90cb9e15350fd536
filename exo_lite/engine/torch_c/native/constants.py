"""The numbers that the kernels share with Python, as the compiler takes them: kernels.h says what each is."""

from __future__ import annotations

from exo_lite.domain.step import KV_BLOCK_TOKENS
from exo_lite.engine.torch_c.weight_format import GROUP_SIZE, MAX_Q, STEP_PARTS, TILE, WEIGHT_OFFSET

LANES = TILE
"""Floats in a vector: heads and the float engine's rows are whole vectors."""
QUERIES = 4
"""Queries that attend together."""
KINDS = {"int8": 0, "int4": 1}
FLOAT_CODES = {"float32": 0, "bfloat16": 1, "float16": 2}

CONSTANTS = {
    "EL_TILE": TILE,
    "EL_GROUP": GROUP_SIZE,
    "EL_WEIGHT_OFFSET": WEIGHT_OFFSET,
    "EL_STEP_PARTS": STEP_PARTS,
    "EL_MAX_Q8": MAX_Q[1],
    "EL_MAX_Q16": MAX_Q[2],
    "EL_BLOCK": KV_BLOCK_TOKENS,
    "EL_QUERIES": QUERIES,
    **{f"EL_{name.upper()}": code for name, code in {**KINDS, **FLOAT_CODES}.items()},
}


def as_flags() -> tuple[str, ...]:
    """The constants as a C compiler's flags."""
    return tuple(f"-D{name}={value}" for name, value in CONSTANTS.items())
