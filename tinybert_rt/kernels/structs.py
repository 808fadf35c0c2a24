"""C structs that kernels and Python share: one definition gives the C declaration and typed access in kernels.

In a kernel a struct pointer reads like an object: `plan.token_budget`, `model.layers[3].qkv.weight`. Integer fields
are int64 in kernels whatever their width in memory; nested structs and array elements are pointers again.
Importing this module does not import Numba.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

_SCALARS: dict[str, tuple[str, int]] = {
    "i32": ("int32_t", 4),
    "i64": ("int64_t", 8),
    "f32": ("float", 4),
    "ptr": ("int64_t", 8),
}


class Field(NamedTuple):
    """One field: its byte offset, and a scalar kind ("i32", "i64", "f32", "ptr"), a Struct, or a pointer to a Struct."""

    name: str
    offset: int
    kind: Any


class PointerTo(NamedTuple):
    """Kind of a field that holds the address of an array of structs."""

    target: Struct


class Struct:
    """A C struct with a fixed layout, natural alignment."""

    def __init__(self, name: str, fields: list[tuple[str, Any]]) -> None:
        self.name = name
        self.fields: dict[str, Field] = {}
        offset = 0
        self.align = 1
        for field, kind in fields:
            size, align = _size_and_align(kind)
            offset = -(-offset // align) * align
            self.fields[field] = Field(field, offset, kind)
            offset += size
            self.align = max(self.align, align)
        self.size = -(-offset // self.align) * self.align

    @cached_property
    def pointer(self) -> Any:
        """The Numba type of the struct's address (this imports Numba)."""
        from tinybert_rt.kernels.struct_types import StructPointer

        return StructPointer(self)

    def c_declaration(self) -> str:
        """The C typedef of the struct."""
        lines = [f"    {_c_type(field.kind)} {field.name};" for field in self.fields.values()]
        return "typedef struct {\n" + "\n".join(lines) + f"\n}} {self.name};\n"

    def __repr__(self) -> str:
        return f"Struct({self.name!r})"


def _size_and_align(kind: Any) -> tuple[int, int]:
    if isinstance(kind, Struct):
        return kind.size, kind.align
    if isinstance(kind, PointerTo):
        return 8, 8
    size = _SCALARS[kind][1]
    return size, size


def _c_type(kind: Any) -> str:
    if isinstance(kind, Struct):
        return kind.name
    if isinstance(kind, PointerTo):
        return "int64_t"
    return _SCALARS[kind][0]
