"""Reader of Markdown: CommonMark with tables, by markdown-it-py."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers_common import VALUE_LIMIT, Outline, decoded, needed, storable, whole_bytes

_NESTING = 100
"""levels of lists and quotes; what lies deeper is left out"""
_KEY = re.compile(r"([^\s:#\-][^:]*):(?:\s+(.*))?")
_END = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.MULTILINE)
_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)|</?[a-z][^<>]*>", re.DOTALL | re.IGNORECASE)


def markdown_sections(path: Path) -> Iterator[Section]:
    """A section for each heading, with the text as it reads: no markup, rows of tables joined by " | ".

    Keys of front matter (`key: value` lines between two lines `---` at the begin) are metadata; its title is above all headings.
    Raises ReadError.
    """
    text = "".join(decoded(io.BytesIO(whole_bytes(path)))).replace("\r\n", "\n")
    parser = needed("markdown_it", "markdown-it-py", "Markdown").MarkdownIt("commonmark", {"maxNesting": _NESTING})
    parser.enable(["table", "strikethrough"])
    parser.core.ruler.enableOnly(["normalize", "block"])  # blocks first, inlines one by one below: they take much memory
    references: dict[str, Any] = {}
    length, metadata = _front_matter(text)
    first = text.count("\n", 0, length) + 1  # line
    title = metadata.pop("title", "")
    outline = Outline(title, {name: value for name, value in metadata.items() if len(name) + len(value) <= VALUE_LIMIT})
    heading = 0  # level of that which is open
    cells: list[str] | None = None  # of the row that is open
    row = first
    for token in parser.parse(text[length:], references):
        line = first + token.map[0] if token.map else row
        if token.type == "heading_open" and token.level == 0:
            heading = int(token.tag[1])
        elif token.type == "tr_open":
            cells, row = [], line
        elif token.type == "tr_close":
            outline.add(" | ".join(cells or ()), row, 1)
            cells = None
        elif token.type == "inline":
            inlines: list[Any] = []
            parser.inline.parse(token.content, parser, references, inlines)
            content = _inline_text(inlines)
            if cells is not None:
                cells.append(content)
            elif heading:
                yield from outline.heading(heading, " ".join(content.split()), line)
                heading = 0
            else:
                outline.add(content, line, 1)
        elif token.type == "fence":
            outline.add(token.content.rstrip("\n"), line + 1, 1)
        elif token.type == "code_block":
            outline.add(token.content.rstrip("\n"), line, 1)
        elif token.type == "html_block":
            outline.add(_without_tags(token.content).rstrip(), line, 1)
    yield from outline.end()


def _front_matter(text: str) -> tuple[int, dict[str, str]]:
    """How many characters the front matter has, with its last line break, and its keys; items of a list are joined by ", "."""
    mark = re.match(r"---[ \t]*\n", text)
    end = _END.search(text, mark.end()) if mark else None
    if mark is None or end is None:
        return 0, {}
    found: dict[str, str] = {}
    key = ""
    for line in text[mark.end() : end.start()].split("\n"):
        item = line.strip()
        if match := _KEY.fullmatch(line.rstrip()):
            key, value = match[1].strip(), (match[2] or "").strip()
            if value.startswith("[") and value.endswith("]"):
                value = ", ".join(_unquoted(each.strip()) for each in value[1:-1].split(","))
            found[key] = "" if value in ("|", ">") else storable(_unquoted(value))
        elif item.startswith("- ") and key:
            found[key] = ", ".join(filter(None, (found[key], storable(_unquoted(item[2:].strip())))))
        elif item and line[0].isspace() and key:
            found[key] = f"{found[key]} {storable(item)}".strip()
        elif item and not item.startswith("#"):
            return 0, {}
    return end.end(), found


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _inline_text(tokens: Sequence[Any]) -> str:
    parts = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "image":
            parts.append(_inline_text(token.children or ()))
        elif token.type == "html_inline":
            parts.append(" " if token.content.lower().startswith("<br") else "")
        else:
            parts.append(token.content)
    return "".join(parts)


def _without_tags(source: str) -> str:
    """A block of HTML as text, line for line."""
    return html.unescape(_MARKUP.sub(lambda match: "\n" * match[0].count("\n"), source))
