"""Which linear layers stay float32 in an int8 file."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tinybert_rt.format.layout import FLOAT_LINEARS, MAX_LAYERS

from .hf import ConversionError


def kept_linears(names: Collection[str], layers: int, dtype: str) -> list[str]:
    """The linear layers that `names` mean, in file order: `layers.3.ffn.out` is one, `layers.3` its four.

    Args:
        layers: encoder layers in the file. dtype: that of the file's weights.

    Raises ConversionError for a name that means none, and for names where the file is not int8.
    """
    if isinstance(names, str):
        raise ConversionError(f"keep_float is {names!r}: it must be a collection of names")
    if names and dtype != "int8":
        raise ConversionError(f"keep_float is for int8 files; all layers of a file of dtype {dtype} are float")
    known = [(f"layers.{layer}", f"layers.{layer}.{part}") for layer in range(layers) for part in FLOAT_LINEARS]
    for name in names:
        if not any(name in each for each in known):
            raise ConversionError(
                f"keep_float names {name!r}, which is no linear layer of this model; known: layers.N and layers.N.PART,"
                f" N from 0 to {layers - 1}, PART one of {', '.join(FLOAT_LINEARS)}"
            )
    return [linear for layer, linear in known if layer in names or linear in names]


def marks_tensor(kept: Collection[str]) -> np.ndarray:
    """The tensor "float_linears" for these linear layers, see FORMAT.md."""
    marks = np.zeros(MAX_LAYERS, np.uint8)
    for name in kept:
        _, layer, part = name.split(".", 2)
        marks[int(layer)] |= FLOAT_LINEARS[part]
    return marks
