"""From normalised characters to words that begin with the word mark "▁": what `tokenizers` does with Strip, a Replace of runs of
spaces, WhitespaceSplit, Punctuation and Metaspace, one character at a time.
"""

from __future__ import annotations

from tinybert_rt.format.layout import (
    COLLAPSE_SPACES,
    COLLAPSE_TO_MARK,
    PREFIX_ALWAYS,
    PREFIX_FIRST,
    SPLIT_PUNCTUATION,
    SPLIT_SPACES,
    STRIP_BEGIN,
)
from tinybert_rt.kernels.jit import kernel
from tinybert_rt.text.lattice import cut_word
from tinybert_rt.text.limits import MAX_UNIGRAM_WORD_BYTES
from tinybert_rt.text.unicode import PUNCTUATION, SPACE, record_of, store_utf8, utf8_size

_BLANK = 0x20
WORD_MARK = 0x2581


@kernel
def _append(flow, tokenizer, code, start, stop):
    """Append a character to the word; a word that has no room for it is cut before it."""
    size = utf8_size(code)
    if flow.length + size > MAX_UNIGRAM_WORD_BYTES:
        cut_word(flow, tokenizer, True)
    if flow.length == 0 or flow.lead:
        # The mark in front is no part of the word's bytes in the text, unless it is all of the word.
        flow.start = start
    flow.lead = 1 if code == WORD_MARK and flow.length == 0 else 0
    flow.stop = stop
    store_utf8(flow.word + flow.length, code)
    flow.length = flow.length + size


@kernel
def _begin_part(flow, tokenizer, code, start):
    """The first character of a part that the pre-tokenizer cuts out: a word mark in front of it, where the model wants one."""
    flow.fresh = 0
    place = flow.opening if flow.opening >= 0 else start
    flow.opening = -1
    if code in (WORD_MARK, _BLANK):
        return
    wanted = flow.flags & PREFIX_ALWAYS
    if flow.flags & PREFIX_FIRST:
        wanted = 1 if place == 0 else 0
    if wanted:
        _append(flow, tokenizer, WORD_MARK, start, start)


@kernel
def _split(flow, tokenizer, code, start, stop):
    """Cut the text at spaces, punctuation and word marks."""
    flags = flow.flags
    if flags & (SPLIT_SPACES | SPLIT_PUNCTUATION):
        record = record_of(code)
        if flags & SPLIT_SPACES and record & SPACE:
            cut_word(flow, tokenizer, False)
            flow.fresh = 1
            return
        if flags & SPLIT_PUNCTUATION and record & PUNCTUATION:
            cut_word(flow, tokenizer, False)
            _begin_part(flow, tokenizer, code, start)
            _append(flow, tokenizer, code, start, stop)
            cut_word(flow, tokenizer, False)
            flow.fresh = 1
            return
    if flow.fresh:
        _begin_part(flow, tokenizer, code, start)
    if code in (WORD_MARK, _BLANK):
        cut_word(flow, tokenizer, False)
        _append(flow, tokenizer, WORD_MARK, start, stop)
    else:
        _append(flow, tokenizer, code, start, stop)


@kernel
def _release_blanks(flow, tokenizer):
    """The spaces that were held back, as one character."""
    if flow.blanks > 0:
        mark = flow.blanks > 1 and flow.flags & COLLAPSE_TO_MARK
        flow.blanks = 0
        _split(flow, tokenizer, WORD_MARK if mark else _BLANK, flow.blank_start, flow.blank_stop)


@kernel
def pass_on(flow, tokenizer, code, start, stop):
    """One normalised character, made of bytes start … stop of the text."""
    flow.passed = flow.passed + 1
    if flow.counting:
        if not record_of(code) & SPACE:
            flow.last = flow.passed
        return
    if 0 <= flow.limit < flow.passed:
        return
    if flow.flags & STRIP_BEGIN and flow.seen == 0 and record_of(code) & SPACE:
        return
    flow.seen = 1
    if flow.flags & (COLLAPSE_SPACES | COLLAPSE_TO_MARK):
        if code == _BLANK:
            if flow.blanks == 0:
                flow.blank_start = start
            flow.blank_stop = stop
            flow.blanks = flow.blanks + 1
            return
        _release_blanks(flow, tokenizer)
    _split(flow, tokenizer, code, start, stop)


@kernel
def end_segment(flow, tokenizer):
    """The end of the text between two added tokens."""
    _release_blanks(flow, tokenizer)
    cut_word(flow, tokenizer, False)
