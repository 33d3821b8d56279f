"""Sixteen numbers at a time inside loops that numba compiles: a type for them, its arithmetic, loads and stores.

LLVM turns sixteen lanes into what the CPU at hand has: one register of AVX-512, two of AVX2, four of NEON. Left to
itself it vectorises a loop over the channels of a pixel only where no two arrays could overlap, which numba does not
tell it. Importing this module imports numba, so it is imported where kernels are compiled.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.types.misc import CPointer
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

LANES = 16
# What kernels are made of, put into them by LLVM.
piece = njit(error_model="numpy", forceinline=True)
# Sums of products may be fused: one rounding instead of two.
FUSED = ("contract",)
INT32 = ir.IntType(32)
# exp(r) = 1 + r + r^2 p(r) for |r| <= log(2) / 2: the polynomial of the Cephes library, to float32's last bit or two.
CEPHES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# The same with its worst relative error near 4e-6, of which bf16 sees nothing.
SHORT = (4.3682094e-2, 1.6792697e-1, 4.9999425e-1)
LOG2_HIGH, LOG2_LOW = 0.693359375, -2.12194440e-4


class Vector(types.Type):
    """Sixteen numbers of one type, or sixteen truths where that type is boolean."""

    def __init__(self, dtype: types.Type):
        super().__init__(name=f"vector of {LANES} {dtype}")
        self.dtype = dtype


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector):
        super().__init__(dmm, fe_type, _llvm(fe_type.dtype))


def _llvm(dtype: types.Type) -> ir.VectorType:
    """Return the LLVM vector of a number type."""
    widths: dict[Any, ir.Type] = {
        types.boolean: ir.IntType(1),
        types.float32: ir.FloatType(),
        types.float64: ir.DoubleType(),
    }
    return ir.VectorType(widths.get(dtype, ir.IntType(1)), LANES)


def computed(stored: types.Type) -> types.Type:
    """Return what numbers of a stored type are computed in.

    Bf16, held as uint16, in float32, like the small whole numbers.
    """
    return stored if stored in (types.float32, types.float64) else types.float32


def _spread(builder: Any, kind: ir.Type, number: Any) -> Any:
    """Return a vector of LLVM type `kind` with one number in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(INT32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def _filled(kind: ir.Type, value: float) -> ir.Constant:
    """Return a constant vector."""
    return ir.Constant(kind, [value] * kind.count)


def _arithmetic(function: Callable, instruction: str, truth: bool = False) -> None:
    """Let a Python operator on two vectors become an LLVM instruction."""

    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args: tuple, kws: dict) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(Vector(types.boolean) if truth else args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        if truth:
            return builder.fcmp_ordered(instruction, *args)
        return getattr(builder, instruction)(*args, flags=FUSED)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.iadd, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")
_arithmetic(operator.gt, ">", truth=True)
_arithmetic(operator.eq, "==", truth=True)


def _vector_pointer(builder: Any, pointer: Any, index: Any, kind: ir.Type) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), ir.PointerType(ir.VectorType(kind, LANES)))


@intrinsic
def load(typingctx: Any, pointer: Any, index: Any) -> Any:
    """Return sixteen neighbours from pointer[index] on, as the numbers they are computed in."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        stored = pointer.dtype
        kind = context.get_data_type(stored)
        raw = builder.load(_vector_pointer(builder, args[0], args[1], kind), align=max(stored.bitwidth // 8, 1))
        if stored == types.uint16:
            wide = builder.zext(raw, ir.VectorType(INT32, LANES))
            high = builder.shl(wide, _filled(ir.VectorType(INT32, LANES), 16))
            return builder.bitcast(high, _llvm(types.float32))
        return builder.uitofp(raw, _llvm(types.float32)) if stored == types.uint8 else raw

    return Vector(computed(pointer.dtype))(pointer, index), generate


@intrinsic
def store(typingctx: Any, pointer: Any, index: Any, vector: Any) -> Any:
    """Write a vector to pointer[index] and its fifteen neighbours, rounded to the nearest of what is stored there."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        stored, value = pointer.dtype, args[2]
        if stored == types.uint16:
            value = _to_bf16(builder, value)
        elif stored == types.uint8:
            value = builder.trunc(
                builder.fptosi(value, ir.VectorType(INT32, LANES)), ir.VectorType(ir.IntType(8), LANES)
            )
        target = _vector_pointer(builder, args[0], args[1], context.get_data_type(stored))
        builder.store(value, target, align=max(stored.bitwidth // 8, 1))
        return context.get_dummy_value()

    return types.void(pointer, index, vector), generate


def _to_bf16(builder: Any, value: Any) -> Any:
    """Round float32 to the nearest bf16, ties to even; a NaN that arithmetic makes stays one."""
    whole = ir.VectorType(INT32, LANES)
    bits = builder.bitcast(value, whole)
    odd = builder.and_(builder.lshr(bits, _filled(whole, 16)), _filled(whole, 1))
    rounded = builder.add(builder.add(bits, _filled(whole, 0x7FFF)), odd)
    return builder.trunc(builder.lshr(rounded, _filled(whole, 16)), ir.VectorType(ir.IntType(16), LANES))


@intrinsic
def filled(typingctx: Any, like: Any, number: Any) -> Any:
    """Return a vector like another with one number in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        single = context.cast(builder, args[1], sig.args[1], like.dtype)
        return _spread(builder, _llvm(like.dtype), single)

    return like(like, number), generate


@intrinsic
def choose(typingctx: Any, truth: Any, yes: Any, no: Any) -> Any:
    """Return lane by lane yes where truth holds, else no."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return builder.select(*args)

    return yes(truth, yes, no), generate


@intrinsic
def exponential(typingctx: Any, pointer: Any, vector: Any) -> Any:
    """Return exp of every lane, as exactly as numbers at `pointer` are stored: bf16 needs few bits, float64 all."""
    stored = pointer.dtype

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        kind = _llvm(vector.dtype)
        if vector.dtype == types.float64:
            name = f"llvm.exp.v{LANES}f64"
            function = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(kind, [kind]), name
            )
            return builder.call(function, [args[1]])
        return _exp_float32(builder, args[1], SHORT if stored == types.uint16 else CEPHES)

    return vector(pointer, vector), generate


def _exp_float32(builder: Any, x: Any, polynomial: tuple[float, ...]) -> Any:
    """Return 2^n exp(r) with x = n log(2) + r; x is cut to where 2^n is a normal number, or infinite."""
    kind, whole = _llvm(types.float32), ir.VectorType(INT32, LANES)

    def times_plus(a: Any, b: Any, c: Any) -> Any:
        return builder.fadd(builder.fmul(a, b, flags=FUSED), c, flags=FUSED)

    for limit, beyond in ((89.0, ">"), (-87.0, "<")):
        # A NaN is on neither side, and stays.
        x = builder.select(builder.fcmp_ordered(beyond, x, _filled(kind, limit)), _filled(kind, limit), x)
    name = f"llvm.rint.v{LANES}f32"
    rint = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(kind, [kind]), name)
    n = builder.call(rint, [builder.fmul(x, _filled(kind, 1.44269504088896341))])
    r = times_plus(n, _filled(kind, -LOG2_LOW), times_plus(n, _filled(kind, -LOG2_HIGH), x))
    value = _filled(kind, polynomial[0])
    for coefficient in polynomial[1:]:
        value = times_plus(value, r, _filled(kind, coefficient))
    value = builder.fadd(times_plus(builder.fmul(r, r), value, r), _filled(kind, 1.0))
    power = builder.shl(
        builder.add(builder.fptosi(n, whole), _filled(whole, 127)),
        _filled(whole, 23),
    )
    return builder.fmul(value, builder.bitcast(power, kind))


def _read(builder: Any, args: tuple, kind: ir.Type) -> Any:
    """Return a field of a work order, which stays what it is while a kernel runs.

    LLVM need not read it again in a loop.
    """
    order = builder.bitcast(args[0], ir.PointerType(kind))
    value = builder.load(builder.gep(order, [args[1]]))
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


@intrinsic
def field(typingctx: Any, work: Any, index: Any) -> Any:
    """Return the whole number at a place of a work order, whatever numbers the pointer says the kernel is for."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return _read(builder, args, ir.IntType(64))

    return types.int64(work, index), generate


@intrinsic
def number(typingctx: Any, work: Any, index: Any) -> Any:
    """Return the float64 at a place of a work order."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return _read(builder, args, ir.DoubleType())

    return types.float64(work, index), generate


@intrinsic
def next_part(typingctx: Any, work: Any) -> Any:
    """Take the next number of the parts that are left to do, each of which one thread gets; place 0 counts them."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        counter = builder.bitcast(args[0], ir.PointerType(ir.IntType(64)))
        return builder.atomic_rmw("add", counter, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(work), generate


def _pointer_at(stored_of: Callable[[types.Type], types.Type]) -> Callable[[Any, Any, Any], Any]:
    """Return an intrinsic's body that makes a pointer of the address in a work order."""

    def body(typingctx: Any, work: Any, index: Any) -> Any:
        made = CPointer(stored_of(work.dtype))

        def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
            return builder.inttoptr(_read(builder, args, ir.IntType(64)), context.get_value_type(made))

        return made(work, index), generate

    return body


@intrinsic
def pixels_at(typingctx: Any, work: Any, index: Any) -> Any:
    """Return a pointer to numbers as they are stored, at the address in a work order."""
    return _pointer_at(lambda stored: stored)(typingctx, work, index)


@intrinsic
def channels_at(typingctx: Any, work: Any, index: Any) -> Any:
    """Return a pointer to numbers as they are computed in, at the address in a work order."""
    return _pointer_at(computed)(typingctx, work, index)


@intrinsic
def places_at(typingctx: Any, work: Any, index: Any) -> Any:
    """Return a pointer to bytes, at the address in a work order."""
    return _pointer_at(lambda _: types.uint8)(typingctx, work, index)


@intrinsic
def single(typingctx: Any, pointer: Any, index: Any) -> Any:
    """Return the number at pointer[index], as a float64."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        stored = pointer.dtype
        raw = builder.load(builder.gep(args[0], [args[1]]))
        if stored == types.uint16:
            raw = builder.bitcast(builder.shl(builder.zext(raw, INT32), ir.Constant(INT32, 16)), ir.FloatType())
        return raw if stored == types.float64 else builder.fpext(raw, ir.DoubleType())

    return types.float64(pointer, index), generate


@intrinsic
def write(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write a float64 to pointer[index], rounded to what is computed in."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        value = args[2] if pointer.dtype == types.float64 else builder.fptrunc(args[2], ir.FloatType())
        builder.store(value, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(pointer, index, types.float64), generate


@intrinsic
def moved(typingctx: Any, pointer: Any, count: Any) -> Any:
    """Return a pointer that is so many numbers further."""

    def generate(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, count), generate
