"""Hand-written lowerings: the u8×s8 dot product per instruction set, look-ups in a register, a fused multiply-add, and hints.

All of them work on 16 lanes of 32 bits. `dot4` adds to each int32 lane the sum of four products of neighbouring bytes:

    acc[i] + sum(a[4*i + j] * b[4*i + j] for j in range(4))        a: u8, b: s8, exact

| lowering    | instructions for 64 MACs                                  | needs                    |
|-------------|-----------------------------------------------------------|--------------------------|
| vpdpbusd512 | 1 vpdpbusd zmm                                            | AVX-512 VNNI             |
| vpdpbusd256 | 2 vpdpbusd ymm                                            | AVX-VNNI                 |
| avx2        | 2 vpmaddubsw + 2 vpmaddwd + 2 vpaddd                      | AVX2                     |
| sse2        | 8 pmaddwd + 8 paddd on bytes that are widened to 16 bits  | SSE2                     |
| usdot       | 4 usdot                                                   | FEAT_I8MM                |
| sdot        | 4 sdot, and 4 more to correct them, see `shifted_dot4`    | FEAT_DotProd             |
| sadalp      | 4 mul + 4 mla of 16 bits + 4 sadalp, bytes widened before | Advanced SIMD            |
| portable    | 4 shifts, 4 products and 4 sums of 32 bits                | nothing                  |

`vpmaddubsw` adds two products in 16 bits with saturation, and what `sadalp` adds are sums of two products that wrap around
at 16 bits. Neither ever happens where b obeys the **pair rule**: of the bytes b[2*i] and b[2*i + 1], those of one sign add
up to at most 128 in magnitude, and 255·128 < 2**15. Weights obey it in every model file that the writer lets pass (FORMAT.md,
rule 8), keys and values of attention by the way they are quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir

from tinybert_rt.isa.levels import IsaLevel

I8 = ir.IntType(8)
I16 = ir.IntType(16)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
F32 = ir.FloatType()
F64 = ir.DoubleType()
LANES = 16
I32X16 = ir.VectorType(I32, LANES)
F32X16 = ir.VectorType(F32, LANES)

_active: IsaLevel | None = None


def activate(level: IsaLevel) -> None:
    """Set the level that kernels are compiled for; one level per process, since compiled kernels are shared."""
    global _active
    if _active is not None and _active is not level:
        raise RuntimeError(f"kernels of this process are compiled for {_active.name!r}, not {level.name!r}")
    _active = level


def active() -> IsaLevel:
    """The level that kernels are being compiled for."""
    if _active is None:
        raise RuntimeError("no instruction-set level is active: kernels are compiled by tinybert_rt.engine.emit")
    return _active


def constant_vector(element: ir.Type, value: Any, lanes: int = LANES) -> ir.Constant:
    """A vector constant with the same value in each lane."""
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def intrinsic(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """Call the LLVM intrinsic `name`."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    module = builder.module
    function = module.globals.get(name) or ir.Function(module, function_type, name)
    return builder.call(function, arguments)


def shuffle(builder: ir.IRBuilder, first: ir.Value, second: ir.Value | None, lanes: list[int]) -> ir.Value:
    """Pick `lanes` of the concatenation of two vectors."""
    if second is None:
        second = ir.Constant(first.type, ir.Undefined)
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(first, second, mask)


def splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.Type) -> ir.Value:
    """A vector with a scalar in each lane."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return shuffle(builder, single, None, [0] * vector.count)


def dot4(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """acc i32x16 + dot products of 4 neighbouring bytes of a (u8) and b (s8), both given as i32x16."""
    return _DOT[active().dot](builder, acc, a, b)


def shifted_dot4() -> Callable[..., ir.Value] | None:
    """None, or what a tile should be made of instead of `dot4`: a function of (builder, acc, a, b), exact modulo 2**32, for

        acc[i] + sum((a[4*i + j] - 128) * b[4*i + j] for j in range(4))        a: u8, b: s8

    A level has it where a signed dot product is one instruction and an unsigned by a signed one is not. With a = 0 it gives
    what is missing, −128·Σb, which is the same for all rows of a tile: they share one such sum and subtract it at the end.
    """
    return _shifted_sdot if active().dot == "sdot" else None


def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a*b + c in float32 with one rounding, on every level."""
    if active().fused_multiply_add:
        suffix = f"v{a.type.count}f32" if isinstance(a.type, ir.VectorType) else "f32"
        return intrinsic(builder, f"llvm.fma.{suffix}", a.type, [a, b, c])
    return _fma_by_doubles(builder, a, b, c)


def fma_of_integers(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """As `fma`, of integers whose product and sum are below 2**53 in magnitude: doubles hold these exactly."""
    if active().fused_multiply_add:
        return fma(builder, a, b, c)
    wide = ir.VectorType(F64, a.type.count)
    a, b, c = (builder.fpext(each, wide) for each in (a, b, c))
    return builder.fptrunc(builder.fadd(builder.fmul(a, b), c), F32X16)


def in_register(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """A vector constant that the compiler keeps in a register, where a vector is one and registers are many; elsewhere as it is."""
    if active().vector_bits < 512:
        return value
    return builder.asm(ir.FunctionType(value.type, [value.type]), "", "=v,0", [value], False)


def fraction(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """x − ⌊x⌋ of f32x16, |x| < 2**22. (AVX-512's own instruction rounds the difference downwards, others to the nearest.)"""
    return builder.fsub(x, _floor(builder, x))


def times_power(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """x·2**⌊y⌋ of f32x16, |y| < 2**22, where x and the result are normal numbers."""
    if active().vector_bits == 512:
        all_lanes, rounding = ir.Constant(I16, -1), ir.Constant(I32, 4)
        return intrinsic(builder, "llvm.x86.avx512.mask.scalef.ps.512", F32X16, [x, y, ir.Constant(F32X16, None), all_lanes, rounding])
    exponent = builder.fptosi(_floor(builder, y), I32X16)
    bits = builder.add(builder.bitcast(x, I32X16), builder.shl(exponent, constant_vector(I32, 23)))
    return builder.bitcast(bits, F32X16)


def _floor(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    if active().name != "portable":
        return intrinsic(builder, "llvm.floor.v16f32", F32X16, [x])
    # Without an instruction for it, LLVM would call the C library. Adding 1.5·2**23 rounds to the nearest integer.
    magic = constant_vector(F32, 12582912.0)
    nearest = builder.fsub(builder.fadd(x, magic), magic)
    below = builder.fsub(nearest, constant_vector(F32, 1.0))
    return builder.select(builder.fcmp_ordered(">", nearest, x), below, nearest)


def table_8(values: Sequence[float]) -> ir.Constant:
    """A table of eight float32 for `look_up_8`: it stands there twice."""
    return ir.Constant(F32X16, [float(value) for value in values] * 2)


def look_up_8(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    """In each lane the value of a `table_8` with the number in the low three bits of the index, an i32x16 whose other bits are any."""
    level = active()
    if level.vector_bits == 512:
        return intrinsic(builder, "llvm.x86.avx512.permvar.sf.512", F32X16, [table, index])
    if level.vector_bits == 256:
        return _by_parts(_look_up_avx2, 8, builder, table, index)
    if level.architecture == "aarch64":
        numbers = builder.and_(index, constant_vector(I32, 7))
        places = builder.add(builder.mul(numbers, constant_vector(I32, 0x04040404)), constant_vector(I32, 0x03020100))
        return _by_parts(partial(_look_up_neon, table), 4, builder, places)
    result: ir.Value = ir.Constant(F32X16, ir.Undefined)
    for lane in range(LANES):
        at = ir.Constant(I32, lane)
        number = builder.and_(builder.extract_element(index, at), ir.Constant(I32, 7))
        result = builder.insert_element(result, builder.extract_element(table, number), at)
    return result


def _look_up_avx2(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    return intrinsic(builder, "llvm.x86.avx2.permps", table.type, [table, index])


def _look_up_neon(table: ir.Value, builder: ir.IRBuilder, places: ir.Value) -> ir.Value:
    """Of four lanes; places: in each byte that of a byte of the table."""
    octets = ir.VectorType(I8, 16)
    halves = [builder.bitcast(shuffle(builder, table, None, [*range(i, i + 4)]), octets) for i in (0, 4)]
    found = intrinsic(builder, "llvm.aarch64.neon.tbl2.v16i8", octets, [*halves, builder.bitcast(places, octets)])
    return builder.bitcast(found, ir.VectorType(F32, 4))


def spin_hint(builder: ir.IRBuilder) -> None:
    """A pause in a waiting loop, where the architecture has one."""
    if active().architecture == "x86_64":
        intrinsic(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])


def prefetch(builder: ir.IRBuilder, pointer: ir.Value, cache: int) -> None:
    """Bring the cache line at a pointer into the first-level or the second-level cache; any address is allowed."""
    name = f"llvm.prefetch.p0{pointer.type.pointee}" if not pointer.type.is_opaque else "llvm.prefetch.p0"
    read, locality, data = ir.Constant(I32, 0), ir.Constant(I32, 4 - cache), ir.Constant(I32, 1)
    intrinsic(builder, name, ir.VoidType(), [pointer, read, locality, data])


def clock(builder: ir.IRBuilder) -> ir.Value:
    """A counter of time that any program may read: the time-stamp counter, or AArch64's virtual counter."""
    name = "llvm.readcyclecounter" if active().architecture == "x86_64" else "llvm.readsteadycounter"
    return intrinsic(builder, name, I64, [])


def _dot_vpdpbusd512(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    bytes_type = ir.VectorType(I8, 64)
    return intrinsic(
        builder,
        "llvm.x86.avx512.vpdpbusd.512",
        I32X16,
        [acc, builder.bitcast(a, bytes_type), builder.bitcast(b, bytes_type)],
    )


def _by_parts(operation: Callable[..., ir.Value], lanes: int, builder: ir.IRBuilder, *operands: ir.Value) -> ir.Value:
    """An operation on vectors of `lanes` lanes, applied to each part of 16."""
    starts = range(0, LANES, lanes)
    parts = [operation(builder, *(shuffle(builder, each, None, [*range(i, i + lanes)]) for each in operands)) for i in starts]
    while len(parts) > 1:
        parts = [shuffle(builder, x, y, [*range(2 * x.type.count)]) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _dot_vpdpbusd256(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    bytes_type = ir.VectorType(I8, 32)

    def half(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        operands = [acc, builder.bitcast(a, bytes_type), builder.bitcast(b, bytes_type)]
        return intrinsic(builder, "llvm.x86.avx512.vpdpbusd.256", acc.type, operands)

    return _by_parts(half, 8, builder, acc, a, b)


def _dot_avx2(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    bytes_type, words = ir.VectorType(I8, 32), ir.VectorType(I16, 16)

    def half(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        operands = [builder.bitcast(each, bytes_type) for each in (a, b)]
        pairs = intrinsic(builder, "llvm.x86.avx2.pmadd.ub.sw", words, operands)
        return builder.add(acc, intrinsic(builder, "llvm.x86.avx2.pmadd.wd", acc.type, [pairs, constant_vector(I16, 1, 16)]))

    return _by_parts(half, 8, builder, acc, a, b)


def _dot_sse2(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    words = ir.VectorType(I16, 8)
    eight = constant_vector(I16, 8, 8)

    def quarter(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        a16, b16 = builder.bitcast(a, words), builder.bitcast(b, words)
        even = builder.and_(a16, constant_vector(I16, 255, 8)), builder.ashr(builder.shl(b16, eight), eight)
        odd = builder.lshr(a16, eight), builder.ashr(b16, eight)
        for left, right in (even, odd):
            acc = builder.add(acc, intrinsic(builder, "llvm.x86.sse2.pmadd.wd", acc.type, [left, right]))
        return acc

    return _by_parts(quarter, 4, builder, acc, a, b)


def _neon_dot(name: str, builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    bytes_type = ir.VectorType(I8, 16)

    def quarter(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        operands = [acc, builder.bitcast(a, bytes_type), builder.bitcast(b, bytes_type)]
        return intrinsic(builder, f"llvm.aarch64.neon.{name}.v4i32.v16i8", acc.type, operands)

    return _by_parts(quarter, 4, builder, acc, a, b)


def _dot_usdot(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    return _neon_dot("usdot", builder, acc, a, b)


def _shifted_sdot(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """See `shifted_dot4`: a byte with its highest bit flipped is, as a signed one, the byte minus 128. The last factor may be a lane."""
    highest_bits = constant_vector(I32, 0x80808080 - 2**32)
    return _neon_dot("sdot", builder, acc, b, builder.xor(a, highest_bits))


def _dot_sdot(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    zero = ir.Constant(I32X16, None)
    return builder.sub(_shifted_sdot(builder, acc, a, b), _shifted_sdot(builder, zero, zero, b))


def _dot_sadalp(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Products of bytes 2i and of bytes 2i + 1 are added in 16 bits, and pairs of these in 32 bits."""
    words = ir.VectorType(I16, 8)
    eight = constant_vector(I16, 8, 8)

    def quarter(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
        a16, b16 = builder.bitcast(a, words), builder.bitcast(b, words)
        even = builder.mul(builder.and_(a16, constant_vector(I16, 255, 8)), builder.ashr(builder.shl(b16, eight), eight))
        odd = builder.mul(builder.lshr(a16, eight), builder.ashr(b16, eight))
        return builder.add(acc, intrinsic(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", acc.type, [builder.add(even, odd)]))

    return _by_parts(quarter, 4, builder, acc, a, b)


def _dot_portable(builder: ir.IRBuilder, acc: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    for byte in range(4):
        unsigned = builder.and_(builder.lshr(a, constant_vector(I32, 8 * byte)), constant_vector(I32, 255))
        signed = builder.ashr(builder.shl(b, constant_vector(I32, 24 - 8 * byte)), constant_vector(I32, 24))
        acc = builder.add(acc, builder.mul(unsigned, signed))
    return acc


_DOT: dict[str, Callable[..., ir.Value]] = {
    "vpdpbusd512": _dot_vpdpbusd512,
    "vpdpbusd256": _dot_vpdpbusd256,
    "avx2": _dot_avx2,
    "sse2": _dot_sse2,
    "usdot": _dot_usdot,
    "sdot": _dot_sdot,
    "sadalp": _dot_sadalp,
    "portable": _dot_portable,
}


def _fma_by_doubles(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Exact float32 fma by doubles: the product is exact in 53 bits, the sum is rounded to odd and then to float32.

    Rounding to odd before a narrower rounding gives the correctly rounded result when the wide format has at least two
    more bits (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to
    odd", IEEE Trans. Computers 57(4), 2008).
    """
    vector = isinstance(a.type, ir.VectorType)
    lanes = a.type.count if vector else 1
    wide = ir.VectorType(F64, lanes) if vector else F64
    bits = ir.VectorType(I64, lanes) if vector else I64

    def constant(kind: ir.Type, value: Any) -> ir.Constant:
        return ir.Constant(kind, [value] * lanes) if vector else ir.Constant(kind, value)

    product = builder.fmul(builder.fpext(a, wide), builder.fpext(b, wide))
    addend = builder.fpext(c, wide)
    total = builder.fadd(product, addend)
    part = builder.fsub(total, product)
    error = builder.fadd(builder.fsub(product, builder.fsub(total, part)), builder.fsub(addend, part))
    total_bits = builder.bitcast(total, bits)
    zero, one = constant(wide, 0.0), constant(bits, 1)
    inexact = builder.fcmp_ordered("!=", error, zero)
    even = builder.icmp_signed("==", builder.and_(total_bits, one), constant(bits, 0))
    outward = builder.icmp_signed("==", builder.fcmp_ordered(">", error, zero), builder.fcmp_ordered(">", total, zero))
    step = builder.select(outward, one, constant(bits, -1))
    odd = builder.select(builder.and_(inexact, even), builder.add(total_bits, step), total_bits)
    return builder.fptrunc(builder.bitcast(odd, wide), a.type)
