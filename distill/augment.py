"""More examples out of few, for distillation: words replaced by their neighbours (Jiao et al. 2020, algorithm 1).

TinyBERT takes neighbours from a masked language model and from GloVe vectors; here they are the nearest pieces in the teacher's own
embedding table, which every teacher has. The teacher labels the new texts itself, so that a changed meaning does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import Feature

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Augment:
    """How many texts are made of each, and how."""

    copies: int = 10
    probability: float = 0.4
    """of replacing a word"""
    neighbours: int = 15
    """nearest pieces that one is drawn from"""

    def __post_init__(self) -> None:
        if self.copies < 1 or self.neighbours < 1 or not 0 < self.probability <= 1:
            raise ValueError("copies and neighbours must be at least 1, probability above 0 and at most 1")


def neighbours(embeddings: torch.Tensor, tokenizer: Any, count: int) -> np.ndarray:
    """The nearest whole words of each whole word by cosine of their embeddings, itself left out.

    Args:
        embeddings: float32 (vocabulary, n).

    Returns int32 (vocabulary, count); the row of a piece that is no whole word (special tokens, "##…", signs) has its own id everywhere.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    marked = any(piece.startswith(("Ġ", "▁")) for piece in pieces)
    words = np.array(
        [i for i, piece in enumerate(pieces) if (piece[:1] in "Ġ▁" if marked else piece.isalpha()) and piece.strip("Ġ▁").isalpha()]
    )
    table = np.repeat(np.arange(len(pieces), dtype=np.int32)[:, None], count, 1)
    count = min(count, len(words) - 1)
    if count < 1:
        return table
    unit = torch.nn.functional.normalize(embeddings[words].float(), dim=1)
    for begin in range(0, len(words), _ROWS_AT_ONCE):
        near = unit[begin : begin + _ROWS_AT_ONCE] @ unit.T
        near[torch.arange(len(near)), begin + torch.arange(len(near))] = -2
        table[words[begin : begin + _ROWS_AT_ONCE], :count] = words[near.topk(count).indices.numpy()]
    table[words, count:] = table[words, :1]
    return table


def augmented(features: Sequence[Feature], table: np.ndarray, augment: Augment, seed: int) -> list[Feature]:
    """The features and `copies` changed ones of each, without the labels: token ids, each replaced with the given probability by one of
    its row of `table`. Special tokens and pieces of words have their own id there, and stay."""
    rng = np.random.default_rng((seed, 0xA06))
    made = [{name: value for name, value in each.items() if name != "labels"} for each in features]
    for each in made[:]:
        ids = np.array(each["input_ids"])
        chosen = rng.random((augment.copies, len(ids))) < augment.probability
        drawn = table[ids, rng.integers(0, table.shape[1], (augment.copies, len(ids)))]
        for row in np.unique(np.where(chosen, drawn, ids), axis=0):
            made.append({**each, "input_ids": row.tolist()})
    return made
