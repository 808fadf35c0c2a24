"""Unigram: the kernels against the `tokenizers` package, and the results that only they define."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unigram_tokenizer import ALBERT_TOKENS, FAMILIES, MARK, Kernels, albert, kernels, reference_ids, references, with_special

from tinybert_rt.errors import InvalidArgumentError, TextTooLongError
from tinybert_rt.text.limits import (
    MAX_UNIGRAM_WORD_BYTES,
    TRUNCATE_ERROR,
    TRUNCATE_LONGEST_FIRST,
    TRUNCATE_ONLY_FIRST,
    TRUNCATE_ONLY_SECOND,
)

pytest.importorskip("tokenizers")

CHARS = (
    "abcdexyzABT  \t\n``''.,!-\u0301\u0323\u200d\u200c\u0600\u00a0\u3000\u00e9\u1ebf\u2026\ufb01\u2122\u00a9\u00ae\u0130\u03a3\u1100\u1161"
    "\u11a8\ud55c\uac00\u0903\u0915\u094d\U0001f600\U0001f3fb\u2581\x01\0\ufffd\u3099\u304b\uff76\uff9e\ufdfa\u00bd\r\u0085\u2028\u1f71\uff01"
)
LITERALS = ("[MASK]", "<mask>", "<s>", "[SEP]", "[CLS]", "<unk>", "[UNK]", "[MASK", "``", "the", " options ")
PAD, UNK, CLS, SEP, MASK = range(5)


def random_text(generator: random.Random, length: int) -> str:
    """Strange characters and literal tokens between plain words."""
    return "".join(generator.choice(CHARS) if generator.random() < 0.9 else generator.choice(LITERALS) for _ in range(length))


@pytest.mark.parametrize("family", FAMILIES)
def test_random_text_is_tokenized_as_the_reference_does(family: str) -> None:
    generator = random.Random(family)
    for _ in range(1200):
        text = random_text(generator, generator.randrange(1, 25))
        assert kernels(family).ids(text) == reference_ids(references()[family], text), ascii(text)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_tokenized_as_the_reference_does(text: str) -> None:
    for family in ("albert", "xlm-roberta", "deberta punctuation"):
        assert kernels(family).ids(text) == reference_ids(references()[family], text)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text", ["", " ", "   ", "\n\t ", "\u3000", MARK, f" {MARK} ", "a ", " a", "  a  b  ", "a\u00a0\u00a0b", "\0", "\x01"]
)
def test_spaces_and_little_else(family: str, text: str) -> None:
    assert kernels(family).ids(text) == reference_ids(references()[family], text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_takes_the_space_before_it(family: str) -> None:
    mask = "<mask>" if family.startswith("xlm") else "[MASK]"
    for text in (f"the {mask} and", f"the{mask}and", f" \n\u3000{mask}", f"{mask} {mask}", f"a {mask}{mask} b", f"{mask}."):
        assert kernels(family).ids(text) == reference_ids(references()[family], text), text


def test_of_equal_sums_the_first_found_stays() -> None:
    pieces = [(name, 0.0) for name in ALBERT_TOKENS] + [(MARK, -1.0), ("a", -1.0), ("b", -1.0), ("ab", -2.0), ("ba", -2.0), ("aba", -3.0)]
    expected = albert(pieces)
    ours = Kernels(expected)
    for size in range(1, 9):
        for number in range(2**size):
            text = "".join("ab"[number >> bit & 1] for bit in range(size))
            assert ours.ids(text) == reference_ids(expected, text), text


def test_sums_are_rounded_as_the_reference_rounds_them() -> None:
    generator = random.Random(3)
    words = ["".join(generator.choice("ab") for _ in range(generator.randrange(1, 5))) for _ in range(60)]
    pieces = [(name, 0.0) for name in ALBERT_TOKENS] + [(MARK, -0.1)]
    # Multiples of 0.1 add up to sums that differ in the last bit only.
    pieces += [(word, -0.1 * generator.randrange(1, 40)) for word in dict.fromkeys(["a", "b", *words])]
    expected = albert(pieces)
    ours = Kernels(expected)
    for _ in range(3000):
        text = "".join(generator.choice("ab") for _ in range(generator.randrange(1, 40)))
        assert ours.ids(text) == reference_ids(expected, text), text


def test_neighbouring_unknown_characters_are_one_token() -> None:
    ours = kernels("albert")
    assert ours.ids("\u2603\u2603\u2603") == [*ours.ids(MARK), UNK]
    assert ours.ids("\u2603 \u2603") == [*ours.ids(MARK), UNK] * 2


INVALID = [b"\xff", b"a\xffb", b"a\x80b", b"\xc0\xafa", b"a\xc3", b"\xe0\x80\x80", b"a\xe4\xb8", b"\xed\xa0\x80", b"\xf0\x9f\x98a\xf0\x9f"]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_maximal_invalid_part_counts_as_a_replacement_character(family: str) -> None:
    ours = kernels(family)
    generator = random.Random(family)
    fuzz = [bytes(generator.choice(b"a`\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\xed\xa0 .[\xcc\x81") for _ in range(12)) for _ in range(300)]
    for data in INVALID + fuzz:
        assert ours.ids(data) == ours.ids(data.decode(errors="replace")), data


def test_a_capacity_limits_what_is_written_and_not_what_is_counted() -> None:
    ours = kernels("deberta punctuation")
    text = "the options, and [SEP] \u4e2d\u2026\u2603 b" * 3
    ids, spans, total = ours.run(text)
    for capacity in range(total + 2):
        assert ours.run(text, capacity) == (ids[:capacity], spans[:capacity], total)


@pytest.mark.parametrize("unit", ["a", "\u00e9", "\u0301", "\ud55c", "\xff", " ", "`", "\u2603", "[", "\u2581", "\u200d"])
@pytest.mark.parametrize("family", ["albert", "xlm-roberta converted"])
def test_ten_megabytes_take_linear_time(family: str, unit: str) -> None:
    data = unit.encode() if unit != "\xff" else b"\xff"
    data = data * (10_000_000 // len(data))
    begin = time.perf_counter()
    kernels(family).run(data, 8)
    assert time.perf_counter() - begin < 30


def test_words_are_whole_up_to_the_limit_and_cut_between_characters_above_it() -> None:
    ours, expected = kernels("albert"), references()["albert"]
    fits = "options" * 600
    text = fits[: MAX_UNIGRAM_WORD_BYTES - len(MARK.encode())]
    assert ours.ids(text) == reference_ids(expected, text)
    # The part behind the cut is a word without a mark in front.
    assert ours.ids(text + "a") == [*ours.ids(text), expected.token_to_id("a")]
    # Unknown characters stay one token across cuts, and no character is torn apart.
    assert ours.ids("\u2603" * 5000) == ours.ids("\u2603")


def test_spans_are_the_bytes_of_words() -> None:
    ours = kernels("albert")
    text = "  The \u00e9t\u00e9s  \u2026x [MASK] \ufb01"
    data = text.encode()
    words = [data[begin:end].decode() for begin, end in ours.run(text)[1]]
    assert list(dict.fromkeys(words)) == ["The", "\u00e9t\u00e9s", "\u2026x", " [MASK]", "\ufb01"]
    data = b"a\xff \xf0\x9f\x98 b"
    assert {data[begin:end] for begin, end in ours.run(data)[1]} == {b"a\xff", b"\xf0\x9f\x98", b"b"}


@pytest.mark.parametrize("family", ["albert with a charsmap", "xlm-roberta", "deberta", "deberta punctuation"])
def test_spans_are_words_of_the_reference(family: str) -> None:
    """Words of plain ASCII: the reference's offsets of whole words are right there."""
    generator = random.Random(family)
    ours, expected = kernels(family), references()[family]
    for _ in range(200):
        text = "".join(generator.choice(["the", "options", "x", ",", " ", "  ", "."]) for _ in range(12))
        encoding = expected.encode(text, add_special_tokens=False)
        wanted: dict[int, list[int]] = {}
        for index, word in enumerate(encoding.word_ids):
            begin, end = encoding.offsets[index]
            if begin < end and text[begin:end].strip():
                begin += len(text[begin:end]) - len(text[begin:end].lstrip())
                first, last = wanted.get(word, [begin, end])
                wanted[word] = [min(first, begin), max(last, end)]
        for word, span in zip(encoding.word_ids, ours.run(text)[1], strict=True):
            if word in wanted:
                assert span == wanted[word], text


# ---------------------------------------------------------------- special tokens, pairs, truncation

POLICIES = {TRUNCATE_LONGEST_FIRST: "longest_first", TRUNCATE_ONLY_FIRST: "only_first", TRUNCATE_ONLY_SECOND: "only_second"}


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
@pytest.mark.parametrize("family", ["albert", "xlm-roberta"])
def test_truncation_is_the_same_as_the_reference_does(family: str, policy: int, pair: bool) -> None:
    ours, expected = kernels(family), references()[family]
    generator = random.Random(policy + 10 * pair)
    least = 2 if not pair else 4 if family == "xlm-roberta" else 3
    for _ in range(60):
        text, other = (random_text(generator, generator.choice([0, 0, 1, 2, 5, 12, 30])) for _ in range(2))
        given_pair = other if pair else None
        expected.no_truncation()
        whole = expected.encode(text, given_pair)
        for max_tokens in {least + 1, 5, 8, len(whole) - 1, len(whole), len(whole) + 1}:
            if max_tokens < least:
                continue
            status, ids, types, total, truncated = ours.tokenize(text, given_pair, max_tokens, policy)
            expected.enable_truncation(max_tokens, strategy=POLICIES[policy])
            assert total == len(whole)
            wanted = truncated_or_none(expected, text, given_pair)
            if wanted is None:
                assert (status, ids) == (TextTooLongError.code, [])
                continue
            assert (status, ids, types) == (0, wanted.ids, wanted.type_ids), (ascii(text), ascii(other), max_tokens)
            assert truncated == (len(whole) > max_tokens)
    expected.no_truncation()


def test_a_text_that_fits_is_no_error_and_a_longer_one_is() -> None:
    ours = kernels("albert")
    size = len(ours.ids("the options"))
    assert ours.tokenize("the options", None, size + 2, TRUNCATE_ERROR)[0] == 0
    assert ours.tokenize("the options", None, size + 1, TRUNCATE_ERROR)[0] == TextTooLongError.code
    assert ours.tokenize("", "", 8, TRUNCATE_ERROR) == (0, [CLS, SEP, SEP], [0, 0, 1], 3, 0)
    assert ours.tokenize("a", "b", 2, TRUNCATE_ERROR)[0] == InvalidArgumentError.code


def test_the_trained_vocabulary_has_pieces_of_many_lengths() -> None:
    """Else the tests above say little."""
    assert len({len(piece) for piece, _ in with_special(())}) > 6
