"""Every Unicode scalar is tokenized as the `tokenizers` package does it."""

from __future__ import annotations

import functools
import lzma
import unicodedata
from collections.abc import Callable, Iterator

import pytest
from text_tokenizer import ALL_FLAGS, CASED_FLAGS, SHARED, SPECIAL, Kernels, read_vocabulary, reference, reference_ids

from tinybert_rt.text import unicode_data
from tools import unicode_tables

pytest.importorskip("tokenizers")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared with the BERT vocabularies and the Wikipedia text")

SCALARS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
BATCH = 16384

CONTEXTS: dict[str, Callable[[str], str]] = {
    "alone": lambda char: char,
    "inside a word": lambda char: f"a{char}b",
    "after an accent": lambda char: f"e\u0301{char}",
}


def test_there_are_1112064_scalars() -> None:
    assert len(SCALARS) == 1_112_064


@functools.cache
def interesting() -> list[str]:
    """Characters with which something happens, according to the reference or to Python, and what they become."""
    from tokenizers import normalizers

    normalizer = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=True)
    lower = normalizers.Lowercase()
    decompose = normalizers.NFD()
    found = set(map(chr, range(1, 256))) | set("\u4e2d\u6587\uac00\ud55c\U0001f600")
    for code in SCALARS:
        char = chr(code)
        plain = normalizer.normalize_str(char)
        if plain != char and not 0xAC00 <= code < 0xD7A4 and not 0xE0100 <= code < 0xE01F0:
            found.update(char, plain, lower.normalize_str(char), decompose.normalize_str(char))
        elif unicodedata.category(char)[0] in "MPZ" or unicodedata.category(char) == "Cf" or unicodedata.combining(char):
            found.add(char)
    return sorted(found - {"\0"})


@functools.cache
def small_vocabulary() -> list[str]:
    """The special tokens, and each interesting character as a word and as a continuation."""
    chars = interesting()
    jamo = [chr(code) for code in (*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3))]
    chars = list(dict.fromkeys(chars + jamo))
    return [*SPECIAL, *chars, *(f"##{char}" for char in chars)]


def joined(texts: list[str]) -> Iterator[tuple[list[str], str]]:
    """Batches of texts, and each batch as one text."""
    for begin in range(0, len(texts), BATCH):
        batch = texts[begin : begin + BATCH]
        yield batch, " ".join(batch)


def differences(kernels: Kernels, expected: object, texts: list[str]) -> list[str]:
    """The texts with other ids than expected; texts are separated by spaces and compared in batches first."""
    found = []
    for batch, text in joined(texts):
        if kernels.wordpiece(text) != reference_ids(expected, text):
            found += [each for each in batch if kernels.wordpiece(each) != reference_ids(expected, each)] or [f"a batch with {batch[0]!r}"]
    return [f"{each!a}: {kernels.wordpiece(each)}, not {reference_ids(expected, each)}" for each in found[:10]]


@pytest.mark.parametrize("flags", [ALL_FLAGS, CASED_FLAGS], ids=["uncased", "cased"])
def test_all_scalars_with_a_vocabulary_of_characters(flags: int) -> None:
    kernels, expected = Kernels(small_vocabulary(), flags), reference(small_vocabulary(), flags)
    for context in CONTEXTS.values():
        assert differences(kernels, expected, [context(chr(code)) for code in SCALARS]) == []


@needs_shared
@pytest.mark.parametrize(("name", "flags"), [("bert-base-uncased", ALL_FLAGS), ("bert-base-cased", CASED_FLAGS)])
def test_all_scalars_with_a_vocabulary_of_bert(name: str, flags: int) -> None:
    vocabulary = read_vocabulary(name)
    kernels, expected = Kernels(vocabulary, flags), reference(vocabulary, flags)
    for context in CONTEXTS.values():
        assert differences(kernels, expected, [context(chr(code)) for code in SCALARS]) == []


@pytest.mark.parametrize("flags", range(16))
def test_interesting_characters_with_every_combination_of_flags(flags: int) -> None:
    kernels, expected = Kernels(small_vocabulary(), flags), reference(small_vocabulary(), flags)
    for context in CONTEXTS.values():
        assert differences(kernels, expected, [context(char) for char in [*interesting(), "\0"]]) == []


@needs_shared
@pytest.mark.parametrize(("name", "flags"), [("bert-base-uncased", ALL_FLAGS), ("bert-base-cased", CASED_FLAGS)])
def test_every_line_of_wikipedia(name: str, flags: int) -> None:
    vocabulary = read_vocabulary(name)
    kernels, expected = Kernels(vocabulary, flags), reference(vocabulary, flags)
    with lzma.open(SHARED / "data" / "corpus" / "wiki" / "valid.txt.xz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    wanted = [encoding.ids for encoding in expected.encode_batch(lines, add_special_tokens=False)]
    assert [line for line, ids in zip(lines, wanted, strict=True) if kernels.wordpiece(line) != ids] == []


def test_generated_tables_are_up_to_date() -> None:
    if unicodedata.unidata_version != unicode_tables.UNICODE_VERSION:
        pytest.skip(f"the tables are made from Unicode {unicode_tables.UNICODE_VERSION}, not {unicodedata.unidata_version}")
    assert unicode_data.UNICODE_VERSION == unicode_tables.UNICODE_VERSION
    assert unicode_tables.build_tables() == unicode_data.TABLES


def test_tables_are_compact() -> None:
    assert sum(map(len, unicode_data.TABLES.values())) < 60_000


def test_another_version_of_unicode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unicodedata, "unidata_version", "15.1.0")
    with pytest.raises(SystemExit, match=r"Unicode 14\.0\.0 .*this Python has 15\.1\.0"):
        unicode_tables.main([])
