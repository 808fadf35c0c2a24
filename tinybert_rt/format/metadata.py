"""`__metadata__` of a model file that the parser has accepted. Importing this does not import Numba."""

from __future__ import annotations

import json
from typing import Any


def read_metadata(data: Any) -> dict[str, str]:
    """The text entries of `__metadata__`, in the file's order: "format", "version", "config", and where the model comes from.

    Args:
        data: the file's bytes: bytes, memoryview or a uint8 array.
    """
    size = int.from_bytes(bytes(data[:8]), "little")
    metadata: dict[str, str] = json.loads(bytes(data[8 : 8 + size]))["__metadata__"]
    return metadata
