"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tinybert_rt.errors import OutputFileError


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that is written beside `path` and renamed to it at the end; on an error nothing is left behind.

    A symbolic link is followed. Raises OutputFileError where `path` is a directory, a device or a pipe, or cannot be written.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise OutputFileError(f"{path}: is a directory")
    if os.path.exists(target) and not os.path.isfile(target):
        raise OutputFileError(f"{path}: is not a regular file")
    if not os.path.isdir(folder):
        raise OutputFileError(f"{path}: there is no such directory to write to")
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
    except OSError as error:
        raise OutputFileError(f"{path}: cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
