"""The code of fused_colours.py's pass, built for LLVM: many pixels at a time from RGB to HSV, changed, and back.

Importing this module imports llvmlite, so it is imported where the pass is compiled. The arithmetic is OpenCV's for
8 bits. To HSV it is exact but for two quotients, which are rounded as OpenCV's tables of them are; back it is in
float32, of which the fraction is dropped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

NAME = "recolour"
BYTE, TRUTH, PLACE, NUMBER = ir.IntType(8), ir.IntType(1), ir.IntType(64), ir.FloatType()
# What OpenCV's tables hold: 255 (saturation) and 180 / 6 (hue) divided by a byte, in units of 1 / 4096.
UNITS, SATURATION, HUE = 4096.0, 255 * 4096.0, 30 * 4096.0
# Its constants as float32 has them.
PER_LEVEL, SECTORS_PER_HUE = 0.003921568859368563, 0.03333333507180214


class Lanes:
    """So many numbers side by side in the code that is built; arithmetic with them becomes LLVM's instructions."""

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.builder, self.value = builder, value

    def _value(self, other: "Lanes | float") -> Any:
        return (
            other.value if isinstance(other, Lanes) else ir.Constant(self.value.type, [other] * self.value.type.count)
        )

    def _done(self, instruction: str, *operands: "Lanes | float") -> "Lanes":
        return Lanes(self.builder, getattr(self.builder, instruction)(*map(self._value, operands)))

    def _called(self, function: str, *operands: "Lanes | float") -> "Lanes":
        called = self.builder.module.globals[f"llvm.{function}.v{self.value.type.count}f32"]
        return Lanes(self.builder, self.builder.call(called, [*map(self._value, operands)]))

    def __add__(self, other: "Lanes | float") -> "Lanes":
        return self._done("fadd", self, other)

    def __sub__(self, other: "Lanes | float") -> "Lanes":
        return self._done("fsub", self, other)

    def __rsub__(self, other: float) -> "Lanes":
        return self._done("fsub", other, self)

    def __mul__(self, other: "Lanes | float") -> "Lanes":
        return self._done("fmul", self, other)

    def __rtruediv__(self, other: float) -> "Lanes":
        return self._done("fdiv", other, self)

    def min(self, other: "Lanes | float") -> "Lanes":
        """Return the lesser of the two."""
        return self.where("<", other, self, other)

    def max(self, other: "Lanes | float") -> "Lanes":
        """Return the greater of the two."""
        return self.where(">", other, self, other)

    def where(self, test: str, other: "Lanes | float", yes: "Lanes | float", no: "Lanes | float") -> "Lanes":
        """Return `yes` where a comparison with `other` holds, else `no`."""
        holds = self.builder.fcmp_ordered(test, self.value, self._value(other))
        return Lanes(self.builder, self.builder.select(holds, self._value(yes), self._value(no)))

    def times_plus(self, factor: "Lanes", summand: "Lanes | float") -> "Lanes":
        """Return the product and sum with one rounding."""
        return self._called("fma", self, factor, summand)

    def rounded(self) -> "Lanes":
        """Round to whole numbers, halves to even ones."""
        return self._called("rint", self)

    def floored(self) -> "Lanes":
        """Round down to whole numbers."""
        return self._called("floor", self)


def to_hsv(red: Lanes, green: Lanes, blue: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """Return hue (0 to 179), saturation and value (0 to 255), whole numbers."""
    value = red.max(green).max(blue)
    span = value - red.min(green).min(blue)
    of_red, of_green, of_blue = green - blue, blue - red + span * 2.0, red - green + span * 4.0
    apart = value.where("==", red, of_red, value.where("==", green, of_green, of_blue))
    per_value, per_span = (SATURATION / value.max(1.0)).rounded(), (HUE / span.max(1.0)).rounded()
    saturation = (span.times_plus(per_value, UNITS / 2) * (1 / UNITS)).floored()
    hue = (apart.times_plus(per_span, UNITS / 2) * (1 / UNITS)).floored()
    return hue + hue.where("<", 0.0, 180.0, 0.0), saturation, value


def to_rgb(hue: Lanes, saturation: Lanes, value: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """Return red, green and blue, of which the fraction is to be dropped; hue may be up to 255, beyond the circle."""
    saturation, value, sector = saturation * PER_LEVEL, value * PER_LEVEL, hue * SECTORS_PER_HUE
    sector = sector - sector.where("<", 6.0, 0.0, 6.0)
    # How far each colour is from its full value: 0 to 1, up and down around the circle of six sectors.
    far = (
        (sector - 1.0).min(5.0 - sector),
        (1.0 - sector).max(sector - 3.0),
        (3.0 - sector).max(sector - 5.0),
    )
    negative = 0.0 - saturation
    red, green, blue = (value * negative.times_plus(each.max(0.0).min(1.0), 1.0) * 255.0 for each in far)
    return red, green, blue


def build(triple: str, lanes: int) -> ir.Module:
    """Return a module with recolour(image, image_step, out, out_step, rows, blocks, flip, numbers).

    Rows of `blocks` times `lanes` pixels of 3 bytes begin at `image` and every `image_step` bytes further, and go to
    `out` and every `out_step` bytes further; with `flip` from right to left. numbers: the factors of hue, saturation
    and value, and their unit.
    """
    module = ir.Module(name=__name__)
    module.triple = triple
    vector = ir.VectorType(NUMBER, lanes)
    for name, operands in (("fma", 3), ("rint", 1), ("floor", 1)):
        ir.Function(module, ir.FunctionType(vector, [vector] * operands), f"llvm.{name}.v{lanes}f32")
    pointer = BYTE.as_pointer()
    kinds = [pointer, PLACE, pointer, PLACE, PLACE, PLACE, TRUTH, NUMBER.as_pointer()]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), NAME)
    image, image_step, out, out_step, rows, blocks, flip, numbers = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    *factors, unit = (_spread(builder, numbers, number, vector) for number in range(4))
    last = builder.sub(blocks, PLACE(1))
    with _counting(builder, rows) as row:
        source = builder.gep(image, [builder.mul(row, image_step)])
        target = builder.gep(out, [builder.mul(row, out_step)])
        with _counting(builder, blocks) as block:
            pixels = _load(builder, builder.gep(source, [builder.mul(block, PLACE(3 * lanes))]), lanes)
            # In this order: cv2.multiply rounds the product of pixel and unit first.
            parts = zip(to_hsv(*pixels), factors, strict=True)
            changed = [(each * unit * factor).rounded().min(255.0) for each, factor in parts]
            place = builder.select(flip, builder.sub(last, block), block)
            there = builder.gep(target, [builder.mul(place, PLACE(3 * lanes))])
            _store(builder, there, to_rgb(*changed), flip)
    builder.ret_void()
    return module


@contextmanager
def _counting(builder: ir.IRBuilder, count: Any) -> Iterator[Any]:
    """Build a loop around what is built in the block; gives its number, from 0 to count - 1."""
    before = builder.block
    check, body, after = (builder.append_basic_block() for _ in range(3))
    builder.branch(check)
    builder.position_at_end(check)
    number = builder.phi(PLACE)
    number.add_incoming(PLACE(0), before)
    builder.cbranch(builder.icmp_signed("<", number, count), body, after)
    builder.position_at_end(body)
    yield number
    number.add_incoming(builder.add(number, PLACE(1)), builder.block)
    builder.branch(check)
    builder.position_at_end(after)


def _spread(builder: ir.IRBuilder, numbers: Any, index: int, vector: ir.VectorType) -> Lanes:
    """Return one number of an array in all lanes."""
    one = builder.load(builder.gep(numbers, [PLACE(index)]))
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), one, PLACE(0))
    return Lanes(builder, builder.shuffle_vector(first, first, _places([0] * vector.count)))


def _places(indices: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), list(indices))


def _load(builder: ir.IRBuilder, place: Any, lanes: int) -> list[Lanes]:
    """Return red, green and blue of so many pixels that lie from a place on."""
    parts = [builder.load(_vector_at(builder, place, part, lanes), align=1) for part in range(3)]
    channels = []
    for channel in range(3):
        wanted = [channel + 3 * pixel for pixel in range(lanes)]
        # Of the first two parts, then of these and the third.
        found = builder.shuffle_vector(*parts[:2], _places([at if at < 2 * lanes else 0 for at in wanted]))
        order = [pixel if at < 2 * lanes else at - lanes for pixel, at in enumerate(wanted)]
        found = builder.shuffle_vector(found, parts[2], _places(order))
        channels.append(Lanes(builder, builder.uitofp(found, ir.VectorType(NUMBER, lanes))))
    return channels


def _store(builder: ir.IRBuilder, place: Any, pixels: Sequence[Lanes], flip: Any) -> None:
    """Write red, green and blue of so many pixels from a place on; with `flip` the last one first."""
    lanes = pixels[0].value.type.count
    backwards, channels = _places(range(lanes - 1, -1, -1)), []
    for each in pixels:
        whole = builder.fptosi(each.value, ir.VectorType(ir.IntType(32), lanes))
        found = builder.trunc(whole, ir.VectorType(BYTE, lanes))
        channels.append(builder.select(flip, builder.shuffle_vector(found, found, backwards), found))
    for part in range(3):
        held = [divmod(part * lanes + byte, 3) for byte in range(lanes)]
        two = [channel * lanes + pixel if channel < 2 else 0 for pixel, channel in held]
        found = builder.shuffle_vector(*channels[:2], _places(two))
        order = [lanes + pixel if channel == 2 else byte for byte, (pixel, channel) in enumerate(held)]
        builder.store(
            builder.shuffle_vector(found, channels[2], _places(order)), _vector_at(builder, place, part, lanes), align=1
        )


def _vector_at(builder: ir.IRBuilder, place: Any, part: int, lanes: int) -> Any:
    return builder.bitcast(builder.gep(place, [PLACE(part * lanes)]), ir.VectorType(BYTE, lanes).as_pointer())
