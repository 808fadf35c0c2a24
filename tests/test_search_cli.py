"""`tinybert-rt index` and `search`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
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
        (["index", "--remove", "", "--db", "{db}", "--model", "{model}"], "a path is empty"),
        (["index", "{tmp}", "--db", "{db}", "--model", "{model}", "--dtype", "binary"], "dtype"),
    ],
)
def test_bad_input_is_one_line(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = {"db": database, "model": small_model_file(), "tmp": tmp_path}
    assert run(*(each.format(**names) for each in arguments)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_is_named_and_cannot_be_read_is_an_error_behind_the_rest(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes" / "new.txt").write_text("a dog")
    assert run("index", tmp_path / "notes", tmp_path / "gone", "--db", database, "--model", small_model_file()) == 2
    captured = capsys.readouterr()
    assert "1 new, 0 changed, 2 unchanged, 0 removed, 1 not read; 1 passages" in captured.out
    assert captured.err == f"tinybert-rt: error: {tmp_path / 'gone'}: No such file or directory\n"


def test_folders_are_taken_out(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes").rename(tmp_path / "elsewhere")
    assert run("index", "--remove", tmp_path / "notes", "--db", database, "--model", small_model_file()) == 0
    assert capsys.readouterr().out == f"2 removed\n{database}: 0 files, 0 passages\n"
    assert run("index", "--remove", tmp_path / "notes", "--db", tmp_path / "no.db", "--model", small_model_file()) == 2


def test_a_terminal_without_the_characters_still_shows_hits(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("重置 the cat 🙂", encoding="utf-8")
    assert run("index", tmp_path / "a.txt", "--db", tmp_path / "x.db", "--model", small_model_file()) == 0
    code = "import sys; from tinybert_rt.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "search", str(tmp_path / "x.db"), "cat", "--method", "words", "--model", small_model_file()]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u91cd\\u7f6e the cat" in done.stdout
