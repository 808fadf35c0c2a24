"""Input files cut into units of work: what a file holds, and the rows of a part of it, in order.

A `.jsonl` or `.jsonl.gz` file has an object a line, UTF-8; blank lines count for nothing. Its columns are the names that its objects have.
A column is text, bool, int64 or float64 if all its values are; null is no value. In any other column a value that is no text is its JSON.
A `.parquet` file keeps its columns as they are.

A row is bad if it cannot be read, has no text but white space, or has no id where an id is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import DataError

JSON_ENDINGS = (".jsonl", ".jsonl.gz")
ENDINGS = (*JSON_ENDINGS, ".parquet")

UNIT_BYTES = 64 << 20
"""Uncompressed bytes of a unit: minutes of work, which is what the death of a worker costs."""

_EXACT = 1 << 53  # integers up to here are exact in float64
_ARROW = {"text": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}


@dataclass(frozen=True)
class Unit:
    """A part of a file.

    Attributes:
        path: the file. stamp: its size and time of change in ns, by which a change is noticed.
        begin, end: bytes of the uncompressed lines, or row groups.
        first: number of the line or row at `begin`; both count from 1.
        kinds: of a jsonl file, the kind of each column.
        name: the file that the vectors go to.
    """

    path: str
    stamp: tuple[int, int]
    begin: int
    end: int
    first: int
    kinds: dict[str, str]
    name: str

    def to_json(self) -> str:
        """As a text, for its way to a worker."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Unit:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return Unit(**{**fields, "stamp": tuple(fields["stamp"])})


@dataclass(frozen=True)
class Survey:
    """What is in a file: the columns' names, rows that are good, rows that are bad, why the first of these is, and the units."""

    columns: list[str]
    rows: int
    bad: int
    why: str
    units: list[Unit]

    def to_json(self) -> str:
        """As a text, for its way from a worker."""
        return json.dumps({**vars(self), "units": [unit.to_json() for unit in self.units]})

    @staticmethod
    def from_json(text: str) -> Survey:
        """What `to_json` wrote."""
        fields = json.loads(text)
        return Survey(**{**fields, "units": [Unit.from_json(unit) for unit in fields["units"]]})


@dataclass(frozen=True)
class Wanted:
    """The names of the columns with the text and, if one is asked for, with the id."""

    text: str
    id: str | None = None


def survey(path: str, wanted: Wanted, unit_bytes: int = UNIT_BYTES) -> Survey:
    """Read a whole file once. Raises DataError where it cannot be read, or is none of the known kinds."""
    if not path.endswith(ENDINGS):
        raise DataError(f"{path}: the name must end in {', '.join(ENDINGS)}")
    with _readable(path):
        stamp, digest = _stamp(path), file_sha256(path)
        parts = _survey_lines if path.endswith(JSON_ENDINGS) else _survey_groups
        kinds, columns, rows, bad, why, starts, end = parts(path, wanted, unit_bytes)
    stem = os.path.basename(path)[: -len(next(each for each in ENDINGS if path.endswith(each)))]
    ends = [begin for begin, _ in starts[1:]] + [end]
    units = [  # none where there are no rows
        Unit(path, stamp, begin, stop, first, kinds, f"{stem}-{digest[:16]}-{part:05}.parquet")
        for part, ((begin, first), stop) in enumerate(zip(starts, ends, strict=True) if rows else ())
    ]
    return Survey(columns, rows, bad, why, units)


def read_unit(unit: Unit, wanted: Wanted, batch_rows: int, skip_bad: bool) -> Iterator[tuple[pa.Table, list[str]]]:
    """The good rows of a unit with their texts, at most `batch_rows` at a time; first of all an empty table, which has the columns.

    Raises DataError for a bad row unless bad rows are skipped, and for a file that is not what it was when it was surveyed.
    """
    with _readable(unit.path):
        if _stamp(unit.path) != unit.stamp:
            raise DataError(f"{unit.path}: has changed since the run began: run again")
        read = _read_lines if unit.path.endswith(JSON_ENDINGS) else _read_groups
        yield from read(unit, wanted, batch_rows, skip_bad)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """What goes wrong while a file is read, as a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path}: not readable: {error}") from None


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def file_sha256(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _problem(text: object, has_id: bool, wanted: Wanted) -> str:
    """What makes a row bad; "" if it is good."""
    if text is None:
        return f"no text in column {wanted.text!r}"
    if not isinstance(text, str):
        return f"column {wanted.text!r} is {'not valid UTF-8' if isinstance(text, bytes) else f'no text but {type(text).__name__}'}"
    if not text.strip():
        return f"the text in column {wanted.text!r} is empty"
    if wanted.id is not None and not has_id:
        return f"no id in column {wanted.id!r}"
    return ""


# ---------------------------------------------------------------- lines of JSON


def _open(path: str) -> Any:
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")


def _row(line: bytes, wanted: Wanted) -> tuple[dict[str, Any], str]:
    """The object of a line, and what makes it bad, or ""."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict):
            return {}, "holds no JSON object"
        if b"\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        return {}, f"is not valid UTF-8 (byte {error.start + 1})"
    except UnicodeEncodeError:
        return {}, "has a lone surrogate: it is not valid Unicode"
    except (ValueError, RecursionError) as error:
        return {}, f"is no JSON: {error}"
    return row, _problem(row.get(wanted.text), row.get(wanted.id or "") is not None, wanted)


def _kind(value: object) -> str:
    """Of a value that is not None: text, bool, int (exact in float64), long, float or other."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _EXACT else "long" if -(1 << 63) <= value < 1 << 63 else "other"
    return "float" if isinstance(value, float) else "other"


def _common_kind(kinds: set[str]) -> str:
    """The kind of a column with values of these kinds."""
    if not kinds:
        return "text"
    if len(kinds) == 1 and kinds <= {"text", "bool"}:
        return next(iter(kinds))
    return "int" if kinds <= {"int", "long"} else "float" if kinds <= {"int", "float"} else "other"


def _survey_lines(path: str, wanted: Wanted, unit_bytes: int) -> tuple[Any, ...]:
    found: dict[str, set[str]] = {}
    starts = [(0, 1)]
    rows, bad, why, position = 0, 0, "", 0
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if position >= starts[-1][0] + unit_bytes:
                starts.append((position, number))
            position += len(line)
            if not line.strip():
                continue
            row, problem = _row(line, wanted)
            if problem:
                bad, why = bad + 1, why or f"line {number}: {problem}"
                continue
            rows += 1
            for name, value in row.items():
                kinds = found.setdefault(name, set())
                if value is not None:
                    kinds.add(_kind(value))
    return {name: _common_kind(kinds) for name, kinds in found.items()}, list(found), rows, bad, why, starts, position


def _read_lines(unit: Unit, wanted: Wanted, batch_rows: int, skip_bad: bool) -> Iterator[tuple[pa.Table, list[str]]]:
    rows: list[dict[str, Any]] = []
    yield _table(rows, unit.kinds), []
    with _open(unit.path) as file:
        file.seek(unit.begin)
        position = unit.begin
        for number, line in enumerate(file, unit.first):
            if position >= unit.end:
                break
            position += len(line)
            if not line.strip():
                continue
            row, problem = _row(line, wanted)
            if not problem:
                rows.append(row)
            elif not skip_bad:
                raise DataError(f"{unit.path}: line {number}: {problem}")
            if len(rows) == batch_rows:
                yield _table(rows, unit.kinds), [row[wanted.text] for row in rows]
                rows = []
    if rows:
        yield _table(rows, unit.kinds), [row[wanted.text] for row in rows]


def _table(rows: list[dict[str, Any]], kinds: dict[str, str]) -> pa.Table:
    columns = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if kind == "other":
            values = [each if each is None or isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in values]
        columns[name] = pa.array(values, _ARROW.get(kind, pa.string()))
    return pa.table(columns)


# ---------------------------------------------------------------- row groups of Parquet


def _text(value: bytes | None) -> str | bytes | None:
    """What a column of text holds; bytes that are not valid UTF-8 stay bytes."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _problems(batch: Any, wanted: Wanted) -> tuple[list[Any], list[str]]:
    """The texts of a batch of rows, and what makes each row bad, or ""."""
    texts = [_text(value) for value in batch[wanted.text].cast(pa.large_binary()).to_pylist()]
    has_id = batch[wanted.id or wanted.text].is_valid().to_pylist()
    return texts, [_problem(text, valid, wanted) for text, valid in zip(texts, has_id, strict=True)]


def _survey_groups(path: str, wanted: Wanted, unit_bytes: int) -> tuple[Any, ...]:
    starts: list[tuple[int, int]] = []
    rows, bad, why, number, size = 0, 0, "", 0, unit_bytes
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [name for name in (wanted.text, wanted.id) if name is not None]
        for name in names:
            if schema.names.count(name) != 1:
                raise DataError(f"{path}: has no column {name!r} of its own; it has {', '.join(schema.names)}")
        kind = schema.field(wanted.text).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"{path}: column {wanted.text!r} is no text but {kind}")
        for group in range(file.num_row_groups):
            if size >= unit_bytes:
                starts.append((group, number + 1))
                size = 0
            size += file.metadata.row_group(group).total_byte_size
            for batch in file.iter_batches(row_groups=[group], columns=names, use_threads=False):
                _, problems = _problems(batch, wanted)
                for problem in problems:
                    number += 1
                    rows, bad = rows + (not problem), bad + bool(problem)
                    if problem and not why:
                        why = f"row {number}: {problem}"
        return {}, schema.names, rows, bad, why, starts, file.num_row_groups


def _read_groups(unit: Unit, wanted: Wanted, batch_rows: int, skip_bad: bool) -> Iterator[tuple[pa.Table, list[str]]]:
    with pq.ParquetFile(unit.path) as file:
        schema = file.schema_arrow
        yield schema.empty_table(), []
        number = unit.first
        groups = range(unit.begin, unit.end)
        for batch in file.iter_batches(batch_rows, row_groups=list(groups), use_threads=False) if groups else ():
            texts, problems = _problems(batch, wanted)
            if any(problems):
                if not skip_bad:
                    at = next(i for i, problem in enumerate(problems) if problem)
                    raise DataError(f"{unit.path}: row {number + at}: {problems[at]}")
                texts = [text for text, problem in zip(texts, problems, strict=True) if not problem]
                batch = batch.filter(pa.array([not problem for problem in problems]))
            number += len(problems)
            if texts:
                yield pa.Table.from_batches([batch], schema), texts
