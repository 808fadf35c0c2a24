"""Raw memory for kernels: scalar loads and stores at int64 addresses, constant tables, atomics and C callbacks.

Kernels see memory as int64 byte addresses. The caller guarantees that each address is valid for the access.
"""

from __future__ import annotations

import hashlib
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinybert_rt.isa import lowering
from tinybert_rt.kernels.jit import inline

_I64 = ir.IntType(64)


def address_to_pointer(builder: ir.IRBuilder, address: ir.Value, element: ir.Type) -> ir.Value:
    """Turn an int64 address into a pointer to `element`."""
    return builder.inttoptr(address, element.as_pointer())


def _scalar_load(stored: ir.Type, numba_type: types.Type, extend: str | None) -> Any:
    @intrinsic
    def load(typingctx, address):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            value = builder.load(address_to_pointer(builder, arguments[0], stored), align=1)
            if extend is None:
                return value
            return getattr(builder, extend)(value, _I64)

        return numba_type(types.int64), codegen

    return load


def _scalar_store(stored: ir.Type, numba_type: types.Type, narrow: bool) -> Any:
    @intrinsic
    def store(typingctx, address, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            value = builder.trunc(arguments[1], stored) if narrow else arguments[1]
            builder.store(value, address_to_pointer(builder, arguments[0], stored), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, numba_type), codegen

    return store


# Integers are widened to int64 when loaded and cut when stored, so that kernels compute in one integer type.
load_u8 = _scalar_load(ir.IntType(8), types.int64, "zext")
load_u16 = _scalar_load(ir.IntType(16), types.int64, "zext")
load_u32 = _scalar_load(ir.IntType(32), types.int64, "zext")
load_i32 = _scalar_load(ir.IntType(32), types.int64, "sext")
load_i64 = _scalar_load(_I64, types.int64, None)
load_f32 = _scalar_load(ir.FloatType(), types.float32, None)
load_f64 = _scalar_load(ir.DoubleType(), types.float64, None)
store_u8 = _scalar_store(ir.IntType(8), types.int64, True)
store_u16 = _scalar_store(ir.IntType(16), types.int64, True)
store_i32 = _scalar_store(ir.IntType(32), types.int64, True)
store_i64 = _scalar_store(_I64, types.int64, False)
store_f32 = _scalar_store(ir.FloatType(), types.float32, False)
store_f64 = _scalar_store(ir.DoubleType(), types.float64, False)


@intrinsic
def copy_bytes(typingctx, target, source, size):  # type: ignore[no-untyped-def]
    """Copy `size` bytes; the ranges do not overlap. A loop of bytes: no call into a C library."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        from numba.core import cgutils

        target, source, size = arguments
        byte = ir.IntType(8)
        with cgutils.for_range(builder, size) as loop:
            value = builder.load(
                address_to_pointer(builder, builder.add(source, loop.index), byte),
                align=1,
            )
            builder.store(value, address_to_pointer(builder, builder.add(target, loop.index), byte), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def constant_table(data: bytes) -> Any:
    """A function for kernels that returns the int64 address of `data`, stored in the compiled module, 64-byte aligned."""
    name = "tinybert_rt.table." + hashlib.sha256(data).hexdigest()[:16]

    @intrinsic
    def table(typingctx):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            module = builder.module
            array_type = ir.ArrayType(ir.IntType(8), len(data))
            variable = module.globals.get(name)
            if variable is None:
                variable = ir.GlobalVariable(module, array_type, name)
                variable.initializer = ir.Constant(array_type, bytearray(data))
                variable.global_constant = True
                variable.linkage = "linkonce_odr"
                variable.align = 64
            return builder.ptrtoint(variable, _I64)

        return types.int64(), codegen

    return table


@intrinsic
def atomic_add(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Add to the int64 at an 8-byte aligned address; returns the value before. Sequentially consistent."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = address_to_pointer(builder, arguments[0], _I64)
        return builder.atomic_rmw("add", pointer, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):  # type: ignore[no-untyped-def]
    """Load the int64 at an 8-byte aligned address; sequentially consistent."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.load_atomic(address_to_pointer(builder, arguments[0], _I64), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Store the int64 at an 8-byte aligned address; sequentially consistent."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.store_atomic(arguments[1], address_to_pointer(builder, arguments[0], _I64), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def atomic_exchange(typingctx, address, value):  # type: ignore[no-untyped-def]
    """Store to the int64 at an 8-byte aligned address; returns the value before. Sequentially consistent."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = address_to_pointer(builder, arguments[0], _I64)
        return builder.atomic_rmw("xchg", pointer, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def call_callback(typingctx, function, argument):  # type: ignore[no-untyped-def]
    """Call the C function `int f(void *)` at an address."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        function_type = ir.FunctionType(ir.IntType(32), [_I64])
        return builder.sext(builder.call(builder.inttoptr(arguments[0], function_type.as_pointer()), [arguments[1]]), _I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def spin_hint(typingctx):  # type: ignore[no-untyped-def]
    """Tell the processor that this is a waiting loop, where it has an instruction for that."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        lowering.spin_hint(builder)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def clock(typingctx):  # type: ignore[no-untyped-def]
    """A counter that rises evenly with time, in ticks of the machine's own length."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return lowering.clock(builder)

    return types.int64(), codegen


@inline
def take(cursor, size):  # type: ignore[no-untyped-def]
    """The cursor behind `size` bytes of an arena, 64-byte aligned if it was."""
    return cursor + ((size + 63) & -64)
