"""Disentangled attention of checkpoints (DeBERTa): positions projected for each layer, buckets of distances, the convolution.

He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention"; layouts of tensors as in transformers' `modeling_deberta.py`
and `modeling_deberta_v2.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinybert_rt.format import layout

from . import blocks
from .hf import EncoderConfig, Relative, Weights

if TYPE_CHECKING:
    from .tensors import TensorMaker


def buckets(relative: Relative, count: int) -> np.ndarray:
    """int32 (count,): the bucket of the distances 0 … count − 1 (transformers' `make_log_bucket_position`, in float32 as there)."""
    distance = np.arange(count, dtype=np.float32)
    if not relative.bucket_size:
        return distance.astype(np.int32)
    middle = relative.bucket_size // 2
    far = np.maximum(distance, np.float32(middle))
    steps = np.log(far / np.float32(middle)) / np.log(np.float32((relative.max_distance - 1) / middle)) * np.float32(middle - 1)
    return np.where(distance <= middle, distance, np.ceil(steps) + middle).astype(np.int32)


def bucket_tensor(relative: Relative, count: int) -> np.ndarray:
    """`buckets` as it lies in the file."""
    return blocks.pad_vector(np.minimum(buckets(relative, count), layout.MAX_RELATIVE_SPAN), layout.LANES)


def read_positions(weights: Weights, encoder: EncoderConfig) -> np.ndarray | None:
    """float64 (2·span, hidden_size): the table of relative positions, normalized where it is; or None."""
    relative = encoder.relative
    hidden = encoder.hidden_size
    if relative is None:
        return None
    table = weights.take("encoder.rel_embeddings.weight", 2 * relative.span, hidden).astype(np.float64)
    if relative.normalized:
        table = table - table.mean(axis=1, keepdims=True)
        table /= np.sqrt((table * table).mean(axis=1, keepdims=True) + encoder.layer_norm_eps)
        table = table * weights.take("encoder.LayerNorm.weight", hidden) + weights.take("encoder.LayerNorm.bias", hidden)
    return table


def layer_positions(make: TensorMaker, weights: Weights, encoder: EncoderConfig, name: str, source: str, positions: np.ndarray) -> None:
    """Positions as keys and as queries of a layer's heads."""
    relative, kind = encoder.relative, encoder.architecture
    assert relative is not None
    hidden = encoder.hidden_size
    query, key, _ = kind.linears["attention.qkv"]
    for part, wanted, own, layers in (
        ("position_key", relative.content_to_position, kind.position_key, key),
        ("position_query", relative.position_to_content, kind.position_query, query),
    ):
        if not wanted:
            continue
        linear = f"{source}.{layers if relative.shared else own}"
        read = weights.peek if relative.shared else weights.take
        # Keys of positions lie in the order in which the row of a query meets them, see `kernels.attention_relative`.
        ordered = positions[::-1] if part == "position_key" else positions
        projected = ordered @ read(f"{linear}.weight", hidden, hidden).astype(np.float64).T
        if f"{linear}.bias" in weights.unread:
            projected = projected + read(f"{linear}.bias", hidden)
        width = layout.head_width(hidden, encoder.num_heads)
        heads = blocks.spread_heads(projected.T, encoder.num_heads, width).astype(np.float32)
        parts = [np.ascontiguousarray(head.T) for head in np.split(heads, encoder.num_heads)]
        make.parts(f"{name}.attention.{part}", [f"{linear}.weight of positions"], parts, None, (2 * relative.span, hidden))


def unpack(weights: Weights, packed: str, names: list[str], encoder: EncoderConfig) -> None:
    """Put a layer's query, key and value where others have them: DeBERTa v1 has them in one matrix, head by head, without a key bias."""
    hidden, heads = encoder.hidden_size, encoder.num_heads
    matrix = weights.take(f"{packed}.weight", 3 * hidden, hidden)
    parts = matrix.reshape(heads, 3, hidden // heads, hidden)
    owner = packed.rpartition(".")[0]
    biases = (weights.take(f"{owner}.q_bias", hidden), np.zeros(hidden, np.float32), weights.take(f"{owner}.v_bias", hidden))
    for index, (name, bias) in enumerate(zip(names, biases, strict=True)):
        weights.unread[f"{name}.weight"] = np.ascontiguousarray(parts[:, index]).reshape(hidden, hidden)
        weights.unread[f"{name}.bias"] = bias


def convolution(make: TensorMaker, weights: Weights, encoder: EncoderConfig) -> None:
    """The convolution beside the first layer: a part for each tap; its bias belongs to the middle one."""
    hidden, taps = encoder.hidden_size, encoder.conv_kernel
    matrix = weights.take("encoder.conv.conv.weight", hidden, hidden, taps)
    biases = [np.zeros(hidden, np.float32) for _ in range(taps)]
    biases[(taps - 1) // 2] = weights.take("encoder.conv.conv.bias", hidden)
    parts = [np.ascontiguousarray(matrix[:, :, tap]) for tap in range(taps)]
    make.parts("convolution", ["encoder.conv.conv.weight"] * taps, parts, biases, (hidden, hidden))
    make.norm("convolution.norm", "encoder.conv.LayerNorm", hidden)
