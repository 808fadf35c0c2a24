"""Arguments of the public functions: checked without changing a value."""

from __future__ import annotations

import operator
import os.path
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.errors import InvalidArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def integer(name: str, value: object) -> int:
    """An int from an int or a NumPy integer. Raises InvalidArgumentError."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise InvalidArgumentError(f"{name} must be an integer, not {type(value).__name__}")


def between(name: str, value: object, low: int, high: int) -> int:
    """An integer from low to high. Raises InvalidArgumentError."""
    number = integer(name, value)
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name} must be between {low} and {high}, not {number}")
    return number


def yes_or_no(name: str, value: object) -> bool:
    """A bool from a bool or one of NumPy. Raises InvalidArgumentError."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Raise InvalidArgumentError for a value that is not known."""
    if not isinstance(value, str) or value not in known:
        raise InvalidArgumentError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def integers(name: str, values: Any, dtype: Any) -> NDArray[Any]:
    """A contiguous array of an integer dtype, without changing a value. Raises InvalidArgumentError."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise InvalidArgumentError(f"{name} must be one sequence of integers, not sequences of several lengths") from None
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    if array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name} must have an integer dtype, not {array.dtype}")
    limits = np.iinfo(dtype)
    if array.size and not limits.min <= int(array.min()) <= int(array.max()) <= limits.max:
        raise InvalidArgumentError(f"{name} has values outside {np.dtype(dtype).name}: {array.min()} … {array.max()}")
    return np.ascontiguousarray(array, dtype)


def caller_stack_level() -> int:
    """The `stacklevel` of the first caller outside this package, for a warning raised by the function that asks."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    return level
