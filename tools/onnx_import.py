"""The weights of an ONNX file under the names that the checkpoint gives them, so that conversion goes on as from a checkpoint.

Understood are graphs of `torch.onnx.export` (both exporters, `eager` and `sdpa` attention, opset 11 and later), which optimum's are too,
and for BERT what `onnxruntime.transformers.optimizer` makes of them with model_type="bert". Weights are found by what the graph computes
with them (`onnx_encoder`); a name counts nowhere but for the graph's inputs. config.json says how many layers of which size to expect;
head count, layer normalization and activation are compared with it.

A file made of a float32 graph has the same tensors and configuration as one made of the checkpoint. The metadata differs:
`source_sha256` is the digest of the .onnx file.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tinybert_rt.format import layout

from .architectures import Architecture
from .heads import Head, head_layers
from .hf import ConversionError, EncoderConfig, Weights
from .onnx_encoder import OnnxEncoder, OnnxLayer, read_encoder
from .onnx_graph import Graph, Linear, Norm

NAMES = ("model.onnx", "onnx/model.onnx")
FIRST_POSITION = "first_position"
"""In metadata_props: "0" where the first token has the first row of the position table, whatever the architecture."""

_TABLES = {"word": "word_embeddings", "position": "position_embeddings", "type": "token_type_embeddings"}


def home(path: Path) -> Path:
    """The directory with the configuration of an .onnx file: its own, or the one above (of `onnx/model.onnx`)."""
    for folder in (path.parent, path.parent.resolve().parent):
        if (folder / "config.json").is_file():
            return folder
    raise ConversionError(f"{path}: there is no config.json beside it or in the directory above; save it and the tokenizer's files there")


def find_graph(directory: Path) -> Path | None:
    """The .onnx file of a directory that has no weights of another kind."""
    if any((directory / name).exists() for name in ("model.safetensors", "pytorch_model.bin")):
        return None
    return next((directory / name for name in NAMES if (directory / name).is_file()), None)


def read_onnx(path: Path, config: EncoderConfig, head: Head | None) -> tuple[Weights, list[str]]:
    """The weights of the encoder and of the head in a graph, and notes on what was not used.

    Raises ConversionError where the graph is not that of `config`, with the node.
    """
    kind = config.architecture
    if kind.relative:
        raise ConversionError(f"{path}: import of {kind.name} from ONNX is not supported; convert the checkpoint")
    graph = Graph(path)
    encoder = read_encoder(graph, config.type_vocab_size if kind.types else 0)
    _check_norm(graph, encoder.norm, config)
    if graph.properties.get(FIRST_POSITION) == "0" and (table := encoder.tables.get("position")) is not None:
        unused = np.zeros((config.positions_begin, table.shape[1]), table.dtype)  # rows that the checkpoint has before the first token's
        encoder.tables["position"] = np.concatenate([unused, table])
    tensors = _embeddings(path, encoder, config)
    if bool(config.embedding_size) != (encoder.project is not None):
        wanted = "one" if config.embedding_size else "none"
        graph.fail(encoder.norm.node, f"the linear layer from embeddings to hidden states: config.json asks for {wanted}")
    if encoder.project is not None:
        _put_linear(graph, tensors, kind.project, encoder.project)
    count = config.num_layers * max(config.inner_layers, 1)
    if len(encoder.layers) != count:
        node = encoder.layers[0].node if encoder.layers else encoder.norm.node
        graph.fail(node, f"the graph has {len(encoder.layers)} layers, the first one here; config.json asks for {count}")
    shared = {"num_layers": count, "stored_layers": config.groups * config.inner_layers, "inner_layers": config.inner_layers}
    for index, layer in enumerate(encoder.layers):
        _check_layer(graph, layer, config)
        stored = layout.layer_source(shared, index)
        group, member = divmod(stored, config.inner_layers or 1)
        source = kind.layer.format(layer=stored, group=group, inner=member)
        for part, linears in layer.linears.items():
            for name, linear in zip(kind.linears[part], linears, strict=True):
                _put_linear(graph, tensors, f"{source}.{name}", linear)
        for part, name in kind.norms.items():
            norm = layer.norms[part]
            _put(graph, norm.node, tensors, f"{source}.{name}.weight", norm.gamma)
            _put(graph, norm.node, tensors, f"{source}.{name}.bias", norm.beta)
    notes = _put_head(graph, tensors, encoder, kind, head)
    return Weights(path, tensors, kind), notes


def _embeddings(path: Path, encoder: OnnxEncoder, config: EncoderConfig) -> dict[str, np.ndarray]:
    tables = dict(encoder.tables)
    folded, rows = encoder.folded_type, config.type_vocab_size if config.architecture.types else 0
    if folded is not None:
        if (rows != 1 and not config.one_type) or "type" in tables:
            raise ConversionError(
                f"{path}: the graph knows one row of token types, config.json has type_vocab_size {rows}: "
                "export it with the input token_type_ids"
            )
        tables["type"] = np.repeat(folded[None], rows, axis=0)
    if "type" in tables and not rows:
        raise ConversionError(f"{path}: the graph has token types, {config.architecture.name} has none")
    tensors = {f"embeddings.{_TABLES[kind]}.weight": table for kind, table in tables.items()}
    tensors["embeddings.LayerNorm.weight"], tensors["embeddings.LayerNorm.bias"] = encoder.norm.gamma, encoder.norm.beta
    return tensors


def _check_layer(graph: Graph, layer: OnnxLayer, config: EncoderConfig) -> None:
    """What a layer's nodes say beside its weights, compared with config.json."""
    if layer.activation != config.activation:
        graph.fail(layer.node, f"the activation of this layer is {layer.activation}, config.json says {config.activation}")
    size = config.hidden_size // config.num_heads
    if layer.num_heads not in (None, config.num_heads):
        graph.fail(layer.node, f"attention has {layer.num_heads} heads, config.json says {config.num_heads}")
    if layer.scale and not math.isclose(layer.scale, size**-0.5, rel_tol=1e-4):
        graph.fail(
            layer.node, f"attention scores are scaled by {layer.scale:.6g}; heads of {size}, as config.json has, ask for {size**-0.5:.6g}"
        )
    for norm in layer.norms.values():
        _check_norm(graph, norm, config)


def _check_norm(graph: Graph, norm: Norm, config: EncoderConfig) -> None:
    if not math.isclose(norm.eps, config.layer_norm_eps, rel_tol=1e-3):
        graph.fail(norm.node, f"epsilon is {norm.eps:g}, config.json says {config.layer_norm_eps:g}")


def _put_linear(graph: Graph, tensors: dict[str, np.ndarray], name: str, linear: Linear) -> None:
    bias = np.zeros(len(linear.weight), np.float32) if linear.bias is None else linear.bias
    _put(graph, linear.node, tensors, f"{name}.weight", linear.weight)
    _put(graph, linear.node, tensors, f"{name}.bias", bias)


def _put(graph: Graph, node: object, tensors: dict[str, np.ndarray], name: str, values: np.ndarray) -> None:
    """A tensor; where layers share it, all of them must have the same."""
    if name in tensors and not np.array_equal(tensors[name], values):
        graph.fail(node, f"this layer's weights differ from those of {name!r}, which config.json says it shares")
    tensors[name] = values


def _put_head(graph: Graph, tensors: dict[str, np.ndarray], encoder: OnnxEncoder, kind: Architecture, head: Head | None) -> list[str]:
    """The head's linear layers, the last ones of the graph. Returns a note on those that nothing uses."""
    wanted: list[str] = []
    if head is not None and head.kind != "masked_token":  # that one is not looked for: `convert` says that it is missing
        dense, activation, output = head_layers(head.task, kind)
        wanted = [name for name in (dense, output) if name]
        found = encoder.others[-len(wanted) :]
        activations = ["", activation][-len(wanted) :] if dense else [""]
        if [each for _, each in found] != activations:
            shape = f"a linear layer, {activation}, a linear layer" if dense else "a linear layer"
            raise ConversionError(
                f"{graph.path}: behind the last hidden states, {shape} was expected: the head that config.json names ({head.task})"
            )
        for name, (linear, _) in zip(wanted, found, strict=True):
            _put_linear(graph, tensors, name, linear)
    unused = len(encoder.others) - len(wanted)
    return [f"{graph.path.name}: {unused} linear layers behind the last hidden states: ignored, nothing uses them"] if unused else []
