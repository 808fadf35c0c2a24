"""Readers of labelled data: what they return, and the file and line that their errors name."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from tools import rows
from tools.rows import DataError


def written(path: Path, text: str) -> Path:
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.tsv", 'a\tb\n"x\ty"z\n\u2028\t\n'),
        ("t.tsv.gz", 'a\tb\r\n"x\ty"z\r\n\u2028\t\r\n'),
        ("t.csv.xz", 'a,b\n"""x","y""z"\n\u2028,\n'),
        ("t.jsonl", '{"a": "\\"x", "b": "y\\"z"}\n\n{"a": "\u2028", "b": null}\n'),
    ],
)
def test_tables_of_every_kind_hold_the_same_rows(name: str, text: str, tmp_path: Path) -> None:
    assert rows.read_table(written(tmp_path / name, text)) == [{"a": '"x', "b": 'y"z'}, {"a": "\u2028", "b": ""}]


def test_a_quoted_csv_field_may_have_lines(tmp_path: Path) -> None:
    assert rows.read_table(written(tmp_path / "t.csv", 'a,b\n"x\ny",1\n')) == [{"a": "x\ny", "b": "1"}]


def test_values_of_json_are_their_json(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", '{"label": 1, "score": 2.5, "choices": ["a", "é"], "ok": true}\n')
    assert rows.read_table(path) == [{"label": "1", "score": "2.5", "choices": '["a", "é"]', "ok": "true"}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.tsv", "a\tb\n1\t2\n3\n", "line 3 has 1 columns, the header 2"),
        ("t.tsv", "a\ta\n1\t2\n", "line 1: the header"),
        ("t.tsv", "a\tb\n", "has no rows"),
        ("t.csv", 'a,b\n1,"2"x\n', "line 2"),
        ("t.csv", "a,b\n1\n", "line 2 has 1 columns"),
        ("t.jsonl", '{"a": 1}\n{"a"\n', "line 2 is no JSON"),
        ("t.jsonl", "[1]\n", "line 1 holds no JSON object"),
        ("t.json", "{}", "must end in"),
    ],
)
def test_errors_name_file_and_line(name: str, text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, text)
    with pytest.raises(DataError, match=words) as caught:
        rows.read_table(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"a\tb\n1\t\xff\n")
    with pytest.raises(DataError, match="line 2 is not valid UTF-8"):
        rows.read_table(tmp_path / "t.tsv")
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n")[:-9])
    with pytest.raises(DataError, match="not readable"):
        rows.read_table(tmp_path / "t.tsv.gz")
    with pytest.raises(DataError, match="no such file"):
        rows.read_table(tmp_path / "nowhere.tsv")


def test_texts_are_lines_or_a_column(tmp_path: Path) -> None:
    assert rows.read_texts(written(tmp_path / "t.txt", "one\n\n two\n")) == ["one", " two"]
    table = written(tmp_path / "t.tsv", "a\tb\none\t1\n\t2\n")
    assert rows.read_texts(table, "a") == ["one"]
    for path, name, words in ((table, None, "say --column"), (table, "c", "row 1 has no column 'c'"), (tmp_path / "t.txt", "a", "columns")):
        with pytest.raises(DataError, match=words):
            rows.read_texts(path, name)
    with pytest.raises(DataError, match="no texts"):
        rows.read_texts(written(tmp_path / "empty.txt", "\n\n"))


CONLL = "-DOCSTART- -X- -X- O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\nBONN NNP I-NP I-LOC\n"
UD = "form\tupos\txpos\n\nFrom\tADP\tIN\n1 000\tNUM\tCD\n\nHi\tINTJ\tUH\n\n"


def test_sentences_of_conll(tmp_path: Path) -> None:
    path = written(tmp_path / "t.conll.gz", CONLL)
    assert rows.read_conll(path) == [(["EU", "rejects"], ["I-ORG", "O"]), (["BONN"], ["I-LOC"])]
    assert rows.read_conll(path, tag_column=1)[1] == (["BONN"], ["NNP"])


def test_sentences_of_universal_dependencies(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", UD)
    assert rows.read_conll(path, tag_column=1) == [(["From", "1 000"], ["ADP", "NUM"]), (["Hi"], ["INTJ"])]
    assert rows.read_conll(path, separator="\t")[0][1] == ["IN", "CD"]


def test_a_line_without_its_columns_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2 has 1 columns"):
        rows.read_conll(written(tmp_path / "t.conll", "EU B-ORG\nrejects\n"))
    with pytest.raises(DataError, match="line 1 has 2 columns"):
        rows.read_conll(tmp_path / "t.conll", tag_column=3)
    with pytest.raises(DataError, match="no sentences"):
        rows.read_conll(written(tmp_path / "t.conll", "\n"))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-A I-A O I-A", "B-A I-A O B-A"),
        ("I-A B-A I-A I-B", "B-A B-A I-A B-B"),
        ("B-A I-A B-A I-A O B-B", "B-A I-A B-A I-A O B-B"),
        ("O O", "O O"),
    ],
)
def test_every_entity_begins_with_b(tags: str, expected: str) -> None:
    assert rows.iob1_to_iob2(tags.split()) == expected.split()
