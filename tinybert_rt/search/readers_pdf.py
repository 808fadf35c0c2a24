"""Reader of PDF files by PDFium: a section a page."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers_common import TITLE_LIMIT, ReadError, needed, pieces, storable, whole_bytes

_ONE = threading.Lock()
"""PDFium works for one thread at a time, whatever the document"""
_HYPHEN = re.compile(r"(?<=\w)(?:[\x02\ufffe]|[-\u2010\u00ad]\n)(?=(\w))")
"""at the end of a line, before the rest of the word; PDFium marks those it knows by a character of its own, without the line's end"""


def pdf_sections(path: Path) -> Iterator[Section]:
    """The pages that have text, `line` being the page's number, from 1. Words that hyphens part at line ends are joined.

    Raises ReadError for a file that is no PDF, is damaged or encrypted, or has no text.
    """
    data = whole_bytes(path)
    pdfium = needed("pypdfium2", "pypdfium2", "PDF")
    try:
        with _ONE:
            document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if "password" in str(error).lower():
            raise ReadError("is encrypted: store it without its password") from None
        raise ReadError("is not a PDF, or damaged: open it in a viewer and print it to a new PDF") from None
    empty = True
    try:
        with _ONE:
            title = storable(" ".join(document.get_metadata_value("Title").split()))[:TITLE_LIMIT]
            count = len(document)
        for number in range(1, count + 1):
            try:
                with _ONE:
                    text = _page_text(document, number - 1)
            except pdfium.PdfiumError as error:
                raise ReadError(f"page {number} is damaged: {error}: open the file in a viewer and print it to a new PDF") from None
            for _, piece in pieces([text]):
                empty = False
                yield Section(piece, number, title, by_line=False)
    finally:
        with _ONE:
            document.close()
    if empty:
        raise ReadError("has no text (scanned?): recognize its text with an OCR program first")


def _page_text(document: Any, index: int) -> str:
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            text: str = text_page.get_text_bounded()
        finally:
            text_page.close()
    finally:
        page.close()
    return _HYPHEN.sub(_joint, text.replace("\r\n", "\n"))


def _joint(match: re.Match[str]) -> str:
    """Nothing within a word, a hyphen before a capital or a digit."""
    return "" if match[1].islower() else "-"
