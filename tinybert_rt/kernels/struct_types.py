"""Numba's view of `structs.Struct`: field access on a typed address."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, lower_builtin, lower_getattr_generic, lower_setattr_generic, type_callable

from tinybert_rt.kernels.structs import PointerTo, Struct


class StructPointer(types.Type):
    """Numba type of the address of a Struct."""

    def __init__(self, struct: Struct) -> None:
        self.struct = struct
        super().__init__(name=f"StructPointer({struct.name})")

    @property
    def mangling_args(self) -> tuple[str, tuple[()]]:
        return self.struct.name, ()


@register_default(StructPointer)
class _StructPointerModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: StructPointer) -> None:
        super().__init__(dmm, fe_type, ir.IntType(64))


@infer_getattr
class _StructAttributes(AttributeTemplate):
    key = StructPointer

    def generic_resolve(self, pointer: StructPointer, name: str) -> types.Type | None:
        if name == "address":
            return types.int64
        field = pointer.struct.fields.get(name)
        if field is None:
            return None
        kind = field.kind
        if isinstance(kind, PointerTo):
            kind = kind.target
        if isinstance(kind, Struct):
            pointed: types.Type = kind.pointer
            return pointed
        return types.float32 if kind == "f32" else types.int64


def _element_type(kind: Any) -> ir.Type:
    return {"i32": ir.IntType(32), "f32": ir.FloatType()}.get(kind, ir.IntType(64)) if isinstance(kind, str) else ir.IntType(64)


@lower_getattr_generic(StructPointer)
def _get_field(context: Any, builder: Any, pointer: StructPointer, value: Any, name: str) -> Any:
    if name == "address":
        return value
    field = pointer.struct.fields[name]
    address = builder.add(value, ir.Constant(ir.IntType(64), field.offset))
    if isinstance(field.kind, Struct):
        return address
    element = _element_type(field.kind)
    loaded = builder.load(builder.inttoptr(address, element.as_pointer()))
    return builder.sext(loaded, ir.IntType(64)) if field.kind == "i32" else loaded


@lower_setattr_generic(StructPointer)
def _set_field(context: Any, builder: Any, signature: Any, arguments: Any, name: str) -> None:
    pointer, value_type = signature.args
    field = pointer.struct.fields[name]
    wanted = types.float32 if field.kind == "f32" else types.int64
    if isinstance(field.kind, PointerTo):
        value = arguments[1]
    else:
        value = context.cast(builder, arguments[1], value_type, wanted)
    element = _element_type(field.kind)
    if field.kind == "i32":
        value = builder.trunc(value, element)
    address = builder.add(arguments[0], ir.Constant(ir.IntType(64), field.offset))
    builder.store(value, builder.inttoptr(address, element.as_pointer()))


@type_callable(operator.getitem)
def _type_element(context: Any) -> Any:
    def typer(pointer: Any, index: Any) -> Any:
        if isinstance(pointer, StructPointer) and isinstance(index, types.Integer):
            return pointer
        return None

    return typer


@lower_builtin(operator.getitem, StructPointer, types.Integer)
def _get_element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    pointer, index_type = signature.args
    index = context.cast(builder, arguments[1], index_type, types.int64)
    return builder.add(arguments[0], builder.mul(index, ir.Constant(ir.IntType(64), pointer.struct.size)))


def struct_at(struct: Struct) -> Any:
    """A function for kernels that views an int64 address as a pointer to `struct`."""

    @intrinsic
    def view(typingctx, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return arguments[0]

        return struct.pointer(types.int64), codegen

    return view
