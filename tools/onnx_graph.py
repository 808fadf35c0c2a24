"""An ONNX graph to walk through: constants folded as far as weights need it, producers of values, nodes by what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .hf import ConversionError

_QUANTIZED = (
    "Quantize",
    "Dequantize",
    "QLinear",
    "MatMulInteger",
    "MatMulNBits",
    "MatMulBnb4",
    "QAttention",
    "QEmbed",
    "QGemm",
    "QOrdered",
)
# Nodes that hand on their first input, in inference.
_SAME = ("Identity", "Dropout", "Cast")
_SQRT_HALF = math.sqrt(0.5)


class Linear(NamedTuple):
    """y = x Wᵀ + b: what comes in, W (outputs, inputs), b (outputs,) or None, and the node that multiplies."""

    source: str
    weight: np.ndarray
    bias: np.ndarray | None
    node: Any

    def with_bias(self, bias: np.ndarray | None) -> Linear:
        """The same with a bias that another node adds."""
        return self if bias is None else self._replace(bias=bias)


class Norm(NamedTuple):
    """A layer normalization: the values whose sum it normalizes, a bias that it adds to that sum, and its parameters."""

    summands: tuple[str, ...]
    bias: np.ndarray | None
    gamma: np.ndarray
    beta: np.ndarray
    eps: float
    node: Any


class Graph:
    """The main graph of an ONNX file, its weights in memory."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
        except ImportError:
            raise ConversionError(f"{path}: reading it needs the package 'onnx': pip install onnx") from None
        self.path = path
        self._to_array = onnx.numpy_helper.to_array
        self._attribute = onnx.helper.get_attribute_value
        try:
            model = onnx.load(str(path))
        except Exception as error:  # protobuf and the loader of external data raise many kinds
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConversionError(f"{path}: not readable as ONNX: {reason}") from None
        self.graph = model.graph
        self.properties = {each.key: each.value for each in model.metadata_props}
        if not self.graph.node:
            raise ConversionError(f"{path}: not readable as ONNX: there is no graph in it")
        self._initializers = {each.name: each for each in self.graph.initializer}
        self.producers = {output: node for node in self.graph.node for output in node.output if output}
        self.inputs = {each.name for each in self.graph.input} - self._initializers.keys()
        self.outputs = [each.name for each in self.graph.output]
        self._constants: dict[str, np.ndarray | None] = {}
        for node in self.graph.node:
            if node.op_type.startswith(_QUANTIZED) or node.op_type == "DynamicQuantizeMatMul":
                self.fail(node, "the graph is quantized: convert the float32 (or float16) graph, quantization comes after that")
            if node.domain not in ("", "ai.onnx", "com.microsoft"):
                self.fail(node, f"operators of the domain {node.domain!r} are not understood")

    def fail(self, node: Any, expected: str) -> NoReturn:
        """Refuse the graph because of a node (None: a graph input)."""
        where = f"node {node.op_type} {node.name or node.output[0]!r}" if node is not None else "a graph input"
        raise ConversionError(f"{self.path}: {where}: {expected}")

    def attribute(self, node: Any, name: str, default: Any = None) -> Any:
        """An attribute's value; bytes as text."""
        for each in node.attribute:
            if each.name == name:
                value = self._attribute(each)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def resolve(self, value: str) -> str:
        """The value that this one is the same as: past Identity, Dropout and Cast."""
        while (node := self.producers.get(value)) is not None and node.op_type in _SAME:
            value = node.input[0]
        return value

    def producer(self, value: str) -> Any:
        """The node that computes a value, past those that only hand it on; None for inputs and weights."""
        return self.producers.get(self.resolve(value))

    def constant(self, value: str) -> np.ndarray | None:
        """The value of a weight or constant, also of one that is turned, reshaped or copied; else None."""
        if value not in self._constants:
            self._constants[value] = self._constant(value)
        return self._constants[value]

    def _constant(self, value: str) -> np.ndarray | None:
        if value in self._initializers:
            return self._plain(self._to_array(self._initializers[value]))
        node = self.producers.get(value)
        if node is None:
            return None
        if node.op_type == "Constant":
            for name in ("value_float", "value_int", "value_floats", "value_ints"):
                if (number := self.attribute(node, name)) is not None:
                    return np.array(number)
            tensor = self.attribute(node, "value")
            return None if tensor is None else self._plain(self._to_array(tensor))
        if node.op_type not in ("Identity", "Cast", "Transpose", "Reshape"):
            return None
        array = self.constant(node.input[0])
        if array is None or node.op_type in ("Identity", "Cast"):
            return array
        if node.op_type == "Transpose":
            return np.transpose(array, self.attribute(node, "perm"))
        shape = self.constant(node.input[1])
        return array.reshape(shape.tolist()) if shape is not None and (shape != 0).all() else None

    @staticmethod
    def _plain(array: Any) -> np.ndarray:
        """bfloat16 as float32; the rest as it is."""
        return np.asarray(array, np.float32 if array.dtype.name == "bfloat16" else array.dtype)

    def vector(self, value: str) -> np.ndarray | None:
        """A constant float vector with at least one element, (n,) or (1, …, n)."""
        array = self.constant(value)
        if array is None or array.dtype.kind != "f" or array.ndim < 1 or array.size != array.shape[-1]:
            return None
        return array.reshape(-1)

    def scalar(self, value: str) -> float | None:
        """A constant number."""
        array = self.constant(value)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def matrix(self, value: str) -> np.ndarray | None:
        """A constant float matrix."""
        array = self.constant(value)
        return array if array is not None and array.ndim == 2 and array.dtype.kind == "f" else None

    def split(self, node: Any, test: Callable[[str], Any]) -> tuple[str, Any] | None:
        """Of a node of two inputs: the one that is no constant, and the other one as `test` sees it; None if that does not fit."""
        for value, other in (tuple(node.input[:2]), tuple(node.input[1::-1])):
            found = test(other)
            if found is not None and self.constant(value) is None:
                return value, found
        return None

    def linear(self, value: str) -> Linear | None:
        """The linear layer that computes a value: MatMul, with or without Add, or Gemm."""
        node = self.producer(value)
        if node is None:
            return None
        if node.op_type == "Add" and (parts := self.split(node, self.vector)):
            inner = self.linear(parts[0])
            return inner.with_bias(parts[1]) if inner and inner.bias is None and len(parts[1]) == len(inner.weight) else None
        if node.op_type == "MatMul":
            weight = self.matrix(node.input[1])
            return None if weight is None else Linear(node.input[0], weight.T, None, node)
        if node.op_type == "Gemm":
            weight = self.matrix(node.input[1])
            if weight is None or self.attribute(node, "transA", 0) or self.attribute(node, "alpha", 1.0) != 1.0:
                return None
            has_bias = len(node.input) > 2 and node.input[2]
            bias = self.vector(node.input[2]) if has_bias else None
            if has_bias and (bias is None or self.attribute(node, "beta", 1.0) != 1.0):
                return None
            return Linear(node.input[0], weight if self.attribute(node, "transB", 0) else weight.T, bias, node)
        # Exporters that flatten tokens for a Gemm give them back their shape behind it.
        if node.op_type == "Reshape" and (inner := self.linear(node.input[0])) and inner.node.op_type == "Gemm":
            return inner._replace(source=self.past(inner.source, ("Reshape",)))
        return None

    def past(self, value: str, kinds: Sequence[str]) -> str:
        """Back through nodes that only move elements."""
        value = self.resolve(value)
        while (node := self.producers.get(value)) is not None and node.op_type in kinds:
            value = self.resolve(node.input[0])
        return value

    def norm(self, value: str) -> Norm | None:
        """The layer normalization that computes a value: one node, one that adds before, or the nodes that it was before opset 17."""
        node = self.producer(value)
        if node is None or self.resolve(value) != node.output[0]:
            return None
        if node.op_type == "LayerNormalization":
            return self._norm_of(node, (node.input[0],), node.input[1], node.input[2], None, self.attribute(node, "epsilon", 1e-5))
        if node.op_type == "SkipLayerNormalization":
            bias = self.vector(node.input[4]) if len(node.input) > 4 and node.input[4] else None
            return self._norm_of(node, tuple(node.input[:2]), node.input[2], node.input[3], bias, self.attribute(node, "epsilon", 1e-12))
        return self._norm_in_steps(node)

    def _norm_of(
        self, node: Any, sources: tuple[str, ...], gamma_name: str, beta_name: str, bias: np.ndarray | None, eps: float
    ) -> Norm | None:
        gamma, beta = self.vector(gamma_name), self.vector(beta_name)
        if gamma is None or beta is None:
            return None
        if len(sources) == 1:
            summed = self.producer(sources[0])
            if summed is not None and summed.op_type == "Add" and all(self.constant(each) is None for each in summed.input):
                sources = tuple(summed.input)
        return Norm(sources, bias, gamma, beta, float(eps), node)

    def _norm_in_steps(self, node: Any) -> Norm | None:
        """Add(Mul(Div(d, Sqrt(ReduceMean(Pow(d, 2)) + eps)), gamma), beta) with d = Sub(x, ReduceMean(x))."""
        if node.op_type != "Add" or not (scaled := self.split(node, self.vector)):
            return None
        product = self.producer(scaled[0])
        if product is None or product.op_type != "Mul" or not (divided := self.split(product, self.vector)):
            return None
        quotient = self.producer(divided[0])
        if quotient is None or quotient.op_type != "Div":
            return None
        difference, root = (self.producer(each) for each in quotient.input)
        if difference is None or root is None or (difference.op_type, root.op_type) != ("Sub", "Sqrt"):
            return None
        inner = self.producer(root.input[0])
        if inner is None or inner.op_type != "Add" or not (variance := self.split(inner, self.scalar)):
            return None
        for each, kind in ((self.producer(difference.input[1]), "ReduceMean"), (self.producer(variance[0]), "ReduceMean")):
            if each is None or each.op_type != kind:
                return None
        names = [next(name for name in part.input if self.constant(name) is not None) for part in (product, node)]
        return self._norm_of(node, (difference.input[0],), names[0], names[1], None, variance[1])

    def activated(self, value: str) -> tuple[str, np.ndarray | None, str | None]:
        """What an activation is of: the linear layer's output, a bias that the activation adds, and its name ("" for none, None for one
        that is not known). The nodes between are computed for a few numbers and compared with the activations' definitions."""
        node = self.producer(value)
        if node is not None and node.op_type in ("BiasGelu", "FastGelu") and len(node.input) > 1 and node.input[1]:
            name = "gelu" if node.op_type == "BiasGelu" else "gelu_tanh"
            return node.input[0], self.vector(node.input[1]), name
        start = self._elementwise_start(value)
        if start is None or self.resolve(start) == self.resolve(value):
            return value, None, ""
        points = np.linspace(-6, 6, 241)
        try:
            with np.errstate(all="ignore"):
                found = self._evaluate(value, {self.resolve(start): points})
        except (KeyError, ValueError):
            return start, None, None
        known = (name for name, function in ACTIVATIONS.items() if np.abs(found - function(points)).max() < 2e-5)
        return start, None, next(known, None)

    def _elementwise_start(self, value: str) -> str | None:
        """Back through elementwise nodes to the linear layer's output that they compute on."""
        seen, waiting = set(), [value]
        while waiting:
            value = self.resolve(waiting.pop())
            if value in seen:
                continue
            seen.add(value)
            if self.linear(value) is not None:
                return value
            node = self.producers.get(value)
            if node is not None and node.op_type in _ELEMENTWISE:
                waiting += [name for name in node.input if name and self.constant(name) is None]
        return None

    def _evaluate(self, value: str, known: dict[str, np.ndarray]) -> np.ndarray:
        value = self.resolve(value)
        if value in known:
            return known[value]
        constant = self.constant(value)
        if constant is not None:
            return constant.astype(np.float64)
        node = self.producers[value]
        operands = [self._evaluate(name, known) for name in node.input if name]
        if node.op_type == "Gelu":
            known[value] = ACTIVATIONS["gelu_tanh" if self.attribute(node, "approximate", "none") == "tanh" else "gelu"](operands[0])
        else:
            known[value] = _ELEMENTWISE[node.op_type](*operands)
        return known[value]

    def is_shape(self, value: str) -> bool:
        """Whether a value is the shape of another one."""
        node = self.producers.get(value)
        return node is not None and node.op_type in ("Shape", "Size")

    def ancestors(self, value: str, stop: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
        """A value and all that it is computed of; not what lies behind values for which `stop` holds."""
        seen, waiting = set(), [value]
        while waiting:
            value = waiting.pop()
            if not value or value in seen:
                continue
            seen.add(value)
            yield value
            if not stop(value) and (node := self.producers.get(value)) is not None:
                waiting.extend(node.input)


def _erf(values: np.ndarray) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(values)


def _gelu(x: np.ndarray) -> Any:
    return x * 0.5 * (1 + _erf(x * _SQRT_HALF))


def _gelu_tanh(x: np.ndarray) -> Any:
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _relu(x: np.ndarray) -> Any:
    return np.maximum(x, 0)


ACTIVATIONS: dict[str, Callable[[np.ndarray], Any]] = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": _relu, "tanh": np.tanh}
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
    "Erf": _erf,
    "Relu": _relu,
    "Gelu": _gelu,
    "FastGelu": _gelu_tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "QuickGelu": lambda x: x / (1 + np.exp(-1.702 * x)),
}
