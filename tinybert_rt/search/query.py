"""Queries: filters, the fusion of rankings, and the part of a passage that answers best."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.texts import utf8
from tinybert_rt.errors import InvalidArgumentError
from tinybert_rt.ranking import cosine_similarity

from .passages import sentences
from .sources import is_utf8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.model import Model

When = date | datetime | str | float

RRF_CONSTANT = 60


@dataclass(frozen=True)
class Filter:
    """Which passages a search may find; a condition that is None allows all."""

    path: str | os.PathLike[str] | None = None
    """a file, a folder, or a pattern with * and ?"""
    after: When | None = None
    before: When | None = None
    """when the file was changed: a date, "2024-05-31", or seconds since 1970"""
    where: Mapping[str, str] | None = None
    """metadata"""

    def sql(self) -> tuple[str, list[Any]]:
        """A condition on passages p and documents d, "" where all are allowed; and its values.

        Raises InvalidArgumentError, InvalidTextError.
        """
        parts: list[str] = []
        values: list[Any] = []
        if self.path is not None:
            either = []
            if not isinstance(self.path, (str, os.PathLike)):
                raise InvalidArgumentError(f"path must be a str or a path, not {type(self.path).__name__}")
            given = os.fsdecode(self.path)
            utf8(given, "path")
            if not given:
                raise InvalidArgumentError("path is empty: the current folder is '.'")
            for path in filter(is_utf8, dict.fromkeys((given.rstrip("/") or "/", os.path.abspath(given)))):
                either.append("d.path GLOB ? OR d.path GLOB ?")
                pattern = path.replace("[", "[[]")  # GLOB has sets of characters too
                values += [pattern, pattern.rstrip("/") + "/*"]
            parts.append(f"({' OR '.join(either)})")
        for condition, when in (("d.modified >= ?", self.after), ("d.modified < ?", self.before)):
            if when is not None:
                parts.append(condition)
                values.append(_seconds(when))
        if self.where is not None and not isinstance(self.where, Mapping):
            raise InvalidArgumentError(f"where must be a mapping of names to values, not {type(self.where).__name__}")
        for name, value in (self.where or {}).items():
            for each in (str(name), str(value)):
                utf8(each, f"{each!r} in where")
            parts.append("EXISTS (SELECT 1 FROM json_each(p.metadata) AS m WHERE m.key = ? AND m.value = ?)")
            values += [str(name), str(value)]
        return " AND ".join(parts), values


def _seconds(when: When) -> float:
    if isinstance(when, (int, float)):
        return float(when)
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError:
            raise InvalidArgumentError(f"{when!r} is no date: write it as 2024-05-31 or 2024-05-31T18:30") from None
    if not isinstance(when, date):
        raise InvalidArgumentError(f"a date is a date, a str or seconds since 1970, not {type(when).__name__}")
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day)
    try:
        return when.timestamp()
    except (ValueError, OverflowError, OSError):
        raise InvalidArgumentError(f"{when} cannot be counted in seconds since 1970: it is too far away") from None


def allowed_rows(connection: Any, rows: int, filtered: str, values: Sequence[Any]) -> NDArray[np.uint8]:
    """uint8 (rows,): 1 where a passage passes the filter."""
    allowed = np.zeros(rows, np.uint8)
    sql = f"SELECT p.id FROM passages p JOIN documents d ON d.id = p.document WHERE {filtered}"
    allowed[[row for (row,) in connection.execute(sql, tuple(values))]] = 1
    return allowed


def fused(*rankings: Sequence[int]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): Σ 1 / (60 + rank), ranks from 1; equal scores by id."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row] = scores.get(row, 0.0) + 1 / (RRF_CONSTANT + rank)
    return sorted(scores.items(), key=lambda each: (-each[1], each[0]))


def marks(model: Model, query: NDArray[np.float32], texts: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of the sentence of each text that is nearest to the query, float32 (dim,)."""
    spans = [sentences(text) or [(0, len(text))] for text in texts]
    flat = [text[begin:end] for text, each in zip(texts, spans, strict=True) for begin, end in each]
    if not flat:
        return []
    near = cosine_similarity(model.encode(flat, truncation="truncate"), query)
    found, at = [], 0
    for text, each in zip(texts, spans, strict=True):
        begin, end = each[int(near[at : at + len(each)].argmax())]
        at += len(each)
        found.append((begin, begin + len(text[begin:end].rstrip())))
    return found
