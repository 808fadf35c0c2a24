"""Documents into an index: what is new or changed is read, split, encoded and written, a group of passages at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tinybert_rt.errors import CancelledError, IndexWriteError

from .documents import Passage
from .passages import Splitter
from .readers import ReadError
from .sources import File, Source
from .store import BEGUN, FAULTY, WHOLE, Store

if TYPE_CHECKING:
    from tinybert_rt.model import Model

GROUP = 512
"""passages that are encoded and written at a time"""
_EMPTY = 256
"""documents of a group at most, for folders of files without text"""


@dataclass
class Report:
    """What an update did."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    passages: int = 0
    """that were encoded and written"""
    seconds: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)
    """documents that could not be read, or not to their end, and why"""


@dataclass(frozen=True)
class Progress:
    """How far an update is."""

    documents: int
    """done"""
    total: int | None
    passages: int
    """written"""
    share: float | None
    """of all bytes"""
    seconds: float


OnProgress = Callable[[Progress], object]


@dataclass(eq=False)
class _Open:
    """A document that is being read."""

    source: Source
    hashed: bytes
    number: int | None = None
    """in the index; None until its first group is written"""
    state: int = BEGUN
    """what of it was read"""


@dataclass
class _Group:
    """What is encoded and written at a time."""

    passages: list[Passage] = field(default_factory=list)
    owners: list[_Open] = field(default_factory=list)
    finished: list[_Open] = field(default_factory=list)
    touched: list[tuple[int, float]] = field(default_factory=list)
    """documents whose content did not change, and when their files did"""

    def full(self) -> bool:
        return len(self.passages) >= GROUP or len(self.finished) + len(self.touched) >= _EMPTY

    def ends(self, path: str) -> bool:
        return any(each.source.path == path for each in self.finished)


class Updater:
    """One run over documents."""

    def __init__(
        self, store: Store, model: Model, splitter: Splitter, total: int | None, size: int | None, progress: OnProgress | None
    ) -> None:
        self.report = Report()
        self._store, self._model, self._splitter = store, model, splitter
        self._total, self._size, self._progress = total, size, progress
        self._documents = self._read = 0
        self._began = time.perf_counter()

    def run(self, sources: Iterable[Source]) -> None:
        """Write what is new or changed. Whatever ends it, all groups before stay. Raises IndexWriteError and what encoding raises."""
        for group in self._groups(sources):
            self._write(group)
            self._show()
        self._show()

    def remove(self, paths: Sequence[str]) -> None:
        """Remove documents."""
        for begin in range(0, len(paths), _EMPTY):
            with self._store.writing():
                self.report.removed += sum(self._store.remove_document(path) for path in paths[begin : begin + _EMPTY])

    def _show(self) -> None:
        self.report.seconds = time.perf_counter() - self._began
        if self._progress is not None:
            share = self._read / self._size if self._size else None
            if self._progress(Progress(self._documents, self._total, self.report.passages, share, self.report.seconds)) is False:
                raise CancelledError(f"the update was cancelled; {self.report.passages:,} passages of it are in the index")

    def _groups(self, sources: Iterable[Source]) -> Iterator[_Group]:
        group = _Group()
        for source in sources:
            self._show()
            if group.ends(source.path):  # it has to be there before it is replaced
                yield group
                group = _Group()
            opened = None
            try:
                hashed = source.hash()
                known = self._store.document(source.path)
                if known is not None and known.hash == hashed and known.state == WHOLE:
                    self.report.unchanged += 1
                    if isinstance(source, File) and known.modified != source.modified:
                        group.touched.append((known.id, source.modified))
                        if group.full():
                            yield group
                            group = _Group()
                    continue
                if known is not None and known.state != BEGUN:
                    # Read to the end first: where there is a fault, the file keeps what is indexed of it, and nothing is encoded.
                    for _ in source.sections():
                        pass
                opened = _Open(source, hashed)
                for section in source.sections():
                    for passage in self._splitter.split(section):
                        group.passages.append(passage)
                        group.owners.append(opened)
                        if group.full():
                            yield group
                            group = _Group()
            except (ReadError, OSError) as error:
                self.report.problems.append((source.path, str(error)))
                if opened is not None and (opened.number is not None or opened in group.owners[-1:]):
                    opened.state = FAULTY
                    group.finished.append(opened)
                continue
            finally:
                self._documents += 1
                self._read += source.size
            self.report.added += known is None
            self.report.changed += known is not None
            opened.state = WHOLE
            group.finished.append(opened)
            if group.full():
                yield group
                group = _Group()
        if group.passages or group.finished or group.touched:
            yield group

    def _write(self, group: _Group) -> None:
        """Encode a group and write it in one transaction."""
        vectors = self._model.encode([each.embedded for each in group.passages], truncation="truncate") if group.passages else None
        store = self._store
        numbers = {id(each): each.number for each in (*group.owners, *group.finished)}
        with store.writing():
            for each in (*group.owners, *group.finished):
                if numbers[id(each)] is None:
                    source = each.source
                    numbers[id(each)] = store.add_document(source.path, each.hashed, source.size, source.modified)
            if vectors is not None:
                store.add_passages([numbers[id(each)] or 0 for each in group.owners], group.passages, vectors)
            for each in group.finished:
                store.finish_document(numbers[id(each)] or 0, each.state)
            for number, modified in group.touched:
                store.touch_document(number, modified)
        for each in group.owners:
            each.number = numbers[id(each)]
        self.report.passages += len(group.passages)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other processes from updating the same index. Raises IndexWriteError if one does already."""
    beside = path.with_name(path.name + "-lock")
    try:
        handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise IndexWriteError(f"{path}: cannot be written: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 20, 0).decode(errors="replace").strip() or "another one"
            raise IndexWriteError(f"{path}: process {owner} is updating this index; wait until it is done") from None
        except OSError as error:
            raise IndexWriteError(f"{path}: cannot be locked: {error.strerror or error}") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open too
    finally:
        os.close(handle)
