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
    fraction,
    maximum,
    minimum,
    operation,
    splat_f32,
    splat_i32,
    times_power,
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
_N0, _N1, _N2, _N3 = _F(254.980927), _F(177.437546), _F(57.6471252), _F(19.8962536)
_GELU_CUT = _F(6.0)
_LOWEST = _F(-125.0)
_NEAR_MAGIC = _F(6291456.0)  # 1.5 * 2**22: adding it to t < 2**21 leaves the nearest multiple of 1/2 in the low bits
_NEAR_CUT = np.nextafter(_F(3.75), _ZERO)
Segments = tuple[tuple[float, ...], ...]
"""Coefficients 0, 1 and 2 of eight polynomials of degree 2, one after the other; polynomial k is for t within 1/4 of k/2."""
GELU_NEAR: Segments = (
    (-0.500184715, -0.505902469, -0.52032876, -0.479201406, -0.348913252, -0.190445051, -0.0770914257, -0.00485320529),
    (0.403454512, 0.43954733, 0.481370836, 0.419072866, 0.270908147, 0.129140332, 0.0457838178, 0.00165022945),
    (-0.0314153805, -0.0893909037, -0.119707257, -0.0961057842, -0.0539154746, -0.0221785121, -0.00684540253, -9.80880795e-05),
)
"""−Φ(−t), t < 3.75; the last one so that gelu(x) − x and gelu(−x) are small for x beyond that, too."""
GELU_TANH_NEAR: Segments = (
    (-0.500185549, -0.505901635, -0.519964039, -0.478774786, -0.350322247, -0.19269903, -0.077133216, -0.00974596292),
    (0.403474838, 0.43958056, 0.480520636, 0.418064952, 0.271974653, 0.131013095, 0.0460603461, 0.00461237552),
    (-0.0315617807, -0.0896007717, -0.119375393, -0.0956877246, -0.0540842414, -0.022538865, -0.00691766338, -0.000538999389),
)
"""The same of −1 / (1 + exp(2u)) in the place of −Φ(−t), u as in `gelu_tanh`."""
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
    part = x - (shifted - splat_f32(_ROUND_MAGIC))
    power = fma(splat_f32(_E5), part, splat_f32(_E4))
    power = fma(power, part, splat_f32(_E3))
    power = fma(power, part, splat_f32(_E2))
    power = fma(power, part, splat_f32(_E1))
    power = fma(power, part, splat_f32(_E0))
    return as_f32(as_i32(power) + (as_i32(shifted) << splat_i32(23)))


@inline
def exp2_levels(x):  # type: ignore[no-untyped-def]
    """255·2**x of f32x16, x ≤ 0, for results that are rounded to 8 bits next; relative error below 8e-5.

    x below −125 gives what −125 gives.
    """
    x = maximum(x, splat_f32(_LOWEST))
    part = fraction(x)
    power = fma(splat_f32(_N3), part, splat_f32(_N2))
    power = fma(power, part, splat_f32(_N1))
    power = fma(power, part, splat_f32(_N0))
    return times_power(power, x)


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


def gelu_near_constants(builder: Any, segments: Segments) -> list[ir.Value]:
    """What `build_gelu_near` needs, once for all the vectors of a tile: read from memory for each, they would take longer than the sums."""
    tables = [lowering.in_register(builder, lowering.table_8(row)) for row in segments]
    magic = lowering.in_register(builder, lowering.constant_vector(F32, float(_NEAR_MAGIC)))
    return [lowering.constant_vector(I32, int(_NEAR_CUT.view(np.int32))), magic, *tables]


def build_gelu_near(builder: Any, vectors: list[ir.Value], constants: list[ir.Value]) -> list[ir.Value]:
    """`gelu` or `gelu_tanh` of each vector, error below 2.2e-4, for results that are rounded to 8 bits next.

    With t = min(|x|, 3.75): gelu(x) = max(x, 0) + t·P(t), P one of eight polynomials. Processors look up eight numbers of a register
    by units that the products leave free.
    """
    cut, magic, *tables = constants
    zero, without_sign = ir.Constant(F32X16, None), lowering.constant_vector(I32, 0x7FFFFFFF)
    # The smaller magnitude is found as an integer: the units that compare floats have more to do here than the others.
    magnitudes = [builder.and_(builder.bitcast(x, I32X16), without_sign) for x in vectors]
    ts = [builder.bitcast(builder.select(builder.icmp_unsigned("<", each, cut), each, cut), F32X16) for each in magnitudes]
    segments = [builder.bitcast(builder.fadd(t, magic), I32X16) for t in ts]
    values, *others = ([lowering.look_up_8(builder, table, segment) for segment in segments] for table in reversed(tables))
    for coefficients in others:
        values = [lowering.fma(builder, *each) for each in zip(values, ts, coefficients, strict=True)]
    positive = [builder.select(builder.fcmp_ordered(">", x, zero), x, zero) for x in vectors]
    return [lowering.fma(builder, *each) for each in zip(values, ts, positive, strict=True)]


def _near(segments: Segments) -> Any:
    return operation(f32x16, (f32x16,), lambda builder, x: build_gelu_near(builder, [x], gelu_near_constants(builder, segments))[0])


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
