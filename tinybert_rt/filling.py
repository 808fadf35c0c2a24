"""Mask tokens filled in: what a model that predicts masked tokens would write in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinybert_rt.engine.arguments import between
from tinybert_rt.engine.calls import run_masked
from tinybert_rt.engine.texts import utf8
from tinybert_rt.errors import InvalidArgumentError, TextTooLongError
from tinybert_rt.format.layout import TOKENIZER_KINDS

if TYPE_CHECKING:
    from tinybert_rt.tasks import Tasks

CONTINUATION = "##"
"""WordPiece: what pieces that continue a word begin with."""

WORD_MARK = "\u2581"
"""Unigram: what pieces that begin a word begin with."""


class Filled(NamedTuple):
    """A piece of the vocabulary in the place of a mask token.

    Attributes:
        token: the piece, as the vocabulary has it. id: its number. score: its probability.
        text: the whole text with it; other mask tokens stay.
    """

    token: str
    id: int
    score: float
    text: str


def fill_mask(model: Tasks, text: str, top: int) -> list[list[Filled]]:
    """See `Model.fill_mask`."""
    pieces = model._pieces
    top = between("top", top, 1, len(pieces))
    utf8(text, "the text")
    tokens = model.tokenize(text, spans=True)
    if tokens.ids.size > model.max_tokens:
        raise TextTooLongError(f"the text has {tokens.ids.size} tokens, the limit is {model.max_tokens}: shorten it")
    mask_id = model.mask_id
    places = np.flatnonzero(tokens.ids == mask_id)
    if not places.size:
        raise InvalidArgumentError(f"the text has no {pieces[mask_id]}: put it where a word is to be filled in")
    ids, scores = run_masked(model._pool, model._model, tokens.ids, np.array([0, tokens.ids.size]), None, top)
    assert tokens.spans is not None
    kind = int(model._model.tokenizer.kind)
    found = []
    for place, row, probabilities in zip(places.tolist(), ids.tolist(), scores.tolist(), strict=True):
        start, end = tokens.spans[place].tolist()
        before, behind = text[:start], text[end:]
        best = zip(row, probabilities, strict=True)
        found.append([Filled(pieces[i], i, score, _join(kind, before, pieces[i]) + behind) for i, score in best])
    return found


def _join(kind: int, before: str, piece: str) -> str:
    """A text and a piece behind it; whether there is a space between them is what the piece says, or else what the text says."""
    if kind == TOKENIZER_KINDS["unigram"]:
        before, piece = before.rstrip(), piece.replace(WORD_MARK, " ")
        return before + piece if before else piece.lstrip(" ")
    if kind == TOKENIZER_KINDS["bpe"]:
        return before + piece if before[-1:].strip() else before + piece.removeprefix(" ")
    return before.rstrip() + piece.removeprefix(CONTINUATION) if piece.startswith(CONTINUATION) else before + piece
