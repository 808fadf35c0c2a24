"""The tokenizer's kernels as C functions, for the tests."""

from __future__ import annotations

from typing import Any

from numba import types

from tinybert_rt.format.structs import Tokenizer
from tinybert_rt.text.encode import encode_text
from tinybert_rt.text.prepare import prepare_tokenizer
from tinybert_rt.text.sequence import tokenize
from tinybert_rt.text.structs import TokenizeInfo, WindowResult
from tinybert_rt.text.trie_walk import validate_trie
from tinybert_rt.text.wordpiece import wordpiece, wordpiece_window


def exports() -> list[tuple[str, Any, Any, list[Any]]]:
    """Exported name, kernel, result, arguments."""
    i64 = types.int64
    tokenizer = Tokenizer.pointer
    return [
        ("text_validate_trie", validate_trie, i64, [i64, i64, i64]),
        ("text_prepare_tokenizer", prepare_tokenizer, types.void, [tokenizer]),
        ("text_wordpiece", wordpiece, i64, [tokenizer, *[i64] * 6]),
        ("text_wordpiece_window", wordpiece_window, i64, [tokenizer, *[i64] * 7, WindowResult.pointer]),
        ("text_encode", encode_text, i64, [tokenizer, *[i64] * 6]),
        ("text_tokenize", tokenize, i64, [tokenizer, *[i64] * 9, TokenizeInfo.pointer, i64]),
    ]
