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

FEW_TEXTS = 16
FEW_TOKENS = 1024
FEW_BYTES = 16384


class Few:
    """Belongs to one session, and is used by one caller at a time."""

    def __init__(self, model: Any) -> None:
        self.dim = int(model.hidden_size)
        self._text = ffi.new("char[]", FEW_BYTES)
        self._text_bytes = ffi.buffer(self._text)
        self._text_offsets = ffi.new("int64_t[]", FEW_TEXTS + 1)
        flags = ffi.new("uint8_t[]", FEW_TEXTS)
        self._truncated = ffi.buffer(flags)
        self._ids = np.zeros(FEW_TOKENS, np.int32)
        self._offsets = np.zeros(FEW_TEXTS + 1, np.int64)
        self._out = np.zeros(FEW_TEXTS * self.dim, np.float32)

        self.text_request = ffi.new("kernel_request *")
        self.text_request.texts = int(ffi.cast("intptr_t", self._text))
        self.text_request.text_starts = int(ffi.cast("intptr_t", self._text_offsets))
        self.text_request.text_ends = self.text_request.text_starts + 8
        self.text_request.truncated = int(ffi.cast("intptr_t", flags))
        self.text_request.out = self._out.ctypes.data

        self.ids_request = ffi.new("kernel_request *")
        self.ids_request.ids = self._ids.ctypes.data
        self.ids_request.id_offsets = self._offsets.ctypes.data
        self.ids_request.out = self._out.ctypes.data
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

    def put_ids(self, ids: NDArray[np.int32], offsets: NDArray[np.int64], count: int) -> Any:
        """The request for at most FEW_TOKENS token ids of `count` ≤ FEW_TEXTS texts."""
        self._ids[: ids.size] = ids
        self._offsets[: count + 1] = offsets
        request = self.ids_request
        request.n_ids = ids.size
        request.n_texts = count
        return request

    def vectors(self, count: int, dim: int) -> NDArray[np.float32]:
        """The results, (count, dim), as an array of their own."""
        vectors: NDArray[np.float32] = self._out[: count * dim].copy().reshape(count, dim)
        return vectors

    def truncated(self, count: int) -> int:
        """How many of the texts were truncated."""
        return bytes(self._truncated[0:count]).count(1)


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
