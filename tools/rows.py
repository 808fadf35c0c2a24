"""Readers of labelled data: tables, tagged sentences and texts, plain or compressed.

A `.tsv` file has a header line and tabs between its columns, and quotes mean nothing in it; a `.csv` file has a header line and quotes as
RFC 4180 says; a `.jsonl` file has an object a line. Each of them may end in .gz or .xz. All are UTF-8.
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from tinybert_rt.cli.common import UsageError, lines_of

_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
TABLES = (".tsv", ".csv", ".jsonl")
"""Endings of tables, before .gz or .xz."""


class DataError(Exception):
    """The data cannot be used: which file, which line, and why."""


def _kind(path: Path) -> str:
    """The ending that says what is inside: that before .gz or .xz."""
    return (Path(path.stem) if path.suffix in _COMPRESSED else path).suffix


def _lines(path: Path) -> Iterator[str]:
    """The lines, without their ends. Raises DataError."""
    try:
        opened: IO[bytes]
        with _COMPRESSED.get(path.suffix, open)(path, "rb") as opened:
            yield from lines_of(opened, str(path))
    except UsageError as error:  # names the line that is not UTF-8
        raise DataError(str(error)) from None
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}: not readable: {error}") from None


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a .tsv, .csv or .jsonl file by column.

    A value of a .jsonl file that is no text is its JSON: 1 is "1", a list is "[…]"; null is "".

    Raises DataError for a file that is none of these, a row with more or fewer columns than the header, and a table without rows.
    """
    readers = {".tsv": _tsv_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    if _kind(path) not in readers:
        raise DataError(f"{path}: the name must end in {', '.join(readers)}, or in one of these and .gz or .xz")
    rows = list(readers[_kind(path)](path))
    if not rows:
        raise DataError(f"{path}: has no rows")
    return rows


def _tsv_rows(path: Path) -> Iterator[dict[str, str]]:
    yield from _named(path, enumerate((line.split("\t") for line in _lines(path)), 1))


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    reader = csv.reader((line + "\n" for line in _lines(path)), strict=True)
    try:
        yield from _named(path, ((reader.line_num, row) for row in reader if row))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None


def _named(path: Path, rows: Iterable[tuple[int, list[str]]]) -> Iterator[dict[str, str]]:
    header: list[str] = []
    for line, row in rows:
        if not header:
            header = row
            if len(set(header)) != len(header) or "" in header:
                raise DataError(f"{path}: line {line}: the header must name each column, each by its own name: {header}")
        elif len(row) != len(header):
            raise DataError(f"{path}: line {line} has {len(row)} columns, the header {len(header)}")
        else:
            yield dict(zip(header, row, strict=True))


def _json_rows(path: Path) -> Iterator[dict[str, str]]:
    def text(value: object) -> str:
        return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)

    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: line {number} is no JSON: {error}") from None
            if not isinstance(value, dict):
                raise DataError(f"{path}: line {number} holds no JSON object")
            yield {name: text(each) for name, each in value.items()}


def column(path: Path, rows: Sequence[dict[str, str]], name: str) -> list[str]:
    """One column of the rows that were read from `path`. Raises DataError where a row lacks it."""
    for number, row in enumerate(rows, 1):
        if name not in row:
            raise DataError(f"{path}: row {number} has no column {name!r}; it has {', '.join(row)}")
    return [row[name] for row in rows]


def read_texts(path: Path, name: str | None = None) -> list[str]:
    """Texts: the column `name` of a table, or the lines of any other file. Blank ones are left out.

    Raises DataError where there are none, or the column is not said.
    """
    if _kind(path) in TABLES:
        rows = read_table(path)
        if name is None:
            raise DataError(f"{path}: which column holds the texts? There are {', '.join(rows[0])}: say --column")
        texts = column(path, rows, name)
    elif name is not None:
        raise DataError(f"{path}: has no columns; a file with columns ends in {', '.join(TABLES)}")
    else:
        texts = list(_lines(path))
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise DataError(f"{path}: has no texts")
    return texts


def read_conll(path: Path, token_column: int = 0, tag_column: int = -1, separator: str | None = None) -> list[tuple[list[str], list[str]]]:
    """The sentences of a file with a token a line, as (tokens, tags): a blank line ends a sentence.

    Left out are `-DOCSTART-` lines (CoNLL-2003; Tjong Kim Sang and De Meulder 2003, section 2) and a header line of its own before a
    blank one, which begins with "form" or "token".

    Args:
        token_column, tag_column: which columns; −1 is the last one.
        separator: what stands between columns. None: tabs where the line has one, else white space.

    Raises DataError for a line without these columns, and a file without sentences.
    """
    sentences: list[tuple[list[str], list[str]]] = []
    tokens: list[str] = []
    tags: list[str] = []
    needed = max(each + 1 if each >= 0 else -each for each in (token_column, tag_column))
    needed = max(needed, 1 if token_column == tag_column else 2)
    for number, line in enumerate(_with_end(path), 1):
        if not line.strip():
            header = not sentences and len(tokens) == 1 and tokens[0].lower() in ("form", "token")
            if tokens and not header:
                sentences.append((tokens, tags))
            tokens, tags = [], []
            continue
        row = line.split(separator or ("\t" if "\t" in line else None))
        if row[0] == "-DOCSTART-":
            continue
        if len(row) < needed:
            raise DataError(f"{path}: line {number} has {len(row)} columns, of which columns {token_column} and {tag_column} are wanted")
        tokens.append(row[token_column])
        tags.append(row[tag_column])
    if not sentences:
        raise DataError(f"{path}: has no sentences")
    return sentences


def _with_end(path: Path) -> Iterator[str]:
    """The lines, and a blank one that ends the last sentence."""
    yield from _lines(path)
    yield ""


def iob1_to_iob2(tags: Sequence[str]) -> list[str]:
    """The tags of one sentence with B- before the first token of every entity.

    IOB1 has B- only where an entity follows another of its type (Ramshaw and Marcus 1995; Tjong Kim Sang and Veenstra 1999,
    section 2.1). IOB2 stays as it is.
    """
    result = []
    before = "O"
    for tag in tags:
        begins = tag.startswith("I-") and before[1:] != tag[1:]
        result.append(f"B-{tag[2:]}" if begins else tag)
        before = tag
    return result
