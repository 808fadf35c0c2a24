"""WordPiece: the kernels against the `tokenizers` package, and the results that only they define."""

from __future__ import annotations

import random
import time
import unicodedata
from itertools import chain, pairwise
from typing import Any

import pytest
from text_tokenizer import ALL_FLAGS, CASED_FLAGS, SPECIAL, Kernels, reference, reference_ids

from tinybert_rt.errors import InvalidArgumentError, TextTooLongError
from tinybert_rt.format.layout import CLEAN_TEXT, LOWERCASE, SPLIT_CJK, STRIP_ACCENTS
from tinybert_rt.text.limits import (
    MAX_WORD_CHARS,
    TRUNCATE_ERROR,
    TRUNCATE_LONGEST_FIRST,
    TRUNCATE_ONLY_FIRST,
    TRUNCATE_ONLY_SECOND,
)

pytest.importorskip("tokenizers")

# Marks of every kind: dropped or kept when accents are stripped, of many combining classes, class 0, and their bases.
MARKS = (
    "\u0300\u0301\u0323\u0327\u0345\u0334\u034f\u05b0\u064b\u3099\u302e\u302f\u1b44\u1baa\ua953\u1734\u08d4\u08e3\u1dfb"
    "\U0001d165\U0001d166\U0001d16d\U0001d172\U000111c0\U00011446\U0001e000\U0001e944\u0898\u1715\u093f\u09be\u0cd5\ufe0f"
)
STRANGE = (
    "\0\x01\t\n\x0b\x0c\r\x1c\x7f\x80\x85\xa0\xad\u1680\u180e\u2003\u200b\u200d\u2028\u2029\u202e\u2060\u3000\ufeff\ufffd"
    "\ue000\U000f0000\ufffe\uffff\u0378\u0130\u0131\u1e9e\u00df\u03a3\u03c2\u01c5\ufb01\u212b\u2126\u1fef\u037e\u2260\u226e"
    "\u0344\u0958\u0cca\uf900\U0002f800\u4e2d\U00020000\U0002b820\uac00\ud55c\U0001d15e\U0001d1bf\U0001f600\u061d\u166d\u2e43"
)
CHARS = "abcxyzABC" + "\u00e9\u00c5\u1ec7\u0434\u0416" + ".,-[]#'!" + "  " + MARKS + STRANGE
LITERALS = [*SPECIAL, "[CLS", "CLS]", "[", "##", "##a", "[unk]"]


def vocabulary() -> list[str]:
    """The special tokens; every character above, and what becomes of it, as a word and as a continuation; some longer pieces."""
    chars = set(CHARS)
    for each in CHARS:
        chars.update(unicodedata.normalize("NFD", each.lower()), unicodedata.normalize("NFD", each))
    chars = sorted(chars - {"\0", " "})
    longer = ["abc", "ab", "xyz", "##bc", "##yz", "[CLS", "a.b"]
    return list(dict.fromkeys([*SPECIAL, *chars, *longer, *(f"##{char}" for char in chars)]))


VOCABULARY = vocabulary()
UNK, CLS, SEP, PAD, MASK = range(5)


def random_text(generator: random.Random, length: int) -> str:
    """Runs of marks, strange characters and literal tokens between plain words."""
    parts = []
    for _ in range(length):
        kind = generator.random()
        if kind < 0.35:
            parts.append(generator.choice("abcxyzAB "))
        elif kind < 0.6:
            parts.append("".join(generator.choice(MARKS) for _ in range(generator.randrange(1, 6))))
        elif kind < 0.9:
            parts.append(generator.choice(CHARS))
        else:
            parts.append(generator.choice(LITERALS))
    return "".join(parts)


@pytest.mark.parametrize("flags", range(16))
def test_random_text_is_tokenized_as_the_reference_does(flags: int) -> None:
    kernels, expected = Kernels(VOCABULARY, flags), reference(VOCABULARY, flags)
    generator = random.Random(flags)
    for _ in range(1500):
        text = random_text(generator, generator.randrange(1, 25))
        assert kernels.wordpiece(text) == reference_ids(expected, text), ascii(text)


@pytest.mark.parametrize("max_word_chars", [1, 2, 5, 100])
@pytest.mark.parametrize("flags", [ALL_FLAGS, CASED_FLAGS])
def test_words_of_more_than_max_word_chars_are_unknown(flags: int, max_word_chars: int) -> None:
    kernels, expected = Kernels(VOCABULARY, flags, max_word_chars), reference(VOCABULARY, flags, max_word_chars)
    words = [unit * count for unit in ("a", "\u00e9", "\u0416", "\u0130", "a\u302e\u1b44", "\ud55c") for count in range(1, 105)]
    for text in [*words, " ".join(words)]:
        assert kernels.wordpiece(text) == reference_ids(expected, text), ascii(text)


def test_long_runs_of_marks_are_ordered() -> None:
    kernels, expected = Kernels(VOCABULARY, ALL_FLAGS), reference(VOCABULARY, ALL_FLAGS)
    generator = random.Random(1)
    for size in (2, 10, 50, 98, 99, 100, 101, 300):
        text = "a" + "".join(generator.choice(MARKS) for _ in range(size)) + "b \u0323"
        assert kernels.wordpiece(text) == reference_ids(expected, text)


@pytest.mark.parametrize("flags", [ALL_FLAGS, CASED_FLAGS, 0])
def test_special_tokens_are_found_in_the_raw_text(flags: int) -> None:
    kernels, expected = Kernels(VOCABULARY, flags), reference(VOCABULARY, flags)
    texts = ["[CLS]", "a[SEP]b", "[MASK][MASK]", "[[CLS]]", "[CL\u200bS]", "[cls]", "e[MASK]\u0301", "\u302e[MASK]\u1b44"]
    for text in [*texts, "[UNK", "]", "[PAD] [PAD]", "a.[SEP].b", "[SEP]" * 9]:
        assert kernels.wordpiece(text) == reference_ids(expected, text), text
    assert kernels.wordpiece("ab[SEP]c") == [VOCABULARY.index("ab"), SEP, VOCABULARY.index("c")]


def test_the_longest_of_the_added_tokens_is_taken() -> None:
    import tokenizers

    pieces = ["[UNK]", "<a", "<a>", "<a><b>", "\u00e9\u00e9", "\u00e9", "x", "<", "a", ">"]
    kernels, expected = Kernels(pieces, CASED_FLAGS), reference(pieces, CASED_FLAGS)
    expected.add_special_tokens([tokenizers.AddedToken(piece, special=True, normalized=False) for piece in pieces[1:5]])
    kernels.set_added([0, 1, 2, 3, 4])
    for text in ("<a><b>", "x<a>x<a<a><b", "\u00e9\u00e9\u00e9", "x\u00e9\u00e9x", "\u00e9", "<a", "<", ""):
        assert kernels.wordpiece(text) == reference_ids(expected, text), text


def test_a_vocabulary_without_continuations() -> None:
    pieces = ["[UNK]", "a", "ab"]
    kernels, expected = Kernels(pieces, ALL_FLAGS), reference(pieces, ALL_FLAGS)
    for text in ("a", "ab", "abc", "aba b"):
        assert kernels.wordpiece(text) == reference_ids(expected, text)


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b\ufeff", "\0\0", b"\xff\xff"])
def test_texts_without_a_token(text: str | bytes) -> None:
    assert Kernels(VOCABULARY, ALL_FLAGS).wordpiece(text) == []


INVALID = [
    b"\xff",
    b"a\xffb",
    b"a\x80b",
    b"\xc0\xafa",
    b"a\xc3",
    b"\xc3(",
    b"\xe0\x80\x80",
    b"a\xe4\xb8",
    b"\xe4\xb8a",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98",
    b"\xf0\x9f\x98a\xf0\x9f",
    b"\xf4\x90\x80\x80",
    b"\xf5a",
    b"\xf8\x88\x80\x80\x80",
    b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbfA",
]


@pytest.mark.parametrize("flags", range(16))
def test_each_maximal_invalid_part_counts_as_a_replacement_character(flags: int) -> None:
    kernels = Kernels(VOCABULARY, flags)
    generator = random.Random(flags)
    fuzz = [bytes(generator.choice(b"a\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xed\xa0 .[") for _ in range(12)) for _ in range(500)]
    for data in INVALID + fuzz:
        assert kernels.wordpiece(data) == kernels.wordpiece(data.decode(errors="replace")), data


def test_the_end_of_the_text_is_not_read_over() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    data = "a \u4e2d \U0001f600 [CLS] \u00e9".encode()
    for size in range(len(data) + 1):
        exact = bytes(bytearray(data[:size]))
        assert kernels.wordpiece(exact) == kernels.wordpiece(exact.decode(errors="replace"))


def test_a_capacity_limits_what_is_written_and_not_what_is_counted() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    text = "abcabc xyz. [SEP] \u4e2d\u4e2d b" * 3
    whole = kernels.wordpiece(text)
    for capacity in range(len(whole) + 2):
        assert kernels.wordpiece_total(text, capacity) == (whole[:capacity], len(whole))


@pytest.mark.parametrize("unit", ["a", "\u00e9", "\u0301", "\u302e\u1b44", "\U0001d16d", "\ud55c", "\xff", "[", "\u4e2d", "#"])
def test_ten_megabytes_take_linear_time(unit: str) -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    data = unit.encode() if unit != "\xff" else b"\xff"
    data = data * (10_000_000 // len(data))
    begin = time.perf_counter()
    ids, total = kernels.wordpiece_total(data, 8)
    assert time.perf_counter() - begin < 20
    if unit in "a\u00e9\u302e\u1b44\ud55c\U0001d16d":
        assert ids == [UNK]
    assert total == {"\u0301": 0, "\xff": 0, "[": len(data), "#": len(data), "\u4e2d": len(data) // 3}.get(unit, 1)


def test_a_tokenizer_cannot_ask_for_longer_words_than_the_scratch_has_room_for() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS, max_word_chars=1 << 40)
    assert len(kernels.wordpiece("\U0001f600" * MAX_WORD_CHARS)) == MAX_WORD_CHARS
    assert kernels.wordpiece("\U0001f600" * (MAX_WORD_CHARS + 1)) == [UNK]
    assert kernels.wordpiece("a" * (MAX_WORD_CHARS + 1)) == [UNK]


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("flags", [ALL_FLAGS, CASED_FLAGS, CLEAN_TEXT | STRIP_ACCENTS, SPLIT_CJK | LOWERCASE])
def test_windows_together_are_the_whole_text(flags: int) -> None:
    kernels = Kernels(VOCABULARY, flags)
    generator = random.Random(flags)
    for _ in range(300):
        text = random_text(generator, generator.randrange(1, 60))
        whole = kernels.wordpiece(text)
        for capacity in (1, 2, 3, 7, 20, 1000):
            windows = kernels.windows(text, capacity)
            assert list(chain.from_iterable(windows)) == whole, ascii(text)
            assert all(len(window) <= capacity for window in windows)


def test_windows_do_not_split_words() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    text = "abcabc xyzxyz. [SEP] \u4e2d\u4e2d b " * 3
    continuation = {index for index, piece in enumerate(VOCABULARY) if piece.startswith("##")}
    for capacity in range(4, 20):
        windows = kernels.windows(text, capacity)
        assert all(window[0] not in continuation for window in windows)
        # The longest word has 3 tokens, so a window that has room for 3 more is the last.
        assert all(len(first) + 3 > capacity for first, _ in pairwise(windows))


def test_a_word_longer_than_a_window_is_split() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    whole = kernels.wordpiece("c" * 10)
    assert len(whole) == 10
    assert kernels.windows("a " + "c" * 10 + " b", 4) == [
        kernels.wordpiece("a"),
        whole[:4],
        whole[4:8],
        [*whole[8:], *kernels.wordpiece("b")],
    ]


# ---------------------------------------------------------------- special tokens, pairs, truncation

POLICIES = {TRUNCATE_LONGEST_FIRST: "longest_first", TRUNCATE_ONLY_FIRST: "only_first", TRUNCATE_ONLY_SECOND: "only_second"}


def texts_of(generator: random.Random, pair: bool) -> tuple[str, str | None]:
    words = [random_text(generator, generator.choice([0, 0, 1, 2, 5, 12, 30])) for _ in range(2)]
    return words[0], words[1] if pair else None


def truncated_or_none(expected: Any, text: str, other: str | None) -> Any:
    """The reference's encoding; None if it says that it cannot truncate that far."""
    try:
        return expected.encode(text, other)
    except Exception as error:
        if "Truncation error" not in str(error):
            raise
        return None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("pair", [False, True])
def test_truncation_is_the_same_as_the_reference_does(policy: int, pair: bool) -> None:
    kernels, expected = Kernels(VOCABULARY, ALL_FLAGS), reference(VOCABULARY, ALL_FLAGS)
    generator = random.Random(policy + 10 * pair)
    for _ in range(400):
        text, other = texts_of(generator, pair)
        expected.no_truncation()
        whole = expected.encode(text, other)
        for max_tokens in {3 if pair else 2, 4, 5, 8, 9, len(whole) - 1, len(whole), len(whole) + 1} - {0, 1, 2 if pair else 1}:
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


def test_a_text_that_fits_is_no_error_and_a_longer_one_is() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    a = VOCABULARY.index("a")
    assert kernels.tokenize("a a", None, 4, TRUNCATE_ERROR) == (0, [CLS, a, a, SEP], [0] * 4, 4, 0)
    assert kernels.tokenize("a a a", None, 4, TRUNCATE_ERROR) == (TextTooLongError.code, [], [], 5, 0)
    assert kernels.tokenize("a a", "a", 5, TRUNCATE_ERROR) == (TextTooLongError.code, [], [], 6, 0)


def test_an_empty_pair_is_a_pair() -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    assert kernels.tokenize("", None, 8, TRUNCATE_LONGEST_FIRST) == (0, [CLS, SEP], [0, 0], 2, 0)
    assert kernels.tokenize("", "", 8, TRUNCATE_LONGEST_FIRST) == (0, [CLS, SEP, SEP], [0, 0, 1], 3, 0)


@pytest.mark.parametrize(("pair", "max_tokens", "policy"), [(None, 1, 0), ("", 2, 0), (None, -5, 0), (None, 8, 4), (None, 8, -1)])
def test_no_room_for_the_special_tokens_or_an_unknown_policy(pair: str | None, max_tokens: int, policy: int) -> None:
    kernels = Kernels(VOCABULARY, ALL_FLAGS)
    assert kernels.tokenize("a", pair, max_tokens, policy)[0] == InvalidArgumentError.code
