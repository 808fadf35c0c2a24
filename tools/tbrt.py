"""Read a `.tbrt` file into plain numpy arrays: blocks undone, padding and the gaps between heads removed.

The runtime reads files through its compiled reader; this one is for tools that want to look at the weights. What a file holds beyond
`layout` is refused, so that no tool takes a model for a simpler one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.writer import NUMPY_DTYPES

from .hf import ConversionError


@dataclass(frozen=True)
class Matrix:
    """Rows of a linear layer or of an embedding table: float32 (rows, columns), or int8 with a float32 scale per row."""

    values: np.ndarray
    scale: np.ndarray | None = None

    def floats(self) -> np.ndarray:
        """float32 (rows, columns): value · scale where there is a scale."""
        if self.scale is None:
            return self.values
        floats: np.ndarray = self.values.astype(np.float32) * self.scale[:, None]
        return floats


@dataclass(frozen=True)
class Linear:
    """y = weight x + bias; the weight has a row per output, bias is float32 (outputs,)."""

    weight: Matrix
    bias: np.ndarray


@dataclass(frozen=True)
class Norm:
    """A layer normalization, float32 (size,) each."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One encoder layer, its heads one behind the other without gaps."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    attention_norm: Norm
    ffn_in: Linear
    ffn_out: Linear
    ffn_norm: Norm


@dataclass(frozen=True)
class Entry:
    """A tensor of the header: its dtype as safetensors names it, its shape and its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TbrtFile:
    """An opened `.tbrt` file.

    Attributes:
        path, size: the file and its bytes.
        config: CONFIG_FIELDS by name.
        metadata: `__metadata__` of the header.
        entries: the tensors in file order. rules: their names and rules.
        float_linears: names of the linear layers that are float32 in an int8 file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._bytes = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise ConversionError(f"{self.path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        self.size = len(self._bytes)
        self.metadata, self.entries = self._header()
        values = self.raw("config")
        if values.dtype != np.int32 or values.shape != (layout.CONFIG_SIZE,):
            raise self._error("the tensor 'config' is not one of int32 numbers")
        self.config = {name: int(values[index]) for index, name in enumerate(layout.CONFIG_FIELDS)}
        if values[len(layout.CONFIG_FIELDS) :].any():
            raise self._error("the configuration has fields that this release does not know")
        for name, (low, high) in layout.CONFIG_RANGES.items():
            if not low <= self.config[name] <= high:
                raise self._error(f"{name} is {self.config[name]}; it must be from {low} to {high}")
        if self.config["hidden_size"] % self.config["num_heads"]:
            raise self._error("hidden_size is not divisible by num_heads")
        inner = self.config["inner_layers"] or 1
        if self.config["num_layers"] % inner or layout.stored_layers(self.config) % inner:
            raise self._error("inner_layers does not divide the number of layers")
        marks = self.raw("float_linears").tobytes() if "float_linears" in self.entries else b""
        self.float_linears = layout.float_linears(marks)
        if len(self.float_linears) != self.config["float_linears"]:
            raise self._error(f"float_linears is {self.config['float_linears']}, but {len(self.float_linears)} linear layers are marked")
        self.rules = list(file_tensors.tensor_rules(self.config, marks))
        expected = file_tensors.tensor_specs(self.config, marks)
        found = {name: (entry.dtype, entry.shape) for name, entry in self.entries.items()}
        for name in expected.keys() | found.keys():
            if expected.get(name) != found.get(name):
                raise self._error(
                    f"tensor {name!r} is {_describe(found.get(name))}; this configuration asks for {_describe(expected.get(name))}"
                )

    def _error(self, reason: str) -> ConversionError:
        return ConversionError(f"{self.path}: {reason}")

    def _header(self) -> tuple[dict[str, str], dict[str, Entry]]:
        """The parsed safetensors header; every tensor lies within the file and has as many bytes as its shape asks for."""
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if self.size < 8 or not 2 <= length <= min(layout.MAX_HEADER_BYTES, self.size - 8):
            raise self._error("not a .tbrt file: it does not begin with a header")
        try:
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
            metadata = {str(key): str(value) for key, value in header.pop("__metadata__").items()}
            entries = {name: _entry(value, 8 + length) for name, value in header.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._error("not a .tbrt file: its header is damaged") from None
        version = str(layout.FORMAT_VERSION)
        if metadata.get("format") != layout.FORMAT_NAME or metadata.get("version") != version:
            found = f"{metadata.get('format')!r}, version {metadata.get('version')!r}"
            raise self._error(f"not a .tbrt file of version {version}: the header says {found}")
        for name, entry in entries.items():
            needed = int(np.prod(entry.shape, dtype=np.int64)) * layout.DTYPE_BYTES.get(entry.dtype, -1)
            if not 0 <= entry.begin <= entry.end <= self.size or entry.end - entry.begin != needed:
                raise self._error(f"tensor {name!r} does not lie within the file: the file is cut off or damaged")
        if "config" not in entries:
            raise self._error("the tensor 'config' is missing")
        return metadata, entries

    def raw(self, name: str) -> np.ndarray:
        """A tensor as it lies in the file."""
        entry = self.entries[name]
        values: np.ndarray = np.asarray(self._bytes)[entry.begin : entry.end].view(NUMPY_DTYPES[entry.dtype]).reshape(entry.shape)
        return values

    @property
    def int8(self) -> bool:
        """Whether the weights are int8."""
        return self.config["weight_dtype"] == layout.WEIGHT_DTYPES["int8"]

    @property
    def architecture(self) -> str:
        """The architecture's name, or its number where it has none here."""
        number = self.config["architecture"]
        return {code: name for name, code in layout.ARCHITECTURES.items()}.get(number, str(number))

    def table(self, name: str) -> Matrix:
        """An embedding table: `embeddings.word`, `.position` or `.type`."""
        values = self.raw(name)[:, : self.config["embedding_size"] or self.config["hidden_size"]]
        return Matrix(values, self.raw(f"{name}.scale")[: len(values)] if self.int8 else None)

    def norm(self, name: str, size: int) -> Norm:
        """A layer normalization."""
        return Norm(self.raw(f"{name}.weight")[:size], self.raw(f"{name}.bias")[:size])

    def linear(self, name: str, outputs: int, inputs: int, parts: int = 1) -> list[Linear]:
        """The parts of a linear layer of (outputs, inputs) each, float32 or int8 as the file has it."""
        blocks = self.raw(f"{name}.weight")
        if blocks.ndim == 4:
            rows = blocks.transpose(0, 2, 1, 3).reshape(blocks.shape[0] * layout.LANES, -1)
        else:
            rows = blocks.transpose(0, 2, 1).reshape(blocks.shape[0] * layout.LANES, -1)
        width = len(rows) // parts
        scale = self.raw(f"{name}.scale") if blocks.ndim == 4 else None
        bias = self.raw(f"{name}.bias")
        made = []
        for part in range(parts):
            own = slice(part * width, part * width + outputs)
            made.append(Linear(Matrix(rows[own, :inputs], None if scale is None else scale[own]), bias[own]))
        return made

    def layers(self) -> Iterator[Layer]:
        """The stored layers; `layout.layer_source` says which of them runs as which layer of the model."""
        hidden, inner, heads = self.config["hidden_size"], self.config["intermediate_size"], self.config["num_heads"]
        size, width = hidden // heads, layout.head_width(hidden, heads)
        # Places of the heads' columns that are not padding.
        kept = np.arange(heads * width).reshape(heads, width)[:, :size].ravel()
        for index in range(layout.stored_layers(self.config)):
            name = f"layers.{index}"
            query, key, value = [_rows(part, kept) for part in self.linear(f"{name}.attention.qkv", heads * width, hidden, 3)]
            output = self.linear(f"{name}.attention.output", hidden, heads * width)[0]
            yield Layer(
                query=query,
                key=key,
                value=value,
                output=Linear(Matrix(output.weight.values[:, kept], output.weight.scale), output.bias),
                attention_norm=self.norm(f"{name}.attention.norm", hidden),
                ffn_in=self.linear(f"{name}.ffn.in", inner, hidden)[0],
                ffn_out=self.linear(f"{name}.ffn.out", hidden, inner)[0],
                ffn_norm=self.norm(f"{name}.ffn.norm", hidden),
            )

    def labels(self) -> list[str]:
        """The labels of the head; empty without a head, and of one that predicts masked tokens."""
        if not self.config["labels"]:
            return []
        return self._texts("head.labels", "head.label_offsets", self.config["labels"])

    def pieces(self) -> list[str]:
        """The pieces of the vocabulary, by id."""
        return self._texts("tokenizer.pieces", "tokenizer.piece_offsets", self.config["vocab_size"])

    def _texts(self, name: str, offsets_name: str, count: int) -> list[str]:
        data, offsets = self.raw(name).tobytes(), self.raw(offsets_name)[: count + 1].tolist()
        return [data[begin:end].decode(errors="replace") for begin, end in pairwise(offsets)]


def _entry(value: dict[str, Any], base: int) -> Entry:
    begin, end = value["data_offsets"]
    return Entry(str(value["dtype"]), tuple(int(size) for size in value["shape"]), base + int(begin), base + int(end))


def _describe(spec: tuple[str, tuple[int, ...]] | None) -> str:
    return "not there" if spec is None else f"{spec[0]} {'×'.join(map(str, spec[1]))}"


def _rows(linear: Linear, kept: np.ndarray) -> Linear:
    scale = linear.weight.scale
    return Linear(Matrix(linear.weight.values[kept], None if scale is None else scale[kept]), linear.bias[kept])
