"""Input files cut into units: rows, columns, and what is bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

from tools.rows import DataError  # noqa: E402
from tools.units import Survey, Wanted, read_unit, survey  # noqa: E402

WANTED = Wanted("text", "id")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": f"tëxt {i} " * (i % 5 + 1)} for i in range(count)]


def write_lines(path: Path, lines: list[Any]) -> str:
    data = b"".join((line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def write(path: Path, count: int) -> str:
    if path.suffix != ".parquet":
        return write_lines(path, rows(count))
    pq.write_table(pa.Table.from_pylist(rows(count)), path, row_group_size=10)
    return str(path)


def read(found: Survey, wanted: Wanted = WANTED, skip_bad: bool = False) -> list[dict[str, Any]]:
    """All rows of all units; the texts that come with them are those of the column."""
    result = []
    for unit in found.units:
        for table, texts in read_unit(unit, wanted, 3, skip_bad):
            assert table.column(wanted.text).to_pylist() == texts
            assert len(texts) <= 3
            result += table.to_pylist()
    return result


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("unit_bytes", [1, 300, 1 << 20])
def test_the_units_of_a_file_have_all_rows_in_order(tmp_path: Path, ending: str, unit_bytes: int) -> None:
    found = survey(write(tmp_path / f"a{ending}", 47), WANTED, unit_bytes)
    assert (found.rows, found.bad, found.columns) == (47, 0, ["id", "text"])
    assert (len(found.units) > 1) == (unit_bytes < 1 << 20)
    assert read(found) == rows(47)
    assert read(Survey.from_json(found.to_json())) == rows(47)


def test_names_follow_the_content(tmp_path: Path) -> None:
    names = [survey(write(tmp_path / "a.jsonl", count), WANTED, 100).units[0].name for count in (5, 5, 6)]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("a-")
    assert names[0].endswith("-00000.parquet")


def test_columns_of_json_have_the_type_that_all_their_values_have(tmp_path: Path) -> None:
    values = {
        "whole": [1, None, 1 << 60],
        "number": [1, 0.5, None],
        "truth": [True, None, False],
        "mixed": ["a", 1, [2]],
        "large": [1 << 60, 0.5, 1],
        "nested": [{"ä": 1}, [True], None],
        "none": [None, None, None],
    }
    lines = [{"text": "t"} | {name: column[i] for name, column in values.items()} for i in range(3)]
    (unit,) = survey(write_lines(tmp_path / "a.jsonl", [*lines, b"", {"text": "t", "late": "x"}]), Wanted("text")).units
    table = pa.concat_tables(table for table, _ in read_unit(unit, Wanted("text"), 2, False))
    assert {name: str(table.schema.field(name).type) for name in values} == {
        "whole": "int64",
        "number": "double",
        "truth": "bool",
        "mixed": "string",
        "large": "string",
        "nested": "string",
        "none": "string",
    }
    assert table.column("whole").to_pylist() == [1, None, 1 << 60, None]
    assert table.column("mixed").to_pylist() == ["a", "1", "[2]", None]
    assert table.column("nested").to_pylist() == ['{"ä": 1}', "[true]", None, None]
    assert table.column("late").to_pylist() == [None, None, None, "x"]


BAD = {
    "no text in column 'text'": {"id": 1},
    "column 'text' is no text but int": {"id": 1, "text": 5},
    "the text in column 'text' is empty": {"id": 1, "text": " \n"},
    "no id in column 'id'": {"text": "a"},
    "is no JSON": b'{"id": 1, "text": "a"',
    "holds no JSON object": b'["a"]',
    "is not valid UTF-8 (byte 23)": b'{"id": 1, "text": "abc\xff"}',
    "has a lone surrogate": b'{"id": 1, "text": "a", "other": "\\ud800"}',
}


@pytest.mark.parametrize("why", BAD)
def test_a_bad_line_is_named_or_left_out(tmp_path: Path, why: str) -> None:
    found = survey(write_lines(tmp_path / "a.jsonl", [*rows(4), BAD[why], *rows(2)]), WANTED, 60)
    assert (found.rows, found.bad) == (6, 1)
    assert found.why.startswith(f"line 5: {why}")
    assert read(found, skip_bad=True) == rows(4) + rows(2)
    with pytest.raises(DataError, match=r"a\.jsonl: line 5: "):
        read(found)


def test_a_bad_row_of_parquet_is_named_or_left_out(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2, 3, None, 5], "text": ["a", None, "c", "d", " "]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = survey(str(tmp_path / "a.parquet"), WANTED, 1)
    assert (found.rows, found.bad, found.why) == (2, 3, "row 2: no text in column 'text'")
    assert [row["id"] for row in read(found, skip_bad=True)] == [1, 3]
    with pytest.raises(DataError, match=r"a\.parquet: row 2: "):
        read(found)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    pq.write_table(pa.table({"text": [1], "other": ["a"]}), tmp_path / "numbers.parquet")
    for name, column, why in (
        ("none.jsonl", "text", "there is no such file"),
        ("a.csv", "text", "the name must end in"),
        ("broken.jsonl.gz", "text", "not readable"),
        ("broken.parquet", "text", "not readable"),
        ("numbers.parquet", "text", "is no text but int64"),
        ("numbers.parquet", "title", "has no column 'title'"),
    ):
        with pytest.raises(DataError, match=rf"{name}: .*{why}"):
            survey(str(tmp_path / name), Wanted(column))


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    found = survey(write(tmp_path / "a.jsonl", 5), WANTED)
    write(tmp_path / "a.jsonl", 6)
    with pytest.raises(DataError, match="has changed"):
        read(found)


def test_a_file_without_rows_has_no_units(tmp_path: Path) -> None:
    assert survey(write_lines(tmp_path / "a.jsonl", [b"", b" "]), WANTED).units == []
