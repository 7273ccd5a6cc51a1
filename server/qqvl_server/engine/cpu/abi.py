"""The border to the C++ (``cpp/kernels.cpp``): its structures and functions as ctypes has them, compared when loaded.

A field that stood elsewhere would be memory that is overwritten, before any check of what the kernels give.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import torch

_P, _N, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float

# What rows and weights may be made of, as ``Kind`` in the C++.
KINDS: Final = {torch.float32: 0, torch.bfloat16: 1}


class NativeLayer(ctypes.Structure):
    """A layer's measures, and where its weights and its part of the cache are.

    Addresses only: whoever makes one keeps what they are of.
    """

    _fields_ = [
        *((name, _N) for name in ("hidden", "inner", "heads", "kv_heads", "head_dim", "weight_kind")),
        *((name, _F) for name in ("first_eps", "head_eps", "second_eps", "scaling")),
        *((name, _P) for name in ("first_norm", "joined", "query_norm", "key_norm", "projection", "second_norm")),
        *((name, _P) for name in ("gate_up", "down", "keys", "values")),
    ]


class NativeStep(ctypes.Structure):
    """The rows of a step: decodes of one token each, then prefills."""

    _fields_ = [
        *((name, _N) for name in ("block_size", "decodes", "columns", "prefills")),
        *((name, _P) for name in ("table", "lengths", "starts", "chunks", "blocks", "scratch")),
    ]


class NativeChunk(ctypes.Structure):
    """A prefill: its first row, that row's position, how many rows it has, and where its blocks begin."""

    _fields_ = [(name, _N) for name in ("row", "start", "count", "blocks")]


class _Field(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("offset", _N), ("size", _N)]


_STRUCTURES: Final[dict[str, type[ctypes.Structure]]] = {
    "qqvl_layer_fields": NativeLayer,
    "qqvl_step_fields": NativeStep,
    "qqvl_chunk_fields": NativeChunk,
}
# First of each that takes it: the kind of its rows.
_FUNCTIONS: Final[dict[str, list[Any]]] = {
    "qqvl_takes": [_I] * 5,
    "qqvl_attend": [_I, _P, _P, _P, _I, _I, _I, _P, _F, _I, _P],
    "qqvl_norm": [_I, _P, _P, _P, _F, _N, _I, _I, _P, _P],
    "qqvl_rotate_and_store": [_I, _P, _P, _P, _F, _P, _P, _P, _N, _I, _I, _I, _I, _P, _P, _P],
    "qqvl_silu_multiply": [_I, _P, _N, _I, _I, _P],
    "qqvl_has_matmul": [_I, _I],
    "qqvl_matmul": [_I, _I, _P, _P, _N, _N, _N, _I, _P],
    "qqvl_layers": [_I, _P, _I, _P, _N, _P, _P, _P, _I, _P, _P],
    "qqvl_number_size": [_I],
    "qqvl_span": [],
}
_GIVE_NUMBERS: Final = ("qqvl_takes", "qqvl_has_matmul", "qqvl_number_size", "qqvl_span")


def load(library: Path) -> ctypes.CDLL:
    """The compiled library, its functions ready to be called.

    Raises:
        OSError: it does not load beside this torch, or its structures or kinds are not those of this file.
    """
    loaded = ctypes.CDLL(str(library))
    for name, structure in _STRUCTURES.items():
        ours = _layout(structure)
        theirs = _told(loaded, name)
        if ours != theirs:
            raise OSError(f"{library.name}: {structure.__name__} is {theirs}, not {ours}")
    for name, arguments in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.argtypes = arguments
        function.restype = _I if name in _GIVE_NUMBERS else None
    sizes = {dtype: loaded.qqvl_number_size(kind) for dtype, kind in KINDS.items()}
    if sizes != {dtype: dtype.itemsize for dtype in KINDS}:
        raise OSError(f"{library.name}: bytes of a number are {sizes}")
    return loaded


# A structure's size, and each field's name, offset and size.
_Layout = tuple[int, list[tuple[str, int, int]]]


def _layout(structure: type[ctypes.Structure]) -> _Layout:
    fields = [(field[0], getattr(structure, field[0])) for field in structure._fields_]
    return ctypes.sizeof(structure), [(name, field.offset, field.size) for name, field in fields]


def _told(loaded: ctypes.CDLL, name: str) -> _Layout:
    function = getattr(loaded, name, None)
    if function is None:
        raise OSError(f"no function {name}")
    function.argtypes, function.restype = [_P, _P], ctypes.POINTER(_Field)
    size, count = _N(), _N()
    fields = function(ctypes.byref(size), ctypes.byref(count))
    return size.value, [(fields[n].name.decode(), fields[n].offset, fields[n].size) for n in range(count.value)]
