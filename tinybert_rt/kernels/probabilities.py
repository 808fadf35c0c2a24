"""Scores of a head's labels, in place: softmax and the logistic function over rows of a few labels."""

from __future__ import annotations

import math

import numpy as np

from tinybert_rt.config import ACTIVATIONS, HEAD_ACTIVATIONS
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.math import activate, exp2
from tinybert_rt.kernels.memory import load_f32, store_f32
from tinybert_rt.kernels.vector import first_lanes, load_f32x16, maximum, reduce_add, reduce_max, splat_f32, store_f32x16

_F = np.float32
_ONE = _F(1.0)
_HUGE = _F(3.0e38)
_LOG2_E = _F(math.log2(math.e))
_HEAD_TANH = HEAD_ACTIVATIONS["tanh"]
_HEAD_GELU = HEAD_ACTIVATIONS["gelu"]
_GELU = ACTIVATIONS["gelu"]
_RELU = ACTIVATIONS["relu"]


@kernel
def softmax_row(x, count):  # type: ignore[no-untyped-def]
    """exp(x − max x) / Σ exp(x − max x) over the first `count` ≥ 1 of float32 [count padded to a multiple of 16]; the rest becomes 0."""
    lowest = splat_f32(-_HUGE)
    highest = lowest
    for i in range(0, count, 16):
        highest = maximum(highest, first_lanes(count - i, load_f32x16(x + 4 * i), lowest))
    top = splat_f32(reduce_max(highest))
    total = splat_f32(_F(0.0))
    for i in range(0, count, 16):
        value = exp2((load_f32x16(x + 4 * i) - top) * splat_f32(_LOG2_E))
        value = first_lanes(count - i, value, splat_f32(_F(0.0)))
        store_f32x16(x + 4 * i, value)
        total = total + value
    factor = splat_f32(_ONE / reduce_add(total))
    for i in range(0, count, 16):
        store_f32x16(x + 4 * i, load_f32x16(x + 4 * i) * factor)


@kernel
def logistic_row(x, count):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(−x)) over float32 [count padded to a multiple of 16]."""
    for i in range(0, count, 16):
        store_f32x16(x + 4 * i, splat_f32(_ONE) / (splat_f32(_ONE) + exp2(load_f32x16(x + 4 * i) * splat_f32(-_LOG2_E))))


@kernel
def tanh_row(x, width):  # type: ignore[no-untyped-def]
    """tanh(x) = 1 − 2 / (1 + exp(2x)) over float32 [width], width a multiple of 16; absolute error below 2e-7."""
    for i in range(0, width, 16):
        power = exp2(load_f32x16(x + 4 * i) * splat_f32(_F(2.0) * _LOG2_E))
        store_f32x16(x + 4 * i, splat_f32(_ONE) - splat_f32(_F(2.0)) / (splat_f32(_ONE) + power))


@kernel
def activate_row(kind, x, width):  # type: ignore[no-untyped-def]
    """The activation of `layout.HEAD_ACTIVATIONS` with number `kind` over float32 [width], width a multiple of 16, in place."""
    if kind == _HEAD_TANH:
        tanh_row(x, width)
    elif kind != 0:
        activation = _GELU if kind == _HEAD_GELU else _RELU
        for i in range(0, width, 16):
            store_f32x16(x + 4 * i, activate(activation, load_f32x16(x + 4 * i)))


@kernel
def copy_row(source, target, count):  # type: ignore[no-untyped-def]
    """`count` float32 values to memory that has no room for more."""
    for i in range(count):
        store_f32(target + 4 * i, load_f32(source + 4 * i))
