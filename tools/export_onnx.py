"""Write a `.tbrt` file as an ONNX file that ONNX Runtime and others run with the same answers.

Usage:
    python -m tools.export_onnx model.tbrt --out model.onnx
    python -m tools.export_onnx model.tbrt --out model.onnx --dtype int8     (QuantizeLinear and DequantizeLinear)

Inputs are int64 (batch, sequence): `input_ids`, `attention_mask`, and `token_type_ids` where the model has token types; padding is on the
right. Outputs: `last_hidden_state`, `sentence_embedding` (pooled and normalized as the file says) and, where the file has a head, `logits`.
The tokenizer is not part of the graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinybert_rt import __version__
from tinybert_rt.cli import OneLineParser
from tinybert_rt.errors import OutputFileError
from tinybert_rt.format import layout
from tinybert_rt.output import whole_file

from . import onnx_builder, onnx_import
from .hf import ConversionError
from .tbrt import Layer, Linear, TbrtFile

DTYPES = ("float", "int8")
ARCHITECTURES = ("bert", "roberta", "distilbert", "albert", "electra", "xlm-roberta", "camembert")
HEADS = ("none", "sequence_classification", "token_classification", "question_answering")
_FIELDS = (
    *layout.CONFIG_FIELDS[: layout.CONFIG_FIELDS.index("embedding_size")],
    *("embedding_size", "stored_layers", "inner_layers", "head", "labels", "head_activation", "problem", "labels_bytes", "float_linears"),
)
"""The config fields that the graph expresses; a file in which another one is set computes something else."""

_TOKENIZER_FIELDS = (
    *("tokenizer", "_id", "added_", "pieces", "trie", "max_word_chars", "max_tokens"),
    *("merges", "unigram_flags", "expansion", "rewrite"),
)
_LARGEST = (1 << 31) - (1 << 20)
"""Bytes of a protobuf file, less some for what is no weight."""


@dataclass(frozen=True)
class ExportReport:
    """What `export` wrote."""

    path: Path
    size_bytes: int
    nodes: int
    seconds: float


def export(model: str | Path, out: str | Path, *, dtype: str = "float") -> ExportReport:
    """Write the ONNX file `out` of the `.tbrt` file `model`.

    Args:
        dtype: "float": float32, int8 weights dequantized; "int8": weights int8, inputs of linear layers u8 per token, but for
            linear layers that an int8 file keeps in float32.

    Raises ConversionError for a file that cannot be read, or whose model has parts that the graph does not express.
    """
    started = time.perf_counter()
    out = Path(out)
    if dtype not in DTYPES:
        raise ConversionError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    file = TbrtFile(model)
    check_supported(file)
    proto = build_model(file, dtype == "int8")
    if proto.ByteSize() > _LARGEST:
        raise ConversionError(f"{out}: the graph takes {proto.ByteSize():,} bytes, an ONNX file may have 2 GiB: say --dtype int8")
    data = proto.SerializeToString()
    try:
        with whole_file(out) as stream:
            stream.write(data)
    except OutputFileError as error:
        raise ConversionError(str(error)) from None
    except OSError as error:
        raise ConversionError(f"{out}: cannot be written: {error.strerror or error}") from None
    return ExportReport(out, len(data), len(proto.graph.node), time.perf_counter() - started)


def check_supported(file: TbrtFile) -> None:
    """Refuse a file whose model computes what the graph would leave out."""
    if file.architecture not in ARCHITECTURES:
        raise ConversionError(f"{file.path}: export of {file.architecture} is not supported; supported: {', '.join(ARCHITECTURES)}")
    head = {code: name for name, code in layout.HEADS.items()}.get(file.config["head"], "?")
    if head not in HEADS:
        raise ConversionError(f"{file.path}: export of a head of the kind {head} is not supported; supported: {', '.join(HEADS)}")
    for name, value in file.config.items():
        if value and name not in _FIELDS and not any(part in name for part in _TOKENIZER_FIELDS):
            raise ConversionError(f"{file.path}: {name} is {value}: export of such a model is not supported")


def build_model(file: TbrtFile, int8: bool) -> Any:
    """The ONNX model, an `onnx.ModelProto`."""
    build = onnx_builder.Builder(int8)
    config = file.config
    states = onnx_builder.embeddings(build, file)
    mask = onnx_builder.mask_of_scores(build)
    stored = [_kept_layer(build, layer, file.int8) for layer in file.layers()]
    for index in range(config["num_layers"]):
        output = "last_hidden_state" if index == config["num_layers"] - 1 else ""
        layer = stored[layout.layer_source(config, index)]
        states = onnx_builder.encoder_layer(build, f"layers.{index}", states, mask, layer, config, output)
    onnx_builder.sentence_embedding(build, states, config, "sentence_embedding")
    outputs: dict[str, tuple[str | int, ...]] = {
        "last_hidden_state": ("batch", "sequence", config["hidden_size"]),
        "sentence_embedding": ("batch", config["hidden_size"]),
    }
    if config["head"]:
        onnx_builder.logits(build, states, file, "logits")
        of_texts = config["head"] == layout.HEADS["sequence_classification"]
        outputs["logits"] = ("batch", config["labels"]) if of_texts else ("batch", "sequence", config["labels"])
    return _model(build, file, outputs)


def _kept_layer(build: onnx_builder.Builder, layer: Layer, int8_file: bool) -> Layer:
    """A layer as the graph is to have it; what is float32 in an int8 file stays so."""
    linears: dict[str, Any] = {
        name: Linear(onnx_builder.kept(build, linear.weight, columns=True), linear.bias)
        for name, linear in vars(layer).items()
        if isinstance(linear, Linear) and not (int8_file and linear.weight.scale is None)
    }
    return replace(layer, **linears)


def _model(build: onnx_builder.Builder, file: TbrtFile, outputs: dict[str, tuple[str | int, ...]]) -> Any:
    import onnx
    from onnx import helper

    names = onnx_builder.INPUTS if file.config["type_vocab_size"] > 1 else onnx_builder.INPUTS[:2]
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ("batch", "sequence")) for name in names]
    results = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(build.nodes, file.metadata.get("name", "encoder"), inputs, results, build.initializers)
    opset = [helper.make_opsetid("", onnx_builder.OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=onnx_builder.IR_VERSION, producer_name="tinybert-rt")
    model.producer_version = __version__
    helper.set_model_props(model, properties(file))
    return model


def properties(file: TbrtFile) -> dict[str, str]:
    """metadata_props: where the model comes from, and how its vectors and logits are to be read."""
    config = file.config
    kept: dict[str, str] = {name: file.metadata[name] for name in ("name", "source", "source_sha256", "license") if name in file.metadata}
    names = {kind: {code: name for name, code in values.items()} for kind, values in (("pooling", layout.POOLINGS), ("head", layout.HEADS))}
    kept |= {
        "architecture": file.architecture,
        "pooling": names["pooling"][config["pooling"]],
        "normalize": "true" if config["normalize"] else "false",
        "max_tokens": str(config["max_tokens"]),
        onnx_import.FIRST_POSITION: "0",
    }
    if config["head"]:
        kept |= {"head": names["head"][config["head"]], "labels": json.dumps(file.labels(), ensure_ascii=False)}
    return kept


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    command = OneLineParser(prog=prog, description="Write a .tbrt file as an ONNX file.")
    command.add_argument("model", type=Path, help="the .tbrt file")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .onnx file to write")
    command.add_argument("--dtype", choices=DTYPES, default="float", help="weights in the graph (default: float)")
    return command


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.export_onnx") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    options = parser(prog).parse_args(arguments)
    try:
        report = export(options.model, options.out, dtype=options.dtype)
    except ConversionError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"{report.path}: {report.size_bytes:,} bytes, {report.nodes} nodes, {report.seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
