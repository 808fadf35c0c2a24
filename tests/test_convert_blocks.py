"""Quantization against float64 arithmetic, blocks against loops."""

from __future__ import annotations

import numpy as np
import pytest

from tinybert_rt.format.layout import pad
from tinybert_rt.format.writer import pair_sums
from tools import blocks

SIZES = (1, 3, 4, 5, 15, 16, 17, 63, 64, 65, 97)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("columns", [1, 5, 64, 97])
def test_rows_are_quantized_as_in_exact_arithmetic(rows: int, columns: int) -> None:
    values = random(rows, columns)
    quantized, scale = blocks.quantize_rows(values)
    assert quantized.dtype == np.int8
    assert scale.dtype == np.float32
    for row in range(rows):
        expected = np.float32(max(abs(float(value)) for value in values[row]) / 127)
        assert scale[row] == expected
        for column in range(columns):
            exact = float(values[row, column]) / float(expected)
            assert quantized[row, column] == max(-127, min(127, round(exact)))  # Python rounds half to even


def test_halves_are_rounded_to_even() -> None:
    quantized, scale = blocks.quantize_rows(np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32))
    assert scale[0] == 1
    assert quantized[0].tolist() == [127, 0, 2, 2, 0, -2, -2]


def test_range_is_symmetric_and_error_is_half_a_step() -> None:
    values = random(50, 200)
    quantized, scale = blocks.quantize_rows(values)
    assert np.abs(quantized.astype(int)).max(axis=1).tolist() == [127] * 50
    difference = np.abs(values.astype(np.float64) - quantized * scale.astype(np.float64)[:, None])
    assert (difference <= 0.5 * scale[:, None] * (1 + 1e-5)).all()


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-44])
def test_rows_too_small_for_a_scale_become_zero(tiny: float) -> None:
    quantized, scale = blocks.quantize_rows(np.full((2, 4), tiny, np.float32))
    assert np.isfinite(scale).all()
    assert not (quantized * scale[:, None]).any()


def test_huge_values_stay_finite() -> None:
    values = np.array([[3.4e38, -3.4e38, 1.0]], np.float32)
    quantized, scale = blocks.quantize_rows(values)
    assert quantized.tolist() == [[127, -127, 0]]
    assert np.isfinite(scale).all()


@pytest.mark.parametrize("inputs", [1, 2, 7, 64, 385])
def test_columns_obey_the_pair_rule(inputs: int) -> None:
    """No pair of neighbours of one sign adds up to more than 128: u8·s8 sums of two then fit into 16 bits."""
    weight = random(200, inputs)
    weight[0], weight[1, ::2], weight[2] = 1.0, 0.0, 0.0
    quantized, scale = blocks.quantize_columns(weight)
    padded = np.zeros((200, inputs + inputs % 2), int)
    padded[:, :inputs] = quantized
    for sign in (1, -1):
        sums = [max(sign * a, 0) + max(sign * b, 0) for row in padded.tolist() for a, b in zip(row[::2], row[1::2], strict=True)]
        assert max(sums) <= 128
        assert 255 * max(sums) < 2**15
    steps = weight.astype(np.float64) / np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
    assert np.abs(quantized - steps).max() <= 1, "half a step, and a whole one where the rule takes it"
    assert (np.abs(quantized - steps) <= 0.5001).mean() > 0.99
    assert set(quantized[2]) == {0}
    assert scale[2] == 0
    largest = np.abs(weight).max(axis=1) / 127
    assert (scale >= largest.astype(np.float32)).all()
    assert (scale <= 2 * largest.astype(np.float64) * (1 + 1e-6)).all()


@pytest.mark.parametrize("tiny", [1e-45, 1e-43, 1e-40, 1e-37])
def test_columns_too_small_for_the_rule_become_zero_or_obey_it(tiny: float) -> None:
    quantized, scale = blocks.quantize_columns(np.full((2, 4), tiny, np.float32))
    assert pair_sums(quantized.astype(int)).max() <= 128
    assert np.isfinite(scale).all()
    assert np.abs(quantized * scale[:, None].astype(np.float64) - tiny).max() < 2e-36


def test_columns_without_large_pairs_are_quantized_like_rows() -> None:
    weight = random(8, 32)
    weight[:, 1::2] = 0
    for got, expected in zip(blocks.quantize_columns(weight), blocks.quantize_rows(weight), strict=True):
        assert np.array_equal(got, expected)


def test_error_is_that_of_the_definition() -> None:
    values = random(7, 33)
    quantized, scale = blocks.quantize_rows(values)
    error = blocks.quantization_error(values, quantized, scale)
    squares = total = largest = 0.0
    for row in range(7):
        for column in range(33):
            difference = float(values[row, column]) - int(quantized[row, column]) * float(scale[row])
            squares += difference**2
            total += float(values[row, column]) ** 2
            largest = max(largest, abs(difference))
    assert error.relative_rms == pytest.approx((squares / total) ** 0.5, rel=1e-12)
    assert error.largest == pytest.approx(largest, rel=1e-12)
    assert blocks.quantization_error(np.zeros((2, 3)), np.zeros((2, 3), np.int8), np.zeros(2, np.float32)) == (0, 0)


@pytest.mark.parametrize("outputs", [1, 16, 63, 64, 65, 130])
@pytest.mark.parametrize("inputs", [1, 3, 4, 5, 17, 64])
def test_blocks_are_those_of_a_loop(outputs: int, inputs: int) -> None:
    weight = np.random.default_rng([outputs, inputs]).integers(-127, 128, (outputs, inputs)).astype(np.int8)
    columns, groups = pad(outputs, 64), pad(inputs, 4) // 4
    int8 = np.zeros((columns // 16, groups, 16, 4), np.int8)
    f32 = np.zeros((columns // 16, inputs, 16), np.float32)
    for n in range(outputs):
        for k in range(inputs):
            int8[n // 16, k // 4, n % 16, k % 4] = weight[n, k]
            f32[n // 16, k, n % 16] = weight[n, k]
    assert np.array_equal(blocks.block_int8(weight), int8)
    assert np.array_equal(blocks.block_f32(weight), f32)
    assert blocks.block_int8(weight).flags.c_contiguous
    assert blocks.block_f32(weight).flags.c_contiguous


def test_example_of_the_format_document() -> None:
    weight = np.zeros((64, 8), np.int8)
    weight[17, 5] = 1
    assert blocks.block_int8(weight).ravel().nonzero()[0].tolist() == [197]


def test_heads_are_spread_with_zeros_between() -> None:
    spread = blocks.spread_heads(np.arange(1, 7), 2, 4)
    assert spread.tolist() == [1, 2, 3, 0, 4, 5, 6, 0]
    assert blocks.spread_heads(random(6, 5), 2, 16).shape == (32, 5)


@pytest.mark.parametrize("parts", [1, 3])
def test_linear_layer_has_the_sums_of_its_int8_columns(parts: int) -> None:
    weights, biases = [random(20, 9) * (part + 1) for part in range(parts)], [random(20)] * parts
    tensors, errors = blocks.linear_tensors("x", weights, biases, True)
    assert len(errors) == parts
    weight = tensors["x.weight"]
    assert weight.shape == (parts * 4, 3, 16, 4)
    columns = weight.transpose(0, 2, 1, 3).reshape(parts * 64, 12)
    assert np.array_equal(tensors["x.column_sum"], columns.astype(np.int32).sum(axis=1))
    for part in range(parts):
        used = slice(64 * part, 64 * part + 20)
        value = columns[used, :9] * tensors["x.scale"][used, None]
        assert np.abs(value - weights[part]).max() <= tensors["x.scale"][used].max()
        assert np.array_equal(tensors["x.bias"][used], biases[part])
        for name in ("x.scale", "x.bias", "x.column_sum"):
            assert not tensors[name][64 * part + 20 : 64 * part + 64].any()


def test_f32_linear_layer_and_table_keep_their_values() -> None:
    weight, bias = random(20, 9), random(20)
    tensors, errors = blocks.linear_tensors("x", [weight], [bias], False)
    assert errors == []
    assert set(tensors) == {"x.weight", "x.bias"}
    assert np.array_equal(tensors["x.weight"].transpose(0, 2, 1).reshape(64, 9)[:20], weight)
    table, errors = blocks.table_tensors("t", weight, False)
    assert errors == []
    assert np.array_equal(table["t"][:, :9], weight)
    assert table["t"].shape == (20, 64)
