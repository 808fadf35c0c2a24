"""Reader of HTML, by lxml (libxml2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers_common import Outline, ReadError, byte_order_mark, needed, refuse_binary, whole_bytes


def _tags(names: str) -> frozenset[str]:
    return frozenset(names.split())


_DROPPED = _tags("head script style nav noscript template iframe svg")
_BLOCKS = _tags(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure footer form header "
    "hgroup hr html legend li main menu nav ol optgroup option p pre search section select summary table tbody tfoot thead tr ul"
)
_CLOSE = _tags("dd dt li option tr")
"""these follow one another without an empty line"""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CHARSET = re.compile(rb"""(?:<meta[^>]*?charset|<\?xml[^>]*?encoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
_DECLARED = 4096
"""bytes of a file that are searched for its encoding"""
_LEGACY = re.compile(
    r"(?:windows-|cp)125\d|iso-?8859-\d+|latin-?1|us-ascii|koi8-[ru]|shift[_-]jis|sjis|euc-(?:jp|kr)|iso-2022-jp|gb2312|gbk|gb18030|big5"
)
"""encodings that browsers know; Python's list has some that are no text"""
_LAST_LINE = 65535
"""libxml2 counts the lines of elements up to this; the walk counts all line breaks in texts"""


def html_sections(path: Path) -> Iterator[Section]:
    """A section for each heading, with the text as it is shown; `<title>` is above all headings. Raises ReadError."""
    data = whole_bytes(path)
    refuse_binary(data)
    if not data.strip():
        return
    etree = needed("lxml.etree", "lxml", "HTML")
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    try:
        root = etree.fromstring(_decoded(data).encode(), parser)
    except etree.XMLSyntaxError as error:
        raise ReadError(f"is no HTML: {error}") from None
    fatal = parser.error_log.filter_from_fatals()
    if root is None or fatal:
        raise ReadError(f"line {fatal[0].line}: {fatal[0].message}: split the file" if fatal else "is no HTML")
    yield from _Walk(root, etree).sections()


def _decoded(data: bytes) -> str:
    """The characters, as browsers find them: by the byte-order mark, else the declared encoding, else UTF-8; what is wrong is U+FFFD."""
    mark, encoding = byte_order_mark(data)
    declared = _CHARSET.search(data, 0, _DECLARED)
    if not mark and declared:
        name = declared[1].decode("ascii", "replace").lower()
        if _LEGACY.fullmatch(name):
            # https://encoding.spec.whatwg.org/#names-and-labels
            encoding = "cp1252" if name in ("iso-8859-1", "iso8859-1", "latin1", "latin-1", "us-ascii") else name
    try:
        return data[len(mark) :].decode(encoding, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


class _Walk:
    """One walk over the tree, in the order of the file."""

    def __init__(self, root: Any, etree: Any) -> None:
        self._events = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
        self._outline = Outline(" ".join("".join(root.xpath("string(//title)")).split()), {})
        self._line = 1  # of the file, now
        self._dropped = self._preformatted = self._heading = 0  # how many elements are open; level of the heading that is open
        self._parts: list[str] = []  # of the block
        self._filled = False  # more than white space
        self._begin = 1  # its line
        self._breaks = 2  # before it
        self._cell = False  # a cell began since its last part

    def sections(self) -> Iterator[Section]:
        for event, element in self._events:
            if event == "start":
                if 0 < (element.sourceline or 0) < _LAST_LINE:
                    self._line = element.sourceline
                yield from self._start(element.tag)
                self._text(element.text)
            elif event == "end":
                yield from self._end(element.tag)
                self._text(element.tail)
            else:
                self._line += (element.text or "").count("\n")
                self._text(element.tail)
        yield from self._flush()
        yield from self._outline.end()

    def _start(self, tag: str) -> Iterator[Section]:
        if tag in _DROPPED:
            self._dropped += 1
        if tag == "br":
            self._parts.append("\n")
        elif tag in ("td", "th"):
            self._cell = True
        elif tag in _HEADINGS:
            yield from self._flush()
            self._heading = _HEADINGS[tag]
        elif tag in _BLOCKS:
            yield from self._flush()
            self._breaks = 1 if tag in _CLOSE else 2
        self._preformatted += tag in ("pre", "textarea")

    def _end(self, tag: str) -> Iterator[Section]:
        if tag in _DROPPED:
            self._dropped -= 1
        if tag in _BLOCKS or tag in _HEADINGS:
            yield from self._flush()
            self._heading = 0 if tag in _HEADINGS else self._heading
        self._preformatted -= tag in ("pre", "textarea")

    def _text(self, text: str | None) -> None:
        if not text:
            return
        if not self._dropped:
            body = text.lstrip()
            if body and not self._filled:
                self._parts = []
                self._begin = self._line + text.count("\n", 0, len(text) - len(body))
            elif body and self._cell:
                self._parts.append(" | ")
            if body:
                self._filled, self._cell = True, False
            self._parts.append(text if self._preformatted else re.sub(r"\s+", " ", text))
        self._line += text.count("\n")

    def _flush(self) -> Iterator[Section]:
        """The block ends here: it is kept, or is a heading."""
        if self._filled:
            text = "".join(self._parts)
            if self._heading:
                yield from self._outline.heading(self._heading, " ".join(text.split()), self._begin)
            else:
                if not self._preformatted:
                    text = "\n".join(" ".join(line.split()) for line in text.split("\n"))
                self._outline.add(text.strip("\n"), self._begin, self._breaks)
            self._breaks = 2
        self._parts, self._filled, self._cell = [], False, False
