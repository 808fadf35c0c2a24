"""What goes into an index and comes out of it: pieces of files, passages, hits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Section:
    """A piece of a file under one heading, as a reader gives it; it is split into passages later."""

    text: str
    """paragraphs, separated by empty lines"""
    line: int
    """of the file, from 1, where the text begins (of a PDF: the page)"""
    title: str = ""
    """headings above it, joined by " › "; of a row: its title column"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """columns of a row that are neither text nor title"""
    by_line: bool = True
    """whether the n-th line of the text is line + n of the file; else all of it stands there"""


@dataclass(frozen=True)
class Passage:
    """As much text as one vector stands for."""

    text: str
    line: int
    title: str
    metadata: Mapping[str, str]

    @property
    def embedded(self) -> str:
        """What is encoded: the title is part of it."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class Hit:
    """A passage that answers a query."""

    path: str
    """of the file, or the id of the document"""
    line: int
    """where the passage begins in the file, from 1 (of a PDF: its page)"""
    title: str
    text: str
    score: float
    """what hits are sorted by: see `Index.search`"""
    cosine: float | None
    """similarity of the vectors, where the passage was found by them"""
    bm25: float | None
    """of the words, where the passage was found by them; more is better"""
    mark: tuple[int, int] | None
    """characters of the text that answer best"""
    metadata: Mapping[str, str]
    modified: float
    """of the file, in seconds since 1970"""
