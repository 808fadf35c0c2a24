"""Readers of Markdown and HTML: readable text, titles and lines. And of damaged files of any kind: only ReadError comes out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pdf_files import pdf_of
from test_search_readers import read, refusal

from tinybert_rt.search.documents import Section
from tinybert_rt.search.readers import ReadError, read_sections
from tinybert_rt.search.readers_common import SECTION_LIMIT


def text_of(folder: Path, name: str, content: str | bytes) -> str:
    """Of a file with one section."""
    (section,) = read(folder, name, content)
    return section.text


# ---------------------------------------------------------------- both


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", "zero\n# A\none\n\nB\n---\ntwo\n### C ###\n\nthree\n# D\nfour"),
        ("a.html", "<p>zero\n\n<h1>A</h1>one\n\n<h2>B\n</h2>\ntwo\n<h3>C</h3>\n\nthree\n<h1>D</h1>\nfour"),
    ],
)
def test_headings_make_sections(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == [
        Section("zero", 1),
        Section("one", 3, "A"),
        Section("two", 7, "A › B"),
        Section("three", 10, "A › B › C"),
        Section("four", 12, "D"),
    ]


@pytest.mark.parametrize(
    ("name", "content"), [("a.md", "# A\n## B\n#\n## C\ntext"), ("a.html", "<h1>A</h1>\n<h2>B</h2><h2> </h2>\n\n<h2>C</h2>text")]
)
def test_a_heading_without_text_is_a_text(tmp_path: Path, name: str, content: str) -> None:
    assert [(section.text, section.title) for section in read(tmp_path, name, content)] == [("B", "A › B"), ("text", "A › C")]


@pytest.mark.parametrize(("name", "content"), [("a.md", "# {}\ntext"), ("a.html", "<h1>{}</h1><p>text")])
def test_a_heading_without_end_is_no_title(tmp_path: Path, name: str, content: str) -> None:
    (section,) = read(tmp_path, name, content.format("word " * 100))
    assert (section.title, section.text.count("word")) == ("", 100)


@pytest.mark.parametrize(("name", "paragraph"), [("a.md", "{} {}\n\n"), ("a.html", "<p>{} {}\n\n")])
def test_long_sections_are_parted_between_paragraphs(tmp_path: Path, name: str, paragraph: str) -> None:
    sections = read(tmp_path, name, "".join(paragraph.format(i, "word " * 200) for i in range(200)))
    assert len(sections) == 4
    assert all(len(section.text) <= SECTION_LIMIT and section.line == 2 * int(section.text.split()[0]) + 1 for section in sections)


# ---------------------------------------------------------------- Markdown


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("some *text* with **a [link](http://x.y 't')** and `co*d*e`, <http://a.b>", "some text with a link and co*d*e, http://a.b"),
        ("![picture *x*](y.png) ~~gone~~ a<br>b<i>c</i> &amp; \\*", "picture x gone a bc & *"),
        ("[a]\n\n[a]: http://x", "a"),
        ("- one\n- two\n  more\n  1. three", "one\ntwo\nmore\nthree"),
        ("Items:\n* one\n\n* two", "Items:\none\n\ntwo"),
        ("> quoted\n> # no section\n>\n> end", "quoted\nno section\n\nend"),
        ("```py\nx = '*'\n\n  y\n```\nend", "x = '*'\n\n  y\n\nend"),
        ("text\n\n    code *x*\n    more", "text\n\ncode *x*\nmore"),
        ("| a | b |\n|---|---|\n| *1* | `2` |\n| 3 ||", "a | b\n\n1 | 2\n3 |"),
        ("<div class='x'>\n<!-- no\n# no -->\n<b>yes</b> &lt;\n<script>no</script></div>", "yes <"),
        ("a\n\n***\n\nb", "a\n\n\n\nb"),
        ("line \nbreak  \nhard", "line\nbreak\nhard"),
    ],
)
def test_markdown_reads_as_text(tmp_path: Path, source: str, text: str) -> None:
    assert text_of(tmp_path, "a.md", source) == text


def test_lines_of_markdown_are_kept(tmp_path: Path) -> None:
    """Each word that is a number stands in the line of its number."""
    source = "# T\n2\n3\n\n- 5\n- 6\n\n```\n9\n```\n> 11\n> 12"
    source += "\n\n| 14 | x |\n|--|--|\n| 16 | y |\n\n[r]: http://z\n<div>\n20\n</div>\n\n\n  24  \n25"
    (section,) = read(tmp_path, "a.md", source)
    numbers = [(section.line + i, word) for i, line in enumerate(section.text.split("\n")) for word in line.split() if word.isdigit()]
    assert numbers == [(int(word), word) for _, word in numbers]
    assert len(numbers) == 12


def test_front_matter_is_metadata(tmp_path: Path) -> None:
    front = "---\ntitle: \"The: notes\"\ndate: 2024-05-06\ntags: [a, 'b c']\nby:\n  - N\n  - O\n"
    front += "# comment\nabout: >\n  long\n  text\nempty:\n---\n"
    metadata = {"date": "2024-05-06", "tags": "a, b c", "by": "N, O", "about": "long text", "empty": ""}
    assert read(tmp_path, "a.md", front + "text\n# Head\n\nmore") == [
        Section("text", 14, "The: notes", metadata),
        Section("more", 17, "The: notes › Head", metadata),
    ]


def test_a_title_is_not_said_twice(tmp_path: Path) -> None:
    assert read(tmp_path, "a.md", "---\ntitle: T\n---\n# T\ntext") == [Section("text", 5, "T")]
    assert read(tmp_path, "a.html", "<title>T</title>\n<h1>T</h1>text") == [Section("text", 2, "T")]


@pytest.mark.parametrize(
    "source", ["---\ntext\n\n---\nmore", "---\na: b", "---\na: b\nplain text\n---\n", "--- x\na: b\n---\n", "\n---\na: b\n---\n"]
)
def test_rulers_are_no_front_matter(tmp_path: Path, source: str) -> None:
    (section,) = [section for section in read(tmp_path, "a.md", source) if "a: b" in section.text or "text" in section.text]
    assert section.metadata == {}


# ---------------------------------------------------------------- HTML


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>some\n <b>bold</b><i> te</i>xt &amp; &eacute;&nbsp;<br> next", "some bold text & é\nnext"),
        ("a<p>b<div>c</div>d", "a\n\nb\n\nc\n\nd"),
        ("<ul><li>a<li>b<p>c</ul>", "a\nb\n\nc"),
        ("<table><tr><th>a<th> b <tr><td>1<td><td><i>2</i></table>", "a | b\n1 | 2"),
        ("<pre>\n  a\n\n    b <b>c</b>\n</pre>", "a\n\n    b c"),
        (
            "a<script>no</script>b<style>no</style>c<nav>no<p>no</nav>d<noscript>no</noscript>e<template>no</template>f<!-- no -->g",
            "abc\n\ndefg",
        ),
        ("<p>not <b>closed <i>well</b> here</p></div></p>", "not closed well here"),
        ("1 < 2 &unknown; <unknown>x</unknown> <", "1 < 2 &unknown; x <"),
        ("<!DOCTYPE html [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><p>a&x;", "a&x;"),
        ('<?xml version="1.0" encoding="utf-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><body><p>ä<br/>b</p></body></html>', "ä\nb"),
    ],
)
def test_html_reads_as_text(tmp_path: Path, source: str, text: str) -> None:
    assert text_of(tmp_path, "a.html", source).replace("]>", "").strip() == text


def test_the_title_of_html_is_above_its_headings(tmp_path: Path) -> None:
    page = "<html><head><title>The\n page</title><style>no</style></head><body><nav>\n<h1>no</h1></nav>a<h1>An <i>h</i></h1>\n\nb</body>"
    assert read(tmp_path, "a.htm", page) == [Section("a", 3, "The page"), Section("b", 5, "The page › An h")]


@pytest.mark.parametrize("count", [1, 70_000])
@pytest.mark.parametrize("between", ["\n", "<!--\n\n-->", "<script>\n\n</script>", "<br>\n", "<p>\n</p>\n", "\r\n"])
def test_lines_of_html(tmp_path: Path, between: str, count: int) -> None:
    page = "a" + between * count + "<p>b" + "\n<h1>c</h1>\n\n d"
    line = 1 + between.count("\n") * count
    sections = read(tmp_path, "a.html", page)
    assert sections[-1] == Section("d", line + 3, "c")
    if count > 1:
        assert sections[1] == Section("b", line)


def test_lines_within_tags_of_html(tmp_path: Path) -> None:
    assert read(tmp_path, "a.html", "<p>a <b\n\nx=1></b>\n<h1>b</h1>\nc")[1] == Section("c", 5, "b")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>ä€".encode(), "ä€"),
        ("<p>ä€".encode("utf-8-sig"), "ä€"),
        ("<meta charset=latin1><p>ä€".encode("utf-16"), "ä€"),
        ('<meta charset="iso-8859-1"><p>ä€'.encode("cp1252"), "ä€"),
        ("<META http-equiv=Content-Type content='text/html; charset=windows-1251'><p>Ж".encode("cp1251"), "Ж"),
        ('<?xml version="1.0" encoding="Shift_JIS"?><p>日本'.encode("shift_jis"), "日本"),
        ("<meta charset=punycode><p>ä".encode(), "ä"),
        ("<meta charset=iso-8859-99><p>ä".encode(), "ä"),
        (b"<p>a\xffb", "a\ufffdb"),
    ],
)
def test_encodings_of_html(tmp_path: Path, data: bytes, text: str) -> None:
    assert text_of(tmp_path, "a.html", data) == text


@pytest.mark.parametrize("data", ["", " \n", "<html></html>", "<title>only</title>"])
def test_html_without_text_gives_nothing(tmp_path: Path, data: str) -> None:
    assert read(tmp_path, "a.html", data) == []


def test_html_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    assert "line 1: Excessive depth" in refusal(tmp_path, "a.html", "<div>" * 100_000 + "text")
    assert text_of(tmp_path, "a.html", "<div>" * 1000 + "text") == "text"


# ---------------------------------------------------------------- damage

SEEDS = {
    "a.md": b"---\nt: x\n---\n# A\n\n- b\n  > c `d`\n\n| e | f |\n|---|---|\n| g | h |\n\n<div>i</div>\n![j](k) **l** ~~~\n\xc3\xa4 [m]: n",
    "a.html": b"<!DOCTYPE html><title>a</title><h1>b</h1><p>c<br><pre>d</pre><table><td>f</table><svg><title>\xc3\xa4&amp;<!--g-->",
    "a.pdf": pdf_of([["some text", "and hyphen-", "ation"], ["more"]], "T"),
    "a.jsonl": b'{"text": "a", "title": "b", "c": {"d": [1, 2.5e9, null]}}\n{"text": "\\ud83d\\u0000"}\n',
    "a.csv": b'text,title,c\n"a ""b""\nc",d,1\ne,f,2\n',
    "a.tsv": b"text\ttitle\na\tb\n",
    "a.txt": b"a\n\nb\xc3\xa4\r\n",
}


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    source = random.Random(name)
    path = tmp_path / name
    for _ in range(300):
        data = bytearray(SEEDS[name] * source.choice((1, 1, 2)))
        for _ in range(source.randint(1, 8)):
            at, length = source.randrange(len(data)), source.randint(0, 9)
            piece = source.choice((source.randbytes(length), bytes(data[at : at + length]) * 3, b"<", b'"', b"\r", b"\n", b"[", b"0"))
            data[at : at + source.choice((0, 1, length))] = piece
        path.write_bytes(data)
        try:
            sections = list(read_sections(path))
        except ReadError:
            continue
        for section in sections:
            assert section.text.strip() == section.text
            assert 0 < len(section.text) <= SECTION_LIMIT
            assert section.line >= 1
            "".join((section.text, section.title, *section.metadata, *section.metadata.values())).encode()
