"""The tensors of a model file, made of a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tinybert_rt.format import layout

from . import blocks, relative
from .hf import EncoderConfig, Weights
from .keep import marks_tensor

_TYPES = "embeddings.token_type_embeddings.weight"


@dataclass(frozen=True)
class TensorReport:
    """What quantization did to one tensor of the checkpoint."""

    name: str
    shape: tuple[int, ...]
    error: blocks.QuantizationError


class TensorMaker:
    """Collects the tensors of a file, and what quantization does to them. `kept`: linear layers that stay float32."""

    def __init__(self, weights: Weights, encoder: EncoderConfig, int8: bool, kept: Collection[str] = ()) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self.reports: list[TensorReport] = []
        self._weights = weights
        self._encoder = encoder
        self._int8 = int8
        self._kept = kept

    def table(self, name: str, source: str, values: np.ndarray) -> None:
        """An embedding table, float (rows, n)."""
        made, errors = blocks.table_tensors(name, values, self._int8)
        self.tensors.update(made)
        self.reports.extend(TensorReport(source, values.shape, error) for error in errors)

    def norm(self, name: str, source: str, size: int) -> None:
        """A layer normalization."""
        for part in ("weight", "bias"):
            self.tensors[f"{name}.{part}"] = blocks.pad_vector(self._weights.take(f"{source}.{part}", size), layout.COLUMN_MULTIPLE)

    def linear(self, name: str, sources: list[str], outputs: int, inputs: int) -> None:
        """A linear layer whose parts are those of the checkpoint."""
        parts = [self._weights.take(f"{source}.weight", outputs, inputs) for source in sources]
        biases = [self._weights.take(f"{source}.bias", outputs) for source in sources]
        heads = self._encoder.num_heads
        width = layout.head_width(self._encoder.hidden_size, heads)
        if name.endswith("attention.qkv"):
            parts = [blocks.spread_heads(part, heads, width) for part in parts]
            biases = [blocks.spread_heads(bias, heads, width) for bias in biases]
        if name.endswith("attention.output"):
            parts = [np.ascontiguousarray(blocks.spread_heads(part.T, heads, width).T) for part in parts]
        self.parts(name, [f"{source}.weight" for source in sources], parts, biases, (outputs, inputs))

    def parts(
        self, name: str, sources: list[str], parts: list[np.ndarray], biases: list[np.ndarray] | None, shape: tuple[int, int]
    ) -> None:
        """A linear layer of the given parts, float (outputs, inputs) each; `shape` is that of the checkpoint's tensors."""
        zeros = [np.zeros(len(part), np.float32) for part in parts]
        int8 = self._int8 and name not in self._kept
        made, errors = blocks.linear_tensors(name, parts, biases or zeros, int8)
        if biases is None:
            del made[f"{name}.bias"]
        self.tensors.update(made)
        if int8:
            self.reports.extend(TensorReport(source, shape, error) for source, error in zip(sources, errors, strict=False))


def weight_tensors(
    weights: Weights, encoder: EncoderConfig, vocab_size: int, int8: bool, kept: Collection[str] = ()
) -> tuple[dict[str, np.ndarray], list[TensorReport]]:
    """The encoder's tensors, without the tokenizer's and the head's.

    Args:
        vocab_size: rows of the word embeddings that are kept.
        int8: quantize; else float32.
        kept: linear layers that stay float32 all the same, as `keep.kept_linears` names them.

    Raises ConversionError for a tensor that is missing or misshapen.
    """
    make = TensorMaker(weights, encoder, int8, kept)
    kind = encoder.architecture
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    embedding = encoder.embedding_size or hidden

    words = weights.take("embeddings.word_embeddings.weight", encoder.vocab_size, embedding)
    make.table("embeddings.word", "embeddings.word_embeddings.weight", words[:vocab_size])
    types = np.zeros((1, embedding), np.float32)
    if kind.types and encoder.type_vocab_size:
        types = weights.take(_TYPES, encoder.type_vocab_size, embedding)[: 1 if encoder.one_type else None]
    if encoder.positions:
        rows = encoder.positions_begin + encoder.max_positions
        positions = weights.take("embeddings.position_embeddings.weight", rows, embedding)[encoder.positions_begin :]
        if int8:
            positions, types = blocks.move_first_type(positions, types)
        make.table("embeddings.position", "embeddings.position_embeddings.weight", positions)
    if kind.types and encoder.type_vocab_size:
        make.table("embeddings.type", _TYPES, types)
    else:
        make.tensors.update(blocks.table_tensors("embeddings.type", types, int8)[0])
    make.norm("embeddings.norm", "embeddings.LayerNorm", embedding)
    if encoder.embedding_size:
        make.linear("embeddings.project", [kind.project], hidden, embedding)
    positions_of = relative.read_positions(weights, encoder)
    if encoder.relative is not None:
        make.tensors["relative.buckets"] = relative.bucket_tensor(encoder.relative, encoder.max_positions)
    if encoder.conv_kernel:
        relative.convolution(make, weights, encoder)
    sizes = {"attention.qkv": (hidden, hidden), "attention.output": (hidden, hidden), "ffn.in": (inner, hidden), "ffn.out": (hidden, inner)}
    for layer in range(encoder.stored_layers):
        group, member = divmod(layer, encoder.inner_layers or 1)
        name, source = f"layers.{layer}", kind.layer.format(layer=layer, group=group, inner=member)
        if kind.packed:
            relative.unpack(weights, f"{source}.{kind.packed}", [f"{source}.{each}" for each in kind.linears["attention.qkv"]], encoder)
        if positions_of is not None:
            relative.layer_positions(make, weights, encoder, name, source, positions_of)
        for part, (outputs, inputs) in sizes.items():
            make.linear(f"{name}.{part}", [f"{source}.{each}" for each in kind.linears[part]], outputs, inputs)
        for part, norm_source in kind.norms.items():
            make.norm(f"{name}.{part}", f"{source}.{norm_source}", hidden)
    if kept:
        make.tensors["float_linears"] = marks_tensor(kept)
    return make.tensors, make.reports
