"""Readers of text, rows and PDF: what they give, from which line, and what they refuse. Markdown and HTML: test_search_markup.py."""

from __future__ import annotations

import codecs
import gzip
import importlib
import lzma
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from pdf_files import pdf_of

from tinybert_rt.search import readers_common
from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers import ReadError, kind_of, read_sections
from tinybert_rt.search.readers_common import SECTION_LIMIT

Whole = partial(Section, by_line=False)  # of a row or a page: all of its text is at one line


def read(folder: Path, name: str, content: str | bytes, **columns: str) -> list[Section]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_sections(path, **columns))


def refusal(folder: Path, name: str, content: str | bytes, **columns: str) -> str:
    with pytest.raises(ReadError) as caught:
        read(folder, name, content, **columns)
    assert str(folder) not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", "text"),
        ("a.TEXT", "text"),
        ("a.log.gz", "text"),
        ("a.rst", "text"),
        ("a.md", "markdown"),
        ("a.markdown.xz", "markdown"),
        ("a.html", "html"),
        ("a.HTM", "html"),
        ("a.xhtml.GZ", "html"),
        ("a.pdf", "pdf"),
        ("a.pdf.gz", None),
        ("a.jsonl", "jsonl"),
        ("a.ndjson.xz", "jsonl"),
        ("a.csv", "csv"),
        ("a.b.tsv", "tsv"),
        ("a.tar.gz", None),
        ("a.gz", None),
        ("txt", None),
        (".md", None),
        ("a.png", None),
    ],
)
def test_the_suffix_says_the_kind(name: str, kind: str | None) -> None:
    assert kind_of(Path("some.txt") / name) == kind


def test_other_kinds_are_refused(tmp_path: Path) -> None:
    assert ".txt, .text, .log" in refusal(tmp_path, "a.png", b"")


def test_importing_the_readers_loads_no_reader_package() -> None:
    code = "import tinybert_rt.search.readers, sys; print([m for m in ('lxml', 'pypdfium2', 'markdown_it', 'apsw') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "package"), [("a.md", "markdown-it-py"), ("a.html", "lxml"), ("a.pdf", "pypdfium2")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    def missing(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert f"needs the package {package}: pip install 'tinybert-rt[search]'" in refusal(tmp_path, name, "x")


# ---------------------------------------------------------------- text


def test_text_keeps_its_lines_and_its_first_line_is_told(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "\n \nOne\ntwo\n\n\nThree\n\n") == [Section("One\ntwo\n\n\nThree", 3)]


@pytest.mark.parametrize("content", ["", "\n\n \n", "\ufeff"])
def test_an_empty_text_gives_nothing(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, "a.txt", content) == []


def test_line_ends_of_windows(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "\r\nOne\r\ntwo\r\n\r\nThree\r\n") == [Section("One\ntwo\n\nThree", 2)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    data = "\nÄ one €😀\n".encode(encoding)
    assert read(tmp_path, "a.txt", codecs.BOM_UTF16_BE + data if encoding == "utf-16-be" else data) == [Section("Ä one €😀", 2)]


@pytest.mark.parametrize("compress", [(".gz", gzip.compress), (".xz", lzma.compress)], ids=lambda each: each[0])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_compressed_files(tmp_path: Path, name: str, compress: tuple) -> None:
    assert read(tmp_path, name + compress[0], compress[1](b"\nhello")) == [Section("hello", 2)]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz"])
@pytest.mark.parametrize("damage", [slice(0, -20), slice(1, None)])
def test_damaged_compressed_files_are_refused(tmp_path: Path, name: str, damage: slice) -> None:
    data = (gzip if name.endswith(".gz") else lzma).compress(bytes(range(1, 128)) * 9)
    assert "cannot be decompressed" in refusal(tmp_path, name, data[damage])


def test_paragraphs_are_grouped_up_to_a_limit(tmp_path: Path) -> None:
    paragraphs = [f"{i} " + "word " * 400 + f"\nend of {i}" for i in range(100)]
    sections = read(tmp_path, "a.txt", "\n\n".join(paragraphs))
    assert "\n\n".join(section.text for section in sections) == "\n\n".join(paragraphs)
    assert all(SECTION_LIMIT // 2 < len(section.text) <= SECTION_LIMIT for section in sections[:-1])
    assert all(section.line == 3 * int(section.text.split()[0]) + 1 for section in sections)


def test_an_endless_paragraph_is_cut_between_lines(tmp_path: Path) -> None:
    lines = [f"{i} " + "x" * 100 for i in range(3000)]
    sections = read(tmp_path, "a.log", "\n".join(lines))
    assert len(sections) > 3
    assert "\n".join(section.text for section in sections) == "\n".join(lines)
    assert all(section.line == int(section.text.split()[0]) + 1 for section in sections)


def test_an_endless_line_is_cut_at_white_space(tmp_path: Path) -> None:
    words = [str(i) for i in range(50_000)]
    sections = read(tmp_path, "a.txt", "\n" + " ".join(words))
    assert [word for section in sections for word in section.text.split(" ")] == words
    assert {section.line for section in sections} == {2}
    assert max(len(section.text) for section in sections) <= SECTION_LIMIT


def test_an_endless_word_is_cut_anywhere(tmp_path: Path) -> None:
    sections = read(tmp_path, "a.txt", "x" * 200_000)
    assert [len(section.text) for section in sections] == [SECTION_LIMIT] * 3 + [200_000 - 3 * SECTION_LIMIT]


@pytest.mark.parametrize("before", [10, 65_520, 65_535, 65_536, 200_000])
def test_invalid_utf8_is_refused_with_line_and_byte(tmp_path: Path, before: int) -> None:
    text = "Äb\n" * (before // 4)
    message = refusal(tmp_path, "a.txt", text.encode() + b"ok \xff more\n")
    assert f"line {before // 4 + 1}: byte {before // 4 * 4 + 4} of the file (0xFF) is not UTF-8" in message


def test_a_cut_character_at_the_end_is_refused(tmp_path: Path) -> None:
    assert "line 2: byte 3 of the file (0xE2) is not UTF-8" in refusal(tmp_path, "a.txt", b"a\n\xe2\x82")
    assert "line 2: byte 7 of the file (0x41) is not UTF-16-LE" in refusal(tmp_path, "a.txt", codecs.BOM_UTF16_LE + b"a\0\n\0A")


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.jsonl", "a.csv"])
def test_binary_files_are_refused(tmp_path: Path, name: str) -> None:
    assert "is binary: a NUL at byte 5" in refusal(tmp_path, name, b"\x7fELF\0\xff")


def test_files_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot be read: No such file"):
        list(read_sections(tmp_path / "a.txt"))
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(ReadError, match="cannot be read: Is a directory"):
        list(read_sections(tmp_path / "b.txt"))


@pytest.mark.parametrize("name", ["a.md", "a.html", "a.pdf", "a.md.gz"])
def test_what_is_read_as_a_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(readers_common, "WHOLE_LIMIT", 2**20)
    data = b"x" * (2**20 + 1)
    assert "is longer than 1 MiB" in refusal(tmp_path, name, gzip.compress(data) if name.endswith(".gz") else data)


# ---------------------------------------------------------------- rows


def test_json_lines(tmp_path: Path) -> None:
    content = '{"title": " A\\nb ", "text": "one\\n\\ntwo", "year": 1999, "ok": true, "none": null, "tags": ["x"], "by": {"name": "N"}}\n\n'
    content += '{"text": "three"}\n{"text": " "}\n{"text": null}\r\n{"text": 4.5}'
    assert read(tmp_path, "a.jsonl", content) == [
        Whole("one\n\ntwo", 1, "A b", {"year": "1999", "ok": "true", "by.name": "N"}),
        Whole("three", 3),
        Whole("4.5", 6),
    ]


@pytest.mark.parametrize("column", ["text", "body", "content", "passage", "abstract"])
@pytest.mark.parametrize("heading", ["title", "name", "heading"])
def test_usual_columns_are_found(tmp_path: Path, column: str, heading: str) -> None:
    assert read(tmp_path, "a.ndjson", f'{{"{heading}": "H", "{column}": "T", "id": 7}}') == [Whole("T", 1, "H", {"id": "7"})]
    assert read(tmp_path, "a.csv", f"{heading},{column},id\nH,T,7\n") == [Whole("T", 2, "H", {"id": "7"})]


def test_columns_can_be_named(tmp_path: Path) -> None:
    row = '{"text": "no", "data": {"de": {"q": "yes"}, "t": "head"}}'
    assert read(tmp_path, "a.jsonl", row, text="data.de.q", title="data.t") == [Whole("yes", 1, "head", {"text": "no"})]
    assert read(tmp_path, "a.tsv", "text\tq\tt\nno\tyes\thead", text="q", title="t") == [Whole("yes", 2, "head", {"text": "no"})]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 holds no JSON object"),
        ("[" * 100_000, "line 2 is no JSON"),
        ('{"text": "a" "b"}', "line 2 is no JSON"),
        ('{"texts": "a", "b": {"c": 1}}', "line 2 has none of the columns text, body, content, passage, abstract; it has texts, b.c: name"),
        ('{"text": ["a"]}', "line 2: the column 'text' holds a list"),
        (b'{"text": "\xff"}', "line 2: byte 25 of the file (0xFF) is not UTF-8"),
    ],
)
def test_malformed_json_lines_are_refused(tmp_path: Path, line: str | bytes, wrong: str) -> None:
    data = line.encode() if isinstance(line, str) else line
    assert wrong in refusal(tmp_path, "a.jsonl", b'{"text": "x"}\n' + data + b"\n")


def test_a_named_column_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert "line 1 has no column 'q'; it has text, n" in refusal(tmp_path, "a.jsonl", '{"text": "x", "n": 1}', text="q")
    assert "the header in line 1 has no column 'q'; it has text, n" in refusal(tmp_path, "a.csv", "text,n\n", text="q")
    assert "the header in line 1 has no column 'q' for the title" in refusal(tmp_path, "a.csv", "text,n\n", title="q")


def test_what_cannot_be_stored_is_replaced(tmp_path: Path) -> None:
    (section,) = read(tmp_path, "a.jsonl", r'{"text": "a\u0000b\ud800c \ud83d\ude00", "title": "\udfff", "\ud800": "\u0000"}')
    assert section == Whole("a\ufffdb\ufffdc 😀", 1, "\ufffd", {"\ufffd": "\ufffd"})


def test_a_long_row_gives_several_sections(tmp_path: Path) -> None:
    sections = read(tmp_path, "a.jsonl", '\n{"title": "T", "text": "' + "word\\n" * 30_000 + '"}')
    assert [(section.line, section.title) for section in sections] == [(2, "T")] * 3
    assert "\n".join(section.text for section in sections) == "\n".join(["word"] * 30_000)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv.xz"])
def test_rows_are_read_as_they_are_asked_for(tmp_path: Path, name: str) -> None:
    """The last row is malformed: it is met at the end, behind all others."""
    good, bad = ('{"text": "row"}\n', "{") if "jsonl" in name else ("row\n", "row,row\trow")
    data = (("" if "jsonl" in name else "text\n") + good * 20_000 + bad).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else lzma.compress(data) if name.endswith("xz") else data)
    sections = read_sections(path)
    for _ in range(20_000):
        assert next(sections).text == "row"
    with pytest.raises(ReadError, match=r"line 2000[12]"):
        next(sections)


def test_a_row_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_common, "WHOLE_LIMIT", 2**20)
    monkeypatch.setattr("tinybert_rt.search.readers_rows.WHOLE_LIMIT", 2**20)
    assert "line 2 is longer than 1 MiB" in refusal(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "' + "x" * 2**21)
    assert "line 3: the row is longer than 1 MiB: is a quote not closed?" in refusal(
        tmp_path, "a.csv", "text\na\n" + '"b\n' + "x\n" * 2**20
    )


def test_csv_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    content = '\ufefftitle,text,n\r\nA,"one, ""two""\r\n\r\nthree",1\r\n\r\nB,four,2\r\nC,,3\r\n'
    assert read(tmp_path, "a.csv", content) == [
        Whole('one, "two"\n\nthree', 2, "A", {"n": "1"}),
        Whole("four", 6, "B", {"n": "2"}),
    ]


def test_csv_with_semicolons(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", 'id;text\n1;"a;b, c"\n') == [Whole("a;b, c", 2, "", {"id": "1"})]


def test_quotes_mean_nothing_in_tsv(tmp_path: Path) -> None:
    assert read(tmp_path, "a.tsv", 'id\ttext\n1\t"a, b\n2\tc "d"\n') == [
        Whole('"a, b', 2, "", {"id": "1"}),
        Whole('c "d"', 3, "", {"id": "2"}),
    ]


def test_a_big_field_is_read(tmp_path: Path) -> None:
    sections = read(tmp_path, "a.csv", 'more,text\na,"' + "x" * 1_000_000 + '"\n')
    assert sum(len(section.text) for section in sections) == 1_000_000


def test_a_value_that_is_too_long_is_no_metadata(tmp_path: Path) -> None:
    (section,) = read(tmp_path, "a.csv", f"text,more,lang\na,{'x' * 1000},en\n")
    assert section.metadata == {"lang": "en"}
    (section,) = read(tmp_path, "a.md", f"---\nmore: {'x' * 1000}\nlang: en\n---\na")
    assert section.metadata == {"lang": "en"}


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("a,b\n1,2\n", "the header in line 1 has none of the columns text, body, content, passage, abstract; it has a, b: name"),
        ("text,b\n\n1,2\n1\n", "line 4: the row has 1 columns, the header 2"),
        ('text,b\n"1\n2",3\n"x"y,2\n', "line 4: the row is malformed"),
        ('text\n"never\nclosed\n', "line 2: the row is malformed"),
    ],
)
def test_malformed_csv_is_refused(tmp_path: Path, content: str, wrong: str) -> None:
    assert wrong in refusal(tmp_path, "a.csv", content)


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", ",text\n0,a\n") == [Whole("a", 2)]


# ---------------------------------------------------------------- PDF


def test_pdf_pages(tmp_path: Path) -> None:
    data = pdf_of([["First page", "second line"], [], ["Third \xe4"]], "The title")
    assert read(tmp_path, "a.pdf", data) == [Whole("First page\nsecond line", 1, "The title"), Whole("Third ä", 3, "The title")]


def test_pdf_without_title(tmp_path: Path) -> None:
    assert read(tmp_path, "a.pdf", pdf_of([["x"]])) == [Whole("x", 1)]


def test_words_that_a_pdf_parts_are_joined(tmp_path: Path) -> None:
    lines = ["some hyphen-", "ation of Anglo-", "Saxon from 1914-", "1918 is - ", "well"]
    (section,) = read(tmp_path, "a.pdf", pdf_of([lines]))
    assert " ".join(section.text.split()) == "some hyphenation of Anglo-Saxon from 1914-1918 is - well"


def test_a_pdf_without_text_is_refused(tmp_path: Path) -> None:
    assert "has no text (scanned?)" in refusal(tmp_path, "a.pdf", pdf_of([[], []]))


@pytest.mark.parametrize("data", [b"", b"%PDF-1.4\nnothing", pdf_of([["x"]])[:60]])
def test_a_broken_pdf_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "is not a PDF, or damaged" in refusal(tmp_path, "a.pdf", data)


def test_an_encrypted_pdf_is_refused(tmp_path: Path) -> None:
    lock = f"/ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'00' * 32}> /U <{'00' * 32}> >>"
    assert "is encrypted" in refusal(tmp_path, "a.pdf", pdf_of([["x"]], trailer=lock))
