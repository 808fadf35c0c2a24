"""`tinybert-rt embed`: vectors of the lines of a file, as a stream."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from tinybert_rt.output import whole_file

from .common import UsageError, lines_of, load, name_of, note_truncation, open_input, progress, runs

if TYPE_CHECKING:
    from tinybert_rt.vectors import Encoded


def add(commands: Any) -> None:
    """Its arguments."""
    embed = commands.add_parser("embed", help="vectors of the lines of a file, as a stream")
    embed.add_argument("input", nargs="?", default="-", help="a .txt (a text a line) or .jsonl file; '-' is standard input")
    embed.add_argument("--out", required=True, help="a .npy or .jsonl file; '-' writes jsonl to standard output")
    embed.add_argument("--model", help="a .tbrt file; default: the bundled model")
    embed.add_argument("--field", help="the text's field in jsonl input (default: text)")
    embed.add_argument("--format", choices=("txt", "jsonl"), help="of the input; default: by the file's name, else txt")
    embed.add_argument("--dim", type=int, help="keep the first DIM elements of each vector (Matryoshka models)")
    embed.add_argument("--dtype", default="float32", choices=("float32", "int8", "binary"))
    embed.add_argument("--truncation", default="truncate", choices=("truncate", "error"), help="of texts that are too long")
    runs(embed, _embed)


def _embed(options: argparse.Namespace) -> None:
    name = name_of(options.input)
    form = options.format or ("jsonl" if options.input.endswith((".jsonl", ".ndjson")) else "txt")
    if options.out != "-" and not options.out.endswith((".npy", ".jsonl")):
        raise UsageError(f"--out {options.out}: the name must end in .npy or .jsonl, or be '-'")
    if options.field is not None and form != "jsonl":
        raise UsageError(f"--field {options.field}: the input is text, a text a line; --format jsonl reads it as JSON")
    if options.input != "-" and options.out != "-" and os.path.realpath(options.input) == os.path.realpath(options.out):
        raise UsageError(f"--out {options.out}: is the input itself")
    with open_input(options.input) as file:
        model = load(options.model, options)
        texts = lines_of(file, name)
        if form == "jsonl":
            texts = _json_texts(texts, name, "text" if options.field is None else options.field)
        groups = model.stream(texts, dim=options.dim, dtype=options.dtype, truncation=options.truncation)
        with _vector_writer(options.out) as write:
            count, truncated = 0, 0
            with progress() as show:
                for group in groups:
                    write(group)
                    count += len(group.vectors)
                    truncated += int(group.truncated.sum())
                    show(count)
            if count == 0:
                raise UsageError(f"{name}: no texts")
    note_truncation(truncated, count, model)


def _json_texts(lines: Iterator[str], name: str, field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}: line {number} is not JSON: {error}") from None
        text = value.get(field) if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise UsageError(f"{name}: line {number} has no string in the field {field!r}; --field names another")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise UsageError(f"{name}: line {number} has a lone surrogate: it is not valid Unicode")
        yield text


@contextmanager
def _vector_writer(path: str) -> Iterator[Callable[[Encoded], None]]:
    """Writes groups of vectors as they come. A file is complete or not there: it is renamed into place at the end."""
    if path == "-":
        yield lambda group: _write_json(sys.stdout, group)
        return
    with whole_file(path) as file:
        if path.endswith(".jsonl"):
            text = io.TextIOWrapper(file, encoding="utf-8")
            yield lambda group: _write_json(text, group)
            text.detach()  # flushes, and leaves the file open
        else:
            with _NpyStream(file) as stream:
                yield lambda group: stream.write(group.vectors)


def _write_json(file: IO[str], group: Encoded) -> None:
    for vector, tokens, cut in zip(group.vectors, group.token_counts, group.truncated, strict=True):
        values = vector.tolist() if vector.dtype.kind != "f" else [float(f"{value:.9g}") for value in vector.tolist()]
        file.write(json.dumps({"vector": values, "tokens": int(tokens), "truncated": bool(cut)}) + "\n")


class _NpyStream:
    """An .npy file whose number of rows is filled in at the end: the header has a fixed length."""

    _HEADER_BYTES = 128

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._rows = 0
        self._row: Any = None

    def __enter__(self) -> _NpyStream:
        self._file.write(b"\0" * self._HEADER_BYTES)
        return self

    def write(self, vectors: Any) -> None:
        """Append rows; all have one shape and dtype."""
        self._row = vectors[:0]
        self._rows += len(vectors)
        self._file.write(vectors.tobytes())

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None or self._row is None:
            return
        shape = (self._rows, *self._row.shape[1:])
        text = repr({"descr": self._row.dtype.str, "fortran_order": False, "shape": shape}).encode()
        magic = b"\x93NUMPY\x01\x00" + (self._HEADER_BYTES - 10).to_bytes(2, "little")
        self._file.seek(0)
        self._file.write(magic + text.ljust(self._HEADER_BYTES - len(magic) - 1) + b"\n")
