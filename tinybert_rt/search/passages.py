"""Sections into passages: whole sentences, as many as the model's tokens allow, the last ones repeated in the next passage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .documents import Passage, Section

if TYPE_CHECKING:
    from tinybert_rt.model import Model

_PARAGRAPH = re.compile(r"[^\n].*?(?=\n[^\S\n]*\n|\Z)", re.DOTALL)
# A sentence with more characters than this is cut before it is tokenized: memory stays bounded whatever a file contains.
_LONGEST = 20_000


class _Part(NamedTuple):
    """A sentence, or a piece of one that is too long: characters of the section, and tokens."""

    begin: int
    end: int
    tokens: int


class Splitter:
    """Splits by the token counts of a model.

    Args:
        tokens: of a passage at most, special tokens and title included.
        overlap: tokens at most that two neighbouring passages of a section share, in whole sentences.
    """

    def __init__(self, model: Model, tokens: int, overlap: int) -> None:
        self._model = model
        self._special = len(model.tokenize("").ids)
        self._tokens = tokens - self._special
        self._overlap = overlap

    def _count(self, text: str) -> int:
        return len(self._model.tokenize(text).ids) - self._special

    def split(self, section: Section) -> Iterator[Passage]:
        """The passages of a section, in order. A title of more than a half of the tokens is left out of the passages."""
        title = section.title
        titled = self._count(f"{title}\n") if title else 0
        if titled > self._tokens // 2:
            title, titled = "", 0
        room = self._tokens - titled
        line, at = section.line, 0
        for begin, end in self._spans(section.text, room):
            if section.by_line:
                line, at = line + section.text.count("\n", at, begin), begin
            yield Passage(section.text[begin:end].strip(), line, title, section.metadata)

    def _spans(self, text: str, room: int) -> Iterator[tuple[int, int]]:
        """The characters of each passage."""
        waiting: list[_Part] = []
        filled = fresh = 0
        for paragraph in self._paragraphs(text, room):
            whole = sum(part.tokens for part in paragraph)
            # A paragraph that does not fit begins a passage of its own, if what is there is worth one.
            if fresh and filled + whole > room and whole <= room and 2 * filled >= room:
                yield waiting[0].begin, waiting[-1].end
                waiting, filled, fresh = [], 0, 0
            for part in paragraph:
                if fresh and filled + part.tokens > room:
                    yield waiting[0].begin, waiting[-1].end
                    waiting = _tail(waiting, min(self._overlap, room - part.tokens))
                    filled, fresh = sum(each.tokens for each in waiting), 0
                waiting.append(part)
                filled += part.tokens
                fresh += 1
        if fresh:
            yield waiting[0].begin, waiting[-1].end

    def _paragraphs(self, text: str, room: int) -> Iterator[list[_Part]]:
        """The parts of each paragraph."""
        for match in _PARAGRAPH.finditer(text):
            parts = [part for begin, end in sentences(match.group(), match.start()) for part in self._parts(text, begin, end, room)]
            if parts:
                yield parts

    def _parts(self, text: str, begin: int, end: int, room: int) -> Iterator[_Part]:
        """A sentence, in pieces of at most `room` tokens."""
        if not text[begin:end].strip():
            return
        if end - begin <= _LONGEST:
            tokens = self._count(text[begin:end])
            if tokens <= room or end - begin < 2:
                yield _Part(begin, end, min(tokens, room))
                return
        middle = (begin + end) // 2
        space = text.rfind(" ", begin + 1, middle)
        cut = space + 1 if space > begin else middle
        yield from self._parts(text, begin, cut, room)
        yield from self._parts(text, cut, end, room)


def sentences(text: str, start: int = 0) -> list[tuple[int, int]]:
    """The characters of the sentences of a text, each from the begin of one to the begin of the next, but blank ones; `start` is added
    to all."""
    from sentencex import segment

    spans = []
    at = start
    for each in segment("en", text):
        if each.strip():
            spans.append((at, at + len(each)))
        at += len(each)
    return spans if at == start + len(text) else [(start, start + len(text))]


def _tail(parts: list[_Part], tokens: int) -> list[_Part]:
    """The last parts that have at most so many tokens together, not all of them."""
    first = len(parts)
    while first > 1 and parts[first - 1].tokens <= tokens:
        first -= 1
        tokens -= parts[first].tokens
    return parts[first:]
