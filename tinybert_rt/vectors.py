"""What `Model` returns, and what is done to finished vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinybert_rt.errors import CancelledError, InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTPUT_DTYPES = ("float32", "int8", "binary")


class Encoded(NamedTuple):
    """Vectors with what happened to each text.

    Attributes:
        vectors: (n, dim) float32, or int8 or uint8 as asked for.
        token_counts: (n,) int32, tokens of each text before truncation, special tokens included.
        truncated: (n,) bool, whether the text was cut to the model's maximum.
    """

    vectors: NDArray[Any]
    token_counts: NDArray[np.int32]
    truncated: NDArray[np.bool_]


class Tokens(NamedTuple):
    """A tokenized text.

    Attributes:
        ids: (count,) int32, special tokens included.
        types: (count,) uint8, 0 for the first text of a pair and 1 for the second, unless the model's tokenizer tells them no types.
        total: tokens before truncation.
        truncated: whether tokens were cut off.
        spans: (count, 2) int32, the characters [begin, end) that the word of each token is made of, in the text or (behind
            the separator) in the pair; -1 for special tokens. None if they were not asked for.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.uint8]
    total: int
    truncated: bool
    spans: NDArray[np.int32] | None = None


def collect(groups: Iterable[Encoded], total: int | None, progress: Callable[[int, int | None], object] | None) -> Encoded:
    """All groups as one, with `progress` called for each. Raises InvalidArgumentError, CancelledError."""
    if progress is not None and not callable(progress):
        raise InvalidArgumentError(f"progress must be a function, not {type(progress).__name__}")
    parts = []
    done = 0
    for group in groups:
        parts.append(group)
        done += len(group.vectors)
        if progress is not None and progress(done, total) is False:
            raise CancelledError(f"cancelled by the progress callback after {done} texts")
    if not parts:
        raise InvalidArgumentError("texts is empty: pass at least one text")
    return parts[0] if len(parts) == 1 else Encoded(*(np.concatenate(each) for each in zip(*parts, strict=True)))


class Classified(NamedTuple):
    """A text's label.

    Attributes:
        label: the likeliest label.
        score: its probability, or the number that a regression gives.
        scores: the same of every label, in the model's order.
    """

    label: str
    score: float
    scores: dict[str, float]


def classified(scores: NDArray[np.float32], labels: list[str]) -> list[Classified]:
    """One result per row of (n, labels)."""
    best = scores.argmax(axis=1).tolist()
    rows = scores.tolist()
    return [Classified(labels[i], row[i], dict(zip(labels, row, strict=True))) for i, row in zip(best, rows, strict=True)]


def convert(vectors: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """float32 (n, dim) as it is, int8 (n, dim) or uint8 (n, ceil(dim/8)), see `Model.encode`."""
    if dtype == "float32":
        return vectors
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1)
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    scale = np.zeros_like(largest)
    np.divide(np.float32(127), largest, out=scale, where=largest > 0)
    scaled: NDArray[np.int8] = np.rint(vectors * scale).astype(np.int8)
    return scaled
