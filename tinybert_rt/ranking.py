"""Texts ranked by a query. Apart from `model`, which a process that only encodes gets ready sooner without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinybert_rt.engine.arguments import integer
from tinybert_rt.engine.texts import text_iterator, utf8
from tinybert_rt.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.model import Model


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


def rank(model: Model, query: str, texts: Sequence[str], top: int | None) -> list[Ranked]:
    """See `Model.rank`."""
    if top is not None and integer("top", top) < 1:
        raise InvalidArgumentError(f"top must be at least 1, not {top}")
    texts = list(text_iterator(texts))  # type: ignore[arg-type]
    utf8(query, "the query")
    query_vector = model.encode([query])[0]
    scores = cosine_similarity(model.encode(texts), query_vector)
    order = np.argsort(-scores, kind="stable")[:top]
    return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]
