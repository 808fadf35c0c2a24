"""`tinybert-rt inspect`: its table, its JSON, and the page: complete in itself, safe with any text, and drawn by a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import small_model_file

import tinybert_rt as tb
from tinybert_rt.cli import main

HOSTILE = '</script><script>document.title="broken"</script> <!-- "cat" & \'dog\' <b>the</b> \\u003c @DATA@ @TITLE@ 中文'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)


def run(*arguments: object) -> int:
    return main(["inspect", "--model", str(small_model_file()), *map(str, arguments)])


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its title and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "title":
            self.title += data


@pytest.fixture
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


def written(path: Path, *arguments: object) -> Page:
    assert run(*arguments, "--html", path) == 0
    return Page(path.read_text(encoding="utf-8"))


def data_of(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.scripts[0])
    return found


def test_the_page_has_the_models_numbers(model: tb.Model, tmp_path: Path) -> None:
    data = data_of(written(tmp_path / "page.html", "the cat sat", "--pair", "a dog"))
    inside = model.inspect("the cat sat", "a dog")
    assert data["tokens"] == inside.tokens
    assert data["ids"] == inside.ids.tolist()
    assert data["types"] == inside.types.tolist()
    assert data["spans"] == inside.spans.tolist()
    roots = np.frombuffer(base64.b64decode(data["attentions"]), np.uint8).reshape(inside.attentions.shape)
    assert np.abs(roots / 255 - np.sqrt(inside.attentions)).max() <= 0.5 / 255 + 1e-6
    norms = np.frombuffer(base64.b64decode(data["norms"]), "<f4").reshape(inside.hidden_states.shape[:2])
    assert np.allclose(norms, np.sqrt((inside.hidden_states.astype(float) ** 2).sum(-1)), rtol=1e-6)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = written(tmp_path / "page.html", "the cat sat")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w+\.|@import|url\(|\bfetch\(|XMLHttpRequest|import\(", text)
    policy = next(attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_no_text_breaks_the_page(tmp_path: Path) -> None:
    page = written(tmp_path / "page.html", HOSTILE, "--pair", HOSTILE)
    assert len(page.scripts) == 2
    assert "broken" not in page.title.replace(HOSTILE[:59], "")
    data = data_of(page)
    assert (data["text"], data["pair"]) == (HOSTILE, HOSTILE)
    plain = written(tmp_path / "plain.html", "the cat")
    assert page.scripts[1] == plain.scripts[1]
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]


def test_a_page_of_a_hundred_and_twenty_eight_tokens_and_heads_of_a_large_model_is_a_few_megabytes() -> None:
    from tinybert_rt.inside import Inside
    from tinybert_rt.inside_page import html_page, page_data

    layers, heads, tokens = 12, 12, 128
    inside = Inside(
        ["token"] * tokens,
        np.zeros(tokens, np.int32),
        np.zeros(tokens, np.uint8),
        np.zeros((tokens, 2), np.int32),
        np.ones((layers + 1, tokens, 8), np.float32),
        np.full((layers, heads, tokens, tokens), 1 / tokens, np.float32),
        tokens,
    )
    page = html_page(page_data(inside, "a text", None, {"name": "model", "path": "", "architecture": "bert"}))
    assert len(page) < 4_000_000


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to draw the page")
def test_a_browser_draws_the_page_and_obeys_its_address(model: tb.Model, tmp_path: Path) -> None:
    assert BROWSER is not None
    written(tmp_path / "page.html", f"the cat sat {HOSTILE}")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=2000"]
    address = f"file://{tmp_path}/page.html#layer=2&head=1&token=3&other=2"
    result = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True, check=True, timeout=120)
    attention = model.attentions(f"the cat sat {HOSTILE}")[1, 0, 2, 1]
    assert "<title>broken" not in result.stdout
    read = re.search(r'id="readout"[^>]*>(.*?)</p>', result.stdout)
    assert read is not None
    match = re.fullmatch(r"<code>cat</code> takes <strong>([<\d.]+) %</strong> from <code>the</code>", read[1].replace("&lt;", "<"))
    assert match is not None, read[1]
    assert float(match[1].lstrip("<")) / 100 == pytest.approx(attention, abs=0.006)
    assert result.stdout.count('class="thumb"') == 2 * 3
    assert len(re.findall(r'class="token\b', result.stdout)) == model.tokenize(f"the cat sat {HOSTILE}").ids.size
    assert re.search(r"<h2[^>]*>Layer 2 · Head 1</h2>", result.stdout)


def test_the_table_has_a_line_a_token(model: tb.Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("the cats") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["token", "id", "chars", "0", "1", "2"]
    rows = [line.split() for line in lines[2:]]
    inside = model.inspect("the cats")
    assert [row[0] for row in rows] == inside.tokens
    assert rows[2][2] == "4-8"
    assert float(rows[2][-1]) == pytest.approx(np.linalg.norm(inside.hidden_states[-1, 2]), rel=1e-3)


def test_json_has_the_numbers(model: tb.Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("the cats", "--pair", "a dog", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    inside = model.inspect("the cats", "a dog")
    assert values["tokens"] == inside.tokens
    assert np.abs(np.array(values["attentions"]) - inside.attentions).max() <= 1e-6
    assert np.array(values["norms"]).shape == (len(inside.tokens), 3)


def test_a_text_that_is_cut_is_said_to_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("the cat sat on the mat", "--max-tokens", 5, "--html", tmp_path / "page.html") == 0
    assert "has 8 tokens and was cut to 5" in capsys.readouterr().err


def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (
        ("a", "--html", "page.pdf"),
        ("a", "--html", "x.html", "--json"),
        ("a", "--html", tmp_path / "nowhere" / "page.html"),
    ):
        assert run(*arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
