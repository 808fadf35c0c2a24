"""What the readers share: bytes and characters of a file, pieces of bounded length, sections under headings."""

from __future__ import annotations

import codecs
import gzip
import importlib
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from tinybert_rt.search.documents import Section

WHOLE_LIMIT = 64 * 2**20
"""bytes (decompressed) of a Markdown, HTML or PDF file, and characters of a row: they are read as a whole"""
SECTION_LIMIT = 64 * 2**10
"""characters of a section"""
TITLE_LIMIT = 300
"""characters of a heading: what is longer was not meant as one"""
VALUE_LIMIT = 1000
"""characters of a value of metadata: what is longer is nothing to filter by, and would be kept with every passage of a long text"""

_CHUNK = 64 * 2**10
_HEAD = 8 * 2**10
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BORDERS = [re.compile(pattern) for pattern in (r"\n[^\S\n]*\n", r"\n", r"\s")]
"""between paragraphs, lines, words"""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class ReadError(Exception):
    """A file cannot be read: what is wrong, where (line, page, byte), and what to do. The path is for the caller to add."""


def needed(module: str, package: str, kind: str) -> Any:
    """An optional module. Raises ReadError where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ReadError(f"reading {kind} needs the package {package}: pip install 'tinybert-rt[search]'") from None


# ---------------------------------------------------------------- bytes and characters


def without_compression(path: Path) -> Path:
    """The path without its .gz or .xz."""
    return path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, decompressed by its suffix. Raises ReadError for what goes wrong in opening or reading it."""
    try:
        with _COMPRESSED.get(path.suffix.lower(), open)(path, "rb") as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.strerror:
            raise ReadError(f"cannot be read: {error.strerror}") from None
        raise ReadError(f"cannot be decompressed: {error}: is the file whole?") from None


def whole_bytes(path: Path) -> bytes:
    """The bytes of a file, decompressed. Raises ReadError where they are more than WHOLE_LIMIT."""
    with _opened(path) as file:
        data = file.read(WHOLE_LIMIT + 1)
    if len(data) > WHOLE_LIMIT:
        raise ReadError(f"is longer than {WHOLE_LIMIT >> 20} MiB, and a file of this kind is read as a whole: split it, or make it .txt")
    return data


def text_chunks(path: Path) -> Iterator[str]:
    """The characters of a file, decompressed and decoded, a chunk at a time. Raises ReadError."""
    with _opened(path) as file:
        yield from decoded(file)


def byte_order_mark(data: bytes) -> tuple[bytes, str]:
    """What marks the encoding at the begin of a file (may be empty), and the encoding; UTF-8 without a mark."""
    return next(((mark, encoding) for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark)), (b"", "utf-8"))


def refuse_binary(data: bytes) -> None:
    """Raises ReadError where the first 8 KiB of a file that is not UTF-16 or UTF-32 hold a NUL."""
    position = data.find(b"\0", 0, _HEAD)
    if position >= 0 and byte_order_mark(data)[1] == "utf-8":
        raise ReadError(f"is binary: a NUL at byte {position + 1}; a text file is wanted, in UTF-8")


def decoded(file: IO[bytes]) -> Iterator[str]:
    """The characters of UTF-8 or, where a byte-order mark says so, UTF-16 or UTF-32. Raises ReadError."""
    chunk = file.read(_CHUNK)
    refuse_binary(chunk)
    mark, encoding = byte_order_mark(chunk)
    decoder = codecs.getincrementaldecoder(encoding)()
    line, count = 1, len(mark)
    chunk = chunk[len(mark) :]
    while True:
        count += len(chunk)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].decode(encoding, "ignore").count("\n")
            byte = count - len(error.object) + error.start
            wrong = f"line {line}: byte {byte + 1} of the file (0x{error.object[error.start]:02X}) is not {encoding.upper()}"
            raise ReadError(f"{wrong}: save the file as UTF-8") from None
        yield text
        if not chunk:
            return
        line += text.count("\n")
        chunk = file.read(_CHUNK)


def lines_of(chunks: Iterable[str]) -> Iterator[str]:
    """Lines with their ends. Raises ReadError where one is longer than WHOLE_LIMIT."""
    parts: list[str] = []
    length, number = 0, 1
    for chunk in chunks:
        *lines, rest = chunk.split("\n")
        for line in lines:
            yield "".join((*parts, line, "\n"))
            parts.clear()
            length = 0
            number += 1
        parts.append(rest)
        length += len(rest)
        if length > WHOLE_LIMIT:
            raise ReadError(f"line {number} is longer than {WHOLE_LIMIT >> 20} MiB: one row a line is wanted")
    if length:
        yield "".join(parts)


# ---------------------------------------------------------------- pieces and sections


def storable(text: str) -> str:
    """The text with NULs and lone surrogates, which UTF-8 or SQLite do not take, replaced by U+FFFD."""
    return text if text.isascii() and "\0" not in text else _UNSTORABLE.sub("\ufffd", text)


def pieces(chunks: Iterable[str], line: int = 1) -> Iterator[tuple[int, str]]:
    """A text, as it is, in pieces of at most SECTION_LIMIT characters, with the line where each begins; `line` is the text's.

    A piece ends behind the last paragraph that fits; else behind the last line, the last word, or anywhere.
    """
    rest = ""
    for chunk in chunks:
        rest += chunk
        start = 0
        while len(rest) - start > SECTION_LIMIT:
            piece = rest[start : start + SECTION_LIMIT]
            piece = piece[: _border(piece)]
            yield from _stripped(piece, line)
            line += piece.count("\n")
            start += len(piece)
        rest = rest[start:]
    yield from _stripped(rest, line)


def _border(text: str) -> int:
    for pattern in _BORDERS:
        ends = [match.end() for match in pattern.finditer(text)]
        if ends:
            return ends[-1]
    return len(text)


def _stripped(text: str, line: int) -> Iterator[tuple[int, str]]:
    body = text.lstrip()
    line += text.count("\n", 0, len(text) - len(body))
    body = storable(body.rstrip()).replace("\r\n", "\n")
    if body:
        yield line, body


class Outline:
    """Blocks of text under headings, made sections.

    The lines of a section's text are those of the file as far as empty lines between the blocks can make them so.
    A heading with nothing below it is a text of its own: nothing that can be read is lost.
    """

    def __init__(self, root: str, metadata: Mapping[str, str]) -> None:
        """`root`: the title of all, or ""."""
        self._path = [(0, root[:TITLE_LIMIT])] if root else []
        self._heading: tuple[int, str] | None = None  # line and text of a heading with nothing below it yet
        self._blocks: list[tuple[int, str, int]] = []
        self._metadata = metadata

    def heading(self, level: int, text: str, line: int) -> Iterator[Section]:
        """A heading of level 1 to 6. Gives the sections that end before it."""
        if not text or len(text) > TITLE_LIMIT:
            self.add(text, line, 2)
            return
        if self._path and level > self._path[-1][0]:
            self._heading = None
        yield from self.end()
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, text))
        self._heading = line, text

    def add(self, text: str, line: int, breaks: int) -> None:
        """A block of text, at least so many line breaks behind the one before."""
        if text:
            self._blocks.append((line, text, breaks))

    def end(self) -> Iterator[Section]:
        """The sections of all blocks since the last heading."""
        if not self._blocks and self._heading:
            self._blocks = [(*self._heading, 0)]
        title = " › ".join(text for text, _ in groupby(text for _, text in self._path))
        for start, text in self._joined():
            for line, piece in pieces([text], start):
                yield Section(piece, line, title, self._metadata)
        self._blocks, self._heading = [], None

    def _joined(self) -> Iterator[tuple[int, str]]:
        parts: list[str] = []
        start = line = length = 0
        for at, text, least in self._blocks:
            breaks = max(least, at - line) if parts else 0
            if length and length + breaks + len(text) > SECTION_LIMIT:
                yield start, "".join(parts)
                parts, length, breaks = [], 0, 0
            if not parts:
                start = line = at
            parts += ("\n" * breaks, text)
            line += breaks + text.count("\n")
            length += breaks + len(text)
        yield start, "".join(parts)
