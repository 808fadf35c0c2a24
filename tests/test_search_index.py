"""The index: documents in, hits out, kept up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest
from models import convert, small_model_file, write_checkpoint

import tinybert_rt as tb
from tinybert_rt import errors
from tinybert_rt.search import Index, Report, parquet, schema, update
from tinybert_rt.search import index as index_module
from tinybert_rt.search.documents import Passage
from tinybert_rt.search.vectors import ROWS

TEXTS = {
    "a.txt": "The cat sat on the mat.\n\nA fast dog.",
    "b.md": "# Small models\n\nA small model is fast.\n\n## Vectors\n\nText to vectors.",
    "c/d.jsonl": '{"title": "dog", "text": "The dog sat.", "lang": "en"}\n{"title": "cat", "text": "a cat on the mat", "lang": "de"}\n',
}


@cache
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


def write_notes(folder: Path) -> Path:
    for name, text in TEXTS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_notes(tmp_path / "notes")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path / "notes.db", model=model()) as opened:
        yield opened


def counts(report: Report) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.removed


def content(path: Path) -> list[tuple[Any, ...]]:
    """All documents and passages with their vectors, whatever their ids; checks that the tables agree with each other."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.pragma("integrity_check") == "ok"
    blocks = {
        number: (np.frombuffer(factors, np.float32), np.frombuffer(data, np.uint8).reshape(ROWS, -1))
        for number, factors, data in connection.execute("SELECT id, factors, data FROM blocks")
    }
    sql = "SELECT p.id, d.path, p.line, p.title, p.text, p.metadata FROM passages p JOIN documents d ON d.id = p.document"
    rows = list(connection.execute(sql))
    ids = {row[0] for row in rows}
    free = {number for (number,) in connection.execute("SELECT id FROM free")}
    assert not ids & free
    assert ids == {number for (number,) in connection.execute("SELECT rowid FROM words")}
    for number, (factors, _) in blocks.items():
        assert set((np.flatnonzero(factors) + number * ROWS).tolist()) == {each for each in ids if each // ROWS == number}
    documents = list(connection.execute("SELECT path, hash, size, modified FROM documents WHERE complete ORDER BY path"))
    assert len(documents) == next(connection.execute("SELECT count(*) FROM documents"))[0]
    connection.close()
    return documents + sorted((*row[1:], blocks[row[0] // ROWS][1][row[0] % ROWS].tobytes()) for row in rows)


def test_hits_say_where_they_are(index: Index, folder: Path) -> None:
    assert counts(index.update([folder])) == (3, 0, 0, 0)
    hit = index.search("vectors", method="words", top=1)[0]
    assert (hit.path, hit.line, hit.title, hit.text) == (str(folder / "b.md"), 7, "Small models › Vectors", "Text to vectors.")
    assert hit.mark == (0, 16)
    hit = next(each for each in index.search("cat") if each.path.endswith("jsonl"))
    assert (hit.line, hit.title, dict(hit.metadata)) == (2, "cat", {"lang": "de"})


def test_scores_are_those_of_their_method(index: Index, folder: Path) -> None:
    index.update([folder])
    query = "a small cat"
    vector = model().encode([query])[0]
    hits = index.search(query, method="vectors")
    assert len(hits) == index.info()["passages"]
    for hit in hits:
        own = model().encode([f"{hit.title}\n{hit.text}" if hit.title else hit.text])[0]
        assert hit.score == hit.cosine == pytest.approx(float(own @ vector), abs=0.01)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    words = index.search(query, method="words")
    assert all({"a", "small", "cat"} & set(re.findall(r"\w+", f"{hit.title} {hit.text}".lower())) for hit in words)
    both = index.search(query, top=3)
    by_vectors, by_words = [hit.text for hit in hits], [hit.text for hit in words]
    for hit in both:
        wanted = sum(1 / (60 + ranking.index(hit.text) + 1) for ranking in (by_vectors, by_words) if hit.text in ranking)
        assert hit.score == pytest.approx(wanted)


@pytest.mark.parametrize("dtype", ["int8", "float32", "binary"])
def test_every_dtype_finds_the_same(tmp_path: Path, folder: Path, dtype: str) -> None:
    with Index(tmp_path / "x.db", model=model(), dtype=dtype) as index:
        index.update([folder])
        best = index.search("dog\nThe dog sat.", method="vectors", top=1)[0]
        assert best.text == "The dog sat."
        assert best.cosine == pytest.approx(1, abs=1e-3)


def test_only_what_changed_is_encoded_again(index: Index, folder: Path) -> None:
    index.update([folder])
    assert counts(index.update([folder])) == (0, 0, 3, 0)
    (folder / "a.txt").write_text("Another text about a vector.")
    (folder / "b.md").unlink()
    (folder / "e.txt").write_text("new")
    report = index.update([folder])
    assert counts(report) == (1, 1, 1, 1)
    assert report.passages == 2
    with Index(index.path.with_name("fresh.db"), model=model()) as fresh:
        fresh.update([folder])
    assert content(index.path) == content(index.path.with_name("fresh.db"))


def test_a_search_sees_what_was_written_by_others(index: Index, folder: Path) -> None:
    index.update([folder])
    with Index(index.path, model=model()) as other:
        assert not any("zebra" in hit.text for hit in other.search("zebra"))
        (folder / "f.txt").write_text("zebra")
        index.update([folder])
        assert other.search("zebra", top=1)[0].text == "zebra"
        (folder / "f.txt").unlink()
        index.update([folder])
        assert not any("zebra" in hit.text for hit in other.search("zebra", top=100))


def test_records(index: Index) -> None:
    documents = [{"id": "1", "text": "The cat sat.", "title": "cats", "metadata": {"lang": "en"}}, {"id": "2", "text": "a dog"}]
    assert counts(index.add(documents)) == (2, 0, 0, 0)
    assert counts(index.add([*documents[:1], {"id": "2", "text": "a vector"}])) == (0, 1, 1, 0)
    assert [(hit.path, hit.text) for hit in index.search("vector", method="words")] == [("2", "a vector")]
    assert index.remove(["1", "no"]) == 1
    assert index.info()["documents"] == 1
    with pytest.raises(errors.InvalidArgumentError, match="'id' and 'text'"):
        index.add([{"id": "3", "body": "x"}])


def test_of_records_with_the_same_id_the_last_one_stays(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"id": "1", "text": "The cat sat."}, {"id": "2", "text": "a dog"}, {"id": "1", "text": "a vector"}]
    assert counts(index.add([*records, records[-1]])) == (2, 1, 1, 0)
    assert {(hit.path, hit.text) for hit in index.search("the cat")} == {("1", "a vector"), ("2", "a dog")}
    monkeypatch.setattr(update, "GROUP", 2)
    long = "\n\n".join(f"The cat {i} sat on the mat and on the small dog." for i in range(20))
    index.add([{"id": "3", "text": long}, {"id": "2", "text": "text"}, {"id": "3", "text": "fast"}])
    assert {row[0]: row[3] for row in content(index.path)} == {"1": "a vector", "2": "text", "3": "fast"}
    assert index.info()["passages"] == index.info()["documents"] == 3


def test_rows_with_vectors_may_have_an_id_twice(index: Index) -> None:
    vectors = model().encode(["the cat", "a dog", "a small model"])
    passages = [Passage(text, 1, "", {}) for text in ("the cat", "a dog", "a small model")]
    rows = parquet.Rows(["1", "2", "1"], passages, vectors)
    assert parquet.load(index._store, iter([rows])) == (2, 0)
    assert parquet.load(index._store, iter([rows])) == (0, 2)
    assert {(hit.path, hit.text) for hit in index.search("cat", method="vectors")} == {("1", "a small model"), ("2", "a dog")}
    content(index.path)


def test_more_passages_than_a_block_and_than_the_cache(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(number: int) -> str:
        return "cat " + " ".join("abcdefghij"[int(digit)] for digit in str(number))

    count = ROWS + 50
    index.add({"id": str(i), "text": text(i)} for i in range(count))
    assert index.info()["passages"] == count
    assert index.search(text(count - 3), method="vectors", top=1)[0].path == str(count - 3)
    index.remove([str(i) for i in range(0, count, 7)])
    index.add({"id": f"x{i}", "text": text(i + 70_000)} for i in range(300))
    assert index.search(text(70_299), method="vectors", top=1)[0].path == "x299"
    info = index.info()
    assert len(content(index.path)) == info["passages"] + info["documents"]
    found = index.search(text(70_299), method="vectors", top=500)
    assert {hit.path[0] for hit in found} > {"x", "4"}
    monkeypatch.setattr(index_module, "_CACHE_BYTES", 0)
    monkeypatch.setattr(index_module, "_READ_BYTES", 0)
    with Index(index.path, model=model()) as other:
        assert other.search(text(70_299), method="vectors", top=500) == found
        assert not other._blocks


def test_what_cannot_be_read_is_reported_and_the_rest_indexed(index: Index, folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"good\nbad \xff byte")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    (folder / "rows.jsonl").write_text('{"text": "a cat"}\n{"text": \n')
    (folder / "empty.txt").touch()
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    with (folder / "big.md").open("wb") as file:
        file.truncate(1 << 30)
    report = index.update([folder, folder / "no such file"])
    problems = {os.path.basename(path): why for path, why in report.problems}
    assert set(problems) == {"bad.txt", "broken.pdf", "rows.jsonl", "gone.txt", "big.md", "no such file"}
    assert "line 2" in problems["bad.txt"]
    assert "line 2" in problems["rows.jsonl"]
    assert report.added == 4
    assert index.search("vectors", method="words", top=1)[0].path.endswith("b.md")
    (folder / "rows.jsonl").write_text('{"text": "a cat"}\n{"text": "zebra"}\n')
    index.update([folder])
    assert index.search("zebra", method="words", top=1)[0].line == 2


def test_files_that_cannot_be_read_keep_what_was_indexed(index: Index, folder: Path) -> None:
    index.update([folder])
    (folder / "a.txt").write_bytes(b"\xff\xff")
    report = index.update([folder])
    assert [os.path.basename(path) for path, _ in report.problems] == ["a.txt"]
    assert any(hit.path.endswith("a.txt") for hit in index.search("the cat"))


def test_a_fault_in_the_middle_of_a_file_loses_no_passage_and_costs_no_encoding(index: Index, folder: Path) -> None:
    rows = [f'{{"text": "the cat {word}"}}\n' for word in ("model", "text", "vector")]
    (folder / "rows.jsonl").write_text("".join(rows))
    index.update([folder])
    whole = content(index.path)
    (folder / "rows.jsonl").write_text("".join([rows[0], "no JSON\n", *rows[1:]]))
    (folder / "new.jsonl").write_text("".join([*rows[:2], "no JSON\n", rows[2]]))
    report = index.update([folder])
    assert ([os.path.basename(path) for path, _ in report.problems], report.passages) == (["new.jsonl", "rows.jsonl"], 2)
    assert [row for row in content(index.path) if "new" not in row[0]] == whole
    both = content(index.path)
    report = index.update([folder])
    assert (len(report.problems), report.passages, content(index.path)) == (2, 0, both)
    (folder / "new.jsonl").write_text("".join(rows))
    report = index.update([folder])
    assert (len(report.problems), report.passages) == (1, 3)


def test_a_file_that_is_written_anew_with_the_same_content_has_its_new_date(index: Index, folder: Path) -> None:
    index.update([folder])
    os.utime(folder / "a.txt", (1_000_000_000, 1_000_000_000))
    assert counts(index.update([folder])) == (0, 0, 3, 0)
    assert [hit.modified for hit in index.search("cat", before="2002-01-01")] == [1_000_000_000]


def test_columns_are_nothing_to_files_without_rows(index: Index, folder: Path) -> None:
    index.update([folder])
    assert counts(index.update([folder], text="title")) == (0, 1, 2, 0)


def test_another_model_is_refused(tmp_path: Path, index: Index, folder: Path) -> None:
    index.update([folder])
    write_checkpoint(tmp_path / "other", seed=5)
    with Index(index.path, model=convert(tmp_path / "other", "int8")) as other:
        with pytest.raises(errors.IndexModelError, match="another model"):
            other.search("cat")
        with pytest.raises(errors.IndexModelError, match="another model"):
            other.update([folder])
        assert other.search("cat", method="words", mark=False)


def test_files_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(errors.IndexFileError, match="no such index"):
        Index(tmp_path / "no.db", create=False)
    with pytest.raises(errors.IndexFileError, match="directory"):
        Index(tmp_path)
    with pytest.raises(errors.IndexFileError, match="no such directory"):
        Index(tmp_path / "no" / "x.db")
    (tmp_path / "text.db").write_text("text " * 1000)
    with pytest.raises(errors.IndexFileError, match="no index"):
        Index(tmp_path / "text.db")
    connection = apsw.Connection(str(tmp_path / "other.db"))
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(errors.IndexFileError, match="no index of this package"):
        Index(tmp_path / "other.db")


def test_a_damaged_index_is_one_error(index: Index, folder: Path) -> None:
    index.update([folder])
    index.close()
    with index.path.open("r+b") as file:
        file.seek(2 << 14)
        file.write(b"\xa5" * (index.path.stat().st_size - (2 << 14)))
    with pytest.raises(errors.IndexFileError, match="damaged"), Index(index.path, model=model()) as damaged:
        damaged.search("cat")


def test_a_new_index_is_made_by_many_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for connection in [job.result() for job in [pool.submit(schema.connect, tmp_path / "x.db", create=True) for _ in range(8)]]:
            connection.close()


def test_a_reader_that_may_not_write_sees_what_is_in_the_log(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.update([folder])
    assert index.path.with_name(index.path.name + "-wal").stat().st_size
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Index(index.path, model=model(), create=False) as other:
        assert other.search("cat")
        with pytest.raises(errors.IndexWriteError, match="cannot be written"):
            other.add([{"id": "1", "text": "a cat"}])


def test_an_index_of_a_later_release_is_refused(index: Index) -> None:
    index._connection.pragma("user_version", 99)
    with pytest.raises(errors.IndexVersionError, match="version 99"):
        Index(index.path, model=model())


def test_settings_of_an_index_stay(index: Index) -> None:
    with Index(index.path, model=model(), dtype="int8") as again:
        assert again.passage_tokens == model().max_tokens
    for wrong in ({"dtype": "float32"}, {"passage_tokens": 20}, {"overlap": 3}):
        with pytest.raises(errors.IndexModelError, match=next(iter(wrong))):
            Index(index.path, model=model(), **wrong)  # type: ignore[arg-type]


def test_only_one_updates_at_a_time(index: Index, folder: Path) -> None:
    code = "import sys; from pathlib import Path; from tinybert_rt.search.update import only_writer\n"
    code += "with only_writer(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, str(index.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(errors.IndexWriteError, match=str(process.pid)):
            index.update([folder])
        process.stdin.close()
    assert counts(index.update([folder])) == (3, 0, 0, 0)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the lock is found through /proc")
def test_a_process_that_was_forked_during_an_update_does_not_keep_others_out(index: Index, folder: Path) -> None:
    with update.only_writer(index.path):
        locks = [link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == f"{index.path}-lock"]
        inherited = os.dup(int(locks[0].name))
    assert counts(index.update([folder])) == (3, 0, 0, 0)
    os.close(inherited)


def test_a_reader_is_not_blocked_by_a_writer(index: Index, folder: Path) -> None:
    index.update([folder])
    with Index(index.path, model=model()) as other, other._store.writing():
        other._store.remove_document(str(folder / "a.txt"))
        assert any(hit.path.endswith("a.txt") for hit in index.search("the cat"))


def test_a_full_disk_ends_an_update_and_spoils_nothing(index: Index, folder: Path) -> None:
    index.update([folder])
    before = content(index.path)
    index._connection.pragma("max_page_count", index._connection.pragma("page_count"))
    (folder / "long.txt").write_text("\n\n".join(f"The cat {i} sat on the mat." for i in range(20_000)))
    with pytest.raises(errors.IndexWriteError, match="full"):
        index.update([folder])
    assert content(index.path) == before
    index._connection.pragma("max_page_count", 1 << 30)
    assert counts(index.update([folder])) == (1, 0, 3, 0)


def test_progress_is_told(index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "GROUP", 2)
    seen: list[Any] = []
    index.update([folder], progress=seen.append)
    assert [each.passages for each in seen] == sorted(each.passages for each in seen)
    assert (seen[-1].documents, seen[-1].total, seen[-1].share) == (3, 3, 1.0)
    seen.clear()
    index.update([folder], progress=seen.append)
    assert [each.documents for each in seen] == [0, 1, 2, 3]  # of unchanged files too
