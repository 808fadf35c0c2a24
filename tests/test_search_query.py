"""What a search finds: words, filters, documents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_search_index import model, write_notes

from tinybert_rt import errors
from tinybert_rt.search import Index
from tinybert_rt.search.query import marks


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


def test_a_path_may_be_a_path_and_brackets_are_plain(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "[1]").mkdir()
    (folder / "[1]" / "x.txt").write_text("a cat")
    index.update([folder])
    monkeypatch.chdir(folder / "[1]")
    for path in (folder / "[1]", folder / "[1]" / "x.txt", "x.txt", "./*.txt", ".", "../[[]1]", str(folder / "[1]" / "?.txt")):
        found = {os.path.basename(hit.path) for hit in index.search("cat", path=path)}
        assert found == (set() if path == "../[[]1]" else {"x.txt"}), path


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_dates_without_a_zone_are_those_of_this_place(tokyo: None, index: Index, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    changed = datetime(2024, 5, 30, 16, tzinfo=timezone.utc).timestamp()  # at one o'clock of the 31st in Tokyo
    os.utime(tmp_path / "a.txt", (changed, changed))
    index.update([tmp_path / "a.txt"])
    for after, before in (
        ("2024-05-31", "2024-06-01"),
        (date(2024, 5, 31), date(2024, 6, 1)),
        ("2024-05-30T16:00+00:00", "2024-05-31T01:01"),
        (changed, changed + 1),
        (date.min.replace(year=2), date.max),
    ):
        assert index.search("cat", after=after, before=before), (after, before)
        assert not index.search("cat", before=after)
        assert not index.search("cat", after=before)
    for wrong, message in (("soon", "no date"), ("2024-13-01", "no date"), (date.min, "too far away")):
        with pytest.raises(errors.InvalidArgumentError, match=message):
            index.search("cat", before=wrong)


def test_metadata_is_compared_as_text(index: Index) -> None:
    index.add([{"id": "1", "text": "a cat", "metadata": {"year": 2020}}, {"id": "2", "text": "a cat"}])
    assert [hit.path for hit in index.search("cat", where={"year": 2020})] == ["1"]  # type: ignore[dict-item]


def test_queries_that_are_none(index: Index, folder: Path) -> None:
    index.update([folder])
    with pytest.raises(errors.InvalidArgumentError, match="empty"):
        index.search("  ")
    with pytest.raises(errors.InvalidArgumentError, match="top"):
        index.search("cat", top=0)
    for text in ('"', "*", "cat OR", "NEAR(", "a:b", "^", "''", "\x00", "中文"):
        index.search(text)
    assert not index.search("cat", path="a\x00b")


def test_a_query_that_is_cut_says_so(index: Index) -> None:
    with pytest.warns(errors.TruncationWarning):
        index.search("cat " * 1000)


WORDS = {
    "de": "Die Straße ist lang.",
    "tr": "İstanbul güzel bir şehir.",
    "zh": "如何重置路由器？请按住按钮十秒。",
    "ja": "ルーターをリセットする方法",
    "ko": "공유기를 초기화하는 방법",
    "mixed": "iPhone手机很贵",
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("straße", "de"),
        ("strasse lang", "de"),
        ("İstanbul", "tr"),
        ("istanbul", "tr"),
        ("路由器", "zh"),
        ("怎么重置路由器", "zh"),
        ("钮", "zh"),
        ("リセット", "ja"),
        ("공유기", "ko"),
        ("초기화 방법", "ko"),
        ("iphone 手机", "mixed"),
        ("手", "mixed"),
        ("filler lang", "de"),  # "filler" is nearly everywhere
        ("路器", ""),  # both characters, but not one behind the other
    ],
)
def test_words_of_any_writing_are_found(index: Index, query: str, found: str) -> None:
    index.add([*({"id": name, "text": text} for name, text in WORDS.items()), *({"id": f"{i}", "text": f"filler {i}"} for i in range(20))])
    assert [hit.path for hit in index.search(query, method="words", mark=False)] == [found] * bool(found)


def test_a_word_that_is_nowhere_does_not_hide_a_frequent_one(index: Index) -> None:
    index.add([{"id": f"{i}", "text": "the cat"} for i in range(5)])
    assert len(index.search("cat zebra _", method="words", mark=False)) == 5


@pytest.mark.parametrize("method", ["hybrid", "vectors", "words"])
def test_a_long_document_does_not_hide_the_others(tmp_path: Path, index: Index, method: str) -> None:
    with Index(tmp_path / "x.db", model=index.model, passage_tokens=16) as short:
        others = [{"id": f"{i}", "text": f"A small cat and a fast dog {i}."} for i in range(5)]
        short.add([{"id": "long", "text": "\n\n".join(["The cat."] * 1500)}, *others])
        assert short.info()["passages"] > 150
        hits = short.search("The cat.", method=method, per_document=True, top=6, mark=False)
        assert hits[0].path == "long"
        assert len(hits) == 6


def test_marks_are_never_empty() -> None:
    opened = model()
    texts = ["One sentence.\n\n\n\nSecond paragraph.\n", "\n\n A. \n\n\n B. ", "x"]
    for seed in range(20):
        query = np.random.default_rng(seed).standard_normal(opened.dim).astype(np.float32)
        for text, (begin, end) in zip(texts, marks(opened, query, texts), strict=True):
            assert text[begin:end].strip(), text
