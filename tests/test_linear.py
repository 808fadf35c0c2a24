"""Linear layers with their epilogues against exact references, on every level: rows, heads, residual, activation."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Functions
from scipy.special import erf
from test_kernels import EDGES, at, pair_rule, random

from tools.blocks import block_f32, block_int8

PLAIN, RESIDUAL, GELU, RELU = -1, -2, 0, 2
EPILOGUES = {"plain": PLAIN, "residual": RESIDUAL, "gelu": GELU, "relu": RELU}


def finish(value: np.ndarray, epilogue: int, residual: np.ndarray) -> np.ndarray:
    """The epilogue in float64."""
    if epilogue == RESIDUAL:
        return value + residual
    if epilogue == GELU:
        return 0.5 * value * (1 + erf(value / np.sqrt(2)))
    return np.maximum(value, 0) if epilogue == RELU else value


def row_target(kernels: Functions, out: np.ndarray, residual: np.ndarray) -> object:
    blocks = out.shape[1] // 16
    return kernels.struct(
        "kernel_target",
        out=at(out),
        residual=at(residual),
        row_stride=out.shape[1] * 4,
        part_blocks=blocks,
        part_stride=0,
        group_blocks=blocks,
        group_stride=0,
    )


@pytest.mark.parametrize("rows", EDGES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("inputs", [5, 64, 131, 3072])
def test_int8_layer_is_the_formula(kernels: Functions, rows: int, epilogue: str, inputs: int) -> None:
    """y = scale_x·scale_w·(Σ q_x·q_w − zero·Σ q_w) + bias, the sums exact until they are float32, and then the epilogue."""
    outputs, stride = 128, max(192, inputs)
    rng = np.random.default_rng(rows * 997 + inputs)
    x = rng.integers(0, 256, (rows, stride), np.uint8)
    weight = pair_rule(rng.integers(-127, 128, (outputs, inputs + inputs % 2)))[:, :inputs]
    weight[1], x[0] = 63, 255  # sums beyond 2**24, where float32 has gaps
    scales, zeros = (rng.random(rows) * 0.01 + 0.001).astype(np.float32), rng.integers(0, 256, rows).astype(np.float32)
    weight_scale, bias = (rng.random(outputs) * 0.01).astype(np.float32), random(outputs)
    column_sum = weight.astype(np.int32).sum(1, dtype=np.int32)
    blocks = block_int8(weight)
    residual, out = random(rows, outputs), np.full((rows, outputs), np.nan, np.float32)
    linear = kernels.struct(
        "kernel_linear",
        weight=at(blocks),
        scale=at(weight_scale),
        bias=at(bias),
        column_sum=at(column_sum),
        inputs=inputs,
        outputs=outputs,
    )
    tile = np.empty(1 << 12, np.float32)
    target = row_target(kernels, out, residual)
    last = outputs // 16
    kernels("linear_int8", at(x), stride, at(scales), at(zeros), rows, linear, 0, last, last, target, EPILOGUES[epilogue], at(tile))
    sums = x[:, :inputs].astype(np.int64) @ weight.astype(np.int64).T - zeros[:, None].astype(np.int64) * column_sum
    value = sums * (scales[:, None].astype(np.float64) * weight_scale) + bias
    exact = finish(value, EPILOGUES[epilogue], residual)
    near = 2.2e-4 if EPILOGUES[epilogue] == GELU else 0.0
    near += (np.abs(x[:, :inputs].astype(np.int64) @ weight.astype(np.int64).T) * (scales[:, None] * weight_scale)).max() * 2.0**-24
    assert np.abs(out - exact).max() <= 4e-7 * (np.abs(value).max() + np.abs(residual).max() + 1) + near


@pytest.mark.parametrize("rows", EDGES)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_float_layer_is_the_formula(kernels: Functions, rows: int, epilogue: str) -> None:
    inputs, outputs = 77, 128
    x, weight, bias = random(rows, inputs), random(outputs, inputs), random(outputs)
    blocks = block_f32(weight)
    residual, out = random(rows, outputs), np.full((rows, outputs), np.nan, np.float32)
    linear = kernels.struct("kernel_linear", weight=at(blocks), bias=at(bias), inputs=inputs, outputs=outputs)
    tile = np.empty(1 << 12, np.float32)
    target = row_target(kernels, out, residual)
    kernels("linear_float", at(x), inputs * 4, rows, linear, 0, outputs // 16, target, EPILOGUES[epilogue], at(tile))
    value = x.astype(np.float64) @ weight.astype(np.float64).T + bias
    exact = finish(value, EPILOGUES[epilogue], residual)
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T + 1
    assert (np.abs(out - exact) <= 1e-5 * magnitude).all()


def test_outputs_go_to_heads(kernels: Functions) -> None:
    """Three parts of 64 columns, heads of 32: part p, head h of row r lies at [p][h][r]."""
    rows, inputs = 7, 16
    x, weight, bias = random(rows, inputs), random(192, inputs), random(192)
    blocks = block_f32(weight)
    out = np.full((3, 2, rows, 32), np.nan, np.float32)
    linear = kernels.struct("kernel_linear", weight=at(blocks), bias=at(bias), inputs=inputs, outputs=192)
    target = kernels.struct(
        "kernel_target",
        out=at(out),
        row_stride=32 * 4,
        part_blocks=4,
        part_stride=2 * rows * 32 * 4,
        group_blocks=2,
        group_stride=rows * 32 * 4,
    )
    tile = np.empty(1 << 12, np.float32)
    kernels("linear_float", at(x), inputs * 4, rows, linear, 0, 12, target, PLAIN, at(tile))
    expected = (x.astype(np.float64) @ weight.astype(np.float64).T + bias).reshape(rows, 3, 2, 32).transpose(1, 2, 0, 3)
    assert np.abs(out - expected).max() < 1e-4
