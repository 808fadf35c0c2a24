"""What training computes against the runtime's kernels and the converter: tolerance 0, on every level of the machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import LEVELS, Functions, compiled
from test_kernels import aligned, at, random
from test_linear import PLAIN, row_target
from test_rows import group_scratch, quantized

from distill import floats, integers
from distill.fake_quantization import attention
from tools.blocks import block_int8, quantize_columns, quantize_rows

SHAPES = [(1, 1), (2, 7), (3, 16), (17, 26), (5, 77), (31, 128), (4, 3072)]


def activations(rows: int, width: int) -> np.ndarray:
    """Float32 rows of all kinds: of one sign, of zeros, with tiny and huge ranges, and with values half way between two codes."""
    x = random(rows, width) * 10.0 ** np.resize(np.float32([0, 3, -12, 30, -33]), (rows, 1)) + np.resize(np.float32([0, 5, -5]), (rows, 1))
    x[3::7] = 0
    x[4::7] = 1e-31
    x[5::7] = np.resize(np.arange(-255, 256).astype(np.float32) / 2, x[5::7].shape)
    return x.astype(np.float32)


def same(tensor: torch.Tensor, array: np.ndarray) -> bool:
    """Equal bit for bit, but for the sign of a zero."""
    return bool((tensor.numpy().reshape(array.shape) == array).all())


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_codes_of_activations_are_the_kernels(kernels: Functions, rows: int, width: int) -> None:
    x = activations(rows, width)
    padded = np.zeros((rows, -(-width // 16) * 16), np.float32)
    padded[:, :width] = x
    for ours, theirs in zip(integers.quantize_activations(torch.from_numpy(x)), quantized(kernels, padded), strict=True):
        assert same(ours, theirs[:, :width] if theirs.ndim == 2 else theirs)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_codes_of_weights_are_the_converters(outputs: int, inputs: int) -> None:
    """Also where rounding breaks the pair rule, and a pair is corrected."""
    rng = np.random.default_rng(outputs * 997 + inputs)
    corrected = rng.choice(np.float32([63.5, 64.5, 0.49, -63.5, 127, 1]), (outputs, inputs))
    tiny = random(outputs, inputs) * np.float32(1e-38) * np.resize(np.float32([1, 0, 100]), (outputs, 1))
    for weight in (activations(outputs, inputs), random(outputs, inputs), corrected, tiny):
        for ours, theirs in zip(integers.quantize_weights(torch.from_numpy(weight), inputs), quantize_columns(weight), strict=True):
            assert same(ours, theirs)


def test_pairs_do_not_cross_heads_of_an_odd_size() -> None:
    weight, heads = random(9, 15), 3
    apart = np.zeros((9, heads, 6), np.float32)
    apart[..., :5] = weight.reshape(9, heads, 5)
    q, scale = quantize_columns(apart.reshape(9, -1))
    ours, our_scale = integers.quantize_weights(torch.from_numpy(weight), 5)
    assert same(ours, q.reshape(9, heads, 6)[..., :5].reshape(9, 15))
    assert same(our_scale, scale)
    assert not same(integers.quantize_weights(torch.from_numpy(weight), 15)[1], scale)


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_codes_of_tables_are_the_converters(rows: int, width: int) -> None:
    x = activations(rows, width)
    for ours, theirs in zip(integers.quantize_table(torch.from_numpy(x)), quantize_rows(x), strict=True):
        assert same(ours, theirs)


@pytest.mark.parametrize(("rows", "inputs"), [(1, 5), (7, 64), (13, 131), (3, 512)])
def test_accumulators_and_outputs_are_the_kernels(kernels: Functions, rows: int, inputs: int) -> None:
    outputs, width = 64, -(-inputs // 16) * 16
    x = np.zeros((rows, width), np.float32)
    x[:, :inputs] = random(rows, inputs) + 1
    weight, bias = random(outputs, inputs), random(outputs)
    codes, scale = quantize_columns(weight)
    blocks, sums = block_int8(codes), codes.sum(1, dtype=np.int32)
    q, scales, zeros = quantized(kernels, x)
    accumulators = np.empty((rows, outputs), np.int32)
    groups = -(-inputs // 4)
    call = np.int64([at(q), width, at(blocks), groups * 64, groups, rows, at(accumulators), outputs * 4, outputs // 16])
    kernels("int8_matrix", at(call))
    linear = kernels.struct(
        "kernel_linear", weight=at(blocks), scale=at(scale), bias=at(bias), column_sum=at(sums), inputs=inputs, outputs=outputs
    )
    out, tile = np.full((rows, outputs), np.nan, np.float32), np.empty(1 << 12, np.float32)
    target = row_target(kernels, out, out)
    kernels("linear_int8", at(q), width, at(scales), at(zeros), rows, linear, 0, outputs // 16, outputs // 16, target, PLAIN, at(tile))

    levels, our_scale, zero = integers.quantize_activations(torch.from_numpy(x[:, :inputs]))
    ours, weight_scale = integers.quantize_weights(torch.from_numpy(weight), inputs)
    assert same(levels @ ours.T, accumulators)
    product = (levels - zero) @ ours.T
    assert same(product, accumulators - zeros[:, None].astype(np.int64) * sums)
    assert same(floats.fma(product, our_scale * weight_scale.T, torch.from_numpy(bias)), out)


def level_exports(level: str) -> Functions:
    return compiled(level, "attention_exports")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("tokens", "head_size"), [(1, 16), (5, 13), (17, 26), (33, 64)])
def test_codes_of_keys_and_values_are_the_kernels(level: str, tokens: int, head_size: int) -> None:
    width, padded = -(-head_size // 16) * 16, -(-tokens // 16) * 16
    x = np.zeros((padded, width), np.float32)
    x[:tokens, :head_size] = np.clip(activations(tokens, head_size), -1e36, 1e36)
    block = aligned(1 << 13, 0)
    out, scales, others = aligned(padded * width, 9).view(np.int8), np.empty(padded, np.float32), np.empty(padded, np.float32)
    functions = level_exports(level)

    functions("prepare_keys", at(x), tokens, padded, width, at(out), at(scales), at(others), at(block))
    codes = out.reshape(padded // 16, width // 4, 16, 4).transpose(0, 2, 1, 3).reshape(padded, width)
    ours, scale = integers.quantize_keys(torch.from_numpy(x[:tokens, :head_size]))
    assert same(ours, codes[:tokens, :head_size])
    assert same(scale, scales[:tokens])

    functions("prepare_values", at(x), tokens, padded, width, at(out), at(scales), at(others), at(block))
    codes = out.reshape(width // 16, padded // 4, 16, 4).transpose(1, 3, 0, 2).reshape(padded, width)
    values = torch.from_numpy(x[:tokens, :head_size])
    scale, inverse = integers.value_scales(values)
    assert same(integers.rounded_product(values, inverse), codes[:tokens, :head_size])
    assert same(inverse, others[:tokens])
    assert same(floats.log2(scale), scales[:tokens])


@pytest.mark.parametrize("tokens", [1, 5, 16, 37, 128, 130, 300])
@pytest.mark.parametrize("head_size", [16, 26, 64])
def test_a_head_of_attention_is_the_kernels(kernels: Functions, tokens: int, head_size: int) -> None:
    """Whatever stands behind the text in a batch."""
    width, padded = -(-head_size // 16) * 16, -(-tokens // 16) * 16
    heads = np.zeros((3, padded, width), np.float32)
    for index, array in enumerate(heads):
        array[:tokens, :head_size] = random(tokens, head_size, index + 1)[:, :, 0] * 2
    heads[2, : tokens // 3] *= np.float32(1e-3)
    heads[2, tokens // 2] = 0
    out = np.zeros((tokens, width), np.float32)
    scratch = aligned(kernels("attention_int8_bytes", padded, width), 255)
    scale = float(np.float32(1) / np.sqrt(np.float32(head_size)))
    kernels(
        "attention_head_int8", at(heads[0]), tokens, at(heads[1]), at(heads[2]), tokens, width, scale, 0, 0, at(out), width * 4, at(scratch)
    )
    text = torch.from_numpy(heads[:, None, None, :tokens, :head_size])
    behind = torch.full((3, 1, 1, 150, head_size), 3.0)
    mask = torch.arange(tokens + 150)[None, None, None] < tokens
    module = torch.nn.Identity()
    for context in (attention(module, *text, None)[0], attention(module, *torch.cat([text, behind], 3), mask)[0][:, :tokens]):
        assert same(context, out[:, :head_size])


FUNCTIONS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], tuple[int, ...], float, float]] = {
    "map_exp2": (floats.exp2, (), -130, 130),
    "map_exp2_levels": (floats.exp2_levels, (), -200, 0),
    "map_log2": (lambda x: floats.log2(x.exp2()), (), -60, 60),
    "map_gelu_near": (floats.gelu, (), -12, 12),
    "map_gelu_tanh_near": (floats.gelu_tanh, (), -12, 12),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_are_the_kernels(kernels: Functions, name: str) -> None:
    function, arguments, low, high = FUNCTIONS[name]
    x = torch.linspace(low, high, 1 << 16)
    given = (x.exp2() if name == "map_log2" else x).numpy()
    y = np.empty_like(given)
    kernels(name, *arguments, x.numel(), at(given), at(y))
    assert same(function(x), y)


@pytest.mark.parametrize("size", [1, 16, 26, 64, 100, 128, 312, 1024])
def test_layer_normalization_is_the_kernels(kernels: Functions, size: int) -> None:
    rows, width = 5, -(-size // 64) * 64
    x, weight, bias = np.zeros((rows, width), np.float32), np.zeros(width, np.float32), np.zeros(width, np.float32)
    x[:, :size], weight[:size], bias[:size] = random(rows, size) * 3 + 1, random(size, 2)[:, 0], random(size, 3)[:, 0]
    ours = floats.layer_norm(*(torch.from_numpy(each[..., :size].copy()) for each in (x, weight, bias)), 1e-12)
    norm = kernels.struct("kernel_norm", weight=at(weight), bias=at(bias))
    with group_scratch(kernels) as scratch:
        kernels("layer_norm_rows", at(x), width * 4, rows, size, width, norm, 1e-12, 0, 0, 0, 0, scratch)
    assert same(ours, x[:, :size])


def test_a_product_is_added_in_one_rounding_with_and_without_an_instruction_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.from_numpy(random(1009)), torch.from_numpy(random(1009, 1)[:, 0])
    c = -(a * b)
    exact = (a.double() * b.double() + c.double()).float()
    assert torch.equal(floats.fma(a, b, c), exact)
    monkeypatch.setattr(floats, "_FUSED", False)
    assert torch.equal(floats.fma(a, b, c), exact)
