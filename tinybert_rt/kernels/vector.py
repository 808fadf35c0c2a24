"""The vector building blocks: 16 lanes of float32 or int32, whatever the registers of the machine are.

LLVM cuts a 16-lane value into one zmm, two ymm or four 128-bit registers. Every operation here is defined lane by lane
with IEEE 754 rounding, and the reductions have one fixed order, so that all levels give the same bytes.

Types: `f32x16`, `i32x16`. Operators: + - * / on f32x16; + - * & | << >> (arithmetic) on i32x16.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic, lower_builtin, type_callable

from tinybert_rt.isa import lowering
from tinybert_rt.isa.lowering import F32, F32X16, I8, I32, I32X16, I64, LANES, constant_vector, shuffle, splat
from tinybert_rt.kernels.memory import address_to_pointer

_ROUND_MAGIC = 12582912.0  # 1.5 * 2**23: adding it to |x| < 2**22 rounds half to even to an integer
_ROUND_MAGIC_BITS = 0x4B400000


class VectorType(types.Type):
    """Numba type of a 16-lane vector."""

    def __init__(self, name: str, llvm: ir.Type) -> None:
        self.llvm = llvm
        super().__init__(name=name)


f32x16 = VectorType("f32x16", F32X16)
i32x16 = VectorType("i32x16", I32X16)


@register_default(VectorType)
class _VectorModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def operation(result: types.Type, arguments: tuple[types.Type, ...], build: Callable[..., ir.Value]) -> Any:
    """An intrinsic with fixed types from a function of the builder and the operands."""
    names = [f"a{i}" for i in range(len(arguments))]

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value = build(builder, *values)
        return context.get_dummy_value() if value is None else value

    def implementation(typingctx: Any, *_: Any) -> Any:
        return result(*arguments), codegen

    # Numba reads the number of parameters from the function's own signature.
    parameters = ", ".join(names)
    scope = {"implementation": implementation}
    exec(f"def operation(typingctx, {parameters}):\n    return implementation(typingctx, {parameters})", scope)
    return intrinsic(scope["operation"])


# ---------------------------------------------------------------- loads and stores


def load(builder: Any, address: ir.Value, vector: ir.Type) -> ir.Value:
    """A vector of 32-bit elements from an address."""
    return builder.load(address_to_pointer(builder, address, vector), align=4)


def store(builder: Any, address: ir.Value, value: ir.Value) -> None:
    """A vector of 32-bit elements to an address."""
    builder.store(value, address_to_pointer(builder, address, value.type), align=4)


def _load_bytes(extend: str) -> Callable[..., ir.Value]:
    def build(builder: Any, address: ir.Value) -> ir.Value:
        packed = ir.VectorType(I8, LANES)
        value = builder.load(address_to_pointer(builder, address, packed), align=1)
        return getattr(builder, extend)(value, I32X16)

    return build


def _store_bytes(builder: Any, address: ir.Value, value: ir.Value) -> None:
    packed = builder.trunc(value, ir.VectorType(I8, LANES))
    builder.store(packed, address_to_pointer(builder, address, packed.type), align=1)


load_f32x16 = operation(f32x16, (types.int64,), lambda b, p: load(b, p, F32X16))
load_i32x16 = operation(i32x16, (types.int64,), lambda b, p: load(b, p, I32X16))
store_f32x16 = operation(types.void, (types.int64, f32x16), store)
store_i32x16 = operation(types.void, (types.int64, i32x16), store)
load_s8x16 = operation(i32x16, (types.int64,), _load_bytes("sext"))
store_u8x16 = operation(types.void, (types.int64, i32x16), _store_bytes)


# ---------------------------------------------------------------- arithmetic


splat_f32 = operation(f32x16, (types.float32,), lambda b, x: splat(b, x, F32X16))
splat_i32 = operation(i32x16, (types.int64,), lambda b, x: splat(b, b.trunc(x, I32), I32X16))
fma = operation(f32x16, (f32x16, f32x16, f32x16), lowering.fma)
# dot4(acc, a, b): acc plus, in each lane, the dot product of the 4 unsigned bytes of a and the 4 signed bytes of b.
dot4 = operation(i32x16, (i32x16, i32x16, i32x16), lowering.dot4)
# fraction(x): x − ⌊x⌋. times_power(x, y): x·2**⌊y⌋, a normal number. Both for |x|, |y| < 2**22.
fraction = operation(f32x16, (f32x16,), lowering.fraction)
times_power = operation(f32x16, (f32x16, f32x16), lowering.times_power)
sqrt = operation(f32x16, (f32x16,), lambda b, x: lowering.intrinsic(b, "llvm.sqrt.v16f32", F32X16, [x]))
sqrt_f32 = operation(types.float32, (types.float32,), lambda b, x: lowering.intrinsic(b, "llvm.sqrt.f32", F32, [x]))


def _choose(comparison: str) -> Callable[..., ir.Value]:
    def build(builder: Any, a: ir.Value, b: ir.Value) -> ir.Value:
        # The second operand wins where either is NaN, as the x86 instructions do.
        return builder.select(builder.fcmp_ordered(comparison, a, b), a, b)

    return build


minimum = operation(f32x16, (f32x16, f32x16), _choose("<"))
maximum = operation(f32x16, (f32x16, f32x16), _choose(">"))


absolute = operation(
    f32x16,
    (f32x16,),
    lambda b, x: b.bitcast(b.and_(b.bitcast(x, I32X16), constant_vector(I32, 0x7FFFFFFF)), F32X16),
)
negative = operation(f32x16, (f32x16,), lambda b, x: b.fneg(x))
swap_neighbours = operation(f32x16, (f32x16,), lambda b, x: shuffle(b, x, None, [lane ^ 1 for lane in range(LANES)]))
to_f32 = operation(f32x16, (i32x16,), lambda b, x: b.sitofp(x, F32X16))
as_f32 = operation(f32x16, (i32x16,), lambda b, x: b.bitcast(x, F32X16))
as_i32 = operation(i32x16, (f32x16,), lambda b, x: b.bitcast(x, I32X16))


def _round_to_i32(builder: Any, value: ir.Value) -> ir.Value:
    shifted = builder.fadd(value, constant_vector(F32, _ROUND_MAGIC))
    return builder.sub(builder.bitcast(shifted, I32X16), constant_vector(I32, _ROUND_MAGIC_BITS))


# Rounding half to even, for |x| < 2**22.
round_to_i32 = operation(i32x16, (f32x16,), _round_to_i32)


def _rounded_product(builder: Any, a: ir.Value, b: ir.Value) -> ir.Value:
    shifted = lowering.fma(builder, a, b, constant_vector(F32, _ROUND_MAGIC))
    return builder.sub(builder.bitcast(shifted, I32X16), constant_vector(I32, _ROUND_MAGIC_BITS))


# rounded_product(a, b): a·b rounded once, half to even, to an integer; |a·b| < 2**22.
rounded_product = operation(i32x16, (f32x16, f32x16), _rounded_product)
# where_below(x, y, a, b): a in the lanes where x < y, else b (and where either is NaN).
where_below = operation(f32x16, (f32x16,) * 4, lambda b, x, y, u, v: b.select(b.fcmp_ordered("<", x, y), u, v))
flip_signs = operation(i32x16, (i32x16,), lambda b, x: b.xor(x, constant_vector(I32, 0x80808080 - 2**32)))  # the highest bit of each byte
unequal_bits = operation(i32x16, (i32x16, i32x16), lambda b, x, y: b.xor(x, y))
count_bits = operation(i32x16, (i32x16,), lambda b, x: lowering.intrinsic(b, "llvm.ctpop.v16i32", I32X16, [x]))


def _lanes_below(builder: Any, count: ir.Value) -> ir.Value:
    index = ir.Constant(I32X16, list(range(LANES)))
    return builder.icmp_signed("<", index, splat(builder, builder.trunc(count, I32), I32X16))


# first_lanes(n, x, y): lanes 0…n-1 of x, the others of y.
first_lanes = operation(f32x16, (types.int64, f32x16, f32x16), lambda b, n, x, y: b.select(_lanes_below(b, n), x, y))


# ---------------------------------------------------------------- reductions: lanes i and i+8, then i+4, i+2, i+1


def _reduce(combine: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    def build(builder: Any, value: ir.Value) -> ir.Value:
        width = LANES
        while width > 1:
            width //= 2
            low = shuffle(builder, value, None, list(range(width)))
            high = shuffle(builder, value, None, list(range(width, 2 * width)))
            value = combine(builder, low, high)
        return builder.extract_element(value, ir.Constant(I32, 0))

    return build


reduce_add = operation(types.float32, (f32x16,), _reduce(lambda b, x, y: b.fadd(x, y)))
add_i32 = operation(types.int64, (i32x16,), lambda b, x: b.sext(_reduce(lambda b, u, v: b.add(u, v))(b, x), I64))
reduce_max = operation(types.float32, (f32x16,), _reduce(_choose(">")))


def _reduce_rows(rows: int, combine: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    """The reductions of `rows` (a power of two up to 16) vectors that lie one behind the other, in lanes 0 … rows−1 of one vector.

    Each is the tree of `_reduce`; every step does it for two vectors at a time, so that all take little longer than one.
    """

    def build(builder: Any, address: ir.Value) -> ir.Value:
        vectors = [load(builder, builder.add(address, ir.Constant(I64, 64 * i)), F32X16) for i in range(rows)]
        order = [[i] for i in range(rows)]  # the rows of a vector's parts
        width = LANES
        while width > 1:
            width //= 2
            low = [lane for lane in range(2 * LANES) if lane % (2 * width) < width]
            high = [lane + width for lane in low]
            half = len(vectors) // 2
            if half:
                pairs = list(zip(vectors[:half], vectors[half:], strict=True))
                order = [[*a, *b] for a, b in zip(order[:half], order[half:], strict=True)]
            else:
                pairs = [(vectors[0], vectors[0])]
                order = [order[0] * 2]
            vectors = [combine(builder, shuffle(builder, a, b, low), shuffle(builder, a, b, high)) for a, b in pairs]
        return shuffle(builder, vectors[0], None, [order[0].index(lane % rows) for lane in range(LANES)])

    return build


add_8_rows = operation(f32x16, (types.int64,), _reduce_rows(8, lambda b, x, y: b.fadd(x, y)))
max_8_rows = operation(f32x16, (types.int64,), _reduce_rows(8, _choose(">")))
add_16_rows = operation(f32x16, (types.int64,), _reduce_rows(16, lambda b, x, y: b.fadd(x, y)))
min_16_rows = operation(f32x16, (types.int64,), _reduce_rows(16, _choose("<")))
max_16_rows = operation(f32x16, (types.int64,), _reduce_rows(16, _choose(">")))


def _transpose(builder: Any, source: ir.Value, stride: ir.Value, target: ir.Value, target_stride: ir.Value) -> None:
    """16×16 transpose in registers: 4 rounds of interleaving rows i and i+8."""
    rows = [load(builder, builder.add(source, builder.mul(stride, ir.Constant(I64, i))), F32X16) for i in range(LANES)]
    interleave_low = [i // 2 + (i % 2) * LANES for i in range(LANES)]
    interleave_high = [lane + LANES // 2 for lane in interleave_low]
    for _ in range(4):
        pairs = [(rows[i], rows[i + 8]) for i in range(8)]
        rows = [shuffle(builder, a, b, lanes) for a, b in pairs for lanes in (interleave_low, interleave_high)]
    for i, row in enumerate(rows):
        store(builder, builder.add(target, builder.mul(target_stride, ir.Constant(I64, i))), row)


# transpose_f32(source, source_stride_bytes, target, target_stride_bytes): a 16×16 block of float32.
transpose_f32 = operation(types.void, (types.int64,) * 4, _transpose)


# ---------------------------------------------------------------- operators


def _binary(function: Any, vector: VectorType, method: str) -> None:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, method)(*values)

    lower_builtin(function, vector, vector)(codegen)


def _typed_operator(function: Any) -> None:
    @type_callable(function)
    def _type(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            return a if isinstance(a, VectorType) and a == b else None

        return typer


_OPERATORS: dict[VectorType, dict[Any, str]] = {
    f32x16: {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"},
    i32x16: {
        operator.add: "add",
        operator.sub: "sub",
        operator.mul: "mul",
        operator.and_: "and_",
        operator.or_: "or_",
        operator.lshift: "shl",
        operator.rshift: "ashr",
    },
}
for _function in {each for table in _OPERATORS.values() for each in table}:
    _typed_operator(_function)
for _vector, _table in _OPERATORS.items():
    for _function, _method in _table.items():
        _binary(_function, _vector, _method)
