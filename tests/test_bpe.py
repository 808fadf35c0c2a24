"""Byte-level BPE: the kernels against the `tokenizers` package, and the results that only they define."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bpe_tokenizer import MASK, SPECIAL, BpeKernels, add_token, load, prefix_space, reference_ids, write_in_parts

from tinybert_rt.errors import InvalidArgumentError, TextTooLongError
from tinybert_rt.text.limits import (
    PART_BYTES,
    TRUNCATE_ERROR,
    TRUNCATE_LONGEST_FIRST,
    TRUNCATE_ONLY_FIRST,
    TRUNCATE_ONLY_SECOND,
)

pytest.importorskip("tokenizers")

CHARS = (
    "abcxyzABC0123 \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2003\u200b\u2028\u3000\ufeff\ufffd\0\x01\x7f"
    "'''''.,-<>/#[]\u00e9\u00c5\u0301\u4e2d\u6587\u0416\ud55c\u0661\u00bd\u2163\U0001f600\U0001d7d8\U00020000\u0378\ue000\U0010ffff"
)
PARTS = [
    *SPECIAL,
    "<mask",
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "'l",
    "'r",
    "the",
    " model",
    "vector ",
    "  ",
    "\n\n",
    " \n ",
    "tokens",
]
PARTS += ["\u00e9t\u00e9", "ahah", "1234"]


def random_text(generator: random.Random, length: int) -> str:
    """Characters of all classes, contractions, special tokens and pieces of words."""
    return "".join(generator.choice(CHARS if generator.random() < 0.6 else PARTS) for _ in range(length))


@pytest.fixture(scope="module")
def plain() -> tuple[BpeKernels, Any]:
    return load()


@pytest.mark.parametrize("change", [None, prefix_space])
def test_random_text_is_tokenized_as_the_reference_does(change: Callable[[Any], object] | None) -> None:
    kernels, expected = load(change)
    generator = random.Random(1)
    for _ in range(15_000):
        text = random_text(generator, generator.randrange(0, 25))
        assert kernels.ids(text) == reference_ids(expected, text), ascii(text)


TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    " \n",
    "\n ",
    "a  b",
    "a \n b",
    "a\n\n b",
    "   a",
    "a   ",
    "a\u3000b",
    "a \u3000b",
    "a\u3000 b",
    "don't we'll they're I've I'm he'd it's",
    "DON'T 'sword ''s '  's 'll'll 're've",
    " 's",
    "'",
    "' s",
    "x'",
    "x'l",
    "12'34",
    "a1b2 c3",
    " 1",
    "...a",
    " ...",
    "<mask>",
    "a <mask> b",
    "a  \n<mask>  b",
    "<mask> <mask>",
    "<mask>\u3000<mask>",
    "<s></s>",
    "< mask>",
    "\u00a0<mask>",
    "\0",
    "a\0b \0\0 c",
    "<s>\n",
    "<s> \n<s>x<s> x",
    "the\0",
]


@pytest.mark.parametrize("change", [None, prefix_space])
def test_words_are_those_of_gpt2(change: Callable[[Any], object] | None) -> None:
    kernels, expected = load(change)
    for text in TEXTS:
        assert kernels.ids(text) == reference_ids(expected, text), ascii(text)


def several(*changes: Callable[[Any], object]) -> Callable[[Any], object]:
    def change(parts: Any) -> None:
        for each in changes:
            each(parts)

    return change


@pytest.mark.parametrize("change", [None, prefix_space])
def test_added_tokens_take_the_white_space_around_them(change: Callable[[Any], object] | None) -> None:
    tokens = [
        add_token("<l>", lstrip=True),
        add_token("<r>", rstrip=True),
        add_token("<lr>", lstrip=True, rstrip=True),
        add_token("<l><r>"),
        add_token("\u00e9\u00e9", rstrip=True),
        add_token("<l", normalized=False),
    ]
    kernels, expected = load(several(*tokens, *([change] if change else [])))
    generator = random.Random(2)
    parts = ["<l>", "<r>", "<lr>", "<l", "r>", " ", " ", "\n", "\u3000", "\u00e9", "\u00e9\u00e9", "a", "the", "<mask>", "\u00a0"]
    for _ in range(10_000):
        text = "".join(generator.choice(parts) for _ in range(generator.randrange(1, 14)))
        assert kernels.ids(text) == reference_ids(expected, text), ascii(text)


INVALID = [
    b"\xff",
    b"a\xffb",
    b"a\x80b",
    b"\xc0\xafa",
    b"a\xc3",
    b"\xc3(",
    b"a\xe4\xb8",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98",
    b"\xf0\x9f\x98a",
]
INVALID += [b" \xff", b"\xff\xff \xff", b"\xf4\x90\x80\x80", b"\xe4\xb8<mask>", b"\xff" * 3000, b"a\xc3 <mask>", b"\xe3\x80 <mask>"]


@pytest.mark.parametrize("change", [None, prefix_space])
def test_each_maximal_invalid_part_counts_as_a_replacement_character(change: Callable[[Any], object] | None) -> None:
    kernels, _ = load(change)
    generator = random.Random(3)
    fuzz = [bytes(generator.choice(b"a\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xed\xa0 .'<\n") for _ in range(12)) for _ in range(5000)]
    for data in INVALID + fuzz:
        assert kernels.ids(data) == kernels.ids(data.decode(errors="replace")), data


def test_the_end_of_the_text_is_not_read_over(plain: tuple[BpeKernels, Any]) -> None:
    data = "a \u4e2d \U0001f600 <mask> \u00e9 'll".encode()
    for size in range(len(data) + 1):
        exact = bytes(bytearray(data[:size]))
        assert plain[0].ids(exact) == plain[0].ids(exact.decode(errors="replace"))


def test_a_capacity_limits_what_is_written_and_not_what_is_counted(plain: tuple[BpeKernels, Any]) -> None:
    text = "the ahahahah <mask> \u4e2d\u4e2d b xyzzy" * 3
    whole, total, spans = plain[0].encode(text)
    assert len(whole) == total
    for capacity in range(total + 2):
        assert plain[0].encode(text, capacity) == (whole[:capacity], total, spans[:capacity])


# ---------------------------------------------------------------- long words


@pytest.mark.parametrize("unit", ["a", "ha", "the", "\u00e9", "\u4e2d\u6587", "\U0001f600", "=", " ", "\n", "0", "\0"])
def test_words_of_up_to_4096_bytes_are_exact(unit: str, plain: tuple[BpeKernels, Any]) -> None:
    kernels, expected = plain
    size = len(unit.encode())
    for count in {*range(1, 70), 128, 129, 500, PART_BYTES // size - 1, PART_BYTES // size}:
        assert kernels.ids(unit * count) == reference_ids(expected, unit * count)


def test_random_long_words_are_exact(plain: tuple[BpeKernels, Any]) -> None:
    kernels, expected = plain
    generator = random.Random(4)
    for size in (60, 64, 65, 200, 1000, PART_BYTES):
        for alphabet in ("abcdefghijklmnopqrstuvwxyz", "tehaoinm"):
            text = "".join(generator.choice(alphabet) for _ in range(size))
            assert kernels.ids(text) == reference_ids(expected, text)


@pytest.mark.parametrize("unit", ["h", "ah", "\u00e9", "\u4e2d", "\U0001f600"])
def test_longer_words_are_merged_in_parts(unit: str, plain: tuple[BpeKernels, Any]) -> None:
    kernels, expected = plain
    text = unit * (3 * PART_BYTES // len(unit.encode()) + 5)
    fits = PART_BYTES // len(text[0].encode())
    parts = [text[begin : begin + fits] for begin in range(0, len(text), fits)]
    assert kernels.ids(text) == [token for part in parts for token in reference_ids(expected, part)]


@pytest.mark.parametrize("unit", ["a", "ah", "\u00e9", "\xff", "<", " ", "\n", "<mask>", "\u4e2d", "'", "\0"])
def test_ten_megabytes_take_linear_time(unit: str, plain: tuple[BpeKernels, Any]) -> None:
    data = unit.encode() if unit != "\xff" else b"\xff"
    data = data * (10_000_000 // len(data))
    begin = time.perf_counter()
    ids, total, _ = plain[0].encode(data, 8)
    assert time.perf_counter() - begin < 20
    assert len(ids) == 8
    assert 0 < total <= 3 * len(data)


# ---------------------------------------------------------------- spans


def words_of(kernels: BpeKernels, text: str) -> list[str]:
    data = text.encode()
    spans = kernels.encode(text)[2]
    return [data[begin:end].decode() for index, (begin, end) in enumerate(spans) if index == 0 or spans[index - 1] != [begin, end]]


@pytest.mark.parametrize("change", [None, prefix_space])
def test_spans_are_words_without_the_space_before_them(change: Callable[[Any], object] | None) -> None:
    kernels, _ = load(change)
    assert words_of(kernels, "I don't xyzzy\u00e9! 12") == ["I", "don", "'t", "xyzzy\u00e9", "!", "12"]
    assert words_of(kernels, "ab  \n cd  ") == ["ab", "  \n", "cd", "  "]
    assert words_of(kernels, "ab <mask>cd") == ["ab", " <mask>", "cd"]


def test_a_space_that_is_put_there_has_an_empty_span() -> None:
    kernels, expected = load(prefix_space)
    ids, _, spans = kernels.encode("\na")
    assert ids == reference_ids(expected, "\na")
    assert spans == [[0, 0], [0, 1], [1, 2]]


# ---------------------------------------------------------------- special tokens, pairs, truncation

POLICIES = {TRUNCATE_LONGEST_FIRST: "longest_first", TRUNCATE_ONLY_FIRST: "only_first", TRUNCATE_ONLY_SECOND: "only_second"}


def bert_processing(parts: Any) -> None:
    """A change of tokenizer.json: the special tokens of DeBERTa's pairs."""
    parts["post_processor"] = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}


def truncated_or_none(expected: Any, text: str, other: str | None) -> Any:
    """The reference's encoding; None if it says that it cannot truncate that far."""
    try:
        return expected.encode(text, other)
    except Exception as error:
        if "Truncation error" not in str(error):
            raise
        return None


@pytest.mark.parametrize("change", [None, bert_processing])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pair", [False, True])
def test_truncation_is_the_same_as_the_reference_does(policy: int, pair: bool, change: Callable[[Any], object] | None) -> None:
    kernels, expected = load(change)
    generator = random.Random(policy + 10 * pair)
    least = 2 if not pair else 4 if change is None else 3
    for _ in range(200):
        text, second = (random_text(generator, generator.choice([0, 0, 1, 2, 5, 12, 30])) for _ in range(2))
        other = second if pair else None
        expected.no_truncation()
        whole = expected.encode(text, other)
        for max_tokens in {size for size in (least, 4, 5, 8, 9, len(whole) - 1, len(whole), len(whole) + 1) if size >= least}:
            expected.enable_truncation(max_tokens, strategy=POLICIES[policy])
            status, ids, types, total, truncated = kernels.tokenize(text, other, max_tokens, policy)
            assert total == len(whole)
            wanted = truncated_or_none(expected, text, other)
            if wanted is None:
                assert (status, ids) == (TextTooLongError.code, [])
                continue
            assert status == 0
            assert (ids, types) == (wanted.ids, wanted.type_ids), (ascii(text), ascii(other), max_tokens)
            assert truncated == (len(whole) > max_tokens)


def test_a_pair_has_two_separators_and_no_types(plain: tuple[BpeKernels, Any]) -> None:
    assert plain[0].tokenize("", "", 8, TRUNCATE_LONGEST_FIRST) == (0, [0, 2, 2, 2], [0, 0, 0, 0], 4, 0)
    assert plain[0].tokenize("", "", 3, TRUNCATE_LONGEST_FIRST)[0] == InvalidArgumentError.code
    assert plain[0].tokenize("", "a", 4, TRUNCATE_ERROR)[0] == TextTooLongError.code


# ---------------------------------------------------------------- vocab.json and merges.txt


@pytest.mark.parametrize("family", ["Roberta", "Deberta"])
def test_a_vocabulary_and_merges_in_two_files(family: str, tmp_path: Path) -> None:
    _, expected = load()
    special = SPECIAL if family == "Roberta" else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    kernels = BpeKernels(write_in_parts(tmp_path, special, tokenizer_class=f"{family}Tokenizer"))
    generator = random.Random(5)
    for _ in range(500):
        text = random_text(generator, generator.randrange(0, 25)).replace("<", "a")
        assert kernels.ids(text) == reference_ids(expected, text)
    assert kernels.ids(f"{special[MASK]} {special[MASK]}") == [MASK, MASK]
    gap = [2, 2] if family == "Roberta" else [2]
    types = [0] * 5 if family == "Roberta" else [0, 0, 1]
    assert kernels.tokenize("", "", 9, TRUNCATE_ERROR)[1:3] == ([0, *gap, 2], types[: len(gap) + 2])
