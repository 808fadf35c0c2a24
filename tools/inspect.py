"""Print what is in a `.tbrt` file: configuration, where it comes from, tokenizer, head, tensors, and how many bytes each part takes.

Usage:
    python -m tools.inspect model.tbrt
    python -m tools.inspect model.tbrt --tensors     (every tensor: dtype, logical shape, bytes, error of its quantization)
    python -m tools.inspect model.tbrt --json

A logical shape is that of the matrix without blocks, padding and the columns between heads. The error is the relative RMS error that
`convert` noted in the file, the largest one where a tensor was made of several.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.cli import OneLineParser
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors

from .architectures import ARCHITECTURES
from .hf import ConversionError
from .tbrt import TbrtFile

_SPECIAL = ("unk_id", "cls_id", "sep_id", "pad_id", "mask_id")
_FLAGS = {
    "clean text": layout.CLEAN_TEXT,
    "split CJK": layout.SPLIT_CJK,
    "strip accents": layout.STRIP_ACCENTS,
    "lowercase": layout.LOWERCASE,
    "prefix space": layout.PREFIX_SPACE,
    "double separator": layout.DOUBLE_SEPARATOR,
}
_TABLES = {"word": "word_embeddings", "position": "position_embeddings", "type": "token_type_embeddings"}
_KINDS = {
    "activation": layout.ACTIVATIONS,
    "weight_dtype": layout.WEIGHT_DTYPES,
    "pooling": layout.POOLINGS,
    "tokenizer_kind": layout.TOKENIZER_KINDS,
    "head": layout.HEADS,
    "head_activation": layout.HEAD_ACTIVATIONS,
    "problem": layout.PROBLEMS,
    "conv_activation": layout.HEAD_ACTIVATIONS,
    "transform_activation": layout.TRANSFORM_ACTIVATIONS,
}
_KIND_FIELDS = ("merges", "scored_pieces", "unigram_flags", "rewrites")
"""What only some kinds of tokenizers have."""

_OTHER_PARTS = ("tokenizer", "trie", "added", "max_word", "expansion", "rewrite", "head", "labels", "problem", "transform", "own_decoder")
"""How the config fields begin that are no part of the encoder."""
GROUPS = ("header", "tokenizer", "embeddings", "layers", "head", "other")


def inspect(path: str | Path) -> dict[str, Any]:
    """What the command prints, as JSON can hold it. Raises ConversionError for a file that is no `.tbrt` file of this version."""
    file = TbrtFile(path)
    tensors = list(_tensors(file))
    groups = dict.fromkeys(GROUPS, 0)
    for each in tensors:
        groups[_group(each["name"])] += each["bytes"]
    groups["header"] = file.size - sum(groups.values())
    return {
        "path": str(file.path),
        "bytes": file.size,
        "format_version": int(file.metadata["version"]),
        "config": _config(file),
        "metadata": {name: text for name, text in file.metadata.items() if name not in ("format", "version", "config", "quantization")},
        "tokenizer": _tokenizer(file),
        "head": _head(file),
        "bytes_by_group": {name: count for name, count in groups.items() if count},
        "parameters": sum(int(np.prod(each["shape"], dtype=np.int64)) for each in tensors if each["parameters"]),
        "tensors": [{name: value for name, value in each.items() if name != "parameters"} for each in tensors],
    }


def _config(file: TbrtFile) -> dict[str, Any]:
    """Fields of the encoder with names for numbers; those that were added later where they are set."""
    values: dict[str, Any] = {"architecture": file.architecture}
    for name, number in file.config.items():
        if name.endswith(("_id", "_bytes")) or name in _KIND_FIELDS or name.startswith(_OTHER_PARTS):
            continue
        if name == "layer_norm_eps_bits":
            values["layer_norm_eps"] = float(f"{np.int32(number).view(np.float32):.6g}")
        elif name == "float_linears" and number:
            values[name] = file.float_linears
        elif name != "architecture" and (number or name not in layout.OPTIONAL_FIELDS):
            values[name] = _named(name, number)
    return values


def _named(field: str, number: int) -> Any:
    names = {code: name for name, code in _KINDS.get(field, {}).items()}
    return names.get(number, number)


def _tokenizer(file: TbrtFile) -> dict[str, Any]:
    config, pieces = file.config, file.pieces()
    flags = config["tokenizer_flags"]
    known = sum(_FLAGS.values())
    added = file.raw("tokenizer.added")[: config["added_tokens"]].tolist() if "tokenizer.added" in file.entries else []
    return {
        "kind": _named("tokenizer_kind", config["tokenizer_kind"]),
        "flags": [name for name, bit in _FLAGS.items() if flags & bit] + ([f"bits {flags & ~known:#x}"] if flags & ~known else []),
        "pieces": len(pieces),
        "pieces_bytes": config["pieces_bytes"],
        "trie_nodes": config["trie_nodes"],
        "max_word_chars": config["max_word_chars"],
        **{name: config[name] for name in _KIND_FIELDS if config[name]},
        "special_tokens": {
            name.removesuffix("_id"): {"id": config[name], "piece": pieces[config[name]]} for name in _SPECIAL if config[name] < len(pieces)
        },
        "added_tokens": [pieces[index] for index in added if 0 <= index < len(pieces)],
    }


def _head(file: TbrtFile) -> dict[str, Any] | None:
    if not file.config["head"]:
        return None
    if file.config["head"] == layout.HEADS["masked_token"]:
        fields: tuple[str, ...] = ("head", "transform_activation", "own_decoder")
        return {name.removeprefix("transform_"): _named(name, file.config[name]) for name in fields}
    fields = ("head", "head_activation", "problem")
    return {name.removeprefix("head_"): _named(name, file.config[name]) for name in fields} | {"labels": file.labels()}


def _tensors(file: TbrtFile) -> Iterator[dict[str, Any]]:
    """Each tensor's facts, in file order; whether its elements are weights of the model is `parameters`."""
    config = file.config
    sizes = config | file_tensors.derived_sizes(config)
    heads, hidden = config["num_heads"], config["hidden_size"]
    sizes |= {file_tensors.HEADS_WIDTH: hidden, file_tensors.HEAD_COLUMNS: hidden // heads}
    sizes |= {file_tensors.RELATIVE_COLUMNS: heads * 2 * config["relative_span"], file_tensors.CONV_COLUMNS: config["conv_kernel"] * hidden}
    errors = _errors(file)
    for name, rule in file.rules:
        entry = file.entries[name]
        # Of the blocks of a linear layer, the first two dimensions are those of outputs and inputs.
        shape = [each._replace(multiple=1, divisor=1).of(sizes) for each in rule.shape[:2]]
        made = name.startswith(("embeddings.", "layers.", "head.", "convolution.")) and entry.dtype in ("F32", "I8")
        fact = {
            "name": name,
            "dtype": entry.dtype.lower(),
            "shape": shape,
            "stored_shape": list(entry.shape),
            "bytes": entry.end - entry.begin,
            "parameters": made and not name.endswith(".scale"),
        }
        found = [errors[source] for source in _sources(file, name) if source in errors] if entry.dtype == "I8" else []
        yield fact | ({"relative_rms_error": max(found)} if found else {})


def _errors(file: TbrtFile) -> dict[str, float]:
    """The checkpoint's tensors → relative RMS error, as the metadata has it."""
    try:
        values = json.loads(file.metadata.get("quantization", "{}"))["relative_rms_error"]
        return {str(name): float(error) for name, error in values.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _sources(file: TbrtFile, name: str) -> list[str]:
    """The checkpoint's tensors that a tensor of the file is made of, as far as its architecture is known."""
    kind = ARCHITECTURES.get(file.architecture)
    if kind is None:
        return []
    if name.startswith("embeddings."):
        table = name.removeprefix("embeddings.")
        return [f"{kind.project}.weight"] if table == "project.weight" else [f"embeddings.{_TABLES.get(table, table)}.weight"]
    if not name.startswith("layers."):
        return []
    _, layer, part = name.split(".", 2)
    group, member = divmod(int(layer), file.config["inner_layers"] or 1)
    source = kind.layer.format(layer=layer, group=group, inner=member)
    return [f"{source}.{each}.weight" for each in kind.linears.get(part.removesuffix(".weight"), ())]


def _group(name: str) -> str:
    first = name.partition(".")[0]
    return first if first in GROUPS else "other"


def format_text(facts: dict[str, Any], tensors: bool) -> str:
    """The command's output: facts line by line, then the sizes; with the complete table of tensors if asked for."""
    lines = [f"{facts['path']}: {facts['bytes']:,} bytes, {facts['parameters']:,} parameters, format {facts['format_version']}"]
    lines += _section("configuration", facts["config"])
    lines += _section("metadata", facts["metadata"])
    tokenizer = dict(facts["tokenizer"])
    tokenizer["flags"] = ", ".join(tokenizer["flags"]) or "none"
    tokenizer["special_tokens"] = ", ".join(f"{name} {each['piece']} {each['id']}" for name, each in tokenizer["special_tokens"].items())
    tokenizer["added_tokens"] = _some(tokenizer["added_tokens"])
    lines += _section("tokenizer", tokenizer)
    if facts["head"]:
        head = dict(facts["head"])
        if "labels" in head:
            head["labels"] = _some(head["labels"])
        lines += _section("head", head)
    lines += ["", "bytes by group"]
    lines += [f"  {name:12} {count:>14,}  {count / facts['bytes']:6.1%}" for name, count in facts["bytes_by_group"].items()]
    return "\n".join([*lines, "", *_table(facts["tensors"], tensors)])


def _section(title: str, values: dict[str, Any]) -> list[str]:
    width = max(map(len, values), default=0)
    return ["", title, *(f"  {name:{width}}  {value}" for name, value in values.items())]


def _some(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, … ({len(names)})" if len(names) > most else shown


def _table(tensors: list[dict[str, Any]], complete: bool) -> list[str]:
    """All tensors, or those that take the most bytes."""
    shown = tensors if complete else sorted(tensors, key=lambda each: -each["bytes"])[:10]
    width = max(len(each["name"]) for each in shown)
    lines = [f"{'tensor':{width}}  dtype  {'shape':>16}  {'bytes':>12}  rel. RMS"]
    for each in shown:
        error = f"{each['relative_rms_error']:.5f}" if "relative_rms_error" in each else ""
        shape = "×".join(map(str, each["shape"]))
        lines.append(f"{each['name']:{width}}  {each['dtype']:5}  {shape:>16}  {each['bytes']:>12,}  {error}".rstrip())
    rest = len(tensors) - len(shown)
    return lines + ([f"… and {rest} smaller tensors (--tensors shows all)"] if rest else [])


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    command = OneLineParser(prog=prog, description="Print what is in a .tbrt file.")
    command.add_argument("model", type=Path, help="the .tbrt file")
    command.add_argument("--tensors", action="store_true", help="every tensor, not only the largest")
    command.add_argument("--json", action="store_true", help="everything, as one JSON object")
    return command


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.inspect") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    options = parser(prog).parse_args(arguments)
    try:
        facts = inspect(options.model)
    except ConversionError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    try:
        print(json.dumps(facts, indent=2, ensure_ascii=False) if options.json else format_text(facts, options.tensors), flush=True)
    except BrokenPipeError:  # the reader went away (`| head`): nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
