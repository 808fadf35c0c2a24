"""One text into token ids, by whatever kind of tokenizer the model has."""

from __future__ import annotations

from tinybert_rt.format.layout import TOKENIZER_KINDS
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.text.bpe import bpe
from tinybert_rt.text.unigram import unigram
from tinybert_rt.text.wordpiece import wordpiece

_BPE = TOKENIZER_KINDS["bpe"]
_UNIGRAM = TOKENIZER_KINDS["unigram"]


@kernel
def encode_text(tokenizer, text, size, ids, spans, capacity, scratch):
    """The token ids of a text, without special tokens; arguments and result as of `wordpiece`."""
    if tokenizer.kind == _BPE:
        return bpe(tokenizer, text, size, ids, spans, capacity, scratch)
    if tokenizer.kind == _UNIGRAM:
        return unigram(tokenizer, text, size, ids, spans, capacity, scratch)
    return wordpiece(tokenizer, text, size, ids, spans, capacity, scratch)
