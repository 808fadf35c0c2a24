"""Where documents come from: files and folders, or records that a program has."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tinybert_rt.engine.texts import utf8
from tinybert_rt.errors import InvalidArgumentError

from .documents import Section
from .readers import ROWS, ReadError, kind_of, read_sections

_NAME = "its name is not valid UTF-8: rename it"


class Source(Protocol):
    """A document that may be read."""

    @property
    def path(self) -> str:
        """Of the file, or the id of the record."""

    @property
    def size(self) -> int:
        """Bytes, or characters."""

    @property
    def modified(self) -> float:
        """Seconds since 1970."""

    def hash(self) -> bytes:
        """Of the content: the same where nothing changed. Raises ReadError."""

    def sections(self) -> Iterator[Section]:
        """What it contains. Raises ReadError."""


@dataclass(frozen=True, slots=True)
class File:
    """A file, and which columns of its rows, if it has rows, are text and title."""

    path: str
    size: int
    modified: float
    text: str | None = None
    title: str | None = None

    def hash(self) -> bytes:
        digest = hashlib.blake2b(repr((self.text, self.title)).encode(), digest_size=16)
        try:
            with open(self.path, "rb") as file:
                while data := file.read(1 << 20):
                    digest.update(data)
        except OSError as error:
            raise ReadError(error.strerror or str(error)) from None
        return digest.digest()

    def sections(self) -> Iterator[Section]:
        return read_sections(Path(self.path), text=self.text, title=self.title)


@dataclass(frozen=True)
class Record:
    """A document in memory."""

    path: str
    text: str
    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: float = 0.0

    @property
    def size(self) -> int:
        return len(self.text)

    def hash(self) -> bytes:
        content = json.dumps([self.text, self.title, sorted(self.metadata.items())])
        return hashlib.blake2b(content.encode(), digest_size=16).digest()

    def sections(self) -> Iterator[Section]:
        if self.text.strip():
            yield Section(self.text, 1, self.title, self.metadata)


def record(value: Mapping[str, Any]) -> Record:
    """A record of a mapping with "id", "text", and if it has them "title" and "metadata".

    Raises InvalidArgumentError, InvalidTextError.
    """
    form = "a document has 'id' and 'text' (str), and may have 'title' and 'metadata'; this one"
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{form} is {type(value).__name__}")
    if not {"id", "text"} <= set(value) <= {"id", "text", "title", "metadata"}:
        raise InvalidArgumentError(f"{form} has {sorted(map(str, value))}")
    utf8(value["id"], "the id of a document")
    called = f"of document {value['id']!r}"
    given = value.get("metadata") or {}
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"the metadata {called} are {type(given).__name__}: a mapping of str to str is wanted")
    metadata = {str(key): str(each) for key, each in given.items()}
    title = str(value.get("title") or "")
    for name, text in (("text", value["text"]), ("title", title), *(("metadata", each) for pair in metadata.items() for each in pair)):
        utf8(text, f"the {name} {called}")
    return Record(value["id"], value["text"], title, metadata, time.time())


@dataclass
class Found:
    """The files below some paths."""

    files: dict[str, File] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    """paths that cannot be read, and why"""
    roots: list[str] = field(default_factory=list)
    """folders that were walked, with a file that can be read somewhere in them"""
    bare: list[str] = field(default_factory=list)
    """folders that were walked, without one"""


def find_files(paths: Iterable[str | os.PathLike[str]], *, text: str | None, title: str | None, left_out: frozenset[str]) -> Found:
    """The files that can be read, in the order of their names; what begins with a dot is left out below a folder.

    Args:
        left_out: absolute paths to pass over.

    Raises InvalidArgumentError for a path that is empty.
    """
    found = Found()

    def add(path: str, named: bool) -> bool:
        """Whether it is a file that can be read."""
        try:
            status = os.stat(path)
        except OSError as error:
            found.problems.append((path, error.strerror or str(error)))
            return False
        if path in left_out or not stat.S_ISREG(status.st_mode):
            if named:
                found.problems.append((path, "is no regular file" if path not in left_out else "is the index itself"))
        elif (kind := kind_of(Path(path))) is not None and not is_utf8(path):
            found.problems.append((path, _NAME))
        elif kind is not None:
            # Of other kinds they are not part of the hash.
            columns = (text, title) if kind in ROWS else (None, None)
            found.files[path] = File(path, status.st_size, status.st_mtime, *columns)
            return True
        elif named:
            found.problems.append((path, f"files that end in {Path(path).suffix or 'no suffix'!r} are not read"))
        return False

    for each in paths:
        if not os.fspath(each):
            raise InvalidArgumentError("a path is empty: the current folder is '.'")
        path = os.path.abspath(os.fsdecode(each))
        if not os.path.isdir(path):
            add(path, True)
            continue
        if not is_utf8(path):
            found.problems.append((path, _NAME))
            continue
        bare = True
        for folder, folders, names in os.walk(path, onerror=lambda error: _note(found, error)):
            shown = sorted(name for name in folders if not name.startswith("."))
            folders[:] = filter(is_utf8, shown)
            found.problems += [(os.path.join(folder, name), _NAME) for name in shown if not is_utf8(name)]
            for name in sorted(names):
                if not name.startswith("."):
                    bare &= not add(os.path.join(folder, name), False)
        (found.bare if bare else found.roots).append(path)
    return found


def is_utf8(name: str) -> bool:
    """Whether a database takes it: bytes of a name that are not UTF-8 are lone surrogates in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _note(found: Found, error: OSError) -> None:
    found.problems.append((os.path.abspath(error.filename or ""), error.strerror or str(error)))
