"""The runtime's float32 arithmetic in torch, bit for bit: the same polynomials as `kernels.math`, the same order of sums as `kernels.rows`.

A difference of one unit in the last place now and then turns a code into its neighbour, and each such step moves many others behind it:
with torch's own exp, GELU and order of sums, a model of two layers comes out about half as far from its int8 file as the float model does.
"""

from __future__ import annotations

import torch

_LANES = 16
_ACCUMULATORS = 4
_MAGIC = 12582912.0  # 1.5·2**23: in the last bits of x + _MAGIC is the nearest integer
_SQRT_HALF_BITS = 0x3F3504F3
# Coefficients, the constant first; see `kernels.math`.
_EXP2 = (1.0, 0.6931469440460205, 0.24022120237350464, 0.05550713092088699, 0.009675540961325169, 0.001327647129073739)
_LOG2 = (
    1.442699670791626,
    -0.7213758826255798,
    0.48046502470970154,
    -0.3589618504047394,
    0.29726266860961914,
    -0.2726978361606598,
    0.17063409090042114,
)
_LEVELS = (254.980927, 177.437546, 57.6471252, 19.8962536)
_GELU_CUT = 3.75 - 2.0**-22
_GELU_MAGIC = 6291456.0  # 1.5·2**22: in the last bits of t + _GELU_MAGIC is the nearest multiple of 1/2
_GELU = (
    (-0.500184715, -0.505902469, -0.52032876, -0.479201406, -0.348913252, -0.190445051, -0.0770914257, -0.00485320529),
    (0.403454512, 0.43954733, 0.481370836, 0.419072866, 0.270908147, 0.129140332, 0.0457838178, 0.00165022945),
    (-0.0314153805, -0.0893909037, -0.119707257, -0.0961057842, -0.0539154746, -0.0221785121, -0.00684540253, -9.80880795e-05),
)
_GELU_TANH = (
    (-0.500185549, -0.505901635, -0.519964039, -0.478774786, -0.350322247, -0.19269903, -0.077133216, -0.00974596292),
    (0.403474838, 0.43958056, 0.480520636, 0.418064952, 0.271974653, 0.131013095, 0.0460603461, 0.00461237552),
    (-0.0315617807, -0.0896007717, -0.119375393, -0.0956877246, -0.0540842414, -0.022538865, -0.00691766338, -0.000538999389),
)


def _adds_in_one_rounding() -> bool:
    """Whether torch.addcmul rounds once, in whole vectors and what is left of them: (1 + e)(1 − e) − 1 is −e² then, else 0."""
    e = torch.full((37,), 2.0**-13)
    return bool((torch.addcmul(-torch.ones(37), 1 + e, 1 - e) == -e * e).all())


_FUSED = _adds_in_one_rounding()


def fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """a·b + c rounded once. Without an instruction for it, doubles hold the product exactly; their sum is rounded twice at worst."""
    if _FUSED and a.device.type == "cpu":
        return torch.addcmul(c, a, b)
    return torch.addcmul(c.double(), a.double(), b.double()).float()


def _polynomial(coefficients: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
    *others, last = (torch.tensor(each, dtype=torch.float32, device=x.device) for each in coefficients)
    value = last
    for coefficient in reversed(others):
        value = fma(value, x, coefficient)
    return value


def _times_power(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """x·2**exponent."""
    return (x.view(torch.int32) + (exponent << 23)).view(torch.float32)


def exp2(x: torch.Tensor) -> torch.Tensor:
    """`kernels.math.exp2`: 2**x for |x| cut to −126 … 127."""
    x = x.clamp(-126.0, 127.0)
    shifted = x + _MAGIC
    return _times_power(_polynomial(_EXP2, x - (shifted - _MAGIC)), shifted.view(torch.int32))


def exp2_levels(x: torch.Tensor) -> torch.Tensor:
    """`kernels.math.exp2_levels`: 255·2**x for x ≤ 0, cut at −125."""
    x = x.clamp(min=-125.0)
    whole = x.floor()
    return _times_power(_polynomial(_LEVELS, x - whole), whole.int())


def log2(x: torch.Tensor) -> torch.Tensor:
    """`kernels.math.log2` of normal positive numbers."""
    bits = x.view(torch.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1.0
    return fma(_polynomial(_LOG2, f), f, exponent.float())


def gelu(x: torch.Tensor) -> torch.Tensor:
    """`kernels.math.gelu_near`."""
    return _near(x, _GELU)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """`kernels.math.gelu_tanh_near`."""
    return _near(x, _GELU_TANH)


def _near(x: torch.Tensor, segments: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    t = x.abs().clamp_(max=_GELU_CUT)
    segment = (t + _GELU_MAGIC).view(torch.int32) & 7
    c0, c1, c2 = (torch.tensor(table, device=x.device)[segment] for table in segments)
    return fma(fma(fma(c2, t, c1), t, c0), t, x.clamp(min=0.0))


def _add_lanes(x: torch.Tensor) -> torch.Tensor:
    """The sum of 16 lanes as `kernels.vector.reduce_add` adds them: (…, 16) → (…, 1)."""
    while x.shape[-1] > 1:
        low, high = x.chunk(2, -1)
        x = low + high
    return x


def dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Σ x·y over the last axis, a multiple of 16 long, in one accumulator of 16 lanes: (…, n) → (…, 1)."""
    x, y = x.unflatten(-1, (-1, _LANES)), y.unflatten(-1, (-1, _LANES))
    total = torch.zeros_like(x[..., 0, :])
    for i in range(x.shape[-2]):
        total = fma(x[..., i, :], y[..., i, :], total)
    return _add_lanes(total)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """`kernels.rows.layer_norm_rows`.

    Args:
        x: float32 (…, n). weight, bias: float32 (n,).
    """
    size = x.shape[-1]
    block = _ACCUMULATORS * _LANES
    whole = size // block
    accumulators = (-1, _ACCUMULATORS, _LANES)
    blocks = torch.nn.functional.pad(x, (0, -size % block)).unflatten(-1, accumulators)
    total = torch.zeros_like(blocks[..., 0, :, :])
    for i in range(blocks.shape[-3]):
        total = total + blocks[..., i, :, :]
    sizes = x.new_tensor(size)
    mean = _add_lanes(_join(total)) / sizes
    away = x - mean
    blocks = torch.nn.functional.pad(away, (0, -size % block)).unflatten(-1, accumulators)
    total = torch.zeros_like(total)
    for i in range(whole):
        total = fma(blocks[..., i, :, :], blocks[..., i, :, :], total)
    if size % block:
        # The rest goes to the first accumulator, vector by vector.
        for rest in blocks[..., whole, :, :].unbind(-2):
            total[..., 0, :] = fma(rest, rest, total[..., 0, :])
    variance = _add_lanes(_join(total)) / sizes
    # The square root of float32 is not always the nearest number in torch; that of doubles is near enough to become it.
    factor = (variance + eps).double().sqrt_().float().reciprocal_()
    return fma(away.mul_(factor), weight, bias)


def _join(x: torch.Tensor) -> torch.Tensor:
    """Four accumulators to one: (…, 4, 16) → (…, 16)."""
    s0, s1, s2, s3 = x.unbind(-2)
    return (s0 + s1) + (s2 + s3)
