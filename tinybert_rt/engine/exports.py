"""The kernels behind the C ABI, for `engine.emit`: abi.FUNCTIONS with Numba types. Imported only where kernels are compiled."""

from __future__ import annotations

import importlib
from typing import Any

from numba.core import types

from tinybert_rt.engine.abi import FUNCTIONS
from tinybert_rt.kernels.structs import Struct


def exports(unit: str) -> list[tuple[str, Any, Any, list[Any]]]:
    """Exported name, kernel, result type and argument types of every ABI function of a unit."""
    result = []
    for function in FUNCTIONS:
        if function.unit != unit:
            continue
        module, name = function.kernel.split(":")
        kernel = getattr(importlib.import_module(module), name)
        arguments = [kind.pointer if isinstance(kind, Struct) else types.int64 for _, kind in function.arguments]
        result.append((function.symbol(), kernel, types.int64, arguments))
    return result
