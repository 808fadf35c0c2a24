"""The tokenizer's kernels on a vocabulary, called from Python; and the same tokenizer of the `tokenizers` package."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from tinybert_rt.engine.jit import load_kernels
from tinybert_rt.format.layout import CLEAN_TEXT, LOWERCASE, SPLIT_CJK, STRIP_ACCENTS, TOKENIZER_KINDS
from tinybert_rt.format.structs import Tokenizer
from tinybert_rt.format.trie import build_trie
from tinybert_rt.isa.levels import choose_level
from tinybert_rt.text.limits import WORD_SCRATCH_BYTES
from tinybert_rt.text.structs import TokenizeInfo, WindowResult

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
ALL_FLAGS = CLEAN_TEXT | SPLIT_CJK | STRIP_ACCENTS | LOWERCASE
CASED_FLAGS = CLEAN_TEXT | SPLIT_CJK
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")

_SIGNATURES = {
    "text_validate_trie": "int64_t(*)(int64_t, int64_t, int64_t)",
    "text_prepare_tokenizer": "void(*)(kernel_tokenizer *)",
    "text_wordpiece": f"int64_t(*)(kernel_tokenizer *{', int64_t' * 6})",
    "text_wordpiece_window": f"int64_t(*)(kernel_tokenizer *{', int64_t' * 7}, kernel_window_result *)",
    "text_encode": f"int64_t(*)(kernel_tokenizer *{', int64_t' * 6})",
    "text_tokenize": f"int64_t(*)(kernel_tokenizer *{', int64_t' * 9}, kernel_tokenize_info *, int64_t)",
}

ffi = cffi.FFI()
ffi.cdef("".join(struct.c_declaration() for struct in (Tokenizer, TokenizeInfo, WindowResult)))


@functools.cache
def _kernels() -> Any:
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return load_kernels(choose_level(), "text_exports")


def function(name: str) -> Any:
    """The C function `name` of text_exports.py."""
    return ffi.cast(_SIGNATURES[name], _kernels().address(name))


def read_vocabulary(name: str) -> list[str]:
    """The pieces of a vocabulary under shared/tokenizers."""
    return (SHARED / "tokenizers" / name / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


class Kernels:
    """WordPiece of this package for a vocabulary."""

    def __init__(self, pieces: Sequence[str], flags: int, max_word_chars: int = 100) -> None:
        data = [piece.encode() for piece in pieces]
        ids = {piece: index for index, piece in enumerate(pieces)}
        self.trie = build_trie(data)
        self.pieces = np.frombuffer(b"".join(data), dtype=np.uint8)
        self.offsets = np.cumsum([0, *map(len, data)]).astype(np.uint32)
        self.added = np.array([ids[piece] for piece in SPECIAL if piece in ids], dtype=np.int32)
        self.scratch = np.zeros(WORD_SCRATCH_BYTES + 64, dtype=np.uint8)
        self.scratch[WORD_SCRATCH_BYTES:] = 0xA5
        self.struct = ffi.new("kernel_tokenizer *")
        fields: dict[str, int] = {
            "kind": TOKENIZER_KINDS["wordpiece"],
            "flags": flags,
            "trie": self.trie.ctypes.data,
            "trie_nodes": len(self.trie),
            "pieces": self.pieces.ctypes.data,
            "piece_offsets": self.offsets.ctypes.data,
            "vocab_size": len(pieces),
            "max_word_chars": max_word_chars,
            "unk_id": ids["[UNK]"],
            "cls_id": ids.get("[CLS]", -1),
            "sep_id": ids.get("[SEP]", -1),
            "pad_id": ids.get("[PAD]", -1),
            "mask_id": ids.get("[MASK]", -1),
            "added": self.added.ctypes.data,
            "added_count": len(self.added),
        }
        for name, value in fields.items():
            setattr(self.struct, name, value)
        assert function("text_validate_trie")(self.trie.ctypes.data, len(self.trie), len(pieces)) == -1
        function("text_prepare_tokenizer")(self.struct)
        self._wordpiece = function("text_wordpiece")
        self._window = function("text_wordpiece_window")
        self._tokenize = function("text_tokenize")

    def set_added(self, ids: Sequence[int]) -> None:
        """Make these pieces the added tokens."""
        self.added = np.array(ids, dtype=np.int32)
        self.struct.added = self.added.ctypes.data
        self.struct.added_count = len(ids)
        function("text_prepare_tokenizer")(self.struct)

    def _check_scratch(self) -> None:
        assert (self.scratch[WORD_SCRATCH_BYTES:] == 0xA5).all(), "a kernel wrote behind its scratch"

    def wordpiece(self, text: str | bytes, capacity: int | None = None) -> list[int]:
        """The ids of a text, all or the first `capacity`."""
        return self.wordpiece_total(text, capacity)[0]

    def wordpiece_total(self, text: str | bytes, capacity: int | None = None) -> tuple[list[int], int]:
        """The ids written and the number of tokens of the whole text."""
        data = text.encode() if isinstance(text, str) else text
        room = 3 * len(data) + 1 if capacity is None else capacity
        ids = np.full(room + 1, -77, dtype=np.int32)
        buffer = ffi.from_buffer(data)
        total = self._wordpiece(
            self.struct, int(ffi.cast("intptr_t", buffer)), len(data), ids.ctypes.data, 0, room, self.scratch.ctypes.data
        )
        self._check_scratch()
        assert ids[room] == -77, "an id was written behind the capacity"
        return ids[: min(total, room)].tolist(), total

    def windows(self, text: str | bytes, capacity: int) -> list[list[int]]:
        """The ids of each window of a text."""
        data = text.encode() if isinstance(text, str) else text
        buffer = ffi.from_buffer(data)
        result = ffi.new("kernel_window_result *")
        found = []
        start = skip = 0
        while True:
            ids = np.full(capacity + 1, -77, dtype=np.int32)
            count = self._window(
                self.struct,
                int(ffi.cast("intptr_t", buffer)),
                len(data),
                start,
                skip,
                ids.ctypes.data,
                capacity,
                self.scratch.ctypes.data,
                result,
            )
            self._check_scratch()
            assert ids[capacity] == -77
            found.append(ids[:count].tolist())
            if result.next_start == len(data):
                return found
            assert (result.next_start, result.next_skip) > (start, skip), "a window made no progress"
            start, skip = result.next_start, result.next_skip

    def tokenize(
        self, text: str | bytes, pair: str | bytes | None, max_tokens: int, policy: int
    ) -> tuple[int, list[int], list[int], int, int]:
        """Status, ids, types, total number of tokens, whether the text was truncated."""
        data = text.encode() if isinstance(text, str) else text
        other = b"" if pair is None else pair.encode() if isinstance(pair, str) else pair
        ids = np.full(max(max_tokens, 0) + 1, -77, dtype=np.int32)
        types = np.full(max(max_tokens, 0) + 1, 77, dtype=np.uint8)
        info = ffi.new("kernel_tokenize_info *")
        buffers = ffi.from_buffer(data), ffi.from_buffer(other)
        status = self._tokenize(
            self.struct,
            int(ffi.cast("intptr_t", buffers[0])),
            len(data),
            int(ffi.cast("intptr_t", buffers[1])),
            -1 if pair is None else len(other),
            max_tokens,
            policy,
            ids.ctypes.data,
            types.ctypes.data,
            0,
            info,
            self.scratch.ctypes.data,
        )
        self._check_scratch()
        assert ids[-1] == -77
        assert types[-1] == 77
        return status, ids[: info.count].tolist(), types[: info.count].tolist(), info.total, info.truncated


def reference(pieces: Sequence[str], flags: int, max_word_chars: int = 100) -> Any:
    """The same tokenizer of the `tokenizers` package, adding [CLS] and [SEP] unless told not to."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=max_word_chars))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=bool(flags & CLEAN_TEXT),
        handle_chinese_chars=bool(flags & SPLIT_CJK),
        strip_accents=bool(flags & STRIP_ACCENTS),
        lowercase=bool(flags & LOWERCASE),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    present = [piece for piece in SPECIAL if piece in ids]
    tokenizer.add_special_tokens([tokenizers.AddedToken(piece, special=True, normalized=False) for piece in present])
    if "[CLS]" in ids:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return tokenizer


def reference_ids(tokenizer: Any, text: str) -> list[int]:
    """The reference's ids of a text without the special tokens around it."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
