"""Tables of bytes as the generated modules hold them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence


def unpack(data: bytes, layout: Sequence[tuple[str, int]]) -> dict[str, bytes]:
    """The tables by name, from base 85 of what zlib made of them; `layout`: name and bytes of each, in the order of the data."""
    joined = zlib.decompress(base64.b85decode(data))
    tables = {}
    begin = 0
    for name, size in layout:
        tables[name] = joined[begin : begin + size]
        begin += size
    return tables
