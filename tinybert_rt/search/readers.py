"""Readers of files: text, Markdown, HTML, PDF and rows (JSON lines, CSV, TSV), each as sections of readable text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers_common import ReadError, pieces, text_chunks, without_compression
from tinybert_rt.search.readers_html import html_sections
from tinybert_rt.search.readers_markdown import markdown_sections
from tinybert_rt.search.readers_pdf import pdf_sections
from tinybert_rt.search.readers_rows import csv_sections, jsonl_sections, tsv_sections

__all__ = ["ROWS", "ReadError", "kind_of", "read_sections"]

ROWS = {"jsonl": jsonl_sections, "csv": csv_sections, "tsv": tsv_sections}
_WHOLE = {"markdown": markdown_sections, "html": html_sections, "pdf": pdf_sections}
_KINDS = {
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".rst": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}


def kind_of(path: Path) -> str | None:
    """The kind of a file, by its suffix and (of all but PDFs) a .gz or .xz behind it: "text", "markdown", "html", "pdf", "jsonl", "csv" or
    "tsv". None: it is not read."""
    inner = without_compression(path)
    kind = _KINDS.get(inner.suffix.lower())
    return None if kind == "pdf" and inner != path else kind


def read_sections(path: Path, *, text: str | None = None, title: str | None = None) -> Iterator[Section]:
    """The sections of a file, one after another, each of at most 64 Ki characters.

    Text and rows are read a piece at a time. Markdown, HTML and PDF are read as a whole and refused above 64 MiB.
    In text, Markdown and HTML the lines of a section's text follow those of the file (in HTML: as closely as empty lines between
    paragraphs allow); a row's line is that where it begins, of a PDF it is the page, and holds for the whole section.

    Args:
        text: the text's column in rows; a dot leads into an object of JSON. Default: the first of TEXT_COLUMNS that a row has.
        title: the title's column in rows. Default: the first of TITLE_COLUMNS that a row has.

    Raises ReadError where the file cannot be read: sections before the fault may have been given.
    """
    kind = kind_of(path)
    if kind is None:
        raise ReadError(f"is not of a kind that is read; the name must end in {', '.join(_KINDS)} (or, but for .pdf, these and .gz or .xz)")
    if kind == "text":
        return (Section(piece, line) for line, piece in pieces(text_chunks(path)))
    if kind in ROWS:
        return ROWS[kind](path, text, title)
    return _WHOLE[kind](path)
