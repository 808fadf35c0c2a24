"""Damaged files are refused or harmless: whatever the bytes, the reader stays inside them, and so do the structs it fills.

Files lie right in front of a page that cannot be read, so reading a byte too many ends the test run.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest
from format_files import reader, small_bytes, split

from tinybert_rt.format import layout


class Guarded:
    """Memory whose last byte is followed by a page without access; at an odd address in general."""

    def __init__(self, capacity: int) -> None:
        page = mmap.PAGESIZE
        self._size = layout.pad(capacity, page)
        self._map = mmap.mmap(-1, self._size + page)
        self._bytes = np.frombuffer(self._map, np.uint8)
        guard = ctypes.c_void_p(self._bytes.ctypes.data + self._size)
        if ctypes.CDLL(None, use_errno=True).mprotect(guard, page, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")

    def place(self, data: bytes | np.ndarray) -> np.ndarray:
        """A copy of `data` that ends where the memory ends."""
        view = self._bytes[self._size - len(data) : self._size]
        view[:] = np.frombuffer(data, np.uint8)
        return view


if os.name != "posix":
    pytest.skip("needs mprotect", allow_module_level=True)


@pytest.fixture(scope="module", params=[*layout.WEIGHT_DTYPES, "mixed"])
def valid(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bytes(tmp_path_factory.mktemp("format"), request.param)


def assert_harmless(data: np.ndarray) -> None:
    """The structs that the reader has just filled from `data` refer to nothing outside of it."""
    model = reader().model
    begin, end = data.ctypes.data, data.ctypes.data + len(data)

    def inside(address: int, size: int) -> None:
        assert begin <= address <= address + size <= end

    int8 = model.weight_dtype == layout.WEIGHT_DTYPES["int8"]
    item = 1 if int8 else 4
    assert 1 <= model.num_layers <= layout.MAX_LAYERS
    assert model.num_heads * model.head_size == model.hidden_size <= model.hidden_width
    assert 2 <= model.max_tokens <= model.max_positions == model.position.rows
    assert model.vocab_size == model.word.rows == model.tokenizer.vocab_size
    assert model.type_vocab_size == model.type.rows
    assert 0 <= model.activation <= 2
    assert 1 <= model.pooling <= 3
    assert np.isfinite(model.layer_norm_eps)
    assert model.layer_norm_eps > 0
    tokenizer = model.tokenizer
    for token in (tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id):
        assert 0 <= token < model.vocab_size
    inside(tokenizer.trie, 8 * tokenizer.trie_nodes)
    inside(tokenizer.piece_offsets, 4 * (model.vocab_size + 1))
    inside(tokenizer.added, 4 * tokenizer.added_count)
    assert -1 <= tokenizer.continuation_root < tokenizer.trie_nodes
    offsets = data[tokenizer.piece_offsets - begin :][: 4 * (model.vocab_size + 1)].view("<u4").astype(np.int64)
    assert (np.diff(offsets) > 0).all()
    inside(tokenizer.pieces, int(offsets[-1]))
    for table in (model.word, model.position, model.type):
        inside(table.values, table.rows * model.hidden_width * item)
        if int8:
            inside(table.scale, 4 * table.rows)
    for index in range(model.num_layers):
        layer = reader().layer(index)
        for norm in (model.embedding_norm, layer.attention_norm, layer.ffn_norm):
            inside(norm.weight, 4 * model.hidden_width)
            inside(norm.bias, 4 * model.hidden_width)
        for linear in (layer.qkv, layer.attention_output, layer.ffn_in, layer.ffn_out):
            own = linear.scale != 0
            assert own == int8 or (int8 and model.float_linears != 0)
            inside(linear.weight, linear.outputs * (layout.pad(linear.inputs, 4) if own else 4 * linear.inputs))
            for address in (linear.bias, *((linear.scale, linear.column_sum) if own else ())):
                inside(address, 4 * linear.outputs)


def check(data: np.ndarray) -> bool:
    """Whether the reader accepts the bytes; they are then harmless."""
    if reader().status(data) != 0:
        return False
    assert_harmless(data)
    return True


def test_every_change_of_a_byte_is_refused_or_harmless(valid: bytes) -> None:
    """In the header only the text of `__metadata__` may change, and the file is then still safetensors."""
    from safetensors import deserialize

    header_end = len(valid) - len(split(valid)[1])
    metadata_end = valid.index(b'"config":{"dtype"')
    data = Guarded(len(valid)).place(valid)
    assert check(data)
    for position in range(len(valid)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            data[position] ^= flip
            if check(data) and position < header_end:
                assert position < metadata_end, f"a change of the header at byte {position} was accepted"
                deserialize(data.tobytes())
            data[position] ^= flip
    assert check(data)


def test_every_truncation_is_refused(valid: bytes) -> None:
    guarded = Guarded(len(valid))
    for size in range(len(valid)):
        assert reader().status(guarded.place(valid[:size])) != 0, f"accepted {size} of {len(valid)} bytes"


def test_every_truncation_with_the_lengths_put_right_is_refused(valid: bytes) -> None:
    """The header's length field is made to fit what is left."""
    guarded = Guarded(len(valid))
    header_size = int.from_bytes(valid[:8], "little")
    for size in range(8, 8 + header_size):
        assert reader().status(guarded.place((size - 8).to_bytes(8, "little") + valid[8:size])) != 0


NUMBERS = (b"0", b"1", b"64", b"4095", b"2147483647", b"4294967296", b"999999999999999", b"9223372036854775807", b"-1", b"1e9")


@pytest.mark.parametrize("seed", range(8))
def test_random_mutations_are_refused_or_harmless(valid: bytes, seed: int) -> None:
    """Bytes replaced, removed, repeated, swapped, numbers exchanged, in the header and in the small tensors."""
    rng = np.random.default_rng(seed)
    guarded = Guarded(2 * len(valid) + 4096)
    header_end = 8 + int.from_bytes(valid[:8], "little")
    contents_end = header_end + split(valid)[0]["embeddings.word"]["data_offsets"][0]
    for _ in range(1500):
        data = bytearray(valid)
        for _ in range(int(rng.integers(1, 4))):
            limit = min((header_end, contents_end, len(data))[int(rng.integers(3))], len(data))
            at, size = int(rng.integers(limit)), int(rng.integers(1, 65))
            kind = int(rng.integers(6))
            if kind == 0:
                data[at : at + size] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
            elif kind == 1:
                del data[at : at + size]
            elif kind == 2:
                data[at:at] = data[at : at + size]
            elif kind == 3:
                other = int(rng.integers(limit))
                data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
            elif kind == 4:
                number = NUMBERS[int(rng.integers(len(NUMBERS)))]
                start = next((i for i in range(at, limit) if chr(data[i]).isdigit()), at)
                stop = next((i for i in range(start, limit) if not chr(data[i]).isdigit()), start)
                data[start:stop] = number
            else:
                data[at & ~3 : (at & ~3) + 4] = int(rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 255])).to_bytes(4, "little", signed=True)
        check(guarded.place(bytes(data)))


@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_are_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    guarded = Guarded(4096)
    for _ in range(2000):
        data = rng.integers(0, 256, int(rng.integers(0, 512)), dtype=np.uint8)
        if len(data) > 8:
            data[:8] = list(int(len(data) - 8).to_bytes(8, "little"))
            data[8] = ord("{")
        assert reader().status(guarded.place(data)) != 0
