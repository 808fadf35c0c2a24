"""Weights for a model file: symmetric int8 quantization, and the blocked order that the kernels read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinybert_rt.format.layout import COLUMN_MULTIPLE, DEPTH_GROUP, LANES, MAX_PAIR_SUM, pad
from tinybert_rt.format.writer import pair_sums

LARGEST = 127


class QuantizationError(NamedTuple):
    """Difference between a float tensor w and its dequantized form v."""

    relative_rms: float
    """sqrt(Σ (w − v)² / Σ w²), 0 for a tensor of zeros."""

    largest: float
    """max |w − v|"""


def quantize_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8, one scale per row: scale = max |row| / 127, value = row / scale rounded half to even.

    Args:
        values: float (rows, n), finite.

    Returns int8 (rows, n) within −127…127 and float32 (rows,) scales; a row of zeros has scale 0.
    """
    largest = np.abs(values).max(axis=1, initial=0.0).astype(np.float64)
    scale = (largest / LARGEST).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1).astype(np.float64)
    quantized = np.rint(values.astype(np.float64) / divisor[:, None])
    return np.clip(quantized, -LARGEST, LARGEST).astype(np.int8), scale


def quantize_columns(weight: np.ndarray, pair_span: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 for a linear layer, one scale per output, under the pair rule of FORMAT.md.

    Of the inputs 2i and 2i + 1, the values of one sign add up to at most MAX_PAIR_SUM in magnitude: scale = the larger one of
    max |w| / 127 and the largest such sum / MAX_PAIR_SUM, value = w / scale rounded half to even; where rounding breaks the
    rule, the value of the pair that was rounded up more is one less.

    Args:
        weight: float (outputs, inputs), finite.
        pair_span: inputs after which pairs begin anew, as the heads of a context do; divides inputs. 0: all of them.

    Returns int8 (outputs, inputs) within −127…127 and float32 (outputs,) scales; a row of zeros has scale 0.
    """
    outputs, inputs = weight.shape
    exact = paired(weight, pair_span)
    sums = np.maximum(pair_sums(exact), pair_sums(-exact)).max(axis=1, initial=0.0)
    scale = np.maximum(np.abs(exact).max(axis=1, initial=0.0) / LARGEST, sums / MAX_PAIR_SUM).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 0  # a subnormal scale is too coarse for the rule
    exact /= np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
    quantized = np.clip(np.rint(exact), -LARGEST, LARGEST) * (scale > 0)[:, None]
    for sign in (1, -1):
        excess = (sign * (quantized - exact)).reshape(outputs, -1, 2)
        rows, pairs = np.nonzero(pair_sums(sign * quantized) > MAX_PAIR_SUM)
        quantized[rows, 2 * pairs + excess[rows, pairs].argmax(axis=1)] -= sign
    return unpaired(quantized, inputs, pair_span).astype(np.int8), scale


def paired(values: np.ndarray, pair_span: int) -> np.ndarray:
    """float64 (rows, n + padding): with a zero behind each span of an odd length, so that elements 2i and 2i + 1 are a pair."""
    rows, n = values.shape
    span = pair_span or n
    wide = np.zeros((rows, n // span, pad(span, 2)))
    wide[:, :, :span] = values.reshape(rows, -1, span)
    return wide.reshape(rows, -1)


def unpaired(wide: np.ndarray, n: int, pair_span: int) -> np.ndarray:
    """(rows, n): what `paired` was given."""
    span = pair_span or n
    return wide.reshape(len(wide), n // span, -1)[:, :, :span].reshape(len(wide), n)


def move_first_type(positions: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables with the same sums, for int8: positions with the row of the first token type in them, and token types without it.

    The rounding error of a token type is in all its tokens alike, so that no mean takes it away. The first type's row becomes zeros, which
    are exact.

    Args:
        positions: float32 (positions, n). types: float32 (types, n).
    """
    return positions + types[0], types - types[0]


def quantization_error(values: np.ndarray, quantized: np.ndarray, scale: np.ndarray) -> QuantizationError:
    """How far int8 rows with their scales are from the float rows they were made of."""
    exact = values.astype(np.float64)
    difference = exact - quantized.astype(np.float64) * scale.astype(np.float64)[:, None]
    energy = float((exact * exact).sum())
    relative = float(np.sqrt((difference * difference).sum() / energy)) if energy else 0.0
    return QuantizationError(relative, float(np.abs(difference).max(initial=0.0)))


def block_int8(weight: np.ndarray) -> np.ndarray:
    """int8 (outputs, inputs) → int8 (N/16, K/4, 16, 4); N = outputs padded to 64, K = inputs padded to 4, with zeros.

    Element [n, k] of the weight lands at [n // 16, k // 4, n % 16, k % 4].
    """
    outputs, inputs = weight.shape
    columns, depth = pad(outputs, COLUMN_MULTIPLE), pad(inputs, DEPTH_GROUP)
    padded = np.zeros((columns, depth), np.int8)
    padded[:outputs, :inputs] = weight
    blocks = padded.reshape(columns // LANES, LANES, depth // DEPTH_GROUP, DEPTH_GROUP)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))


def block_f32(weight: np.ndarray) -> np.ndarray:
    """float (outputs, inputs) → float32 (N/16, inputs, 16); N = outputs padded to 64 with zeros.

    Element [n, k] of the weight lands at [n // 16, k, n % 16].
    """
    outputs, inputs = weight.shape
    columns = pad(outputs, COLUMN_MULTIPLE)
    padded = np.zeros((columns, inputs), np.float32)
    padded[:outputs] = weight
    return np.ascontiguousarray(padded.reshape(columns // LANES, LANES, inputs).transpose(0, 2, 1))


def pad_vector(values: np.ndarray, multiple: int) -> np.ndarray:
    """The vector with zeros behind it, up to a multiple."""
    padded = np.zeros(pad(len(values), multiple), values.dtype)
    padded[: len(values)] = values
    return padded


def pad_columns(values: np.ndarray) -> np.ndarray:
    """(rows, n) with zeros behind each row, up to a multiple of 64 columns."""
    padded = np.zeros((values.shape[0], pad(values.shape[1], COLUMN_MULTIPLE)), values.dtype)
    padded[:, : values.shape[1]] = values
    return padded


def spread_heads(values: np.ndarray, num_heads: int, width: int) -> np.ndarray:
    """Give each head `width` places on axis 0: (num_heads · head_size, …) → (num_heads · width, …), zeros between."""
    size = values.shape[0] // num_heads
    spread = np.zeros((num_heads, width, *values.shape[1:]), values.dtype)
    spread[:, :size] = values.reshape(num_heads, size, *values.shape[1:])
    return spread.reshape(num_heads * width, *values.shape[1:])


def linear_tensors(
    name: str, weights: list[np.ndarray], biases: list[np.ndarray], int8: bool
) -> tuple[dict[str, np.ndarray], list[QuantizationError]]:
    """The file's tensors of one linear layer whose parts lie side by side, each padded to 64 columns on its own.

    Args:
        name: prefix of the tensors.
        weights: float (outputs, inputs) of each part.
        biases: float (outputs,) of each part.
        int8: quantize, one scale per output; else float32.

    Returns the tensors, and the quantization error of each part (none for float32).
    """
    tensors = {f"{name}.bias": np.concatenate([pad_vector(np.float32(bias), COLUMN_MULTIPLE) for bias in biases])}
    if not int8:
        tensors[f"{name}.weight"] = np.concatenate([block_f32(weight) for weight in weights])
        return tensors, []
    blocks, scales, sums, errors = [], [], [], []
    for weight in weights:
        quantized, scale = quantize_columns(weight)
        errors.append(quantization_error(weight, quantized, scale))
        blocks.append(block_int8(quantized))
        scales.append(pad_vector(scale, COLUMN_MULTIPLE))
        sums.append(pad_vector(quantized.sum(axis=1, dtype=np.int32), COLUMN_MULTIPLE))
    tensors[f"{name}.weight"] = np.concatenate(blocks)
    tensors[f"{name}.scale"] = np.concatenate(scales)
    tensors[f"{name}.column_sum"] = np.concatenate(sums)
    return tensors, errors


def table_tensors(name: str, values: np.ndarray, int8: bool) -> tuple[dict[str, np.ndarray], list[QuantizationError]]:
    """The file's tensors of one embedding table, float (rows, n): int8 with a scale per row, or float32."""
    if not int8:
        return {name: pad_columns(np.float32(values))}, []
    quantized, scale = quantize_rows(values)
    tensors = {name: pad_columns(quantized), f"{name}.scale": pad_vector(scale, LANES)}
    return tensors, [quantization_error(values, quantized, scale)]
