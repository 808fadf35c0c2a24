"""The double-array trie: what build_trie makes, and what the kernels do with a damaged one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from text_tokenizer import ALL_FLAGS, SHARED, Kernels, function, read_vocabulary

from tinybert_rt.format.trie import build_trie


def find(trie: np.ndarray, piece: bytes) -> int:
    """The id of a piece, -1 without it: the definition of the trie, in Python."""
    node = 0
    for byte in piece:
        node = (int(trie[node, 0]) >> 8) ^ byte
        if node >= len(trie) or int(trie[node, 0]) & 255 != byte:
            return -1
    return int(trie[node, 1]) - 1


def random_pieces(count: int, alphabet: int, seed: int) -> list[bytes]:
    generator = random.Random(seed)
    pieces = {bytes(generator.randrange(1, alphabet + 1) for _ in range(generator.randrange(1, 7))) for _ in range(count)}
    return generator.sample(sorted(pieces), len(pieces))


@pytest.mark.parametrize(("count", "alphabet"), [(1, 255), (10, 2), (300, 2), (2000, 255), (3000, 7)])
def test_every_piece_is_found_and_nothing_else(count: int, alphabet: int) -> None:
    pieces = random_pieces(count, alphabet, count)
    trie = build_trie(pieces)
    assert trie.dtype == np.uint32
    assert [find(trie, piece) for piece in pieces] == list(range(len(pieces)))
    known = {piece: index for index, piece in enumerate(pieces)}
    for other in random_pieces(3000, alphabet, count + 1) + [piece + b"\x01" for piece in pieces] + [piece[:-1] for piece in pieces]:
        assert find(trie, other) == known.get(other, -1)


def test_a_step_from_every_slot_leads_only_to_its_own_children() -> None:
    pieces = random_pieces(400, 255, 5)
    trie = build_trie(pieces)
    edges = sum(1 for node in range(len(trie)) for byte in range(1, 256) if find_child(trie, node, byte) >= 0)
    prefixes = {piece[:size] for piece in pieces for size in range(1, len(piece) + 1)}
    assert edges == len(prefixes)


def find_child(trie: np.ndarray, node: int, byte: int) -> int:
    child = (int(trie[node, 0]) >> 8) ^ byte
    return child if child < len(trie) and int(trie[child, 0]) & 255 == byte else -1


def test_the_same_pieces_give_the_same_trie() -> None:
    pieces = random_pieces(1000, 255, 1)
    assert np.array_equal(build_trie(pieces), build_trie(list(pieces)))


def test_no_pieces_give_a_root() -> None:
    assert build_trie([]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([b"a", b""], "piece 1 is empty"),
        ([b"a", b"b\0c"], r"piece 1 \(b'b\\x00c'\) has a NUL byte"),
        ([b"a", b"bc", b"bc"], "pieces 1 and 2 are equal: b'bc'"),
    ],
)
def test_impossible_pieces_are_named(pieces: list[bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_trie(pieces)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared with the BERT vocabularies")
@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-cased"])
def test_a_vocabulary_of_bert_is_compact(name: str) -> None:
    pieces = [piece.encode() for piece in read_vocabulary(name)]
    trie = build_trie(pieces)
    assert [find(trie, piece) for piece in pieces] == list(range(len(pieces)))
    assert ((trie[:, 0] & 255) != 0).mean() > 0.85


def test_an_id_outside_the_vocabulary_is_found() -> None:
    validate = function("text_validate_trie")
    trie = build_trie([b"a", b"bc", b"d"])
    assert validate(trie.ctypes.data, len(trie), 3) == -1
    node = int(np.flatnonzero(trie[:, 1] == 3)[0])
    assert validate(trie.ctypes.data, len(trie), 2) == node
    trie[node, 1] = 0xFFFFFFFF
    assert validate(trie.ctypes.data, len(trie), 1 << 22) == node


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_trie_gives_ids_of_the_vocabulary(seed: int) -> None:
    pieces = ["[UNK]", "a", "ab", "##b", "##c", "##cd", "d\u00e9", "##\u00e9", "x"]
    kernels = Kernels(pieces, ALL_FLAGS)
    generator = np.random.default_rng(seed)
    bases = generator.integers(0, 1 << 32, len(kernels.trie), dtype=np.uint32)
    small = generator.integers(0, 1 << 17, len(kernels.trie), dtype=np.uint32)
    kernels.trie[:, 0] = np.where(generator.random(len(bases)) < 0.5, bases, small)
    kernels.trie[:, 1] = generator.integers(0, len(pieces) + 1, len(kernels.trie))
    function("text_prepare_tokenizer")(kernels.struct)
    text = "".join(generator.choice(list("abcdx\u00e9 .\x01"), 2000))
    assert set(kernels.wordpiece(text)) <= set(range(len(pieces)))
