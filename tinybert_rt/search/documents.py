"""What goes into an index and comes out of it: records of files, passages, hits."""

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
