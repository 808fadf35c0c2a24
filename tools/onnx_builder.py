"""Build an encoder's ONNX graph from the parts of a `.tbrt` file, one function for each part of the model.

Operators are those of opset 17. In int8 graphs weights are int8 with a scale per output; every input of an int8 linear layer is quantized
to u8 with a scale and a zero point per token, computed in the graph as the runtime does: the range of a row with 0 in it, over 255.
Attention, normalization, activations and heads are float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinybert_rt.format import layout

from .architectures import ARCHITECTURES
from .blocks import move_first_type, quantize_columns, quantize_rows
from .hf import ConversionError
from .tbrt import Layer, Linear, Matrix, Norm, TbrtFile

OPSET = 17
IR_VERSION = 8
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LOWEST = np.finfo(np.float32).min


class Builder:
    """Nodes and weights of a graph under construction. Methods that add nodes return the name of their result."""

    def __init__(self, int8: bool) -> None:
        try:
            from onnx import helper, numpy_helper
        except ImportError:
            raise ConversionError("writing ONNX needs the package 'onnx': pip install onnx") from None
        self._helper, self._numpy_helper = helper, numpy_helper
        self.int8 = int8
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._quantized: dict[str, str] = {}

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output."""
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [output], name=f"{output}/{kind}", **attributes))
        return output

    def weight(self, name: str, values: np.ndarray) -> str:
        """An initializer."""
        self.initializers.append(self._numpy_helper.from_array(np.array(values, order="C"), name))
        return name

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """A number or a list of numbers; equal ones are stored once."""
        values: np.ndarray = np.asarray(value, dtype)
        key = (values.dtype.str, values.tobytes(), values.shape)
        if key not in self._known:
            self._known[key] = self.weight(f"constant_{len(self._known)}", values)
        return self._known[key]

    def reshape(self, value: str, *shape: int) -> str:
        """0 keeps a dimension, -1 is what is left."""
        return self.node("Reshape", value, self.constant(list(shape), np.int64))

    def rows(self, name: str, matrix: Matrix, ids: str, columns: int) -> str:
        """Rows of an embedding table for ids (batch, tokens): int8 rows are dequantized after they are looked up."""
        values = self.weight(name, matrix.values)
        if matrix.scale is None:
            return self.node("Gather", values, ids)
        flat = self.reshape(ids, -1)
        scale = self.node("Gather", self.weight(f"{name}.scale", matrix.scale), flat)
        found = self.node("DequantizeLinear", self.node("Gather", values, flat), scale, axis=0)
        shape = self.node("Concat", self.node("Shape", ids), self.constant([columns], np.int64), axis=0)
        return self.node("Reshape", found, shape)

    def quantized(self, value: str, columns: int) -> str:
        """(batch, tokens, columns) after a round trip through u8, with a scale and a zero point per token."""
        if value in self._quantized:
            return self._quantized[value]
        rows = self.reshape(value, -1, columns)
        zero = self.constant(0.0)
        low = self.node("Min", self.node("ReduceMin", rows, axes=[1], keepdims=0), zero)
        high = self.node("Max", self.node("ReduceMax", rows, axes=[1], keepdims=0), zero)
        scale = self.node("Div", self.node("Sub", high, low), self.constant(255.0))
        scale = self.node("Max", scale, self.constant(1e-30))
        point = self.node("Round", self.node("Div", self.node("Neg", low), scale))
        point = self.node("Cast", point, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(np.uint8)))
        quantized = self.node("QuantizeLinear", rows, scale, point, axis=0)
        back = self.node("DequantizeLinear", quantized, scale, point, axis=0)
        self._quantized[value] = self.node("Reshape", back, self.node("Shape", value))
        return self._quantized[value]

    def linear(self, name: str, value: str, linear: Linear) -> str:
        """(batch, …, inputs) → (batch, …, outputs), of quantized inputs where the weight is int8."""
        matrix = linear.weight
        if matrix.scale is not None:
            quantized = self.weight(f"{name}.weight", matrix.values.T)
            points = self.constant(np.zeros(len(matrix.values)), np.int8)
            weight = self.node("DequantizeLinear", quantized, self.weight(f"{name}.scale", matrix.scale), points, axis=1)
            value = self.quantized(value, matrix.values.shape[1])
        else:
            weight = self.weight(f"{name}.weight", matrix.values.T)
        return self.node("Add", self.node("MatMul", value, weight), self.weight(f"{name}.bias", linear.bias))

    def norm(self, name: str, value: str, norm: Norm, eps: float, output: str = "") -> str:
        """Layer normalization of the last axis."""
        weights = (self.weight(f"{name}.weight", norm.weight), self.weight(f"{name}.bias", norm.bias))
        return self.node("LayerNormalization", value, *weights, name=output, axis=-1, epsilon=eps)

    def activation(self, value: str, kind: str) -> str:
        """GELU with erf, GELU with tanh, ReLU or tanh."""
        if kind in ("relu", "tanh"):
            return self.node("Relu" if kind == "relu" else "Tanh", value)
        if kind == "gelu":
            inner = self.node("Erf", self.node("Mul", value, self.constant(math.sqrt(0.5))))
        else:
            cube = self.node("Mul", self.node("Mul", value, value), value)
            inner = self.node("Add", value, self.node("Mul", cube, self.constant(0.044715)))
            inner = self.node("Tanh", self.node("Mul", inner, self.constant(math.sqrt(2 / math.pi))))
        half = self.node("Mul", value, self.constant(0.5))
        return self.node("Mul", half, self.node("Add", inner, self.constant(1.0)))


def embeddings(build: Builder, file: TbrtFile) -> str:
    """Sum of word, position and type rows, normalized, projected where the model does: (batch, tokens, hidden)."""
    config = file.config
    columns = config["embedding_size"] or config["hidden_size"]
    tables = {name: file.table(f"embeddings.{name}") for name in ("word", "position", "type")}
    if build.int8 and tables["position"].scale is None:
        moved = move_first_type(tables["position"].values, tables["type"].values)
        tables |= {name: Matrix(values) for name, values in zip(("position", "type"), moved, strict=True)}
    tables = {name: kept(build, table) for name, table in tables.items()}
    words = build.rows("embeddings.word", tables["word"], "input_ids", columns)
    length = build.node("Gather", build.node("Shape", "input_ids"), build.constant(1, np.int64))
    places = build.node("Range", build.constant(0, np.int64), length, build.constant(1, np.int64))
    total = build.node("Add", words, build.rows("embeddings.position", tables["position"], places, columns))
    if config["type_vocab_size"] > 1:
        total = build.node("Add", total, build.rows("embeddings.type", tables["type"], "token_type_ids", columns))
    elif ARCHITECTURES[file.architecture].types:
        total = build.node("Add", total, build.weight("embeddings.type", tables["type"].floats()[0]))
    states = build.norm("embeddings.norm", total, file.norm("embeddings.norm", columns), epsilon(config))
    if config["embedding_size"]:
        project = file.linear("embeddings.project", config["hidden_size"], columns)[0]
        states = build.linear("embeddings.project", states, Linear(kept(build, project.weight, True), project.bias))
    return states


def mask_of_scores(build: Builder) -> str:
    """0 for tokens, the smallest float32 for padding: (batch, 1, 1, tokens), to be added to scores."""
    wide = build.node("Unsqueeze", "attention_mask", build.constant([1, 2], np.int64))
    real = build.node("Greater", wide, build.constant(0, np.int64))
    return build.node("Where", real, build.constant(0.0), build.constant(_LOWEST))


def attention(build: Builder, name: str, states: str, mask: str, layer: Layer, heads: int) -> str:
    """softmax(Q Kᵀ/√size + mask) V of each head (Vaswani et al. 2017, section 3.2), and the output layer."""
    hidden = len(layer.query.bias)
    size = hidden // heads
    split = []
    for part, linear, order in (
        ("query", layer.query, [0, 2, 1, 3]),
        ("key", layer.key, [0, 2, 3, 1]),
        ("value", layer.value, [0, 2, 1, 3]),
    ):
        flat = build.linear(f"{name}.{part}", states, linear)
        split.append(build.node("Transpose", build.reshape(flat, 0, 0, heads, size), perm=order))
    query, key, value = split
    scores = build.node("Mul", build.node("MatMul", query, key), build.constant(size**-0.5))
    weights = build.node("Softmax", build.node("Add", scores, mask), axis=-1)
    mixed = build.node("Transpose", build.node("MatMul", weights, value), perm=[0, 2, 1, 3])
    return build.linear(f"{name}.output", build.reshape(mixed, 0, 0, hidden), layer.output)


def encoder_layer(build: Builder, name: str, states: str, mask: str, layer: Layer, config: dict[str, int], output: str = "") -> str:
    """Attention and feed-forward block, each added to its input and normalized."""
    attended = build.node("Add", states, attention(build, f"{name}.attention", states, mask, layer, config["num_heads"]))
    states = build.norm(f"{name}.attention.norm", attended, layer.attention_norm, epsilon(config))
    kind = {code: each for each, code in layout.ACTIVATIONS.items()}[config["activation"]]
    inner = build.activation(build.linear(f"{name}.ffn.in", states, layer.ffn_in), kind)
    summed = build.node("Add", states, build.linear(f"{name}.ffn.out", inner, layer.ffn_out))
    return build.norm(f"{name}.ffn.norm", summed, layer.ffn_norm, epsilon(config), output)


def sentence_embedding(build: Builder, states: str, config: dict[str, int], output: str) -> str:
    """One vector of each text, pooled over its tokens without padding, of length 1 where the file says so: (batch, hidden)."""
    pooling = {code: each for each, code in layout.POOLINGS.items()}[config["pooling"]]
    normalize = bool(config["normalize"])
    pooled = "" if normalize else output
    wide = build.node("Unsqueeze", "attention_mask", build.constant([2], np.int64))
    if pooling == "cls":
        vectors = build.node("Gather", states, build.constant(0, np.int64), name=pooled, axis=1)
    elif pooling == "max":
        real = build.node("Greater", wide, build.constant(0, np.int64))
        vectors = build.node("ReduceMax", build.node("Where", real, states, build.constant(_LOWEST)), name=pooled, axes=[1], keepdims=0)
    else:
        weights = build.node("Cast", wide, to=1)
        axis = build.constant([1], np.int64)
        total = build.node("ReduceSum", build.node("Mul", states, weights), axis, keepdims=0)
        count = build.node("Max", build.node("ReduceSum", weights, axis, keepdims=0), build.constant(1.0))
        vectors = build.node("Div", total, count, name=pooled)
    if not normalize:
        return vectors
    length = build.node("Max", build.node("ReduceL2", vectors, axes=[1], keepdims=1), build.constant(1e-12))
    return build.node("Div", vectors, length, name=output)


def logits(build: Builder, states: str, file: TbrtFile, output: str) -> str:
    """Outputs of the head: (batch, labels) of the first token, or (batch, tokens, labels)."""
    config = file.config
    hidden = config["hidden_size"]
    if config["head"] == layout.HEADS["sequence_classification"]:
        states = build.node("Gather", states, build.constant(0, np.int64), axis=1)
    if config["head_activation"]:
        kind = {code: each for each, code in layout.HEAD_ACTIVATIONS.items()}[config["head_activation"]]
        states = build.activation(build.linear("head.dense", states, file.linear("head.dense", hidden, hidden)[0]), kind)
    linear = file.linear("head.output", config["labels"], hidden)[0]
    weight, bias = build.weight("head.output.weight", linear.weight.values.T), build.weight("head.output.bias", linear.bias)
    return build.node("Add", build.node("MatMul", states, weight), bias, name=output)


def kept(build: Builder, matrix: Matrix, columns: bool = False) -> Matrix:
    """A matrix as the graph is to have it: float32, or int8, quantized as `convert` does where the file is float32.

    Args:
        columns: quantize as a linear layer, under the pair rule of FORMAT.md; else as a table.
    """
    if not build.int8:
        return Matrix(matrix.floats())
    if matrix.scale is not None:
        return matrix
    return Matrix(*(quantize_columns if columns else quantize_rows)(matrix.values))


def epsilon(config: dict[str, int]) -> float:
    """The layer normalization's."""
    return float(np.int32(config["layer_norm_eps_bits"]).view(np.float32))
