"""The tables of an index: documents with their passages, words and vectors, written in transactions of the caller."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinybert_rt.errors import IndexWriteError

from .documents import Passage
from .vectors import ROWS, Block, Packing
from .words import spaced

if TYPE_CHECKING:
    from numpy.typing import NDArray


BEGUN, WHOLE, FAULTY = range(3)
"""`complete`, what the index has of a document: the begin, all, or all before a fault for which the file cannot be read on"""


class Document(NamedTuple):
    """A file as the index knows it."""

    id: int
    path: str
    hash: bytes
    modified: float
    state: int


class Store:
    """Reads and writes the tables of a connection; the vectors' form is fixed."""

    def __init__(self, connection: Any, packing: Packing) -> None:
        self.connection = connection
        self.packing = packing
        # Candidates by their signs are put in order by their int8 vectors.
        self.full = Packing("int8", packing.dim) if packing.dtype == "binary" else None

    # ------------------------------------------------------------ transactions

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that is there whole at the end, or not at all. Raises IndexWriteError."""
        import apsw

        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
        except apsw.FullError:
            raise IndexWriteError(
                f"{self._name}: the disk is full; all that was committed before is kept: make room and give the same command again"
            ) from None
        except apsw.BusyError:
            raise IndexWriteError(f"{self._name}: another process is writing into this index: wait until it is done") from None
        except (apsw.ReadOnlyError, apsw.IOError) as error:
            raise IndexWriteError(f"{self._name}: cannot be written: {error}") from None

    @property
    def _name(self) -> str:
        return str(self.connection.filename)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One state of the index, whatever is written meanwhile."""
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    # ------------------------------------------------------------ settings and documents

    def setting(self, name: str) -> Any:
        """A value, None where it is not set."""
        return self._value("SELECT value FROM settings WHERE name = ?", (name,))

    def set(self, name: str, value: Any) -> None:
        """Set a value."""
        self.connection.execute("INSERT INTO settings VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value))

    def document(self, path: str) -> Document | None:
        """A document, if it is there."""
        sql = "SELECT id, hash, modified, complete FROM documents WHERE path = ?"
        for number, hashed, modified, state in self.connection.execute(sql, (path,)):
            return Document(number, path, hashed, modified, state)
        return None

    def paths_below(self, root: str) -> Iterator[str]:
        """The path itself, if it is a document, and those of documents in the folder."""
        begin, end = root.rstrip("/") + "/", root.rstrip("/") + "0"  # "0" comes behind "/"
        sql = "SELECT path FROM documents WHERE path = ? OR (path >= ? AND path < ?)"
        for (path,) in self.connection.execute(sql, (root, begin, end)):
            yield path

    def add_document(self, path: str, hashed: bytes, size: int, modified: float) -> int:
        """A document without passages, in the place of one of that path; returns its id."""
        self.remove_document(path)
        sql = "INSERT INTO documents (path, hash, size, modified) VALUES (?, ?, ?, ?)"
        self.connection.execute(sql, (path, hashed, size, modified))
        return int(self.connection.last_insert_rowid())

    def finish_document(self, number: int, state: int = WHOLE) -> None:
        """All its passages are there, or (FAULTY) all that can be read."""
        self.connection.execute("UPDATE documents SET complete = ? WHERE id = ?", (state, number))

    def touch_document(self, number: int, modified: float) -> None:
        """Its file was written anew, with the content that it had."""
        self.connection.execute("UPDATE documents SET modified = ? WHERE id = ?", (modified, number))

    def remove_document(self, path: str) -> bool:
        """Remove a document and all that belongs to it; whether there was one."""
        document = self.document(path)
        if document is None:
            return False
        ids = [row for (row,) in self.connection.execute("SELECT id FROM passages WHERE document = ? ORDER BY id", (document.id,))]
        rows = [(row,) for row in ids]
        self.connection.executemany("DELETE FROM words WHERE rowid = ?", rows)
        self.connection.executemany("INSERT INTO free VALUES (?)", rows)
        self.connection.execute("DELETE FROM passages WHERE document = ?", (document.id,))
        self.connection.execute("DELETE FROM documents WHERE id = ?", (document.id,))
        self._write_rows(ids, None)
        return True

    def counts(self) -> tuple[int, int]:
        """Documents and passages."""
        return self._value("SELECT count(*) FROM documents"), self._value("SELECT count(*) FROM passages")

    # ------------------------------------------------------------ passages

    def add_passages(self, documents: Sequence[int], passages: Sequence[Passage], vectors: NDArray[np.float32]) -> None:
        """Passages with the documents that they belong to and their vectors, float32 (n, dim)."""
        ids = self._new_ids(len(passages))
        self.connection.executemany(
            "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?)",
            (
                (
                    row,
                    document,
                    each.line,
                    each.title,
                    each.text,
                    json.dumps(dict(each.metadata), ensure_ascii=False) if each.metadata else None,
                )
                for row, document, each in zip(ids, documents, passages, strict=True)
            ),
        )
        words = ((row, spaced(each.title), spaced(each.text)) for row, each in zip(ids, passages, strict=True))
        self.connection.executemany("INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)", words)
        self._write_rows(ids, vectors)

    def _new_ids(self, count: int) -> list[int]:
        """Ids for passages: first those that are free, then new ones."""
        ids = [row for (row,) in self.connection.execute("SELECT id FROM free ORDER BY id LIMIT ?", (count,))]
        self.connection.executemany("DELETE FROM free WHERE id = ?", ((row,) for row in ids))
        if len(ids) < count:
            begin = (self._value("SELECT max(id) FROM passages") or 0, self._value("SELECT max(id) FROM free") or 0, max(ids, default=0))
            first = max(begin) + 1
            ids += range(first, first + count - len(ids))
        return ids

    def _write_rows(self, ids: Sequence[int], vectors: NDArray[np.float32] | None) -> None:
        """The vectors of passages, or none in their rows."""
        packing = self.packing
        factors: NDArray[np.float32] = np.zeros(len(ids), np.float32)
        packed = full = None
        if vectors is not None:
            packed, factors = packing.pack(vectors)
            full = None if self.full is None else self.full.pack(vectors)[0]
        for begin, end in _runs(ids):
            block, row = divmod(ids[begin], ROWS)
            self._ensure_block(block)
            self._write(block, "factors", 4 * row, factors[begin:end])
            if packed is not None:
                self._write(block, "data", packing.stride * row, packed[begin:end])
            if full is not None and self.full is not None:
                self._write(block, "full", self.full.stride * row, full[begin:end])

    def _ensure_block(self, block: int) -> None:
        sql = "INSERT INTO versions VALUES (?, 1) ON CONFLICT DO UPDATE SET version = version + 1"
        self.connection.execute(sql, (block,))
        full = None if self.full is None else self.full.stride * ROWS
        self.connection.execute(
            "INSERT INTO blocks VALUES (?, zeroblob(?), zeroblob(?), zeroblob(?)) ON CONFLICT DO NOTHING",
            (block, 4 * ROWS, self.packing.stride * ROWS, full),
        )

    def _write(self, block: int, column: str, offset: int, data: NDArray[Any]) -> None:
        with self.connection.blob_open("main", "blocks", column, block, True) as blob:
            blob.seek(offset)
            blob.write(np.ascontiguousarray(data).tobytes())

    # ------------------------------------------------------------ vectors

    def versions(self) -> dict[int, int]:
        """The version of each block."""
        return dict(self.connection.execute("SELECT block, version FROM versions"))

    def read_block(self, block: int) -> Block:
        """A block's vectors."""
        data = np.empty((ROWS, self.packing.stride), np.uint8)
        factors = np.empty(ROWS, np.float32)
        for column, array in (("data", data), ("factors", factors)):
            with self.connection.blob_open("main", "blocks", column, block, False) as blob:
                blob.read_into(array)
        return Block(block * ROWS, data, factors)

    def full_vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The int8 vectors of passages as float32 (n, dim), for an index of signs."""
        if self.full is None:
            raise ValueError("only an index of signs has full vectors apart")
        out = np.empty((len(ids), self.full.dim), np.float32)
        in_order = sorted(range(len(ids)), key=ids.__getitem__)  # to find the pages of a block once
        for block, places in groupby(in_order, lambda place: ids[place] // ROWS):
            with self.connection.blob_open("main", "blocks", "full", block, False) as blob:
                for place in places:
                    blob.seek(self.full.stride * (ids[place] % ROWS))
                    out[place] = np.frombuffer(blob.read(self.full.dim), np.int8)
        return out

    def _value(self, sql: str, bindings: tuple[Any, ...] = ()) -> Any:
        for (value,) in self.connection.execute(sql, bindings):
            return value
        return None


def _runs(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The places of ids that follow each other within a block."""
    begin = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or ids[at] != ids[at - 1] + 1 or ids[at] % ROWS == 0:
            yield begin, at
            begin = at
