"""Every Unicode scalar, and many lines of text, are cut into pieces as the `tokenizers` package does it."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from typing import Any

import pytest
from charsmap import nfkc_rules
from unigram_tokenizer import (
    ALBERT_TOKENS,
    DEBERTA_TOKENS,
    SHARED,
    XLM_ROBERTA_TOKENS,
    Kernels,
    albert,
    deberta,
    nfkc,
    reference_ids,
    shared_pieces,
    xlm_roberta,
)

from tinybert_rt.text import grapheme_data
from tools import normalization_tables
from tools.charsmap import read_charsmap
from tools.folding_data import FOLDINGS
from tools.hf import ConversionError

pytest.importorskip("tokenizers")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared with ALBERT's pieces and texts")

SCALARS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
# Those that are assigned, but for most ideographs, and a sample of the others.
NEAR = [code for code in SCALARS if code < 0x20000 or 0xE0000 <= code < 0xE0200 or code % 61 == 0]
BATCH = 16384
CONTEXTS = {"alone": "{}", "inside a word": "a{}b", "after an accent": "e\u0301{}"}


def characters() -> list[tuple[str, float]]:
    """Pieces of one character: all that normalising changes, and what they become; so that a wrong character gives another id."""
    rules = nfkc_rules()
    found = {char for text in (*rules, *rules.values(), *FOLDINGS["bare"].values(), *FOLDINGS["lower"].values()) for char in text}
    found |= {chr(code) for code in range(1, 0x500)} | {chr(code) for code in (*range(0x1100, 0x1200), *range(0xAC00, 0xAE00))}
    return [(char, -5.0 - ord(char) / 1e6) for char in sorted(found - {"\0"})]


def reference(family: str) -> Any:
    if family.startswith("albert"):
        pieces = [*((name, 0.0) for name in ALBERT_TOKENS), *characters()]
        return albert(pieces, None if family == "albert" else nfkc(True), True)
    if family == "xlm-roberta":
        return xlm_roberta([*((name, 0.0) for name in XLM_ROBERTA_TOKENS), *characters(), ("<mask>", 0.0)], nfkc())
    return deberta([*((name, 0.0) for name in DEBERTA_TOKENS), *characters()], nfkc(), lower=True, punctuation=True)


def differences(ours: Kernels, expected: Any, texts: list[str]) -> list[str]:
    """The texts with other ids than expected; they are compared in batches first, separated by spaces."""
    found = []
    for begin in range(0, len(texts), BATCH):
        batch = texts[begin : begin + BATCH]
        joined = " ".join(batch)
        if ours.ids(joined) != reference_ids(expected, joined):
            found += [each for each in batch if ours.ids(each) != reference_ids(expected, each)] or [f"a batch with {batch[0]!r}"]
    return [f"{each!a}: {ours.ids(each)}, not {reference_ids(expected, each)}" for each in found[:10]]


@pytest.mark.parametrize("family", ["albert", "albert with folding", "xlm-roberta", "deberta"])
def test_scalars_with_a_vocabulary_of_characters(family: str) -> None:
    expected = reference(family)
    ours = Kernels(expected)
    for name, context in CONTEXTS.items():
        codes = SCALARS if name == "alone" and family == "albert" else NEAR
        assert differences(ours, expected, [context.format(chr(code)) for code in codes]) == []


@needs_shared
def test_all_scalars_with_the_pieces_of_albert() -> None:
    expected = albert(shared_pieces())
    ours = Kernels(expected)
    for context in CONTEXTS.values():
        assert differences(ours, expected, [context.format(chr(code)) for code in SCALARS]) == []


def lines_of_text() -> Iterator[str]:
    """Paragraphs of Wikipedia, and lines of data sets."""
    with lzma.open(SHARED / "data" / "corpus" / "wiki" / "valid.txt.xz", "rt", encoding="utf-8") as file:
        yield from file.read().split("\n")
    for path in sorted((SHARED / "data").glob("*/*/*.tsv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from file.read().split("\n")


@needs_shared
def test_a_hundred_thousand_lines_with_the_pieces_of_albert() -> None:
    expected = albert(shared_pieces())
    ours = Kernels(expected)
    lines = [line for line, _ in zip(lines_of_text(), range(100_000), strict=False)]
    assert len(lines) == 100_000
    wrong = []
    for begin in range(0, len(lines), 10_000):
        batch = lines[begin : begin + 10_000]
        wanted = expected.encode_batch(batch, add_special_tokens=False)
        wrong += [line for line, encoding in zip(batch, wanted, strict=True) if ours.run(line, 8192)[0] != encoding.ids]
    assert wrong == []


def test_a_charsmap_is_read_whole() -> None:
    rules = nfkc_rules()
    shortest = {key.encode(): text for key, text in rules.items() if not any(key[:size] in rules for size in range(1, len(key)))}
    assert read_charsmap(nfkc(), "here") == shortest


def test_a_damaged_charsmap_is_refused_or_read() -> None:
    data = bytearray(nfkc()[:4]) + nfkc()[4:]
    with pytest.raises(ConversionError, match="cut off"):
        read_charsmap(bytes(data[:5000]), "here")
    units = int.from_bytes(data[:4], "little") // 4
    for index in range(0, units, max(units // 40, 1)):
        damaged = bytearray(data)
        damaged[4 + 4 * index : 8 + 4 * index] = b"\xff\xff\xff\x7f"
        try:
            read_charsmap(bytes(damaged), "here")
        except ConversionError as error:
            assert str(error).startswith("here: ")  # noqa: PT017


def test_the_committed_tables_are_what_the_generator_makes() -> None:
    normalization_tables.require_version(pytest.skip)
    assert normalization_tables.grapheme_tables() == grapheme_data.TABLES
    assert normalization_tables.foldings() == FOLDINGS


def test_the_tables_stay_small() -> None:
    assert sum(map(len, grapheme_data.TABLES.values())) < 20_000
