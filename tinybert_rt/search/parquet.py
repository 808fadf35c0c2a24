"""Rows with vectors that `tools.embed_ray` wrote, into an index without encoding them again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinybert_rt.errors import IndexModelError, InvalidArgumentError

from .documents import Passage
from .store import WHOLE, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 4096
"""read and written at a time"""
_TITLES = ("title", "name", "heading")
_OWN = ("vector", "tokens", "truncated")


class Rows(NamedTuple):
    """Some rows of a file."""

    ids: list[str]
    passages: list[Passage]
    vectors: NDArray[np.float32]


def read(folder: str, fingerprint: str, dim: int) -> Iterator[Rows]:
    """The rows of all files of a finished job, in order. Raises InvalidArgumentError, IndexModelError."""
    try:
        with open(os.path.join(folder, "_index.json"), encoding="utf-8") as file:
            job: dict[str, Any] = json.load(file)
        files, text, own = [each["file"] for each in job["files"]], job["text"], job["id"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidArgumentError(f"{folder}: has no _index.json that can be read: it is written when tools.embed_ray is done") from None
    if job.get("model_sha256") != fingerprint or job.get("dim") != dim:
        raise IndexModelError(f"{folder}: its vectors were made by another model ({str(job.get('model_sha256'))[:12]}…)")
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise InvalidArgumentError("reading parquet needs the package pyarrow: pip install pyarrow") from None
    for name in files:
        path = os.path.join(folder, name)
        number = 0
        try:
            opened = pq.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(f"{path}: cannot be read: {error}") from None
        with opened:
            title = next((each for each in _TITLES if each in opened.schema_arrow.names and each != text), None)
            for batch in opened.iter_batches(_ROWS):
                vectors = np.asarray(batch.column("vector").flatten()).reshape(len(batch), -1).astype(np.float32)
                rows = batch.drop_columns(["vector"]).to_pylist()
                ids = [str(row[own]) if own else f"{name}:{number + i + 1}" for i, row in enumerate(rows)]
                number += len(rows)
                yield Rows(ids, [_passage(row, text, title, own) for row in rows], vectors)


def _passage(row: dict[str, Any], text: str, title: str | None, own: str | None) -> Passage:
    others = {name: str(value) for name, value in row.items() if name not in (*_OWN, text, title, own) and value is not None}
    return Passage(row[text], 1, str(row[title] or "") if title else "", others)


def load(store: Store, rows: Iterator[Rows]) -> tuple[int, int]:
    """Write rows that are new or changed, each a document; of rows with the same id, the last one.

    Returns how many were written, and how many were there.
    """
    written = there = 0
    for group in rows:
        with store.writing():
            numbers, new = [], []
            latest = {name: place for place, name in enumerate(group.ids)}  # an id may be there twice
            for name, place in latest.items():
                passage = group.passages[place]
                content = repr((passage.text, passage.title, sorted(passage.metadata.items()))).encode() + group.vectors[place].tobytes()
                hashed = hashlib.blake2b(content, digest_size=16).digest()
                known = store.document(name)
                if known is not None and known.hash == hashed and known.state == WHOLE:
                    there += 1
                    continue
                numbers.append(store.add_document(name, hashed, len(passage.text), time.time()))
                new.append(place)
            store.add_passages(numbers, [group.passages[place] for place in new], group.vectors[new])
            for number in numbers:
                store.finish_document(number)
        written += len(new)
    return written, there
