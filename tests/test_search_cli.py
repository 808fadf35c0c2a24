"""`tinybert-rt index` and `search`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from models import small_model_file

from tinybert_rt.cli import main


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


@pytest.fixture
def database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Pets\n\nThe cat sat on the mat. A fast dog.\n")
    (tmp_path / "notes" / "b.csv").write_text("text,lang\na small model,en\n")
    path = tmp_path / "notes.db"
    assert run("index", tmp_path / "notes", "--db", path, "--model", small_model_file()) == 0
    out = capsys.readouterr().out
    assert "2 new, 0 changed, 0 unchanged, 0 removed; 2 passages" in out
    assert "2 files, 2 passages" in out
    return path


def test_hits_are_printed_with_their_place_and_mark(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", database, "cat on a mat", "--model", small_model_file(), "--top", 1) == 0
    head, passage, *_ = capsys.readouterr().out.splitlines()
    assert "a.md:3  " in head
    assert head.endswith("Pets")
    assert "»" in passage
    assert passage.replace("»", "").replace("«", "").strip() == "The cat sat on the mat. A fast dog."


def test_hits_as_json(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", database, "model", "--model", small_model_file(), "--json", "--where", "lang=en") == 0
    (line,) = capsys.readouterr().out.splitlines()
    hit = json.loads(line)
    assert (hit["text"], hit["line"], hit["metadata"], hit["mark"]) == ("a small model", 2, {"lang": "en"}, [0, 13])


def test_nothing_is_found(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", database, "xyz", "--model", small_model_file(), "--method", "words") == 0
    assert capsys.readouterr().err == "tinybert-rt: nothing was found\n"


def test_a_query_that_is_cut_is_said_in_one_line(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", database, "cat " * 1000, "--model", small_model_file(), "--top", 1) == 0
    captured = capsys.readouterr()
    assert "a.md:3" in captured.out
    assert captured.err.startswith("tinybert-rt: the query has 1002 tokens")
    assert captured.err.count("\n") == 1


def test_the_same_command_again_only_looks(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes" / "bad.txt").write_bytes(b"\xff")
    assert run("index", tmp_path / "notes", "--db", database, "--model", small_model_file()) == 0
    captured = capsys.readouterr()
    assert "0 new, 0 changed, 2 unchanged, 0 removed, 1 not read" in captured.out
    assert "bad.txt: " in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "no.db", "x"], "no such index"),
        (["search", "{db}", "x"], "another model"),
        (["search", "{db}", "x", "--model", "{model}", "--top", "0"], "--top"),
        (["search", "{db}", " ", "--model", "{model}"], "empty"),
        (["search", "{db}", "x", "--model", "{model}", "--where", "lang"], "NAME=VALUE"),
        (["search", "{db}", "x", "--model", "{model}", "--after", "soon"], "no date"),
        (["index", "no folder", "--db", "{tmp}/x.db", "--model", "{model}"], "No such file"),
        (["index", "no folder", "--db", "{db}", "--model", "{model}"], "nothing was indexed"),
        (["index", "{tmp}", "--db", "{db}", "--model", "{model}", "--dtype", "binary"], "dtype"),
    ],
)
def test_bad_input_is_one_line(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = {"db": database, "model": small_model_file(), "tmp": tmp_path}
    assert run(*(each.format(**names) for each in arguments)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
