"""Read SentencePiece's `precompiled_charsmap`: a double array (Darts) of what is replaced, and the replacements behind it."""

from __future__ import annotations

import numpy as np

from .hf import ConversionError

_BYTES = np.arange(1, 256, dtype=np.uint32)


def read_charsmap(data: bytes, where: str) -> dict[bytes, str]:
    """The rules of a charsmap: UTF-8 → replacement.

    Where one key is the beginning of another, only the shorter is returned: `tokenizers` takes the shortest that fits, so the longer one
    is never used. Raises ConversionError, beginning with `where`, for damaged data.

    A unit has its label in bits 0–7 and 31, bit 8 if a value ends here, bit 9 if the distance in bits 10 and up counts 256; the unit of a
    value, at label 0, has it in bits 0–30.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 8 or size % 4 or not 4 <= size <= len(data) - 4:
        raise ConversionError(f"{where}: the precompiled charsmap is cut off or damaged")
    units = np.frombuffer(data, "<u4", size // 4, 4)
    texts = data[4 + size :]
    labels = units & np.uint32(0x800000FF)
    rules: dict[bytes, str] = {}
    seen: set[int] = set()
    waiting = [(b"", _distance(int(units[0])))]
    while waiting:
        key, base = waiting.pop()
        if base in seen:
            raise ConversionError(f"{where}: the precompiled charsmap's trie runs in a circle")
        seen.add(base)
        places = np.uint32(base) ^ _BYTES
        inside = places < len(units)
        found = np.zeros(len(_BYTES), bool)
        found[inside] = labels[places[inside]] == _BYTES[inside]
        for byte in _BYTES[found].tolist():
            place = base ^ byte
            unit = int(units[place])
            target = place ^ _distance(unit)
            longer = key + bytes([byte])
            if unit >> 8 & 1:
                rules[longer] = _text(units, texts, target, where)
            else:
                waiting.append((longer, target))
    return rules


def _distance(unit: int) -> int:
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def _text(units: np.ndarray, texts: bytes, place: int, where: str) -> str:
    start = int(units[place]) & 0x7FFFFFFF if place < len(units) else len(texts) + 1
    if start > len(texts):
        raise ConversionError(f"{where}: a rule of the precompiled charsmap lies outside of it")
    try:
        return texts[start : (texts + b"\0").index(b"\0", start)].decode()
    except UnicodeDecodeError:
        raise ConversionError(f"{where}: a replacement of the precompiled charsmap is no UTF-8") from None
