"""Elementary functions on 16 lanes: exp2, log2, GELU (erf and tanh), ReLU. Own polynomials, the same bytes on every level.

Coefficients are weighted minimax fits (iteratively reweighted least squares on Chebyshev nodes); `tests/test_kernels.py`
measures the stated errors against float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir

from tinybert_rt.config import ACTIVATIONS
from tinybert_rt.isa import lowering
from tinybert_rt.isa.lowering import F32, F32X16, I32, I32X16
from tinybert_rt.kernels.jit import inline
from tinybert_rt.kernels.vector import (
    absolute,
    as_f32,
    as_i32,
    f32x16,
    fma,
    maximum,
    minimum,
    operation,
    splat_f32,
    splat_i32,
    to_f32,
)

_F = np.float32
_ZERO = _F(0.0)
_ONE = _F(1.0)
_EXP2_LOWEST = _F(-126.0)
_EXP2_HIGHEST = _F(127.0)
_E0, _E1, _E2, _E3, _E4, _E5 = (
    _F(1.0),
    _F(0.6931469440460205),
    _F(0.24022120237350464),
    _F(0.05550713092088699),
    _F(0.009675540961325169),
    _F(0.001327647129073739),
)
_L0, _L1, _L2, _L3, _L4, _L5, _L6 = (
    _F(1.442699670791626),
    _F(-0.7213758826255798),
    _F(0.48046502470970154),
    _F(-0.3589618504047394),
    _F(0.29726266860961914),
    _F(-0.2726978361606598),
    _F(0.17063409090042114),
)
_SQRT_HALF_BITS = 0x3F3504F3
_ROUND_MAGIC = _F(12582912.0)
_N0, _N1, _N2, _N3 = (
    _F(0.9999280571937561),
    _F(0.6932609677314758),
    _F(0.2426111251115799),
    _F(0.0551716573536396),
)
_LEVELS = _F(255.0 / 256.0)
_GELU_CUT = _F(6.0)
_LOWEST = _F(-125.0)
GELU_NEAR = (-1.1276818, -0.50021295, -0.02458257), (-0.9973218, -0.69045191, -0.241096, -0.05846234)
"""H and M of −Φ(−t) ≈ M(f)·2**n, n + f = −1 + t·H(t): polynomials, the constant first, fitted together."""
GELU_TANH_NEAR = (-1.16134429, -0.45653655, -0.03966767), (-1.0020787, -0.69493562, -0.24261955, -0.0541937)
"""The same of 1 / (1 + exp(2u)) in the place of Φ(−t), u as in `gelu_tanh`."""
_DEGREES = 3
_G0, _G1, _G2, _G3, _G4, _G5, _G6 = (
    _F(-1.1511269807815552),
    _F(-0.4590439200401306),
    _F(-0.052948564291000366),
    _F(0.007670782972127199),
    _F(-0.0005757858161814511),
    _F(-1.2798291209037416e-05),
    _F(4.278751021047356e-06),
)
_TANH_LINEAR = _F(-2.0 * math.log2(math.e) * math.sqrt(2.0 / math.pi))
_TANH_CUBIC = _F(-2.0 * math.log2(math.e) * math.sqrt(2.0 / math.pi) * 0.044715)
_GELU = ACTIVATIONS["gelu"]
_GELU_TANH = ACTIVATIONS["gelu_tanh"]


@inline
def exp2(x):  # type: ignore[no-untyped-def]
    """2**x of f32x16, |x| cut to −126…127; relative error below 2.5e-7. The result is never subnormal."""
    x = minimum(maximum(x, splat_f32(_EXP2_LOWEST)), splat_f32(_EXP2_HIGHEST))
    shifted = x + splat_f32(_ROUND_MAGIC)  # its low bits are the nearest integer
    fraction = x - (shifted - splat_f32(_ROUND_MAGIC))
    power = fma(splat_f32(_E5), fraction, splat_f32(_E4))
    power = fma(power, fraction, splat_f32(_E3))
    power = fma(power, fraction, splat_f32(_E2))
    power = fma(power, fraction, splat_f32(_E1))
    power = fma(power, fraction, splat_f32(_E0))
    return as_f32(as_i32(power) + (as_i32(shifted) << splat_i32(23)))


@inline
def exp2_levels(x):  # type: ignore[no-untyped-def]
    """255·2**x of f32x16, x ≤ 0, for results that are rounded to 8 bits next; relative error below 8e-5.

    x below −125 gives what −125 gives.
    """
    x = maximum(x, splat_f32(_LOWEST))
    shifted = x + splat_f32(_ROUND_MAGIC + _F(8.0))  # 255 = 255/256·2**8
    fraction = x - (shifted - splat_f32(_ROUND_MAGIC + _F(8.0)))
    power = fma(splat_f32(_N3 * _LEVELS), fraction, splat_f32(_N2 * _LEVELS))
    power = fma(power, fraction, splat_f32(_N1 * _LEVELS))
    power = fma(power, fraction, splat_f32(_N0 * _LEVELS))
    return as_f32(as_i32(power) + (as_i32(shifted) << splat_i32(23)))


@inline
def log2(x):  # type: ignore[no-untyped-def]
    """log2 of f32x16, x normal and positive; absolute error below 4e-7 near 1, else that of rounding the result."""
    bits = as_i32(x)
    exponent = (bits - splat_i32(_SQRT_HALF_BITS)) >> splat_i32(23)
    f = as_f32(bits - (exponent << splat_i32(23))) - splat_f32(_ONE)
    p = fma(splat_f32(_L6), f, splat_f32(_L5))
    p = fma(p, f, splat_f32(_L4))
    p = fma(p, f, splat_f32(_L3))
    p = fma(p, f, splat_f32(_L2))
    p = fma(p, f, splat_f32(_L1))
    p = fma(p, f, splat_f32(_L0))
    return fma(p, f, to_f32(exponent))


@inline
def gelu(x):  # type: ignore[no-untyped-def]
    """x·Φ(x) with the normal distribution function Φ (Hendrycks and Gimpel 2016, the exact form); error below 4e-7.

    With t = min(|x|, 6): gelu(x) = max(x, 0) − t·Φ(−t), and −log2 Φ(−t) = 1 + t·P(t), P a polynomial of degree 6.
    """
    t = minimum(absolute(x), splat_f32(_GELU_CUT))
    p = fma(splat_f32(_G6), t, splat_f32(_G5))
    p = fma(p, t, splat_f32(_G4))
    p = fma(p, t, splat_f32(_G3))
    p = fma(p, t, splat_f32(_G2))
    p = fma(p, t, splat_f32(_G1))
    p = fma(p, t, splat_f32(_G0))
    tail = exp2(fma(p, t, splat_f32(-_ONE)))
    return maximum(x, splat_f32(_ZERO)) - t * tail


Polynomials = tuple[tuple[float, ...], tuple[float, ...]]


def gelu_near_constants(builder: Any, polynomials: Polynomials) -> list[ir.Value]:
    """What `build_gelu_near` needs, once for all the vectors of a tile: read from memory for each, they would take longer than the sums."""
    values = (-1.0, _ROUND_MAGIC, *polynomials[0], *polynomials[1])
    floats = [lowering.in_register(builder, lowering.constant_vector(F32, float(value))) for value in values]
    return [lowering.constant_vector(I32, int(_GELU_CUT.view(np.int32))), *floats]


def build_gelu_near(builder: Any, x: ir.Value, constants: list[ir.Value]) -> ir.Value:
    """As `gelu` or `gelu_tanh`, by shorter polynomials; error below 6e-5 or 8e-5, for results that are rounded to 8 bits next."""
    cut, minus_one, magic, *coefficients = constants
    h, m = coefficients[:_DEGREES], coefficients[_DEGREES:]
    # The smaller magnitude is found as an integer: the units that compare floats have more to do here than the others.
    magnitude = builder.and_(builder.bitcast(x, I32X16), lowering.constant_vector(I32, 0x7FFFFFFF))
    t = builder.bitcast(builder.select(builder.icmp_unsigned("<", magnitude, cut), magnitude, cut), F32X16)
    zero = ir.Constant(F32X16, None)
    positive = builder.select(builder.fcmp_ordered(">", x, zero), x, zero)
    exponent = lowering.fma(builder, _polynomial(builder, h, t), t, minus_one)
    shifted = builder.fadd(exponent, magic)
    power = _polynomial(builder, m, builder.fsub(exponent, builder.fsub(shifted, magic)))
    tail = builder.add(builder.bitcast(power, I32X16), builder.shl(builder.bitcast(shifted, I32X16), lowering.constant_vector(I32, 23)))
    return lowering.fma(builder, t, builder.bitcast(tail, F32X16), positive)


def _polynomial(builder: Any, coefficients: list[ir.Value], x: ir.Value) -> ir.Value:
    """Horner's rule, the constant first."""
    value = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        value = lowering.fma(builder, value, x, coefficient)
    return value


def _near(polynomials: Polynomials) -> Any:
    return operation(f32x16, (f32x16,), lambda builder, x: build_gelu_near(builder, x, gelu_near_constants(builder, polynomials)))


gelu_near = _near(GELU_NEAR)
gelu_tanh_near = _near(GELU_TANH_NEAR)


@inline
def gelu_tanh(x):  # type: ignore[no-untyped-def]
    """x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2 (Hendrycks and Gimpel 2016, section 2), as x / (1 + exp(−2u)); error below 1e-6."""
    slope = fma(splat_f32(_TANH_CUBIC), x * x, splat_f32(_TANH_LINEAR))
    return x / (splat_f32(_ONE) + exp2(slope * x))


@inline
def activate(kind, x):  # type: ignore[no-untyped-def]
    """The activation function of `layout.ACTIVATIONS` with number `kind`."""
    if kind == _GELU:
        return gelu(x)
    if kind == _GELU_TANH:
        return gelu_tanh(x)
    return maximum(x, splat_f32(_ZERO))
