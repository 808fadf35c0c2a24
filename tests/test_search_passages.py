"""Splitting into passages."""

from __future__ import annotations

from functools import cache

import pytest
from models import small_model_file

import tinybert_rt as tb
from tinybert_rt.search.documents import Passage, Section
from tinybert_rt.search.passages import Splitter


@cache
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


def count(text: str) -> int:
    return len(model().tokenize(text).ids)


def split(text: str, tokens: int = 24, overlap: int = 0, title: str = "", **more: object) -> list[Passage]:
    return list(Splitter(model(), tokens, overlap).split(Section(text, 1, title, **more)))  # type: ignore[arg-type]


SENTENCES = [f"The cat sat on {number} mats." for number in range(10)]


@pytest.mark.parametrize("tokens", [16, 20, 24, 40, 96])
@pytest.mark.parametrize("overlap", [0, 8])
@pytest.mark.parametrize("title", ["", "a small model"])
def test_passages_are_whole_sentences_within_the_limit(tokens: int, overlap: int, title: str) -> None:
    passages = split(" ".join(SENTENCES), tokens, overlap, title)
    for passage in passages:
        assert count(passage.embedded) <= tokens
        assert all(each.strip() + "." in SENTENCES for each in passage.text.split(".") if each.strip())
    assert list(dict.fromkeys(part for passage in passages for part in SENTENCES if part in passage.text)) == SENTENCES


def test_neighbours_share_whole_sentences_up_to_the_overlap() -> None:
    size = count(SENTENCES[0]) - 2
    passages = split(" ".join(SENTENCES), 3 * size + 2, size)
    assert passages[0].text == " ".join(SENTENCES[:3])
    assert passages[1].text == " ".join(SENTENCES[2:5])
    assert split(" ".join(SENTENCES), 3 * size + 2, size - 1)[1].text == " ".join(SENTENCES[3:6])


def test_a_paragraph_that_does_not_fit_begins_a_passage() -> None:
    first, second = " ".join(SENTENCES[:2]), " ".join(SENTENCES[2:4])
    size = count(first + " " + SENTENCES[2])
    assert [each.text for each in split(f"{first}\n\n{second}", size)] == [first, second]


def test_a_long_sentence_is_cut_between_words() -> None:
    text = " ".join(["cat dog mat"] * 60)
    passages = split(text, 20)
    assert all(count(each.text) <= 20 for each in passages)
    assert " ".join(each.text for each in passages) == text


def test_a_word_without_end_is_cut_and_no_character_is_lost() -> None:
    text = "!" * 50_000
    passages = split(text, 20)
    assert "".join(each.text for each in passages) == text
    assert all(count(each.text) <= 20 for each in passages)


def test_lines_are_those_of_the_file() -> None:
    text = "\n".join(f"The dog sat on mat {i}.\n" for i in range(8))
    passages = list(Splitter(model(), 20, 0).split(Section(text, 5)))
    assert len(passages) > 2
    for passage in passages:
        number = int(passage.text.split("mat ")[1].split(".")[0])
        assert passage.line == 5 + 2 * number
    assert {each.line for each in split(text, 20, by_line=False)} == {1}


def test_a_title_that_is_too_long_is_left_out() -> None:
    (passage,) = split("The cat sat.", 24, title="cat " * 40)
    assert passage.title == ""


@pytest.mark.parametrize("text", ["", " \n\n \n", "\n"])
def test_nothing_gives_no_passage(text: str) -> None:
    assert split(text) == []
