"""Model files with a damaged Unigram tokenizer: refused, or harmless when they tokenize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import patched, reader, small_config, split, tokenizer_address
from test_convert_unigram import write_tokenizer
from test_reader_fuzz import Guarded
from unigram_tokenizer import ffi, function

from tinybert_rt import errors
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.writer import NUMPY_DTYPES, write_model
from tinybert_rt.text.limits import TRUNCATE_LONGEST_FIRST, WORD_SCRATCH_BYTES
from tools.hf_tokenizer import read_tokenizer
from tools.tokenizer_parts import tokenizer_tensors

TEXT = "  The ``options'' d\u00e9j\u00e0 vu \u4e2d\u6587 \u2026 [MASK] e\u0301 ".encode() + b"\xff\0" + b"the" * 100


@pytest.fixture(scope="module", params=["albert with a charsmap", "deberta punctuation"])
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with scores and rules of rewriting; its weights are zero."""
    directory: Path = tmp_path_factory.mktemp("unigram")
    tensors, fields = tokenizer_tensors(read_tokenizer(write_tokenizer(directory / "hf", request.param)))
    config = small_config(**fields)
    specs = file_tensors.tensor_specs(config)
    zeros = {name: np.zeros(shape, NUMPY_DTYPES[dtype]) for name, (dtype, shape) in specs.items() if name != "config"}
    write_model(directory / "small.tbrt", config, {**zeros, **tensors}, {"source": "a test"})
    return (directory / "small.tbrt").read_bytes()


def tokenize(model: Any) -> list[int]:
    """The ids of TEXT by the tokenizer of an opened model."""
    capacity = 2000
    ids = np.full(capacity + 1, -77, np.int32)
    spans = np.zeros((capacity, 2), np.int32)
    scratch = np.zeros(WORD_SCRATCH_BYTES + 64, np.uint8)
    info = ffi.new("kernel_tokenize_info *")
    text = int(ffi.cast("intptr_t", ffi.from_buffer(TEXT)))
    outputs = (ids.ctypes.data, 0, spans.ctypes.data, info, scratch.ctypes.data)
    tokenizer = ffi.cast("kernel_tokenizer *", tokenizer_address(model))
    function("text_tokenize")(tokenizer, text, len(TEXT), text, len(TEXT), capacity, TRUNCATE_LONGEST_FIRST, *outputs)
    assert ids[capacity] == -77
    assert not scratch[WORD_SCRATCH_BYTES:].any()
    assert ((spans[: info.count] >= -1) & (spans[: info.count] <= len(TEXT))).all()
    found: list[int] = ids[: info.count].tolist()
    assert all(0 <= token < model.vocab_size for token in found)
    return found


def header(data: bytes, field: str) -> int:
    """A config field of a file."""
    begin = len(data) - len(split(data)[1])
    return int(np.frombuffer(data, "<i4", layout.CONFIG_SIZE, begin)[layout.CONFIG_INDEX[field]])


def test_a_valid_file_tokenizes(valid: bytes) -> None:
    assert len(tokenize(reader().open(valid))) > 50


CASES: dict[str, tuple[type[errors.TinyBertError], str, str, int, Any]] = {
    "infinite_score": (errors.NonFiniteWeightError, "element 9 ", "tokenizer.scores", 9, float("inf")),
    "score_that_is_no_number": (errors.NonFiniteWeightError, "element 0 ", "tokenizer.scores", 0, float("nan")),
    "padding_of_scores": (errors.PaddingError, "padding", "tokenizer.scores", -1, 1.0),
    "rule_outside": (errors.TrieError, "node 3 ", "tokenizer.rewrite_trie", 7, 2**32 - 1),
    "base_outside": (errors.TrieError, "node 3 ", "tokenizer.rewrite_trie", 6, 0xFFFFFF00),
    "label_of_the_root": (errors.TrieError, "node 0 ", "tokenizer.rewrite_trie", 0, 1),
    "offsets_begin_late": (errors.PieceScoreError, "element 0 ", "tokenizer.rewrite_offsets", 0, 1),
    "offsets_descend": (errors.PieceScoreError, "element 6 ", "tokenizer.rewrite_offsets", 6, 0),
    "offset_outside": (errors.PieceScoreError, "element 6 ", "tokenizer.rewrite_offsets", 6, 2**31),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused(name: str, valid: bytes) -> None:
    error, says, tensor, index, value = CASES[name]
    with pytest.raises(errors.TinyBertError) as caught:
        reader().open(patched(valid, tensor, index, value))
    assert type(caught.value) is error, caught.value
    assert says in str(caught.value)
    assert tensor in str(caught.value)


@pytest.mark.parametrize(("kind", "scored"), [(1, 3), (3, 0), (3, 1 << 20)])
def test_scores_belong_to_unigram_and_to_pieces(kind: int, scored: int, valid: bytes) -> None:
    data = patched(valid, "config", layout.CONFIG_INDEX["tokenizer_kind"], kind)
    data = patched(data, "config", layout.CONFIG_INDEX["scored_pieces"], scored)
    with pytest.raises(errors.PieceScoreError, match=f"kind {kind} cannot have {scored} scored pieces"):
        reader().open(data)


def test_the_last_offset_is_the_end_of_the_texts(valid: bytes) -> None:
    count = header(valid, "rewrites")
    with pytest.raises(errors.PieceScoreError, match=f"element {count} "):
        reader().open(patched(valid, "tokenizer.rewrite_offsets", count, header(valid, "rewrite_bytes") - 1))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_tensors_are_refused_or_tokenize_within_bounds(valid: bytes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    guarded = Guarded(len(valid))
    entries = split(valid)[0]
    begin = len(valid) - len(split(valid)[1])
    names = [name for name in entries if name.startswith("tokenizer.")]
    opened = 0
    for _ in range(300):
        data = np.frombuffer(valid, np.uint8).copy()
        for _ in range(int(rng.integers(1, 60))):
            name = names[int(rng.integers(len(names)))]
            first, last = entries[name]["data_offsets"]
            view = data[begin + first : begin + last]
            at = int(rng.integers(len(view)))
            if name.endswith("trie") and rng.integers(2):
                # Another node, or another piece or rule, that could stand there.
                numbers = view.view("<u4")
                numbers[at // 4] = numbers[int(rng.integers(len(numbers))) // 2 * 2 + at // 4 % 2]
            elif rng.integers(3) == 0:
                view[at] = rng.integers(256)
        placed = guarded.place(data)
        if reader().status(placed) == 0:
            opened += 1
            tokenize(reader().model)
    assert opened > 20


def test_any_flags_and_any_rules_end(valid: bytes) -> None:
    for flags in range(layout.UNIGRAM_FLAGS + 1):
        if flags % 7 == 0 or flags < 64:
            tokenize(reader().open(patched(valid, "config", layout.CONFIG_INDEX["unigram_flags"], flags)))
    with pytest.raises(errors.UnknownConfigValueError, match="unigram_flags"):
        reader().open(patched(valid, "config", layout.CONFIG_INDEX["unigram_flags"], layout.UNIGRAM_FLAGS + 1))
