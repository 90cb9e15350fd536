"""The structs of kernels.h, and the types of the library's functions."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from exo_lite.engine.torch_c.native.constants import FLOAT_CODES

FLOAT_TYPES: dict[torch.dtype, int] = {getattr(torch, name): code for name, code in FLOAT_CODES.items()}


class CLinear(Structure):
    _fields_ = (
        ("n", c_int32),
        ("k", c_int32),
        ("kind", c_int32),
        ("activation_bytes", c_int32),
        ("weight", c_void_p),
        ("steps", c_void_p),
        ("minima", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
    )


class CLayer(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("qkv", CLinear),
        ("output", CLinear),
        ("gate_up", CLinear),
        ("down", CLinear),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class CModel(Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("intermediate", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("context", c_int32),
        ("num_layers", c_int32),
        ("kv_type", c_int32),
        ("cache_tokens", c_int32),
        ("blocks_per_sequence", c_int32),
        ("block_tables", c_void_p),
        ("eps", c_float),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("layers", POINTER(CLayer)),
    )


class CRow(Structure):
    _fields_ = (("sequence", c_int32), ("position", c_int32))


class CScratch(Structure):
    _fields_ = tuple(
        (name, c_void_p)
        for name in ("qkv", "x", "bytes", "scales", "sums", "unpacked", "scores", "normed", "run_starts")
    )


class CFloatLinear(Structure):
    _fields_ = (("n", c_int32), ("k", c_int32), ("weight", c_void_p), ("bias", c_void_p))


class CFloatLayer(Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("qkv", CFloatLinear),
        ("output", CFloatLinear),
        ("gate_up", CFloatLinear),
        ("down", CFloatLinear),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class CFloatModel(Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("context", c_int32),
        ("num_layers", c_int32),
        ("type", c_int32),
        ("cache_tokens", c_int32),
        ("blocks_per_sequence", c_int32),
        ("block_tables", c_void_p),
        ("eps", c_float),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("layers", POINTER(CFloatLayer)),
    )


class CFloatScratch(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("hidden", "x", "wide", "scores"))


STRUCTS: dict[str, type[Structure]] = {
    "linear": CLinear,
    "layer": CLayer,
    "model": CModel,
    "row": CRow,
    "scratch": CScratch,
    "float_linear": CFloatLinear,
    "float_layer": CFloatLayer,
    "float_model": CFloatModel,
    "float_scratch": CFloatScratch,
}
"""The constants by their names in kernels.h, without `el_`."""


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a contiguous tensor's first element."""
    return None if tensor is None else tensor.data_ptr()


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the types of every function, so that pointers are not cut to 32 bits."""
    p, i, f = c_void_p, c_int32, c_float
    answering = {
        **{f"el_sizeof_{name}": () for name in STRUCTS},
        "el_has_threads": (),
        "el_all_finite": (p, c_int64),
        "el_embed": (p, i, p, i, c_int64, i, p),
    }
    others = {
        "el_forward": (p, p, i, p, p, i),
        "el_linear_rows": (p, p, p, f, i, p, p, i),
        "el_to_int4": (p, c_int64, p, p, p, i),
        "el_float_forward": (p, p, i, p, p, i),
        "el_float_linear_rows": (p, i, p, i, p, p, i),
        "el_greatest": (p, i, c_int64, p),
    }
    for signatures, result in ((answering, c_int32), (others, None)):
        for name, types in signatures.items():
            function = getattr(library, name)
            function.argtypes = types
            function.restype = result


def check_sizes(library: ctypes.CDLL) -> None:
    """Raise TypeError where a struct here has another size than in kernels.h. The library is declared."""
    for name, struct in STRUCTS.items():
        size = getattr(library, f"el_sizeof_{name}")()
        if size != ctypes.sizeof(struct):
            raise TypeError(f"el_{name} has {size} bytes in kernels.h, {struct.__name__} {ctypes.sizeof(struct)} here")
