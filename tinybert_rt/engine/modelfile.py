"""An opened model file: mapped into memory, checked by the parser behind the ABI."""

from __future__ import annotations

import mmap
import os
import stat
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.library import Library
from tinybert_rt.engine.session import address
from tinybert_rt.errors import EmptyFileError, InvalidArgumentError, ModelNotFoundError, TinyBertError, UnreadableFileError
from tinybert_rt.format.layout import MAX_TENSORS
from tinybert_rt.format.structs import MODEL_BYTES, TensorEntry

if TYPE_CHECKING:
    from numpy.typing import NDArray

PathOrBytes = str | os.PathLike[str] | bytes | bytearray | memoryview


class ModelFile:
    """A model file in memory, mapped or the caller's own bytes, and the structs that point into it."""

    def __init__(self, path: PathOrBytes, library: Library) -> None:
        self.name = "<memory>"
        if isinstance(path, (bytes, bytearray, memoryview)):
            # What has been checked must not change: a writable buffer is copied.
            view = memoryview(path)
            if view.nbytes == 0:
                raise _error(EmptyFileError.code, None, self.name, b"")
            self.data = np.frombuffer(view if view.readonly and view.c_contiguous else bytes(view), np.uint8)
        elif isinstance(path, (str, os.PathLike)):
            self.name = os.fsdecode(path)
            self.data = _map(self.name)
        else:
            raise InvalidArgumentError(f"a model is opened from a path or from bytes, not from {type(path).__name__}")
        memory = ffi.new("int64_t[]", MODEL_BYTES // 8)
        self.model = ffi.cast("kernel_model *", memory)
        self._memory = memory
        entries = np.empty(MAX_TENSORS * TensorEntry.size, np.uint8)
        error = ffi.new("kernel_error_info *")
        status = library.model_open(address(self.data), self.data.size, address(entries), MAX_TENSORS, self.model, error)
        if status != 0:
            raise _error(int(status), error, self.name, self.data)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The text entries of the file's `__metadata__`."""
        from tinybert_rt.format.metadata import read_metadata

        return read_metadata(self.data)

    @property
    def source(self) -> str | bytes:
        """What opens the same model again: the absolute path, or the bytes."""
        return bytes(self.data) if self.name == "<memory>" else os.path.abspath(self.name)


def memory(address: int, size: int) -> bytes:
    """A copy of bytes of the file."""
    return bytes(ffi.buffer(ffi.cast("char *", address), size))


def strings(texts: int, offsets: int, count: int) -> list[str]:
    """Strings of a file: the address of UTF-8 bytes one behind the other, and that of uint32 [count + 1] offsets."""
    ends = np.frombuffer(ffi.buffer(ffi.cast("char *", offsets), 4 * (count + 1)), np.uint32)
    data = memory(texts, int(ends[-1]))
    return [data[a:b].decode("utf-8", "replace") for a, b in pairwise(ends.tolist())]


def _map(path: str) -> NDArray[np.uint8]:
    if "\0" in path or not path:
        raise InvalidArgumentError("the path is empty" if not path else f"{path!r} is no path: it has a NUL character")
    try:
        mode = os.stat(path).st_mode  # before it is opened: a pipe without a writer would be waited for
        if not stat.S_ISREG(mode):
            raise _error(UnreadableFileError.code, None, path, b"", "it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise _error(EmptyFileError.code, None, path, b"")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (FileNotFoundError, NotADirectoryError):
        raise _error(ModelNotFoundError.code, None, path, b"") from None
    except OSError as error:
        if isinstance(error, TinyBertError):
            raise
        raise _error(UnreadableFileError.code, None, path, b"", str(error.strerror or error)) from None


def _error(status: int, info: Any, path: str, data: Any, reason: str = "") -> TinyBertError:
    from tinybert_rt.format.messages import file_error

    return file_error(status, info, path, data, reason)
