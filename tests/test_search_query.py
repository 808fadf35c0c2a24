"""What a search finds: words, filters, documents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_search_index import model, write_notes

from tinybert_rt import errors
from tinybert_rt.search import Index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_notes(tmp_path / "notes")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "notes.db", model=model()) as opened:
        yield opened


def test_filters(index: Index, folder: Path) -> None:
    index.update([folder])
    os.utime(folder / "a.txt", (1_000_000_000, 1_000_000_000))
    (folder / "a.txt").write_text((folder / "a.txt").read_text() + " ")
    os.utime(folder / "a.txt", (1_000_000_000, 1_000_000_000))
    index.update([folder])
    for method in ("hybrid", "vectors", "words"):

        def names(**filters: Any) -> set[str]:
            return {os.path.basename(hit.path) for hit in index.search("the cat, a fast model", method=method, **filters)}  # noqa: B023

        assert names() == {"a.txt", "b.md", "d.jsonl"}
        assert names(path=str(folder / "c")) == {"d.jsonl"}
        assert names(path=str(folder / "a.txt")) == {"a.txt"}
        assert names(path="*.md") == {"b.md"}
        assert names(before="2002-01-01") == {"a.txt"}
        assert names(after="2002-01-01") == {"b.md", "d.jsonl"}
        assert names(where={"lang": "de"}) == {"d.jsonl"}
        assert {hit.title for hit in index.search("the cat", method=method, where={"lang": "de"})} == {"cat"}
    with pytest.raises(errors.InvalidArgumentError, match="no date"):
        index.search("cat", after="yesterday")


def test_the_best_passage_of_each_document(index: Index, folder: Path) -> None:
    index.update([folder])
    hits = index.search("a cat and a dog", per_document=True)
    assert len({hit.path for hit in hits}) == len(hits) == 3
    best: dict[str, float] = {}
    for hit in index.search("a cat and a dog", top=100):
        best.setdefault(hit.path, hit.score)
    assert {hit.path: hit.score for hit in hits} == best


def test_queries_that_are_none(index: Index, folder: Path) -> None:
    index.update([folder])
    with pytest.raises(errors.InvalidArgumentError, match="empty"):
        index.search("  ")
    with pytest.raises(errors.InvalidArgumentError, match="top"):
        index.search("cat", top=0)
    for text in ('"', "*", "cat OR", "NEAR(", "a:b", "^", "''", "\x00", "中文"):
        index.search(text)
