"""A few short texts, or their ids, in one call: buffers and a request that are ready, so that little is done per call.

The usual way finds out addresses of arrays and builds offsets, which costs more than a short text in a small model. Here the
inputs are copied into buffers whose addresses stand in the request already, and the results are copied out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.encoder.structs import GROUP_TOKENS
from tinybert_rt.engine.declarations import ffi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.engine.session import SessionPool

# NumPy has one object for each of its own dtypes; an array with another object goes the usual way.
_ARRAY = np.ndarray
_IDS = np.dtype(np.int32)
_OFFSETS = np.dtype(np.int64)
FEW_TEXTS = 16
FEW_TOKENS = 1024
FEW_BYTES = 16384


class Few:
    """Belongs to one session, and is used by one caller at a time."""

    def __init__(self, model: Any) -> None:
        self.dim = int(model.hidden_size)
        text = ffi.new("char[]", FEW_BYTES)
        ids = ffi.new("int32_t[]", FEW_TOKENS)
        flags = ffi.new("uint8_t[]", FEW_TEXTS)
        # Element 0 is 0: texts begin there. Offsets of ids are the caller's, and never go where those of texts are.
        self._text_offsets = ffi.new("int64_t[]", FEW_TEXTS + 1)
        self._id_offsets = ffi.new("int64_t[]", FEW_TEXTS + 1)
        self._text_bytes = ffi.buffer(text)
        self._id_bytes = ffi.buffer(ids)
        self._id_offsets_bytes = ffi.buffer(self._id_offsets)
        self._truncated = ffi.buffer(flags)
        out = np.zeros(FEW_TEXTS * self.dim, np.float32)
        # Views of results that are ready: to make one takes as long as to copy it.
        self._vectors = [out[: count * self.dim].reshape(count, self.dim) for count in range(FEW_TEXTS + 1)]

        self.text_request = ffi.new("kernel_request *")
        self.text_request.texts = int(ffi.cast("intptr_t", text))
        self.text_request.text_starts = int(ffi.cast("intptr_t", self._text_offsets))
        self.text_request.text_ends = self.text_request.text_starts + 8
        self.text_request.truncated = int(ffi.cast("intptr_t", flags))
        self.text_request.out = out.ctypes.data

        self.ids_request = ffi.new("kernel_request *")
        self.ids_request.ids = int(ffi.cast("intptr_t", ids))
        self.ids_request.id_offsets = int(ffi.cast("intptr_t", self._id_offsets))
        self.ids_request.out = out.ctypes.data
        self.ids_request.dim = self.dim

    def put_texts(self, texts: Sequence[bytes], dim: int, truncation: int, limit: int) -> Any:
        """The request to encode what `_utf8` gave."""
        data = texts[0] if len(texts) == 1 else b"".join(texts)
        self._text_bytes[0 : len(data)] = data
        end = 0
        for index, text in enumerate(texts, 1):
            end += len(text)
            self._text_offsets[index] = end
        request = self.text_request
        request.n_texts = len(texts)
        request.dim = dim
        request.truncation = truncation
        request.max_tokens = limit
        return request

    def put_ids(self, ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> Any:
        """The request for at most FEW_TOKENS token ids of at most FEW_TEXTS texts, or None where they do not fit each other.

        ValueError: an array is not contiguous.
        """
        size = ids.size
        count = offsets.size - 1
        copied = self._id_offsets
        self._id_bytes[0 : 4 * size] = ids
        self._id_offsets_bytes[0 : 8 * count + 8] = offsets
        if copied[0] != 0 or copied[count] != size:
            return None
        request = self.ids_request
        request.n_ids = size
        request.n_texts = count
        return request

    def vectors(self, count: int, dim: int) -> NDArray[np.float32]:
        """The results, (count, dim), as an array of their own."""
        vectors: NDArray[np.float32] = self._vectors[count]
        if dim != self.dim:
            vectors = vectors.ravel()[: count * dim].reshape(count, dim)
        copied: NDArray[np.float32] = vectors.copy()
        return copied

    def truncated(self, count: int) -> int:
        """How many of the texts were truncated."""
        return bytes(self._truncated[0:count]).count(1)


def encode_few_ids(pool: SessionPool, ids: Any, offsets: Any) -> NDArray[np.float32] | None:
    """Vectors of a few short texts that are tokenized already, (n, hidden_size).

    None where the usual way must do it, or say what is wrong: arrays of another kind or dtype, many texts, bad ids or offsets.
    """
    if type(ids) is not _ARRAY or type(offsets) is not _ARRAY or ids.dtype is not _IDS or offsets.dtype is not _OFFSETS:
        return None
    count = offsets.size - 1
    if ids.ndim != 1 or offsets.ndim != 1 or not 0 < count <= FEW_TEXTS or ids.size > FEW_TOKENS:
        return None
    session = pool.take()
    try:
        few = session.few
        request = few.put_ids(ids, offsets)
        if request is None or session.run(request) != 0 or request.done != count:
            return None
        return few.vectors(count, few.dim)
    except ValueError:
        return None
    finally:
        pool.give_back(session)


def encode_few(
    pool: SessionPool, texts: Sequence[object], width: object, policy: int | None, limit: object
) -> tuple[NDArray[np.float32], int] | None:
    """Vectors of a few short str, and how many of the texts were truncated.

    None where the usual way must do it, or say what is wrong: other items, long ones, or an argument out of range.
    """
    if policy is None or type(width) is not int or type(limit) is not int or not (width > 0 and 3 <= limit < 1 << 31):
        return None
    data = _utf8(texts)
    if data is None or len(data) * limit > GROUP_TOKENS:
        return None
    with pool.taken() as session:
        few = session.few
        if width > few.dim or session.run(few.put_texts(data, width, policy, limit)) != 0 or few.text_request.done != len(data):
            return None
        return few.vectors(len(data), width), few.truncated(len(data))


def _utf8(texts: Sequence[object]) -> list[bytes] | None:
    """The texts as UTF-8, or None unless they are 1 … FEW_TEXTS valid str of at most FEW_BYTES together."""
    data = []
    size = 0
    for text in texts:
        if type(text) is not str:
            return None
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            return None
        size += len(encoded)
        data.append(encoded)
    return data if 0 < len(data) <= FEW_TEXTS and size <= FEW_BYTES else None
