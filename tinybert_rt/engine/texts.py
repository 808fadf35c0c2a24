"""Texts on their way across the ABI: UTF-8 with offsets, scratch memory, and the errors of the way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.session import address
from tinybert_rt.errors import InvalidTextError, TextTooLongError, TinyBertError, error_classes
from tinybert_rt.text.limits import TRUNCATE_ERROR, TRUNCATE_ONLY_FIRST, TRUNCATE_ONLY_SECOND, WORD_SCRATCH_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

Text = str | tuple[str, str]

TEXTS_AT_ONCE = 1024
BYTES_AT_ONCE = 1 << 20


def text_iterator(texts: Iterable[Text]) -> Iterator[Text]:
    """An iterator over texts. Raises InvalidTextError for a single string, which would be read letter by letter."""
    if isinstance(texts, str):
        raise InvalidTextError("texts is a single string: pass a list of texts, [text]")
    if isinstance(texts, (bytes, bytearray)):
        raise InvalidTextError(f"texts is {type(texts).__name__}: decode it, and pass a list of str")
    try:
        return iter(texts)
    except TypeError:
        raise InvalidTextError(f"texts must be a list or iterator of str, not {type(texts).__name__}") from None


def utf8(text: object, name: str | int) -> bytes:
    """A text as UTF-8; `name`, or the number of a text in its list, says in errors which one it is."""
    if not isinstance(text, str):
        raise InvalidTextError(f"{_called(name)} is not a str but {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(
            f"{_called(name)} has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}: it is not valid Unicode"
        ) from None


def _called(name: str | int) -> str:
    return name if isinstance(name, str) else f"text {name}"


def batches(texts: Iterator[Text]) -> Iterator[tuple[bytes, NDArray[np.int64], int]]:
    """Texts as UTF-8 bytes with offsets, at most TEXTS_AT_ONCE and not much more than BYTES_AT_ONCE at a time."""
    index = 0
    while True:
        parts: list[bytes] = []
        size = 0
        pairs: int | None = None
        for text in islice(texts, TEXTS_AT_ONCE):
            pair = isinstance(text, (tuple, list))
            if pair and len(text) != 2:
                raise InvalidTextError(f"text {index} is a tuple of {len(text)} items: a pair has 2")
            if pairs is None:
                pairs = int(pair)
            elif pairs != int(pair):
                raise InvalidTextError(f"text {index} is {'a pair' if pair else 'no pair'}, unlike those before it")
            for each in text if pair else (text,):
                parts.append(utf8(each, index))
                size += len(parts[-1])
            index += 1
            if size >= BYTES_AT_ONCE:
                break
        if pairs is None:
            return
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        yield b"".join(parts), offsets, pairs


class TokenScratch:
    """The buffers of one thread's calls of `tokenize`."""

    def __init__(self, capacity: int, model: Any) -> None:
        self.capacity = capacity
        self.ids = np.empty(capacity, np.int32)
        self.types = np.empty(capacity, np.uint8)
        self.spans = np.empty((capacity, 2), np.int32)
        self._word = np.empty(WORD_SCRATCH_BYTES, np.uint8)
        self.call = ffi.new("kernel_tokenize_call *")
        self.call.tokenizer = int(ffi.cast("intptr_t", ffi.addressof(model, "tokenizer")))
        self.call.ids = address(self.ids)
        self.call.types = address(self.types)
        self.call.spans = address(self.spans)
        self.call.scratch = address(self._word)
        self.info = self.call.info


def character_spans(spans: NDArray[np.int32], texts: tuple[bytes, bytes]) -> NDArray[np.int32]:
    """(count, 2) spans of UTF-8 bytes as spans of characters; -1 stays. The second special token ends the first of the texts."""
    found: NDArray[np.int32] = spans.copy()
    special = np.cumsum(spans[:, 0] < 0)
    for number, data in enumerate(texts):
        if data.isascii():
            continue
        before = np.zeros(len(data) + 1, np.int32)  # characters that begin before a byte
        np.cumsum((np.frombuffer(data, np.uint8) & 0xC0) != 0x80, out=before[1:])
        mine = (special > 1 if number else special <= 1) & (spans[:, 0] >= 0)
        found[mine] = before[spans[mine]]
    return found


def encode_error(status: int, item: int, tokens: int, limit: int, truncation: int = TRUNCATE_ERROR, pair: bool = False) -> TinyBertError:
    """The exception for a status of `encode` or `tokenize` about text `item`, or a `pair` of that number."""
    from tinybert_rt.format.messages import text_message

    if status == TextTooLongError.code and truncation in (TRUNCATE_ONLY_FIRST, TRUNCATE_ONLY_SECOND):
        cut, kept = ("first", "second") if truncation == TRUNCATE_ONLY_FIRST else ("second", "first")
        why = f"its {kept} text alone leaves no room for the {cut}: shorten the {kept}" if pair else "there is no second text to truncate"
        return TextTooLongError(f"text {item} has {tokens} tokens, the limit is {limit}, and {why}")
    return error_classes().get(status, TinyBertError)(text_message(status, item, tokens, limit))
