"""Every Unicode scalar is tokenized by byte-level BPE as the `tokenizers` package does it; and real text."""

from __future__ import annotations

import lzma
import random
from collections.abc import Callable
from typing import Any

import pytest
from bpe_tokenizer import ROBERTA, BpeKernels, load, reference_ids, roberta
from test_wordpiece_unicode import SCALARS
from text_tokenizer import SHARED

pytest.importorskip("tokenizers")
needs_shared = pytest.mark.skipif(not ROBERTA.is_dir(), reason="needs ../shared with RoBERTa's vocabulary and the Wikipedia text")

BATCH = 16384
CONTEXTS: dict[str, Callable[[str], str]] = {
    "alone": lambda char: char,
    "inside a word": lambda char: f"a{char}b",
    "after an accent, before a space": lambda char: f"e\u0301{char} 1{char}1 #{char}#",
}


def differences(kernels: BpeKernels, expected: Any, texts: list[str]) -> list[str]:
    """The texts with other ids than expected; each is its own text for both."""
    found = []
    for begin in range(0, len(texts), BATCH):
        batch = texts[begin : begin + BATCH]
        wanted = [encoding.ids for encoding in expected.encode_batch_fast(batch, add_special_tokens=False)]
        found += [text for text, ids in zip(batch, wanted, strict=True) if kernels.ids(text) != ids]
    return [f"{each!a}: {kernels.ids(each)}, not {reference_ids(expected, each)}" for each in found[:10]]


def joined(texts: list[str]) -> list[str]:
    """64 of the texts at a time as one, with lines between."""
    return ["\n".join(texts[begin : begin + 64]) for begin in range(0, len(texts), 64)]


@pytest.mark.parametrize("context", CONTEXTS)
def test_all_scalars_with_a_small_vocabulary(context: str) -> None:
    assert differences(*load(), joined([CONTEXTS[context](chr(code)) for code in SCALARS])) == []


@needs_shared
@pytest.mark.parametrize("context", CONTEXTS)
def test_all_scalars_with_the_vocabulary_of_roberta(context: str) -> None:
    assert differences(*roberta(), joined([CONTEXTS[context](chr(code)) for code in SCALARS])) == []


@needs_shared
def test_every_scalar_as_a_text_of_its_own() -> None:
    assert differences(*roberta(), [chr(code) for code in SCALARS]) == []


def wikipedia(name: str, count: int | None = None) -> list[str]:
    """Lines of the text, those that are empty left out."""
    with lzma.open(SHARED / "data" / "corpus" / "wiki" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
        return [line for line, _ in zip((line for line in map(str.rstrip, file) if line), range(count or 1 << 30), strict=False)]


@needs_shared
def test_a_hundred_thousand_lines_of_wikipedia() -> None:
    lines = wikipedia("valid")
    lines += wikipedia("train-0", 100_000 - len(lines))
    assert len(lines) == 100_000
    assert differences(*roberta(), lines) == []


@needs_shared
def test_wikipedia_in_disorder() -> None:
    """Lines cut at any character, joined by white space of all kinds and special tokens."""
    generator = random.Random(6)
    lines = wikipedia("valid", 3000)
    texts = []
    for _ in range(3000):
        parts = []
        for line in generator.sample(lines, 3):
            begin = generator.randrange(len(line))
            parts += [
                line[begin : begin + 80],
                generator.choice(["<mask>", " <mask>", "  ", "\n\n", " \u3000 ", "'s", "</s>", "\u00e9", "<", "''"]),
            ]
        texts.append("".join(parts))
    assert differences(*roberta(), texts) == []
