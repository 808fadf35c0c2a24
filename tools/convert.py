"""Convert a Hugging Face or sentence-transformers directory of an encoder, or an exported ONNX graph, to a `.tbrt` file.

Usage:
    python -m tools.convert DIRECTORY --out model.tbrt
    python -m tools.convert model.onnx --out model.tbrt         (config.json and the tokenizer lie beside it or one directory up)
    python -m tools.convert DIRECTORY --out model.tbrt --dtype f32
    python -m tools.convert DIRECTORY --out model.tbrt --pooling mean --normalize    (a directory without modules.json)
    python -m tools.convert DIRECTORY --out model.tbrt --keep-float layers.0 --keep-float layers.5.ffn.out     (the rest is int8)
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tinybert_rt.cli import OneLineParser
from tinybert_rt.errors import OutputFileError
from tinybert_rt.format import layout
from tinybert_rt.format.writer import write_model

from . import onnx_import
from .heads import TASKS, Head, drop_missing_head, head_tensors, read_head
from .hf import ConversionError, Embedding, EncoderConfig, Weights, file_digest, read_config, read_embedding, read_weights
from .hf_tokenizer import read_tokenizer
from .keep import kept_linears
from .tensors import TensorReport, weight_tensors
from .tokenizer_parts import Tokenizer, tokenizer_tensors

DTYPES = tuple(layout.WEIGHT_DTYPES)


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` wrote."""

    path: Path
    size_bytes: int
    seconds: float
    config: dict[str, int]
    tensors: list[TensorReport]
    """The quantized tensors, in the checkpoint's order; empty for f32."""

    notes: list[str]


def convert(
    directory: str | Path,
    out: str | Path,
    *,
    dtype: str = "int8",
    pooling: str | None = None,
    normalize: bool | None = None,
    max_tokens: int | None = None,
    drop_unused_rows: bool = False,
    name: str | None = None,
    license: str | None = None,  # noqa: A002
    head: str | None = None,
    prepare: Callable[[Weights, EncoderConfig], str] | None = None,
    keep_float: Collection[str] = (),
) -> ConversionReport:
    """Convert the checkpoint in `directory` to the file `out`.

    Args:
        directory: Hugging Face or sentence-transformers directory of an encoder, see `architectures`; or an .onnx file, whose weights are
            taken and whose directory (or the one above) says the rest, see `onnx_import`. A directory may hold `model.onnx` or
            `onnx/model.onnx` in place of other weights.
        out: the `.tbrt` file.
        dtype: "int8" or "f32".
        pooling: "cls", "mean" or "max", in place of what the directory says; needed where it says nothing.
        normalize: divide vectors by their length; needed where the directory says nothing.
        max_tokens: longest text in tokens, [CLS] and [SEP] included; default: what the directory says.
        drop_unused_rows: leave out rows of the embedding table that no piece of the vocabulary refers to.
        name: the model's name in the file; default: the directory's.
        license: the licence of the weights, noted in the file.
        head: which head, one of `heads.TASKS`, where the checkpoint has several; "none" leaves it out.
        prepare: changes the weights before they are quantized, and says in a few words how, for the file's metadata, see `fold`.
        keep_float: linear layers that stay float32 in an int8 file, by their names in the file: "layers.3.ffn.out", or "layers.3" for
            all four of that layer.

    Raises ConversionError for what cannot be converted.
    """
    started = time.perf_counter()
    for what, given in (("directory", directory), ("out", out)):
        if given == "":
            raise ConversionError(f"{what} is empty: it must be a path")
    directory, out = Path(directory), Path(out)
    if dtype not in DTYPES:
        raise ConversionError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    if name is not None and not (name and name.isprintable()):
        raise ConversionError(f"name is {name!r}: it must be printable text")
    graph = None
    if directory.suffix == ".onnx" and directory.is_file():
        graph, directory = directory, onnx_import.home(directory)
    if not directory.is_dir():
        kind = "file" if directory.suffix == ".onnx" else "directory"
        what = "a file; name the directory of a model, or an .onnx file" if directory.is_file() else f"there is no such {kind}"
        raise ConversionError(f"{directory}: {what}")
    if not out.parent.is_dir():
        raise ConversionError(f"{out.parent}: there is no such directory to write to")
    embedding = read_embedding(directory)
    encoder = read_config(embedding.transformer)
    tokenizer = read_tokenizer(embedding.transformer)
    notes = [*embedding.notes, *tokenizer.notes]
    named = read_head(embedding.transformer, head, notes)
    if named is not None and embedding.pooling is None:
        # A classifier or tagger says nothing of sentence vectors, and is rarely asked for them.
        pooling, normalize = pooling or "mean", bool(normalize)
    pooling, normalize = _embedding_kind(directory, embedding, pooling, normalize, notes)
    if embedding.lowers_text and not tokenizer.flags & layout.LOWERCASE:
        path = embedding.transformer / "sentence_bert_config.json"
        raise ConversionError(f"{path}: do_lower_case is true, but the tokenizer does not lowercase")
    limit = _max_tokens(embedding, tokenizer, encoder, max_tokens)
    _check_vocabulary(embedding.transformer, encoder, tokenizer, drop_unused_rows, notes)
    if encoder.type_vocab_size > 1 and not tokenizer.gives_types and not tokenizer.flags & layout.DOUBLE_SEPARATOR:
        encoder = replace(encoder, one_type=True)
        notes.append("tokenizer_config.json: the tokenizer gives no token types to the model: both texts of a pair have type 0")

    tensors, config = tokenizer_tensors(tokenizer)
    kept = kept_linears(keep_float, encoder.stored_layers, dtype)
    config.update(_encoder_fields(encoder, dtype), float_linears=len(kept))
    config.update(pooling=layout.POOLINGS[pooling], normalize=int(normalize), max_tokens=limit)
    weights, unused = _weights(graph, embedding.transformer, encoder, named)
    notes += unused
    prepared = prepare(weights, encoder) if prepare else ""
    named, about = drop_missing_head(named, weights, encoder.architecture)
    if named is None and head == "masked_token":
        raise ConversionError(f"{weights.path}: the checkpoint has no weights of a head for masked tokens, which was asked for")
    made, fields = head_tensors(named, encoder, weights, len(tokenizer.pieces), dtype == "int8")
    tensors.update(made)
    notes += about
    made, reports = weight_tensors(weights, encoder, len(tokenizer.pieces), dtype == "int8", kept)
    tensors.update(made)
    config.update(fields)
    notes += weights.check_rest()
    metadata = {
        "name": name or directory.resolve().name,
        "source": _source(directory, encoder),
        "source_sha256": file_digest(weights.path),
        "quantization": _quantization_summary(reports, dtype, prepared, kept),
    }
    if license is not None:
        metadata["license"] = license
    try:
        size = write_model(out, config, tensors, metadata)
    except OutputFileError as error:
        raise ConversionError(str(error)) from None
    except OSError as error:
        raise ConversionError(f"{out}: cannot be written: {error.strerror or error}") from None
    ordered = {name: config[name] for name in layout.CONFIG_FIELDS}
    return ConversionReport(out, size, time.perf_counter() - started, ordered, reports, notes)


def _weights(graph: Path | None, directory: Path, encoder: EncoderConfig, head: Head | None) -> tuple[Weights, list[str]]:
    graph = graph or onnx_import.find_graph(directory)
    return onnx_import.read_onnx(graph, encoder, head) if graph else (read_weights(directory, encoder.architecture), [])


def _source(directory: Path, encoder: EncoderConfig) -> str:
    """The model's public name if config.json has one, else the directory's; never a path of this machine."""
    name = encoder.name if re.fullmatch(r"[\w.-]+/[\w.-]+", encoder.name, re.ASCII) else ""
    return name or directory.resolve().name


def _embedding_kind(
    directory: Path, embedding: Embedding, pooling: str | None, normalize: bool | None, notes: list[str]
) -> tuple[str, bool]:
    if pooling is not None and pooling not in layout.POOLINGS:
        raise ConversionError(f"pooling is {pooling!r}; known: {', '.join(layout.POOLINGS)}")
    for what, said, wanted in (("pooling", embedding.pooling, pooling), ("normalize", embedding.normalize, normalize)):
        if said is not None and wanted is not None and said != wanted:
            notes.append(f"{what} is {wanted}, as asked for; the directory says {said}")
    pooling = pooling or embedding.pooling
    normalize = embedding.normalize if normalize is None else normalize
    if pooling is None or normalize is None:
        path = directory / "modules.json"
        missing = {"pooling: say --pooling cls, mean or max": pooling, "normalization: say --normalize or --no-normalize": normalize}
        unknown = "; ".join(text for text, value in missing.items() if value is None)
        raise ConversionError(f"{path}: missing, so these are not known: {unknown}")
    return pooling, normalize


def _max_tokens(embedding: Embedding, tokenizer: Tokenizer, encoder: EncoderConfig, asked: int | None) -> int:
    """Tokens that a text may have; the special ones of a pair fit at least."""
    folder, otherwise = embedding.transformer, ": say --max-tokens"
    if asked is not None:
        limit, found, otherwise = asked, f"max_tokens is {asked}", ""
    elif embedding.max_tokens is not None:
        limit, found = embedding.max_tokens, f"{folder / 'sentence_bert_config.json'}: max_seq_length is {embedding.max_tokens}"
    else:
        limit = min(tokenizer.model_max_tokens or encoder.max_positions, encoder.max_positions)
        found = f"{folder / 'tokenizer_config.json'}: model_max_length is {limit}"
    least = 4 if tokenizer.flags & layout.DOUBLE_SEPARATOR else 3
    if not least <= limit <= encoder.max_positions:
        raise ConversionError(f"{found}; it must be from {least} to the number of positions, {encoder.max_positions}{otherwise}")
    return limit


def _check_vocabulary(directory: Path, encoder: EncoderConfig, tokenizer: Tokenizer, drop_unused_rows: bool, notes: list[str]) -> None:
    """Every piece needs a row. Rows without a piece cannot be reached from text; they are left out, but only when asked for:
    a vocabulary of the wrong size is usually the wrong vocabulary."""
    pieces, rows = len(tokenizer.pieces), encoder.vocab_size
    where = f"{directory}: the vocabulary has {pieces} pieces, config.json has vocab_size {rows}"
    if pieces > rows:
        raise ConversionError(f"{where}: {pieces - rows} pieces have no embedding; this is the wrong vocabulary")
    if pieces < rows:
        if not drop_unused_rows:
            raise ConversionError(f"{where}: if the last {rows - pieces} rows are padding, say --drop-unused-rows")
        notes.append(f"left out the last {rows - pieces} rows of the word embeddings, which no piece refers to")


def _encoder_fields(encoder: EncoderConfig, dtype: str) -> dict[str, int]:
    relative = encoder.relative
    return {
        "architecture": layout.ARCHITECTURES[encoder.architecture.name],
        "num_layers": encoder.num_layers * max(encoder.inner_layers, 1),
        "hidden_size": encoder.hidden_size,
        "num_heads": encoder.num_heads,
        "intermediate_size": encoder.intermediate_size,
        "max_positions": encoder.max_positions,
        "type_vocab_size": 1 if encoder.one_type else max(encoder.type_vocab_size, 1),
        "activation": layout.ACTIVATIONS[encoder.activation],
        "weight_dtype": layout.WEIGHT_DTYPES[dtype],
        "layer_norm_eps_bits": int(np.float32(encoder.layer_norm_eps).view(np.int32)),
        "embedding_size": encoder.embedding_size,
        "stored_layers": encoder.groups * encoder.inner_layers,
        "inner_layers": encoder.inner_layers,
        "no_positions": int(not encoder.positions),
        "relative_span": relative.span if relative else 0,
        "content_to_position": int(relative is not None and relative.content_to_position),
        "position_to_content": int(relative is not None and relative.position_to_content),
        "conv_kernel": encoder.conv_kernel,
        "conv_activation": layout.HEAD_ACTIVATIONS[encoder.conv_activation],
    }


def _quantization_summary(reports: list[TensorReport], dtype: str, prepared: str, kept: Collection[str]) -> str:
    """JSON for the file's metadata: per tensor the relative RMS error; how weights were changed before, and the linear layers that stay
    float32, where there are any."""
    summary: dict[str, object] = {"dtype": dtype}
    if prepared:
        summary["prepared"] = prepared
    summary["relative_rms_error"] = {report.name: round(report.error.relative_rms, 6) for report in reports}
    if kept:
        summary["keep_float"] = list(kept)
    return json.dumps(summary)


def format_report(report: ConversionReport, show: int | None = 10) -> str:
    """The table that the command prints: the `show` tensors with the largest relative error (None: all), size, time, notes."""
    lines = []
    worst = sorted(report.tensors, key=lambda each: (-each.error.relative_rms, each.name))
    shown = worst[:show]
    if shown:
        width = max(len(each.name) for each in shown)
        lines.append(f"{'tensor':{width}}  {'shape':>12}  {'rel. RMS':>9}  {'max abs':>9}")
        for each in shown:
            shape = "×".join(map(str, each.shape))
            lines.append(f"{each.name:{width}}  {shape:>12}  {each.error.relative_rms:9.5f}  {each.error.largest:9.5f}")
        if len(shown) < len(worst):
            lines.append(f"… and {len(worst) - len(shown)} tensors with smaller errors (--all shows them)")
    lines += [f"note: {note}" for note in report.notes]
    lines.append(f"{report.path}: {report.size_bytes:,} bytes, {report.seconds:.1f} s")
    return "\n".join(lines)


MODEL_OPTIONS = ("pooling", "normalize", "max_tokens", "drop_unused_rows", "name", "license", "head")
"""The arguments of `convert` that say what the checkpoint does not."""


def add_model_options(command: argparse.ArgumentParser) -> None:
    """MODEL_OPTIONS on a command line."""
    command.add_argument("--pooling", choices=tuple(layout.POOLINGS), help="needed if the directory has no modules.json")
    command.add_argument("--normalize", action=argparse.BooleanOptionalAction, help="vectors of length 1")
    command.add_argument("--max-tokens", type=int, metavar="N", help="longest text (default: what the directory says)")
    command.add_argument("--drop-unused-rows", action="store_true", help="leave out embeddings that no piece refers to")
    command.add_argument("--name", help="the model's name in the file (default: the directory's)")
    command.add_argument("--license", help="the licence of the weights, noted in the file")
    command.add_argument("--head", choices=TASKS, help="which head, where the checkpoint has several; none: leave it out")


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    command = OneLineParser(prog=prog, description="Convert a Hugging Face directory or an ONNX file of an encoder to a .tbrt file.")
    command.add_argument("directory", help="Hugging Face or sentence-transformers directory, or .onnx file")
    command.add_argument("--out", required=True, metavar="FILE", help="the .tbrt file to write")
    command.add_argument("--dtype", choices=DTYPES, default="int8", help="weights in the file (default: int8)")
    add_model_options(command)
    command.add_argument(
        "--keep-float", action="append", default=[], metavar="NAME", help="layers.N or layers.N.ffn.out: stays float32; may be repeated"
    )
    command.add_argument("--all", action="store_true", help="show the error of every tensor, not only of the worst")
    return command


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.convert") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    options = parser(prog).parse_args(arguments)
    try:
        report = convert(
            options.directory,
            options.out,
            dtype=options.dtype,
            **{name: getattr(options, name) for name in MODEL_OPTIONS},
            keep_float=options.keep_float,
        )
    except ConversionError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    print(format_report(report, None if options.all else 10))
    return 0


if __name__ == "__main__":
    sys.exit(main())
