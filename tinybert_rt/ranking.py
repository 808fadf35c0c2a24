"""Texts ranked by a query. Apart from `model`, which a process that only encodes gets ready sooner without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranked:
    """One ranked text: its index in the list, its cosine similarity to the query, the text."""

    index: int
    score: float
    text: str


def cosine_similarity(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of the angle between each row of (n, dim) and (dim,); 0 where a vector is zero."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    scores = np.zeros(len(vectors), np.float32)
    np.divide(vectors @ query, norms, out=scores, where=norms > 0)
    return scores
