"""Recognise a BERT-like encoder in an ONNX graph, from its last layer normalization back to the embedding tables.

A layer is known by what it computes: normalize(h + W₂ act(W₁ h)) over normalize(h + Wₒ attention(Wq h, Wk h, Wv h)), however its nodes
are called and ordered. Fused nodes of ONNX Runtime (Attention, MultiHeadAttention, SkipLayerNormalization, EmbedLayerNormalization,
BiasGelu, FastGelu) stand for the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .onnx_graph import Graph, Linear, Norm

_MOVES = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Contiguous", "Flatten")
_PICKS = (*_MOVES, "Gather", "Slice", "Split")


@dataclass
class OnnxLayer:
    """The linear layers and normalizations of a layer by their names in a `.tbrt` file, and what else its nodes say."""

    linears: dict[str, list[Linear]]
    norms: dict[str, Norm]
    activation: str
    num_heads: int | None = None
    scale: float | None = None
    node: Any = None


@dataclass
class OnnxEncoder:
    """What a graph holds.

    Attributes:
        tables: (rows, n) of the embeddings "word", "position" and "type", as far as the graph looks them up.
        folded_type: the one row of token types that the exporter added as a constant, or None.
        norm: of the embeddings. project: from embeddings to hidden states, or None.
        layers: in the order in which they run.
        states: the name of the last hidden states.
        others: the linear layers behind these, in the graph's order, each with the activation of its input.
    """

    norm: Norm
    states: str
    layers: list[OnnxLayer] = field(default_factory=list)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    folded_type: np.ndarray | None = None
    project: Linear | None = None
    others: list[tuple[Linear, str | None]] = field(default_factory=list)


def read_encoder(graph: Graph, type_rows: int) -> OnnxEncoder:
    """The encoder of a graph. Raises ConversionError with the first node that does not fit.

    Args:
        type_rows: rows of the table of token types that config.json has, 0 for none: graphs without token types as input say less.
    """
    states, layers, value = _last_layer(graph)
    while (layer := _layer(graph, value)) is not None:
        layers.append(layer[0])
        value = layer[1]
    layers.reverse()
    project = graph.linear(value)
    if project is not None:
        value = graph.resolve(project.source)
    node = graph.producer(value)
    if node is not None and node.op_type == "EmbedLayerNormalization":
        encoder = _fused_embeddings(graph, node, states)
    else:
        norm = graph.norm(value)
        if norm is None:
            graph.fail(node, "expected the end of an encoder layer, or the layer normalization of the embeddings")
        encoder = OnnxEncoder(norm, states)
        _embeddings(graph, norm, encoder, type_rows)
    encoder.layers, encoder.project = layers, project
    encoder.others = _others(graph, encoder)
    return encoder


def _last_layer(graph: Graph) -> tuple[str, list[OnnxLayer], str]:
    """The name of the last hidden states, the layer that makes them, and what goes into it."""
    reached = {name for output in graph.outputs for name in graph.ancestors(output)}
    norms = [node for node in graph.graph.node if node.output[0] in reached and graph.norm(node.output[0]) is not None]
    for node in reversed(norms):
        if (layer := _layer(graph, node.output[0])) is not None:
            return node.output[0], [layer[0]], layer[1]
    expected = "expected the normalization of a layer's input plus its feed-forward block"
    return graph.fail(
        *((norms[-1], expected) if norms else (graph.graph.node[-1], "the graph has no layer normalization: this is no encoder"))
    )


def _layer(graph: Graph, value: str) -> tuple[OnnxLayer, str] | None:
    """The layer whose output `value` is, and the value of its input; None if `value` is the sum of embeddings or something else."""
    norm = graph.norm(value)
    if norm is None or len(norm.summands) != 2:
        return None
    residual, out = _residual(graph, norm)
    if out is None:
        return None
    start, added, activation = graph.activated(out.source)
    inner = graph.linear(start)
    if inner is None or graph.resolve(inner.source) != residual:
        graph.fail(out.node, "expected W₂ act(W₁ h) here, of the same h that is added to it")
    if activation is None or activation == "":
        graph.fail(graph.producer(out.source), "this activation is not known; expected GELU (erf or tanh) or ReLU")
    attended = graph.norm(residual)
    if attended is None or len(attended.summands) != 2:
        graph.fail(graph.producer(residual), "expected the layer normalization behind attention")
    source, output = _residual(graph, attended)
    if output is None:
        graph.fail(attended.node, "expected the sum of a layer's input and a linear layer of its attention")
    qkv, heads, scale = _attention(graph, output, source)
    linears = {"attention.qkv": qkv, "attention.output": [output], "ffn.in": [inner.with_bias(added)], "ffn.out": [out]}
    layer = OnnxLayer(linears, {"attention.norm": attended, "ffn.norm": norm}, activation, heads, scale, norm.node)
    return layer, source


def _residual(graph: Graph, norm: Norm) -> tuple[str, Linear | None]:
    """Of a normalized sum: the value that goes around, and the linear layer that is added to it.

    Both may be linear layers where embeddings are projected: the one that goes around is not computed of the other one.
    """
    found = []
    for value, other in (norm.summands, norm.summands[::-1]):
        linear = graph.linear(value)
        if linear is not None and graph.resolve(other) in graph.ancestors(linear.source):
            found.append((graph.resolve(other), linear.with_bias(norm.bias)))
    return found[0] if found else ("", None)


def _attention(graph: Graph, output: Linear, source: str) -> tuple[list[Linear], int | None, float | None]:
    """Query, key and value layers of the attention that `output` is of; its heads and the scale of its scores, where nodes say so."""
    node = graph.producer(output.source)
    if node is not None and node.op_type in ("Attention", "MultiHeadAttention") and node.domain == "com.microsoft":
        return _fused_attention(graph, node, source)
    mixed = graph.producer(graph.past(output.source, _MOVES))
    if mixed is None or mixed.op_type != "MatMul":
        graph.fail(mixed or output.node, "expected the product of attention weights and values")
    softmax = graph.producer(mixed.input[0])
    if softmax is not None and softmax.op_type == "Where":  # rows that are masked as a whole
        softmax = graph.producer(softmax.input[2])
    if softmax is None or softmax.op_type != "Softmax":
        graph.fail(softmax or mixed, "expected the softmax of attention scores")
    scores, scale = _scores(graph, softmax)
    if len(scores.input) != 2:
        graph.fail(scores, "expected the product of queries and keys")
    qkv = []
    for value in (scores.input[0], scores.input[1], mixed.input[1]):
        moved, factor = _scaled(graph, value)
        scale = None if scale is None or factor is None else scale * factor
        linear = graph.linear(moved)
        if linear is None or graph.resolve(linear.source) != source:
            graph.fail(graph.producer(moved), "expected a linear layer of the layer's input, for queries, keys or values")
        qkv.append(linear)
    return qkv, None, scale


def _scores(graph: Graph, softmax: Any) -> tuple[Any, float | None]:
    """The node that multiplies queries and keys, and by what its result is scaled before the mask is added."""
    value, scale = softmax.input[0], 1.0
    known = True
    while True:
        node = graph.producer(value)
        if node is None:
            graph.fail(softmax, "expected scores of queries and keys")
        if node.op_type == "MatMul":
            return node, scale if known else None
        if node.op_type == "FusedMatMul" and not graph.attribute(node, "transA", 0):
            return node, scale * graph.attribute(node, "alpha", 1.0) if known else None
        if node.op_type in ("Mul", "Div"):
            value, factor = _factor(graph, node)
            known = known and factor is not None
            scale *= 1.0 if factor is None else factor
        elif node.op_type == "Add":
            masks = [name for name in node.input if not _has_product(graph, name)]
            if len(masks) != 1:
                graph.fail(node, "expected attention scores plus a mask")
            _check_mask(graph, node, masks[0])
            value = next(name for name in node.input if name != masks[0])
        elif node.op_type == "Where":
            value = node.input[2] if graph.scalar(node.input[1]) is not None else node.input[1]
        else:
            graph.fail(node, "expected scaled and masked products of queries and keys")


def _has_product(graph: Graph, value: str) -> bool:
    nodes = (graph.producers.get(name) for name in graph.ancestors(value, graph.is_shape))
    return any(node is not None and node.op_type.endswith("MatMul") for node in nodes)


def _check_mask(graph: Graph, node: Any, value: str) -> None:
    """A mask is computed of the graph's inputs; a table of weights in it means relative positions."""
    for name in graph.ancestors(value, graph.is_shape):
        array = graph.constant(name)
        if array is not None and array.dtype.kind == "f" and array.size > 1 and len(np.unique(array)) > 2:
            graph.fail(node, f"the weights {name!r} are added to attention scores: relative positions are not supported here")


def _factor(graph: Graph, node: Any) -> tuple[str, float | None]:
    """Of a Mul or Div: what is scaled, and by what; None where that is computed of shapes."""
    for index, name in enumerate(node.input):
        if node.op_type == "Div" and index == 0:
            continue
        other = node.input[1 - index]
        number = graph.scalar(name)
        if number is not None:
            return other, 1 / number if node.op_type == "Div" else number
        if graph.producer(name) is not None and _of_shapes(graph, name):
            return other, None
    return graph.fail(node, "expected a scale: a number")


def _of_shapes(graph: Graph, value: str) -> bool:
    """Whether a value depends on nothing but shapes and numbers."""
    return graph.inputs.isdisjoint(graph.ancestors(value, graph.is_shape))


def _scaled(graph: Graph, value: str) -> tuple[str, float | None]:
    """Back through moves and scales."""
    scale: float | None = 1.0
    while True:
        value = graph.past(value, ("Transpose", "Unsqueeze", "Squeeze"))
        if graph.linear(value) is not None:
            return value, scale
        node = graph.producers.get(value)
        if node is not None and node.op_type == "Reshape":
            value = node.input[0]
        elif node is not None and node.op_type in ("Mul", "Div"):
            value, factor = _factor(graph, node)
            scale = None if scale is None or factor is None else scale * factor
        else:
            return value, scale


def _fused_attention(graph: Graph, node: Any, source: str) -> tuple[list[Linear], int | None, float | None]:
    heads = int(graph.attribute(node, "num_heads"))
    scale = graph.attribute(node, "scale")
    if graph.attribute(node, "unidirectional", 0) or graph.attribute(node, "do_rotary", 0):
        graph.fail(node, "expected attention without causal mask and rotary positions")
    given = [index for index, name in enumerate(node.input) if name]
    if not {"Attention": {4}, "MultiHeadAttention": {6, 7}}[node.op_type].isdisjoint(given):
        graph.fail(node, "expected attention without past keys and values")
    if 5 in given:  # what is added to the scores
        _check_mask(graph, node, node.input[5])
    if node.op_type == "MultiHeadAttention":
        bias = graph.vector(node.input[3]) if len(node.input) > 3 and node.input[3] else None
        linears = [graph.linear(value) for value in node.input[:3]]
        parts = [None] * 3 if bias is None else np.split(bias, 3)
        if any(each is None or graph.resolve(each.source) != source for each in linears):
            graph.fail(node, "expected linear layers of the layer's input, for queries, keys and values")
        return [each.with_bias(part) for each, part in zip(linears, parts, strict=True) if each], heads, scale
    weight = graph.matrix(node.input[1])
    bias = graph.vector(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    sizes = graph.attribute(node, "qkv_hidden_sizes")
    if weight is None or weight.shape[1] % 3 or (sizes and len(set(sizes)) > 1) or graph.resolve(node.input[0]) != source:
        graph.fail(node, "expected one weight of (hidden, 3·hidden) for queries, keys and values of the layer's input")
    biases = [None] * 3 if bias is None else np.split(bias, 3)
    return [Linear(source, part.T, own, node) for part, own in zip(np.split(weight, 3, axis=1), biases, strict=True)], heads, scale


def _fused_embeddings(graph: Graph, node: Any, states: str) -> OnnxEncoder:
    names = dict(zip(("word", "position", "type", "gamma", "beta"), node.input[2:7], strict=True))
    gamma, beta = graph.vector(names["gamma"]), graph.vector(names["beta"])
    if gamma is None or beta is None:
        graph.fail(node, "expected constant weights of the layer normalization")
    encoder = OnnxEncoder(Norm((), None, gamma, beta, float(graph.attribute(node, "epsilon", 1e-12)), node), states)
    for kind in ("word", "position", "type"):
        table = graph.matrix(names[kind]) if names[kind] else None
        if table is not None:
            encoder.tables[kind] = table
    return encoder


def _embeddings(graph: Graph, norm: Norm, encoder: OnnxEncoder, type_rows: int) -> None:
    """The tables whose rows are added up before the normalization."""
    waiting, unclear = list(norm.summands), []
    if norm.bias is not None:
        encoder.folded_type = norm.bias
    while waiting:
        value = graph.resolve(waiting.pop())
        constant = graph.constant(value)
        node = graph.producers.get(value)
        if constant is not None:
            rows = constant.reshape(-1, constant.shape[-1]) if constant.ndim else constant[None]
            if encoder.folded_type is not None or (rows != rows[0]).any():
                graph.fail(norm.node, "positions are a constant of one length: export the graph with a dynamic sequence axis")
            encoder.folded_type = rows[0]
        elif node is not None and node.op_type == "Add":
            waiting += node.input
        elif node is not None and node.op_type in ("Unsqueeze", "Expand", "Slice", "Reshape"):
            waiting.append(node.input[0])
        elif node is not None and node.op_type == "Gather" and (table := graph.matrix(node.input[0])) is not None:
            source = graph.past(node.input[1], ("Unsqueeze", "Squeeze"))
            kind = {"input_ids": "word", "token_type_ids": "type", "position_ids": "position"}.get(source, "")
            if source in graph.inputs and not kind:
                kind = "word" if "word" not in encoder.tables and len(graph.inputs) == 1 else ""
            if kind in encoder.tables:
                graph.fail(node, f"a second table of {kind} embeddings")
            if kind:
                encoder.tables[kind] = table
            else:
                unclear.append((node, table))
        else:
            graph.fail(node or norm.node, "expected the sum of embeddings: rows of constant tables")
    if "word" not in encoder.tables:
        graph.fail(norm.node, "no table is looked up with the graph's input 'input_ids'")
    for node, table in sorted(unclear, key=lambda each: -len(each[1])):
        kind = "position" if "position" not in encoder.tables else "type"
        if kind in encoder.tables or (kind == "type" and len(table) != type_rows):
            graph.fail(node, "this table is neither one of words, of positions nor of token types")
        encoder.tables[kind] = table


def _others(graph: Graph, encoder: OnnxEncoder) -> list[tuple[Linear, str | None]]:
    """Linear layers behind the last hidden states: those of a pooler or a head."""
    found = []
    states = graph.resolve(encoder.states)
    for node in graph.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or states not in graph.ancestors(node.output[0]):
            continue
        if (linear := graph.linear(node.output[0])) is None:
            continue
        for each in graph.graph.node:  # the bias is added behind it
            if each.op_type == "Add" and node.output[0] in each.input and (added := graph.linear(each.output[0])) is not None:
                linear = added
        picked = graph.past(linear.source, _PICKS)
        found.append((linear, "" if picked == states else graph.activated(picked)[2]))
    return found
