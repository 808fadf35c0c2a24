"""The file reader as a C function, for the tests."""

from __future__ import annotations

from typing import Any

from numba import types

from tinybert_rt.format.reader import open_model
from tinybert_rt.format.structs import ErrorInfo, Model


def exports() -> list[tuple[str, Any, Any, list[Any]]]:
    """Exported name, kernel, result, arguments."""
    i64 = types.int64
    return [("format_open_model", open_model, i64, [i64, i64, i64, i64, Model.pointer, ErrorInfo.pointer])]
