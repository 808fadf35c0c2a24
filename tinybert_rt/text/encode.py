"""One text into token ids, by whatever kind of tokenizer the model has."""

from __future__ import annotations

from tinybert_rt.kernels.jit import kernel
from tinybert_rt.text.wordpiece import wordpiece


@kernel
def encode_text(tokenizer, text, size, ids, spans, capacity, scratch):
    """The token ids of a text, without special tokens; arguments and result as of `wordpiece`."""
    return wordpiece(tokenizer, text, size, ids, spans, capacity, scratch)
