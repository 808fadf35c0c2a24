"""Reader of rows: JSON lines, CSV (RFC 4180) and TSV (quotes mean nothing in it), with a section a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers_common import VALUE_LIMIT, WHOLE_LIMIT, ReadError, lines_of, pieces, storable, text_chunks

TEXT_COLUMNS = ("text", "body", "content", "passage", "abstract")
TITLE_COLUMNS = ("title", "name", "heading")

_SHOWN = 20
"""columns that an error names"""


def jsonl_sections(path: Path, text: str | None, title: str | None) -> Iterator[Section]:
    """An object a line; columns of objects in it are named with dots. Other columns with a scalar of bounded length are metadata.

    Raises ReadError.
    """
    for number, line in enumerate(lines_of(text_chunks(path)), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            row = dict(_columns(value)) if isinstance(value, dict) else None
        except (ValueError, RecursionError) as error:
            raise ReadError(f"line {number} is no JSON: {error}: an object a line is wanted") from None
        if row is None:
            raise ReadError(f"line {number} holds no JSON object: an object a line is wanted")
        yield from _row_sections(row, number, _column_of(row, text, TEXT_COLUMNS, f"line {number}"), title)


def _columns(value: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _columns(each, f"{prefix}{name}.")
        else:
            yield prefix + name, each


def csv_sections(path: Path, text: str | None, title: str | None) -> Iterator[Section]:
    """A header line and rows with commas, or with semicolons where the header has these alone. Raises ReadError."""
    lines = lines_of(text_chunks(path))
    header = next(lines, "")
    delimiter = ";" if ";" in header and "," not in header else ","
    yield from _table_sections(chain([header], lines), delimiter, True, text, title)


def tsv_sections(path: Path, text: str | None, title: str | None) -> Iterator[Section]:
    """A header line and rows with tabs. Raises ReadError."""
    yield from _table_sections(lines_of(text_chunks(path)), "\t", False, text, title)


def _table_sections(lines: Iterator[str], delimiter: str, quoted: bool, text: str | None, title: str | None) -> Iterator[Section]:
    begin, length = 1, 0  # of the row: first line, characters so far

    def bounded() -> Iterator[str]:
        nonlocal length
        for line in lines:
            length += len(line)
            if length > WHOLE_LIMIT:
                raise ReadError(f"line {begin}: the row is longer than {WHOLE_LIMIT >> 20} MiB: is a quote not closed?")
            yield line

    # The limit is the whole process's: it is raised, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), WHOLE_LIMIT))
    reader = csv.reader(bounded(), delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)
    header: list[str] = []
    column = ""
    try:
        for values in reader:
            if values and not header:
                header = values
                column = _column_of(dict.fromkeys(header), text, TEXT_COLUMNS, f"the header in line {begin}")
                if title is not None and title not in header:
                    raise ReadError(f"the header in line {begin} has no column {title!r} for the title; it has {_names(header)}")
            elif values:
                if len(values) != len(header):
                    raise ReadError(f"line {begin}: the row has {len(values)} columns, the header {len(header)}: are quotes missing?")
                yield from _row_sections(dict(zip(header, values, strict=True)), begin, column, title)
            begin, length = reader.line_num + 1, 0
    except csv.Error as error:
        raise ReadError(f"line {begin}: the row is malformed: {error}") from None


def _column_of(row: Mapping[str, object], name: str | None, usual: tuple[str, ...], where: str) -> str:
    """The name of the column with the text. Raises ReadError where there is none."""
    for each in usual if name is None else (name,):
        if each in row:
            return each
    wanted = "none of the columns " + ", ".join(usual) if name is None else f"no column {name!r}"
    raise ReadError(f"{where} has {wanted}; it has {_names(list(row))}: name the column of the text")


def _names(columns: list[str]) -> str:
    return ", ".join(columns[:_SHOWN]) + (", …" if len(columns) > _SHOWN else "")


def _row_sections(row: Mapping[str, object], line: int, text: str, title: str | None) -> Iterator[Section]:
    """The section of a row; several, where its text is long. `text`: its column."""
    heading = next((name for name in ((title,) if title is not None else TITLE_COLUMNS) if name in row and name != text), None)
    if isinstance(row[text], list):
        raise ReadError(f"line {line}: the column {text!r} holds a list: a text is wanted")
    shown = " ".join(storable(_string(row[heading])).split()) if heading else ""
    strings = {name: _string(value) for name, value in row.items() if value is not None and not isinstance(value, list)}
    others = {
        storable(name): storable(value)
        for name, value in strings.items()
        if name not in ("", text, heading) and len(name) + len(value) <= VALUE_LIMIT
    }
    for _, piece in pieces([_string(row[text])]):
        yield Section(piece, line, shown, others, by_line=False)


def _string(value: object) -> str:
    """A scalar as it stands in JSON, a text without its quotes; null is "", and a list is none."""
    if value is None or isinstance(value, list):
        return ""
    return value if isinstance(value, str) else json.dumps(value)
