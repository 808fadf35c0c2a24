"""Texts ranked by a query. Apart from `model`, which a process that only encodes gets ready sooner without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinybert_rt.engine.arguments import integer, one_of
from tinybert_rt.engine.calls import require_head
from tinybert_rt.engine.texts import text_iterator, utf8
from tinybert_rt.errors import InvalidArgumentError, MissingHeadError, TextTooLongError
from tinybert_rt.format.layout import PROBLEMS
from tinybert_rt.opened import warn_of_truncation
from tinybert_rt.vectors import Encoded, collect

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.model import Model

METHODS = ("auto", "vectors", "pairs")
_FIRST_BELONGS = (["next", "random"], ["in_order", "swapped"])
"""Labels of heads whose first label says that a pair belongs together."""


@dataclass(frozen=True)
class Ranked:
    """One ranked text: its index in the list, its score for the query (see `Model.rank`), the text."""

    index: int
    score: float
    text: str


def cosine_similarity(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of the angle between each row of (n, dim) and (dim,); 0 where a vector is zero."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    scores = np.zeros(len(vectors), np.float32)
    np.divide(vectors @ query, norms, out=scores, where=norms > 0)
    return scores


def chosen_method(model: Model, method: str) -> str:
    """ "vectors" or "pairs". Raises InvalidArgumentError, and MissingHeadError for pairs without a head that scores them."""
    one_of("method", method, METHODS)
    of_texts = model.info()["head"] == "sequence_classification"
    if method == "auto":
        return "pairs" if of_texts and len(model.labels) == 1 else "vectors"
    if method == "pairs":
        require_head(model._model, model.path, "sequence_classification")
        if len(model.labels) > 2:
            raise MissingHeadError(f"{model.path}: the model's head has {len(model.labels)} labels: pairs are ranked by one or two")
    return method


def pair_scores(model: Model, query: str, texts: Iterable[str]) -> Iterator[Encoded]:
    """Scores of (query, text) by a head of one or two labels, as vectors (n,) of groups, in bounded memory."""
    groups = model.stream_scores(((query, text) for text in texts), truncation="only_second")
    try:
        for group in groups:
            yield group._replace(vectors=_relevance(model, group.vectors))
    except TextTooLongError:
        size = model.tokenize(query).ids.size
        raise TextTooLongError(
            f"the query has {size} tokens and leaves no room for a text, the limit is {model.max_tokens}: shorten it"
        ) from None


def _relevance(model: Model, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    if scores.shape[1] == 2:
        return scores[:, 0 if model.labels in _FIRST_BELONGS else 1]
    if model._model.problem != PROBLEMS["regression"]:
        return scores[:, 0]
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-scores[:, 0]))).astype(np.float32, copy=False)


def rank(model: Model, query: str, texts: Sequence[str], top: int | None, method: str) -> list[Ranked]:
    """See `Model.rank`."""
    if top is not None and integer("top", top) < 1:
        raise InvalidArgumentError(f"top must be at least 1, not {top}")
    method = chosen_method(model, method)
    texts = list(text_iterator(texts))  # type: ignore[arg-type]
    utf8(query, "the query")
    if method == "pairs":
        for number, text in enumerate(texts):
            utf8(text, number)
        if not texts:
            raise InvalidArgumentError("texts is empty: pass at least one text")
        found = collect(pair_scores(model, query, texts), len(texts), None)
        if cut := int(found.truncated.sum()):
            warn_of_truncation(f"{cut} of {len(texts)} texts were truncated: with the query they have more than {model.max_tokens} tokens")
        scores = found.vectors
    else:
        query_vector = model.encode([query])[0]
        scores = cosine_similarity(model.encode(texts), query_vector)
    order = np.argsort(-scores, kind="stable")[:top]
    return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]
