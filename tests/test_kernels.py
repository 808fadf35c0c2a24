"""Kernels against float64 and exact integer references, on every level of the machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from conftest import Functions
from scipy.special import erf

EDGES = [1, 2, 3, 5, 6, 7, 12, 13, 17, 31]


def at(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def random(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal values; the seed comes from the shape."""
    seed = int.from_bytes(hashlib.sha256(repr(shape).encode()).digest()[:4], "little")
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def aligned(size: int, value: int) -> np.ndarray:
    """uint8 (size,), 64-byte aligned, filled."""
    memory = np.full(size + 64, value, np.uint8)
    start = -at(memory) % 64
    return memory[start : start + size]


def pair_rule(weights: np.ndarray) -> np.ndarray:
    """int8 weights of which neighbours of one sign add up to at most 128: what is over is taken from the second one."""
    pairs = weights.reshape(-1, 2).copy()
    same = np.sign(pairs[:, 0]) == np.sign(pairs[:, 1])
    room = 128 - np.abs(pairs[:, 0])
    pairs[same, 1] = np.clip(pairs[same, 1], -room[same], room[same])
    return pairs.reshape(weights.shape).astype(np.int8)


def tolerance(depth: int, magnitude: float) -> float:
    """Float32 rounding of a sum of `depth` products that add up to `magnitude` in absolute value."""
    return float(np.finfo(np.float32).eps * (depth + 4) * magnitude)


# ---------------------------------------------------------------- elementary functions


def test_exp2_has_its_stated_relative_error(kernels: Functions) -> None:
    x = np.linspace(-126, 127, 1 << 16).astype(np.float32)
    y = np.empty_like(x)
    kernels("map_exp2", x.size, at(x), at(y))
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(y / exact - 1).max() < 2.5e-7


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(2))))


def exact_gelu_tanh(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


def test_short_polynomials_have_their_stated_errors(kernels: Functions) -> None:
    x = np.concatenate([np.linspace(-125, 0, (1 << 16) - 16), [-0.0, -125.5, -126, -200, -1e30, *range(-11, 0)]]).astype(np.float32)
    y = np.empty_like(x)
    kernels("map_exp2_levels", x.size, at(x), at(y))
    assert np.abs(y / (255 * np.exp2(np.maximum(x, -125).astype(np.float64))) - 1).max() < 8e-5
    x = np.concatenate([np.linspace(-12, 12, (1 << 16) - 16), [0, -0.0, 1e30, -1e30, 1e-30, -1e-30, *range(10)]]).astype(np.float32)
    for name, reference, error in (("map_gelu_near", exact_gelu, 2.2e-4), ("map_gelu_tanh_near", exact_gelu_tanh, 2.2e-4)):
        kernels(name, x.size, at(x), at(y))
        exact = reference(x.astype(np.float64))
        assert (np.abs(y - exact) <= error * np.maximum(1, np.abs(exact) * 0.01)).all()


def test_log2_has_its_stated_error(kernels: Functions) -> None:
    x = np.concatenate([np.linspace(0.4, 3, 1 << 15), np.exp2(np.linspace(-100, 100, 1 << 12))]).astype(np.float32)
    y = np.empty_like(x)
    kernels("map_log2", x.size, at(x), at(y))
    exact = np.log2(x.astype(np.float64))
    assert (np.abs(y - exact) <= 4e-7 + np.finfo(np.float32).eps * np.abs(exact)).all()


@pytest.mark.parametrize(
    ("kind", "reference", "error"),
    [
        (0, exact_gelu, 4e-7),
        (1, exact_gelu_tanh, 1e-6),
        (2, lambda x: np.maximum(x, 0), 0.0),
    ],
    ids=["gelu", "gelu_tanh", "relu"],
)
def test_activation_has_its_stated_error(
    kernels: Functions, kind: int, reference: Callable[[np.ndarray], np.ndarray], error: float
) -> None:
    x = np.linspace(-12, 12, 1 << 16).astype(np.float32)
    y = np.empty_like(x)
    kernels("map_activation", kind, x.size, at(x), at(y))
    exact = reference(x.astype(np.float64))
    assert (np.abs(y - exact) <= error * np.maximum(1, np.abs(exact) / 4)).all()


def test_fma_rounds_once(kernels: Functions) -> None:
    """Against exact rational arithmetic, with cancellation, halfway cases, huge and tiny values."""
    from fractions import Fraction

    rng = np.random.default_rng(7)
    a = (rng.standard_normal(2048) * 2.0 ** rng.integers(-40, 40, 2048)).astype(np.float32)
    b = (rng.standard_normal(2048) * 2.0 ** rng.integers(-40, 40, 2048)).astype(np.float32)
    c = (-(a.astype(np.float64) * b) * (1 + rng.choice([0, 2.0**-24, -(2.0**-23), 1.0], 2048))).astype(np.float32)
    c[::5] = rng.standard_normal(c[::5].size).astype(np.float32)
    y = np.empty_like(a)
    kernels("map_fma", a.size, at(a), at(b), at(c), at(y))
    for i in range(a.size):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        got = Fraction(float(y[i]))
        above = Fraction(float(np.nextafter(y[i], np.float32(np.inf))))
        below = Fraction(float(np.nextafter(y[i], np.float32(-np.inf))))
        assert abs(got - exact) <= min(abs(above - exact), abs(below - exact))


def test_rounding_is_half_to_even(kernels: Functions) -> None:
    x = np.concatenate([np.arange(-600, 600) / 2, random(80, scale=1e5)]).astype(np.float32)
    y = np.empty(x.size, np.int32)
    kernels("map_round", x.size, at(x), at(y))
    assert (y == np.rint(x)).all()


def test_reductions_add_in_the_fixed_tree(kernels: Functions) -> None:
    x = random(16, scale=1e3)
    y = np.empty(3, np.float32)
    kernels("sum_lanes", at(x), at(y))
    tree = x.copy()
    while tree.size > 1:
        half = tree.size // 2
        tree = tree[:half] + tree[half:]
    assert y[0] == tree[0]
    assert y[1] == x.max()


def test_transpose(kernels: Functions) -> None:
    x = random(16, 21)
    y = np.empty((16, 16), np.float32)
    kernels("transpose", at(x), 21 * 4, at(y))
    assert (y == x[:, :16].T).all()


# ---------------------------------------------------------------- products


@pytest.mark.parametrize("rows", EDGES)
@pytest.mark.parametrize("groups", [1, 2, 7, 96])
@pytest.mark.parametrize("columns", [1, 4, 7])
def test_int8_product_is_exact(kernels: Functions, rows: int, groups: int, columns: int) -> None:
    rng = np.random.default_rng(rows * 1000 + groups)
    a = rng.integers(0, 256, (rows, groups * 4), np.uint8)
    b = pair_rule(rng.integers(-127, 128, (columns, groups, 16, 4)))
    a[0], b[0, :, 0], b[0, :, 1] = 255, [64, 64, 127, 1], [-127, -1, -64, -64]  # the largest sums that 16 bits must hold
    out = np.empty((rows, columns * 16), np.int32)
    arguments = np.array([at(a), groups * 4, at(b), groups * 64, groups, rows, at(out), columns * 64, columns], np.int64)
    kernels("int8_matrix", at(arguments))
    weights = b.transpose(0, 2, 1, 3).reshape(columns * 16, groups * 4)
    assert (out == a.astype(np.int64) @ weights.astype(np.int64).T).all()


@pytest.mark.parametrize("rows", EDGES)
@pytest.mark.parametrize("depth", [1, 13, 384])
@pytest.mark.parametrize("blocks", [2, 4, 6])
def test_float_product_is_a_chain_of_fma(kernels: Functions, rows: int, depth: int, blocks: int) -> None:
    a = random(rows, depth)
    b = random(blocks, depth, 16)
    out = np.empty((rows, blocks * 16), np.float32)
    arguments = np.array([at(a), depth * 4, at(b), depth * 64, 64, depth, blocks, rows, at(out), blocks * 64], np.int64)
    kernels("float_matrix", at(arguments))
    exact = np.einsum("rk,bkl->rbl", a.astype(np.float64), b.astype(np.float64)).reshape(rows, -1)
    magnitude = np.einsum("rk,bkl->rbl", np.abs(a), np.abs(b)).reshape(rows, -1)
    assert (np.abs(out - exact) <= tolerance(depth, 1.0) * magnitude).all()


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("tokens", [*EDGES, 64, 130])
@pytest.mark.parametrize("head_size", [16, 26, 32, 48, 64])
def test_attention_head(kernels: Functions, tokens: int, head_size: int) -> None:
    width = -(-head_size // 16) * 16
    padded = -(-tokens // 64) * 64 + 64
    q, k, v = (np.zeros((padded, width), np.float32) for _ in range(3))
    for index, array in enumerate((q, k, v)):
        array[:tokens, :head_size] = random(tokens, head_size, index + 1)[:, :, 0] * 2
        array[tokens:] = np.nan  # what lies behind a text must not matter
    out = np.zeros((tokens, width), np.float32)
    size = kernels("attention_bytes", padded, width) // 4
    scratch = np.full(size + 64, np.nan, np.float32)
    scratch[size:] = 7.0
    scale = float(np.float32(1 / np.sqrt(head_size)))
    kernels("attention_head", at(q), tokens, at(k), at(v), tokens, width, scale, 0, 0, at(out), width * 4, at(scratch), padded)
    q64, k64, v64 = (array[:tokens].astype(np.float64) for array in (q, k, v))
    scores = q64 @ k64.T * scale
    weights = np.exp(scores - scores.max(1, keepdims=True))
    assert (scratch[size:] == 7.0).all(), "the kernel wrote behind its scratch"
    exact = weights / weights.sum(1, keepdims=True) @ v64
    assert np.abs(out - exact).max() < 5e-6 * np.abs(v64).max()


@pytest.mark.parametrize("tokens", EDGES)
@pytest.mark.parametrize("head_size", [16, 26, 80])
@pytest.mark.parametrize("added_too", [False, True])
def test_attention_probabilities(kernels: Functions, tokens: int, head_size: int, added_too: bool) -> None:
    width, padded = -(-head_size // 16) * 16, -(-tokens // 32) * 32
    q, k = (np.zeros((padded, width), np.float32) for _ in range(2))
    for index, array in enumerate((q, k)):
        array[:tokens, :head_size] = random(tokens, head_size, index + 1)[:, :, 0] * 2
        array[tokens:] = np.nan  # what lies behind a text must not matter
    size = kernels("probabilities_bytes", -(-tokens // 16) * 16, width) // 4
    scratch, out = np.full(size + 16, np.nan, np.float32), np.full(tokens * tokens + 16, 7.0, np.float32)
    scratch[size:] = 7.0
    kernels("attention_scores", at(q), at(k), tokens, width, at(out), at(scratch))
    exact = q[:tokens].astype(np.float64) @ k[:tokens].astype(np.float64).T
    assert np.abs(out[:-16].reshape(tokens, tokens) - exact).max() <= 1e-6 * head_size * max(1, np.abs(exact).max())
    scale = float(np.float32(1 / np.sqrt(head_size)))
    added = np.ascontiguousarray(random(tokens, tokens, 9)[:, :, 0]) if added_too else np.zeros((tokens, tokens), np.float32)
    exact = (exact + added) * scale
    kernels("softmax_scores", at(out), tokens, scale, at(added) if added_too else 0, added.strides[0], at(scratch))
    weights = np.exp(exact - exact.max(1, keepdims=True))
    assert np.abs(out[:-16].reshape(tokens, tokens) - weights / weights.sum(1, keepdims=True)).max() <= 5e-6
    assert (scratch[size:] == 7.0).all(), "the kernel wrote behind its scratch"
    assert (out[-16:] == 7.0).all(), "the kernel wrote behind its results"


@pytest.mark.parametrize("tokens", [*EDGES, 64, 128, 130, 300])
@pytest.mark.parametrize("head_size", [16, 26, 32, 48, 64, 80])
@pytest.mark.parametrize("more", [False, True])
def test_attention_head_int8(kernels: Functions, tokens: int, head_size: int, more: bool) -> None:
    """Near the exact softmax of the unquantized heads, within what the steps of the quantized operands allow."""
    width = -(-head_size // 16) * 16
    padded = -(-tokens // 16) * 16
    q, k, v = (np.zeros((padded, width), np.float32) for _ in range(3))
    for index, array in enumerate((q, k, v)):
        array[:tokens, :head_size] = random(tokens, head_size, index + 1)[:, :, 0] * 2
        array[tokens:] = np.nan  # what lies behind a text must not matter
    v[: tokens // 3] *= np.float32(1e-3)  # tokens of small values
    v[tokens // 2 : tokens // 2 + 1] = 0
    out = np.zeros((tokens, width), np.float32)
    scratch = aligned(kernels("attention_int8_bytes", padded, width) + 64, 255)  # floats that are not numbers
    scale = float(np.float32(1 / np.sqrt(head_size)))
    added = random(tokens, padded, scale=3.0) if more else np.zeros((tokens, padded), np.float32)
    more_at = at(added) if more else 0
    kernels("attention_head_int8", at(q), tokens, at(k), at(v), tokens, width, scale, more_at, padded * 4, at(out), width * 4, at(scratch))
    assert (scratch[-64:] == 255).all(), "the kernel wrote behind its scratch"
    q64, k64, v64 = (array[:tokens].astype(np.float64) for array in (q, k, v))
    scores = (q64 @ k64.T + added[:, :tokens]) * scale
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    step_q, step_k = np.ptp(q64, 1, keepdims=True) / 255, np.maximum(np.abs(k64).max(1), np.abs(k64[:, ::2] + k64[:, 1::2]).max(1)) / 127
    step_v = np.abs(v64).max(1) / 64
    # Errors of a score: half a step of each operand, as independent random variables, eight standard deviations.
    noise = scale / np.sqrt(12) * np.sqrt(step_q**2 * (k64**2).sum(1) + step_k**2 * (q64**2).sum(1, keepdims=True))
    in_scores = weights @ np.abs(v64) * (np.exp(8 * noise.max()) - 1)
    in_weights = (weights * step_v).max(1, keepdims=True) * 64 / 510 * tokens**0.5 * 8
    in_values = np.sqrt(weights**2 @ (step_v[:, None] ** 2) / 12) * 8
    assert (np.abs(out - weights @ v64) <= in_scores + in_weights + in_values + 1e-6).all()


def test_attention_int8_is_its_integers(kernels: Functions) -> None:
    """Operands that quantize without error: the context is a plain mean, and a key that is far away does not count."""
    tokens, width = 37, 32
    q = np.zeros((48, width), np.float32)
    k, v = q.copy(), q.copy()
    v[:tokens] = np.random.default_rng(1).integers(-64, 65, (tokens, width))
    v[:tokens, 0] = 64
    out = np.zeros((tokens, width), np.float32)
    scratch = aligned(kernels("attention_int8_bytes", 48, width), 0)
    kernels("attention_head_int8", at(q), tokens, at(k), at(v), tokens, width, 1.0, 0, 0, at(out), width * 4, at(scratch))
    assert np.abs(out - v[:tokens].astype(np.float64).mean(0)).max() < 64 * 8e-5, "the relative error of exp2_levels"
    q[:tokens, 3], k[5, 3] = 255.0, 127.0
    kernels("attention_head_int8", at(q), tokens, at(k), at(v), tokens, width, 1.0, 0, 0, at(out), width * 4, at(scratch))
    assert np.abs(out - v[5]).max() < 64 * 8e-5


@pytest.mark.parametrize("which", [0, 1, 2])
def test_attention_int8_of_infinite_values_is_infinite(kernels: Functions, which: int) -> None:
    """Rounding to 8 bits must not make a finite number of what overflowed: the result's check would not find it."""
    heads = random(3, 16, 32)
    heads[which, 3] = np.inf
    out = np.zeros((7, 32), np.float32)
    scratch = aligned(kernels("attention_int8_bytes", 16, 32), 0)
    kernels("attention_head_int8", at(heads[0]), 7, at(heads[1]), at(heads[2]), 7, 32, 0.17, 0, 0, at(out), 128, at(scratch))
    assert not np.isfinite(out).any()
