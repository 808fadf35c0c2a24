"""The kernels of Unigram as C functions, for the tests."""

from __future__ import annotations

from typing import Any

from numba import types

from tinybert_rt.format.structs import Tokenizer
from tinybert_rt.text.prepare import prepare_tokenizer, prepare_unigram
from tinybert_rt.text.sequence import tokenize
from tinybert_rt.text.structs import TokenizeInfo
from tinybert_rt.text.unigram import unigram


def exports() -> list[tuple[str, Any, Any, list[Any]]]:
    """Exported name, kernel, result, arguments."""
    i64 = types.int64
    tokenizer = Tokenizer.pointer
    return [
        ("text_prepare_added", prepare_tokenizer, types.void, [tokenizer]),
        ("text_prepare_unigram", prepare_unigram, types.void, [tokenizer, i64]),
        ("text_unigram", unigram, i64, [tokenizer, *[i64] * 6]),
        ("text_tokenize", tokenize, i64, [tokenizer, *[i64] * 9, TokenizeInfo.pointer, i64]),
    ]
