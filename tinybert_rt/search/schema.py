"""The SQLite file of an index: its tables, and how it is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tinybert_rt.errors import IndexFileError, IndexVersionError

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


def storable(path: str) -> bool:
    """Whether SQLite can hold a path: not if it has bytes that are not UTF-8, which Python reads as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def connect(path: Path, *, create: bool, patience: float = 10.0) -> Any:
    """A connection (of apsw) to an index, whose tables are there.

    Args:
        create: make the file where there is none.
        patience: seconds to wait for a lock of another process.

    Raises IndexFileError, IndexVersionError.
    """
    try:
        import apsw
    except ImportError:
        raise IndexFileError("an index needs the package apsw: pip install 'tinybert-rt[search]'") from None
    if not storable(str(path)):
        raise IndexFileError(f"{path}: SQLite cannot open a path that is not UTF-8: put the index elsewhere")
    if not path.exists() and not create:
        raise IndexFileError(f"{path}: there is no such index: `tinybert-rt index FOLDER --db {path}` makes one")
    if path.is_dir():
        raise IndexFileError(f"{path}: is a directory, not an index")
    try:
        return _connected(apsw, path, create, patience)
    except apsw.NotADBError:
        raise IndexFileError(f"{path}: is no index, or a damaged one: SQLite cannot read it") from None
    except apsw.Error as error:
        log = f", and {path.name}-wal belongs to it: open it once where it can be written" if _log_bytes(path) else ""
        raise IndexFileError(f"{path}: cannot be opened: {error}{log}") from None


def _log_bytes(path: Path) -> int:
    """What was written and is not yet in the file itself."""
    log = path.with_name(path.name + "-wal")
    return log.stat().st_size if log.exists() else 0


def _connected(apsw: Any, path: Path, create: bool, patience: float) -> Any:
    writable = os.access(path if path.exists() else path.parent, os.W_OK) and os.access(path.parent, os.W_OK)
    if writable:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0))
    else:
        # On a medium that cannot be written there is no room for the index of a log either; but a log that is there is part of the file.
        uri = "file:" + str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        uri += "?immutable=1" if _log_bytes(path) == 0 else ""
        connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.set_busy_timeout(int(1000 * patience))
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    if application != APPLICATION_ID:
        if next(connection.execute("SELECT count(*) FROM sqlite_schema"))[0] or not create:
            raise IndexFileError(f"{path}: is an SQLite file, but no index of this package")
        _create(connection)
    elif version > VERSION:
        raise IndexVersionError(f"{path}: has version {version} of the format; this release reads up to {VERSION}: update the package")
    # How many passages have a word.
    connection.execute("CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab('main', 'words', 'row')")
    connection.pragma("synchronous", "NORMAL")
    connection.pragma("mmap_size", 1 << 32)
    return connection


def _create(connection: Any) -> None:
    """The tables, in one transaction; another process may be doing the same."""
    connection.pragma("page_size", 16384)
    connection.pragma("journal_mode", "WAL")
    name, arguments = WORD_TOKENIZER
    tables = _TABLES.replace("{tokenizer}", " ".join((name, *arguments)))
    with_tables = f"BEGIN IMMEDIATE; {tables} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT"
    connection.execute(with_tables)
