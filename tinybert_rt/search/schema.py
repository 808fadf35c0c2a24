"""The SQLite file of an index: its tables, and how it is opened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinybert_rt.errors import IndexFileError, IndexVersionError, InvalidTextError

APPLICATION_ID = 0x54425254
"""of SQLite's header: TBRT"""
VERSION = 1
WORD_TOKENIZER = "porter", ["unicode61", "remove_diacritics", "2"]
"""name and arguments, as FTS5 has them"""

# passages.id is a row of the scan: block id // ROWS, and in it id % ROWS. Ids of removed passages wait in `free`.
# `versions` stands apart from `blocks`, so that a reader sees what changed without the pages of the vectors.
_TABLES = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    modified REAL NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY,
    document INTEGER NOT NULL REFERENCES documents,
    line INTEGER NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT
);
CREATE INDEX passages_of_document ON passages (document);
CREATE VIRTUAL TABLE words USING fts5 (title, text, content = '', contentless_delete = 1, tokenize = '{tokenizer}');
CREATE TABLE free (id INTEGER PRIMARY KEY);
CREATE TABLE blocks (id INTEGER PRIMARY KEY, factors BLOB NOT NULL, data BLOB NOT NULL, full BLOB);
CREATE TABLE versions (block INTEGER PRIMARY KEY, version INTEGER NOT NULL);
"""


def connect(path: Path, *, create: bool, patience: float = 10.0) -> Any:
    """A connection (of apsw) to an index, whose tables are there.

    Args:
        create: make the file where there is none.
        patience: seconds to wait for a lock of another process.

    Raises IndexFileError, IndexVersionError, InvalidTextError.
    """
    try:
        import apsw
    except ImportError:
        raise IndexFileError("an index needs the package apsw: pip install 'tinybert-rt[search]'") from None
    if not path.exists() and not create:
        raise IndexFileError(f"{path}: there is no such index: `tinybert-rt index FOLDER --db {path}` makes one")
    if path.is_dir():
        raise IndexFileError(f"{path}: is a directory, not an index")
    with clear_errors(path):
        connection = _opened(apsw, path, create)
        try:
            connection.set_busy_timeout(int(1000 * patience))
            if create and _is_empty(connection):
                _create(connection, patience)
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """What SQLite finds wrong with an index, as an IndexFileError; what it cannot take for a text, as an InvalidTextError."""
    import apsw

    try:
        yield
    except (apsw.NotADBError, apsw.CorruptError):
        raise IndexFileError(f"{path}: is no index, or a damaged one: SQLite cannot read it") from None
    except UnicodeDecodeError:
        raise IndexFileError(f"{path}: is a damaged index: a text in it is not UTF-8") from None
    except apsw.Error as error:
        raise IndexFileError(f"{path}: {error}") from error
    except UnicodeEncodeError as error:
        raise InvalidTextError(f"{error.object!r} has a lone surrogate: it is not valid Unicode") from None


def _opened(apsw: Any, path: Path, create: bool) -> Any:
    if os.access(path if path.exists() else path.parent, os.W_OK) and os.access(path.parent, os.W_OK):
        return apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0))
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        connection.pragma("application_id")
        return connection
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        connection.close()
        if os.path.exists(f"{path}-wal"):  # which has a part of the index, and which others may be writing
            raise IndexFileError(f"{path}: a part of it is in {path.name}-wal: open it once where it can be written") from None
    # No log is there, and no room for one.
    uri = "file:" + str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?immutable=1"
    return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def _prepare(connection: Any, path: Path) -> None:
    """What a connection needs. Raises IndexFileError, IndexVersionError."""
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    if application != APPLICATION_ID:
        raise IndexFileError(f"{path}: is an SQLite file, but no index of this package")
    if version > VERSION:
        raise IndexVersionError(f"{path}: has version {version} of the format; this release reads up to {VERSION}: update the package")
    # How many passages have a word.
    connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'words', 'row')")
    connection.pragma("synchronous", "NORMAL")
    connection.pragma("mmap_size", 1 << 32)


def _is_empty(connection: Any) -> bool:
    return connection.pragma("application_id") == 0 and not next(connection.execute("SELECT count(*) FROM sqlite_schema"))[0]


def _create(connection: Any, patience: float) -> None:
    """The tables, in one transaction, unless another process makes them meanwhile."""
    import apsw

    connection.pragma("page_size", 16384)
    end = time.monotonic() + patience
    while True:
        try:
            connection.pragma("journal_mode", "WAL")
            break
        except apsw.BusyError:  # for this lock SQLite does not wait itself
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
    name, arguments = WORD_TOKENIZER
    connection.execute("BEGIN IMMEDIATE")
    if _is_empty(connection):
        connection.execute(_TABLES.replace("{tokenizer}", " ".join((name, *arguments))))
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", VERSION)
    connection.execute("COMMIT")
