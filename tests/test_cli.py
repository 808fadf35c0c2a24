"""The command line: results, streams, and one clear line with exit code 2 for bad input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from models import convert, small_model_file
from test_architectures import CASES, write_case

import tinybert_rt as tb
from tinybert_rt.cli import main

LINES = ["the cat sat on the mat", "a fast dog", "small model vector", "text of the cat"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def expected(**options: Any) -> np.ndarray:
    return tb.load(small_model_file(), threads=1).encode(LINES, **options)


def test_info_prints_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", small_model_file()) == 0
    out = capsys.readouterr().out
    assert "hidden_size" in out
    assert "int8" in out
    assert run("info", small_model_file(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 2
    assert run("info", "--model", small_model_file(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 2


def test_embed_writes_npy(lines: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    assert run("embed", lines, "--out", out, "--model", small_model_file()) == 0
    assert np.load(out).tobytes() == expected().tobytes()
    assert run("embed", lines, "--out", out, "--model", small_model_file(), "--dtype", "binary", "--dim", 32) == 0
    assert (np.load(out) == expected(dtype="binary", dim=32)).all()


def test_embed_writes_jsonl_that_reads_back_to_the_same_floats(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", lines, "--out", "-", "--model", small_model_file()) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert np.array([row["vector"] for row in rows], np.float32).tobytes() == expected().tobytes()
    assert rows[0]["tokens"] == 8
    assert rows[0]["truncated"] is False


def test_embed_reads_jsonl_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "texts.jsonl", tmp_path / "v.npy"
    source.write_text("".join(json.dumps({"body": line}) + "\n" for line in LINES))
    assert run("embed", source, "--field", "body", "--out", out, "--model", small_model_file()) == 0
    assert (np.load(out) == expected()).all()
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(LINES).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("embed", "--out", out, "--model", small_model_file()) == 0
    assert (np.load(out) == expected()).all()


def test_rank_prints_the_best_lines(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rank", "a fast dog", lines, "--top", 2, "--model", small_model_file()) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split(maxsplit=2) == ["1.0000", "2", "a fast dog"]
    assert float(second.split()[0]) < 1
    assert run("rank", "a fast dog", lines, "--json", "--model", small_model_file()) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == {"score": 1.0, "line": 2, "text": "a fast dog"}


def test_a_link_is_followed_and_a_byte_order_mark_skipped(tmp_path: Path, lines: Path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    (tmp_path / "link.npy").symlink_to(tmp_path / "target.npy")
    assert run("embed", tmp_path / "bom.txt", "--out", tmp_path / "link.npy", "--model", small_model_file()) == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert (np.load(tmp_path / "target.npy") == expected()).all()


def test_classify_gives_each_line_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, CASES["bert"], "ForSequenceClassification", id2label={0: "good", 1: "bad"})
    model = convert(tmp_path, "int8")
    source = tmp_path / "lines.txt"
    source.write_text("the cat\n\na dog\n" + "cat " * 200)
    assert run("classify", source, "--model", model) == 0
    assert "1 of 4 texts had more than 96 tokens and was truncated" in capsys.readouterr().err
    source.write_text("the cat\n\na dog\n")
    assert run("classify", source, "--model", model) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = tb.load(model).classify(["the cat", "", "a dog"])
    assert [line.split("  ")[:2] for line in lines] == [[f"{each.score:.4f}", each.label] for each in expected]
    assert run("classify", source, "--model", model, "--json") == 0
    parsed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["label"] for each in parsed] == [each.label for each in expected]
    assert all(abs(sum(each["scores"].values()) - 1) < 1e-5 for each in parsed)
    assert run("classify", source, "--model", small_model_file()) == 2
    assert "the model has no head" in capsys.readouterr().err


def test_tag_and_answer_print_what_the_model_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "lines.txt"
    source.write_text("the cat sat\non the mat\n")
    for head in ("ForTokenClassification", "ForQuestionAnswering"):
        folder = tmp_path / head
        folder.mkdir()
        names = {0: "O", 1: "NOUN", 2: "VERB"} if head == "ForTokenClassification" else {0: "a", 1: "b"}
        write_case(folder, CASES["bert"], head, id2label=names)
        model = tb.load(convert(folder, "int8"))
        if head == "ForTokenClassification":
            assert run("tag", source, "--model", model.path, "--json") == 0
            printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            expected = model.tag(["the cat sat", "on the mat"])
            assert [(each["line"], each["start"], each["label"]) for each in printed] == [
                (number, each.start, each.label) for number, found in enumerate(expected, 1) for each in found
            ]
            assert run("tag", source, "--model", model.path) == 0
            assert len(capsys.readouterr().out.splitlines()) == len(printed)
        else:
            assert run("answer", "the dog", source, "--model", model.path, "--top", 2, "--json") == 0
            printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            found = model.answer("the dog", source.read_text().rstrip("\n"), top=2)
            assert [(each["start"], each["end"], each["text"]) for each in printed] == [(each.start, each.end, each.text) for each in found]
            assert run("answer", "the dog", source, "--model", model.path) == 0
            assert len(capsys.readouterr().out.splitlines()) == 1
            source.write_text("\n" * 3 + "\n".join(["cat"] * 5))
            assert run("answer", "the dog", source, "--model", model.path, "--top", 5) == 0
            assert len(capsys.readouterr().out.splitlines()) == 5, "an answer of several lines is printed in one"
            source.write_text("\n \n")
            assert run("answer", "the dog", source, "--model", model.path) == 2
            assert capsys.readouterr().err == f"tinybert-rt: error: {source}: no text\n"
            assert run("answer", "the dog", source, "--model", model.path, "--top", 0) == 2


def test_characters_of_an_answer_are_those_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, CASES["bert"], "ForQuestionAnswering")
    model = convert(tmp_path, "int8")
    text = "É cat\r\n\r\nsat on\r\nthe mat\r\n"
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "crlf.txt").write_bytes(mark + text.encode())
        assert run("answer", "the dog", tmp_path / "crlf.txt", "--model", model, "--top", 9, "--json") == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert any(each["start"] > text.index("\n") for each in found)
        assert all(text[each["start"] : each["end"]] == each["text"] for each in found)
    assert run("answer", "dog " * 60, tmp_path / "crlf.txt", "--model", model) == 0
    assert capsys.readouterr().err.startswith("tinybert-rt: the question has 60 tokens, of which the first 46 were used")
    (tmp_path / "latin1.txt").write_bytes(b"a\r\ncaf\xe9")
    assert run("answer", "a", tmp_path / "latin1.txt", "--model", model) == 2
    assert "latin1.txt: line 2 is not valid UTF-8 (byte 4)" in capsys.readouterr().err


def test_truncation_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "long.txt"
    source.write_text("cat " * 300 + "\ncat\n")
    assert run("embed", source, "--out", tmp_path / "v.npy", "--model", small_model_file()) == 0
    assert "1 of 2 texts had more than 96 tokens" in capsys.readouterr().err
    assert run("rank", "dog " * 200, source, "--model", small_model_file()) == 0
    said = capsys.readouterr().err
    assert "the query had more than 96 tokens" in said
    assert "1 of 2 texts had more than 96 tokens" in said


def test_a_pipe_that_closes_early_is_no_error() -> None:
    command = f"{sys.executable} -m tinybert_rt embed --out - --model {small_model_file()}"
    process = subprocess.run(
        f'yes "the cat sat" | head -20000 | {command} | head -1 | cut -c1-10',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.startswith('{"vector"')
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "{tmp}/nowhere.tbrt"], "nowhere.tbrt: no such file"),
        (["info", "{lines}"], "lines.txt"),
        (["info", "{model}", "--model", "{model}"], "name one model"),
        (["info", "{model}", "--jsno"], "unrecognized arguments: --jsno (see tinybert-rt info --help)"),
        (["rank", "a", "{lines}", "--topp", "3"], "unrecognized arguments: --topp 3 (see tinybert-rt rank --help)"),
        (["embed", "{lines}", "--field", "body", "--out", "{tmp}/v.npy"], "--field body: the input is text"),
        (["info", "{model}", "--isa", "sse9"], "sse9"),
        (["info", "{model}", "--threads", "0"], "threads must be between"),
        (["embed", "{tmp}/nowhere.txt", "--out", "{tmp}/v.npy"], "nowhere.txt"),
        (["embed", "{lines}", "--out", "{tmp}/v.csv"], ".npy or .jsonl"),
        (["embed", "{lines}", "--out", "{tmp}/no/such/folder/v.npy"], "no such directory to write to"),
        (["embed", "{lines}", "--out", "{pipe}"], "is not a regular file"),
        (["embed", "{same}", "--out", "{same}"], "is the input itself"),
        (["embed", "{surrogate}", "--out", "{tmp}/v.npy"], "line 1 has a lone surrogate"),
        (["embed", "{lines}", "--out", "{folder}"], "directory"),
        (["embed", "{lines}", "--out", "{tmp}/v.npy", "--dim", "1000"], "dim must be between"),
        (["embed", "{lines}"], "--out"),
        (["embed", "{empty}", "--out", "{tmp}/v.npy"], "no texts"),
        (["embed", "{latin1}", "--out", "{tmp}/v.npy"], "line 2 is not valid UTF-8"),
        (["embed", "{lines}", "--format", "jsonl", "--out", "{tmp}/v.npy"], "line 1 is not JSON"),
        (["embed", "{deep}", "--out", "{tmp}/v.npy"], "line 1 is not JSON"),
        (["embed", "{json}", "--out", "{tmp}/v.npy"], "no string in the field 'text'"),
        (["rank", "a", "{empty}"], "no texts"),
        (["rank", "a", "{lines}", "--top", "0"], "--top must be at least 1"),
        (["detect-replaced", "{lines}", "--model", "{model}", "--threshold", "nan"], "--threshold must be between 0 and 1, not nan"),
        (["detect-replaced", "{lines}", "--model", "{model}", "--threshold", "2"], "--threshold must be between 0 and 1, not 2"),
        (["rank", "a"], "file"),
        ([], "COMMAND"),
        (["fly"], "fly"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes(b"a cat\ncaf\xe9\n")
    (tmp_path / "no-field.jsonl").write_text('{"body": "x"}\n')
    (tmp_path / "deep.jsonl").write_text("[" * 200_000 + "\n")
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "same.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "surrogate.jsonl").write_text('{"text": "\\ud800"}\n')
    os.mkfifo(tmp_path / "pipe.npy")
    names = {
        "tmp": tmp_path,
        "deep": tmp_path / "deep.jsonl",
        "pipe": tmp_path / "pipe.npy",
        "same": tmp_path / "same.jsonl",
        "surrogate": tmp_path / "surrogate.jsonl",
        "folder": tmp_path / "folder.npy",
        "lines": lines,
        "model": small_model_file(),
        "empty": tmp_path / "empty.txt",
        "latin1": tmp_path / "latin1.txt",
        "json": tmp_path / "no-field.jsonl",
    }
    given = [each.format(**names) for each in arguments]
    if given and given[0] in ("embed", "rank"):
        given += ["--model", str(small_model_file())]
    assert main(given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error_lines = captured.err.strip().splitlines()
    assert len(error_lines) == 1
    assert message in error_lines[0]
    assert not list(tmp_path.glob("v.npy*"))


def test_a_full_disk_is_one_line_and_exit_code_2(lines: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = [sys.executable, "-m", "tinybert_rt", "embed", str(lines), "--out", "-", "--model", str(small_model_file())]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "tinybert-rt: error: standard output: No space left on device\n"


def test_a_failed_embed_leaves_an_older_file_alone(tmp_path: Path, lines: Path) -> None:
    out = tmp_path / "v.npy"
    out.write_bytes(b"older")
    with lines.open("ab") as file:
        file.write(b"\xff\n")
    assert run("embed", lines, "--out", out, "--model", small_model_file()) == 2
    assert out.read_bytes() == b"older"


@pytest.mark.parametrize(("closed", "name"), [("<&-", "standard input"), (">&-", "standard output")])
def test_a_closed_stream_is_one_line_and_exit_code_2(closed: str, name: str) -> None:
    command = f'"{sys.executable}" -m tinybert_rt embed - --out - --model "{small_model_file()}" {closed}'
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, f"tinybert-rt: error: {name}: it is closed\n")
