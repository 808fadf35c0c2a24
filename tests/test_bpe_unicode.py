"""Every Unicode scalar is tokenized by byte-level BPE as the `tokenizers` package does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bpe_tokenizer import ROBERTA, BpeKernels, load, reference_ids, revealing, roberta
from test_wordpiece_unicode import SCALARS

pytest.importorskip("tokenizers")
needs_shared = pytest.mark.skipif(not ROBERTA.is_dir(), reason="needs ../shared with RoBERTa's vocabulary")

BATCH = 16384
CONTEXTS: dict[str, Callable[[str], str]] = {
    "alone": lambda char: char,
    "inside a word": lambda char: f"a{char}b",
    "after an accent, before a space": lambda char: f"e\u0301{char} x",
}


def differences(kernels: BpeKernels, expected: Any, texts: list[str]) -> list[str]:
    """The texts with other ids than expected; each is its own text for both."""
    found = []
    for begin in range(0, len(texts), BATCH):
        batch = texts[begin : begin + BATCH]
        wanted = [encoding.ids for encoding in expected.encode_batch_fast(batch, add_special_tokens=False)]
        found += [text for text, ids in zip(batch, wanted, strict=True) if kernels.ids(text) != ids]
    return [f"{each!a}: {kernels.ids(each)}, not {reference_ids(expected, each)}" for each in found[:10]]


def joined(texts: list[str], between: str = "\n") -> list[str]:
    """64 of the texts at a time as one."""
    return [between.join(texts[begin : begin + 64]) for begin in range(0, len(texts), 64)]


def test_no_scalar_is_in_the_wrong_class() -> None:
    """A character and the next are in one word, where they can merge, if both are letters, numbers, or neither and no white space."""
    kernels, expected = load(revealing)
    assert differences(kernels, expected, joined([f"{chr(code)}#" for code in SCALARS], " ")) == []
    assigned = [chr(code) for code in SCALARS if not 0x40000 <= code < 0xE0000]  # the others are neither letters nor numbers
    for following in "a1":
        assert differences(kernels, expected, joined([char + following for char in assigned], " ")) == []


def test_classes_are_revealed() -> None:
    """The test above would fail if one character were in another class."""
    kernels, _ = load(revealing)
    sizes = {char: [len(kernels.ids(char + other)) - len(char.encode()) for other in "a1#"] for char in "\u00e9\u00bd\u00bf\u2003"}
    assert sizes == {"\u00e9": [0, 1, 1], "\u00bd": [1, 0, 1], "\u00bf": [1, 1, 0], "\u2003": [1, 1, 1]}


@needs_shared
@pytest.mark.parametrize("context", list(CONTEXTS)[1:])
def test_all_scalars_with_the_vocabulary_of_roberta(context: str) -> None:
    assert differences(*roberta(), joined([CONTEXTS[context](chr(code)) for code in SCALARS])) == []


@needs_shared
def test_all_scalars_as_texts_of_their_own() -> None:
    assert differences(*roberta(), [CONTEXTS["alone"](chr(code)) for code in SCALARS]) == []
