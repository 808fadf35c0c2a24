"""Bad input to an index: one clear error, and nothing else is lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from models import small_model_file

import tinybert_rt as tb
from tinybert_rt import errors
from tinybert_rt.search import Index


@pytest.fixture(scope="module")
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


@pytest.fixture
def index(tmp_path: Path, model: tb.Model) -> Iterator[Index]:
    with Index(tmp_path / "notes.db", model=model) as opened:
        opened.add([{"id": "1", "text": "The cat sat.", "metadata": {"year": "2020"}}])
        yield opened


def test_names_that_are_not_utf8_are_reported_and_the_rest_is_indexed(index: Index, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "texts")
    for name in (b"a.txt", b"bad \xff.txt", b"bad \xff.png", b"bad \xfe folder/a.txt"):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_text("zebra")
    report = index.update([tmp_path / "texts"])
    assert report.added == 1
    assert [os.path.basename(os.fsencode(path)) for path, _ in report.problems] == [b"bad \xfe folder", b"bad \xff.txt"]
    named = [os.fsdecode(os.path.join(folder, name)) for name in (b"bad \xff.txt", b"bad \xfe folder")]
    assert ["UTF-8" in why for _, why in index.update(named).problems] == [True, True]


def test_names_that_are_no_unicode_are_refused(index: Index) -> None:
    with pytest.raises(errors.InvalidTextError, match="surrogate"):
        index.remove(["\ud800"])
    with pytest.raises(errors.InvalidTextError, match="surrogate"):
        Index(index.path.with_name("\udcff.db"), model=index.model)


def test_a_search_in_a_folder_whose_name_is_not_utf8(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsdecode(bytes(tmp_path) + b"/\xff")
    os.mkdir(folder)
    monkeypatch.chdir(folder)
    assert [hit.path for hit in index.search("cat", path="1")] == ["1"]
    assert index.remove(["1", "2"]) == 1


def test_an_empty_path_is_not_the_current_folder(index: Index) -> None:
    with pytest.raises(errors.InvalidArgumentError, match="empty"):
        index.update([""])
    with pytest.raises(errors.InvalidArgumentError, match="empty"):
        index.search("cat", path="")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("text", "is str"),
        ({"id": "2"}, "'id' and 'text'"),
        ({"id": "2", "text": "a", "titel": "b"}, "titel"),
        ({"id": "2", "text": "a", 3: 4}, "'3'"),
        ({"id": 2, "text": "a"}, "the id of a document is not a str but int"),
        ({"id": "2", "text": None}, "the text of document '2' is not a str but NoneType"),
        ({"id": "2", "text": "a \ud800"}, "the text of document '2' has a lone surrogate"),
        ({"id": "2", "text": "a", "title": "\ud800"}, "the title of document '2'"),
        ({"id": "2", "text": "a", "metadata": ["b"]}, "the metadata of document '2' are list"),
        ({"id": "2", "text": "a", "metadata": {"b": "\ud800"}}, "the metadata of document '2'"),
        ({"id": "2", "text": "a", "metadata": {"\ud800": "b"}}, "the metadata of document '2'"),
        ({"id": "\ud800", "text": "a"}, "the id of a document"),
    ],
)
def test_a_bad_document_is_refused_and_those_before_it_stay(index: Index, document: Any, message: str) -> None:
    with pytest.raises((errors.InvalidArgumentError, errors.InvalidTextError), match=message):
        index.add([{"id": "a", "text": "zebra"}, document, {"id": "b", "text": "zebra"}])
    assert [hit.path for hit in index.search("zebra", method="words")] == ["a"]
    assert index.add([{"id": "c", "text": "a model"}]).added == 1


def test_what_a_generator_of_documents_raises_is_raised_and_those_before_it_stay(index: Index) -> None:
    def documents() -> Iterator[dict[str, str]]:
        yield {"id": "a", "text": "zebra"}
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        index.add(documents())
    assert [hit.path for hit in index.search("zebra", method="words")] == ["a"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"path": 5}, "path must be a str or a path, not int"),
        ({"path": "\ud800"}, "path has a lone surrogate"),
        ({"where": "year=2020"}, "where must be a mapping"),
        ({"where": {"year": "\ud800"}}, "in where has a lone surrogate"),
        ({"after": ["2020"]}, "not list"),
        ({"after": datetime.min}, "too far away"),
        ({"rerank": "model.tbrt"}, "rerank must be a Model"),
    ],
)
def test_bad_filters(index: Index, filters: dict[str, Any], message: str) -> None:
    with pytest.raises((errors.InvalidArgumentError, errors.InvalidTextError), match=message):
        index.search("cat", **filters)


@pytest.mark.parametrize("setting", [{"passage_tokens": 1}, {"overlap": -1}, {"dtype": "int4"}])
def test_an_index_that_is_refused_leaves_no_file(tmp_path: Path, model: tb.Model, setting: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=next(iter(setting))):
        Index(tmp_path / "new.db", model=model, **setting)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_named(index: Index) -> None:
    index._connection.pragma("query_only", True)
    with pytest.raises(errors.IndexWriteError, match=str(index.path)):
        index.remove(["1"])


def test_a_folder_without_vectors_is_no_job(index: Index, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=r"_index\.json"):
        index.load(tmp_path)


def test_a_closed_index_says_so(index: Index, tmp_path: Path) -> None:
    index.close()
    index.close()
    for use in (lambda: index.search("cat"), lambda: index.add([]), lambda: index.update([tmp_path]), lambda: index.remove([]), index.info):
        with pytest.raises(errors.IndexFileError, match="closed"):
            use()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_its_own(index: Index) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with index:
                for use in (index.info, lambda: index.search("cat"), lambda: index.add([])):
                    with pytest.raises(errors.ForkedError, match="forked"):
                        use()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert index.info()["documents"] == 1


def test_files_are_removed_by_relative_paths_too(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("a dog")
    index.update([tmp_path])
    monkeypatch.chdir(tmp_path)
    assert index.remove([Path("a.txt"), "b.txt", "no.txt"]) == 2
    assert index.remove(tmp_path / "c.txt") == 1
    assert index.remove("1") == 1
    assert index.info()["documents"] == 0


def test_a_folder_that_became_empty_removes_nothing(index: Index, tmp_path: Path) -> None:
    """It may be where a disk was mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    assert not index.update([folder]).problems
    (folder / "a.txt").write_text("a dog")
    index.update([folder])
    (folder / "a.txt").unlink()
    report = index.update([tmp_path / "disk"])
    assert report.removed == 0
    assert [(path, "stays" in why) for path, why in report.problems] == [(str(folder), True)]
    assert index.info()["documents"] == 2


@pytest.mark.parametrize("there", [True, False])
def test_folders_are_removed_with_all_below_them(index: Index, tmp_path: Path, there: bool) -> None:
    for name in ("in/a.txt", "in/deep/b.txt", "inside.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("a dog")
    index.update([tmp_path])
    if not there:
        (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert index.remove([tmp_path / "in", tmp_path / "in" / "a.txt"]) == 2
    assert index.info()["documents"] == 2
    with pytest.raises(errors.InvalidArgumentError, match="empty"):
        index.remove("")


def test_progress_can_cancel(index: Index) -> None:
    with pytest.raises(errors.CancelledError, match="cancelled"):
        index.add([{"id": str(i), "text": "a dog"} for i in range(1000)], progress=lambda state: state.passages == 0)
    assert 1 < index.info()["documents"] < 1000


def test_an_index_in_a_folder_that_may_not_be_written_is_searched(model: tb.Model) -> None:
    """A folder of the user's own, since those of pytest are closed to the user that root becomes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Index(folder / "x.db", model=model) as made:
            made.add([{"id": "1", "text": "The cat sat."}])
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.setresuid(65534, 65534, 0)
        try:
            with Index(folder / "x.db", model=model, create=False) as opened:
                assert [hit.path for hit in opened.search("cat")] == ["1"]
        finally:
            if root:
                os.setresuid(0, 0, 0)
            folder.chmod(0o755)


def test_a_damaged_text_is_said(index: Index) -> None:
    index._connection.execute("UPDATE passages SET text = CAST(x'ff41' AS TEXT)")
    with pytest.raises(errors.IndexFileError, match="damaged"):
        index.search("cat", method="vectors")
