"""Damaged files with a byte-level BPE vocabulary: refused for a reason, or harmless."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bpe_tokenizer import add_token, write_bpe_model
from format_files import patched, reader, split, tokenizer_address
from text_tokenizer import ffi, function

from tinybert_rt import errors
from tinybert_rt.format import layout
from tinybert_rt.text.limits import TRUNCATE_LONGEST_FIRST, WORD_SCRATCH_BYTES

pytest.importorskip("tokenizers")
TEXT = (
    "the tokens of\u00e9\u4e2d xyzzy don't  ahahahahah <mask> \n\n <r>   \ud55c \U0001f600 12 tokenizer's header".encode()
    + b"\xff\0"
    + b"he" * 200
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file whose tokenizer has merges and options of added tokens; its weights are zero."""
    return write_bpe_model(tmp_path_factory.mktemp("bpe"), add_token("<r>", rstrip=True)).read_bytes()


def tokenize(model: Any) -> list[int]:
    """The ids of TEXT by the tokenizer of an opened model."""
    ids = np.full(2001, -77, np.int32)
    scratch = np.zeros(WORD_SCRATCH_BYTES + 64, np.uint8)
    info = ffi.new("kernel_tokenize_info *")
    text = int(ffi.cast("intptr_t", ffi.from_buffer(TEXT)))
    tokenizer = ffi.cast("kernel_tokenizer *", tokenizer_address(model))
    spans = np.zeros((2000, 2), np.int32)
    function("text_tokenize")(
        tokenizer,
        text,
        len(TEXT),
        text,
        len(TEXT),
        2000,
        TRUNCATE_LONGEST_FIRST,
        ids.ctypes.data,
        0,
        spans.ctypes.data,
        info,
        scratch.ctypes.data,
    )
    assert ids[2000] == -77
    assert not scratch[WORD_SCRATCH_BYTES:].any()
    found: list[int] = ids[: info.count].tolist()
    assert ((spans[: info.count] >= -1) & (spans[: info.count] <= len(TEXT))).all()
    return found


CASES: dict[str, tuple[type[errors.TinyBertError], str, str, int, int]] = {
    "byte_token_negative": (errors.MergeTableError, "element 7", "tokenizer.bytes", 7, -1),
    "byte_token_outside": (errors.MergeTableError, "element 255", "tokenizer.bytes", 255, 1001),
    "starts_begin_late": (errors.MergeTableError, "element 0", "tokenizer.merge_starts", 0, 1),
    "starts_descend": (errors.MergeTableError, "element 900", "tokenizer.merge_starts", 900, 0),
    "starts_outside": (errors.MergeTableError, "element 4", "tokenizer.merge_starts", 4, 1 << 31),
    "starts_end_early": (errors.MergeTableError, "element 1001", "tokenizer.merge_starts", 1001, 738),
    "starts_padding": (errors.PaddingError, "'tokenizer.merge_starts'", "tokenizer.merge_starts", 1002, 1),
    "right_outside": (errors.MergeTableError, "element 2214", "tokenizer.merges", 738 * 3, 1001),
    "rank_outside": (errors.MergeTableError, "element 4", "tokenizer.merges", 4, 739),
    "new_token_outside": (errors.MergeTableError, "element 5", "tokenizer.merges", 5, (1 << 32) - 1),
    "merges_padding": (errors.PaddingError, "'tokenizer.merges'", "tokenizer.merges", 739 * 3, 1),
    "unknown_option": (errors.PaddingError, "'tokenizer.added_options'", "tokenizer.added_options", 1, 4),
    "options_padding": (errors.PaddingError, "'tokenizer.added_options'", "tokenizer.added_options", 6, 1),
}


def test_the_file_is_valid(valid: bytes) -> None:
    model = reader().open(valid)
    assert (model.tokenizer.vocab_size, model.tokenizer.added_count) == (1001, 6)
    assert split(valid)[0]["tokenizer.merges"]["shape"] == [layout.pad(739, 16), 3]
    assert max(tokenize(model)) == 1000


@pytest.mark.parametrize("name", CASES)
def test_is_refused(name: str, valid: bytes) -> None:
    error, says, tensor, index, value = CASES[name]
    with pytest.raises(errors.TinyBertError) as caught:
        reader().open(patched(valid, tensor, index, value))
    assert type(caught.value) is error, caught.value
    assert says in str(caught.value)
    assert tensor in str(caught.value)


def test_right_tokens_that_do_not_ascend_are_refused(valid: bytes) -> None:
    rights = [0, 1]
    data = valid
    starts = reader().view(reader().open(valid).tokenizer.merge_starts, "<u4", 1002)
    row = int(starts[np.argmax(np.diff(starts) > 1)])
    for place, right in enumerate(rights[::-1]):
        data = patched(data, "tokenizer.merges", 3 * (row + place), right)
    with pytest.raises(errors.MergeTableError, match=f"element {3 * row + 3} "):
        reader().open(data)


def shuffled(rng: np.random.Generator) -> Callable[[bytes], bytes]:
    """A change of some numbers of the tokenizer's tensors: other values that could stand there."""

    def change(data: bytes) -> bytes:
        for _ in range(int(rng.integers(1, 40))):
            kind = int(rng.integers(6))
            if kind == 0:
                data = patched(data, "tokenizer.bytes", int(rng.integers(256)), int(rng.integers(1001)))
            elif kind == 1:
                data = patched(data, "tokenizer.merges", 3 * int(rng.integers(739)) + 1, int(rng.integers(739)))
            elif kind == 2:
                data = patched(data, "tokenizer.merges", 3 * int(rng.integers(739)) + 2, int(rng.integers(1001)))
            elif kind == 3:
                data = patched(data, "tokenizer.trie", 2 * int(rng.integers(1000)) + 1, int(rng.integers(1002)))
            elif kind == 4:
                data = patched(data, "tokenizer.trie", 2 * int(rng.integers(1000)), int(rng.integers(1 << 18)))
            else:
                data = patched(data, "tokenizer.pieces", int(rng.integers(200)), int(rng.choice(list(b" <e\xe4"))))
        return data

    return change


@pytest.mark.parametrize("seed", range(3))
def test_damaged_merges_end_with_tokens_of_the_vocabulary(valid: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    change = shuffled(rng)
    opened = 0
    for _ in range(300):
        data = np.frombuffer(change(valid), np.uint8)
        if reader().status(data) == 0:
            opened += 1
            assert set(tokenize(reader().model)) <= set(range(1001))
    assert opened > 100


def test_every_byte_of_the_merges_is_refused_or_harmless(valid: bytes) -> None:
    data = np.frombuffer(valid, np.uint8).copy()
    header, body = split(valid)
    behind = len(valid) - len(body)
    rng = np.random.default_rng(0)
    for name in ("tokenizer.added_options", "tokenizer.bytes", "tokenizer.merge_starts", "tokenizer.merges"):
        begin, end = (behind + offset for offset in header[name]["data_offsets"])
        for position in rng.integers(begin, end, 400).tolist():
            flip = int(rng.choice([1, 16, 128, 255]))
            data[position] ^= flip
            if reader().status(data) == 0:
                assert set(tokenize(reader().model)) <= set(range(1001))
            data[position] ^= flip
    assert reader().status(data) == 0
