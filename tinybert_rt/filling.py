"""Mask tokens filled in: what a model that predicts masked tokens would write in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinybert_rt.engine.arguments import between
from tinybert_rt.engine.calls import run_masked
from tinybert_rt.engine.texts import encode_error, utf8
from tinybert_rt.errors import InvalidArgumentError, TextTooLongError

if TYPE_CHECKING:
    from tinybert_rt.tasks import Tasks

CONTINUATION = "##"


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
    pieces = model.vocabulary()
    top = between("top", top, 1, len(pieces))
    utf8(text, "the text")
    tokens = model.tokenize(text, spans=True)
    if tokens.ids.size > model.max_tokens:
        raise encode_error(TextTooLongError.code, 0, tokens.ids.size, model.max_tokens)
    mask_id = model.mask_id
    places = np.flatnonzero(tokens.ids == mask_id)
    if not places.size:
        raise InvalidArgumentError(f"the text has no {pieces[mask_id]}: put it where a word is to be filled in")
    ids, scores = run_masked(model._pool, model._model, tokens.ids, np.array([0, tokens.ids.size]), None, top)
    assert tokens.spans is not None
    found = []
    for place, row, probabilities in zip(places.tolist(), ids.tolist(), scores.tolist(), strict=True):
        start, end = tokens.spans[place].tolist()
        before, behind = text[:start], text[end:]
        found.append([Filled(pieces[i], i, score, _join(before, pieces[i]) + behind) for i, score in zip(row, probabilities, strict=True)])
    return found


def _join(before: str, piece: str) -> str:
    """A text and a piece behind it: one that continues a word stands without a space."""
    return before.rstrip() + piece.removeprefix(CONTINUATION) if piece.startswith(CONTINUATION) else before + piece
