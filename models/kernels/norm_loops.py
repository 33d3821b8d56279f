"""The loops of fused_norm.py, which numba compiles: batch normalisation, activation, 2 x 2 pool, and their gradients.

Arrays are pixels x channels, as channels-last images lie in memory; a table of numbers for each channel comes with
them. Every function is called by all threads at once with one work order (an array of 64-bit fields), and takes parts
of the work until none is left; what a part adds up is its own, so that sums do not depend on the threads. The function
`finish_...` that adds the parts up is called by one thread. There are at least 16 channels; the last block of a
pixel overlaps the one before.
"""

import math
from typing import Any

from models.kernels.vectors import (
    channels_at,
    choose,
    exponential,
    field,
    filled,
    load,
    moved,
    next_part,
    number,
    piece,
    pixels_at,
    places_at,
    single,
    store,
    write,
)
from models.kernels.work_order import (
    ADDED,
    BIAS,
    CHANNELS,
    CHOSEN,
    COPIES,
    COUNT,
    DEVIATIONS,
    EPS,
    GRADIENT,
    HEIGHT,
    KIND,
    LONG,
    MOMENTUM,
    OUT,
    PART_ROWS,
    PARTS,
    PLACES,
    ROWS,
    RUNNING_MEAN,
    RUNNING_VARIANCE,
    SLOPE,
    SUMS,
    TABLE,
    TABLE_COPIES,
    WEIGHT,
    WIDTH,
    X,
)

# Rows of the table, each as long as the channels: z = SCALE x + SHIFT; a gradient has FACTOR x + CONSTANT in it.
MEAN, SCALE, SHIFT, FACTOR, CONSTANT = range(5)
BLOCK, LANES = 64, 16
SILU, LEAKY = 0, 1


@piece
def activated(work: Any, z: Any) -> Any:
    """Return the activation of a vector."""
    if field(work, KIND) == SILU:
        one = filled(z, 1.0)
        return z / (one + exponential(pixels_at(work, X), filled(z, 0.0) - z))
    return choose(z > filled(z, 0.0), z, z * filled(z, number(work, SLOPE)))


@piece
def slope_of_activation(work: Any, z: Any) -> Any:
    """Return the derivative of the activation at a vector."""
    one = filled(z, 1.0)
    if field(work, KIND) == SILU:
        s = one / (one + exponential(pixels_at(work, X), filled(z, 0.0) - z))
        return s * (one + z * (one - s))
    return choose(z > filled(z, 0.0), one, filled(z, number(work, SLOPE)))


@piece
def sums_of_block(work: Any, x: Any, first: Any, rows: Any, c: Any, out: Any) -> None:
    """Sum x - pivot and its squares for 16 channels from c on, the pivot being the first pixel."""
    channels = field(work, CHANNELS)
    pivot = load(x, c)
    total = square = filled(pivot, 0.0)
    for row in range(first, first + rows):
        d = load(x, row * channels + c) - pivot
        total += d
        square += d * d
    store(out, c, total)
    store(out, channels + c, square)


@piece
def sums_of_four_blocks(work: Any, x: Any, first: Any, rows: Any, c: Any, out: Any) -> None:
    """Sum the same for 64 channels: four sums that need not wait for each other."""
    channels = field(work, CHANNELS)
    p0, p1, p2, p3 = load(x, c), load(x, c + 16), load(x, c + 32), load(x, c + 48)
    t0 = t1 = t2 = t3 = s0 = s1 = s2 = s3 = filled(p0, 0.0)
    for row in range(first, first + rows):
        at = row * channels + c
        d0, d1 = load(x, at) - p0, load(x, at + 16) - p1
        d2, d3 = load(x, at + 32) - p2, load(x, at + 48) - p3
        t0, t1, t2, t3 = t0 + d0, t1 + d1, t2 + d2, t3 + d3
        s0, s1, s2, s3 = s0 + d0 * d0, s1 + d1 * d1, s2 + d2 * d2, s3 + d3 * d3
    store(out, c, t0)
    store(out, c + 16, t1)
    store(out, c + 32, t2)
    store(out, c + 48, t3)
    at = channels + c
    store(out, at, s0)
    store(out, at + 16, s1)
    store(out, at + 32, s2)
    store(out, at + 48, s3)


def statistics(work: Any) -> None:
    """Sum over the pixels of every part, for mean and deviation: SUMS is parts x 2 x channels."""
    x, sums = pixels_at(work, X), channels_at(work, SUMS)
    channels, size = field(work, CHANNELS), field(work, PART_ROWS)
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        first = part * size
        rows = min(size, field(work, ROWS) - first)
        out = moved(sums, part * 2 * channels)
        c = 0
        while c < channels:
            if channels - c >= BLOCK:
                sums_of_four_blocks(work, x, first, rows, c, out)
                c += BLOCK
            else:
                c = min(c, channels - LANES)
                sums_of_block(work, x, first, rows, c, out)
                c += LANES


def finish_statistics(work: Any) -> None:
    """Fill the table, the inverse deviations, and follow the running statistics; COPIES of a pixel make a row."""
    x, sums, table = pixels_at(work, X), channels_at(work, SUMS), channels_at(work, TABLE)
    wide, copies, parts = field(work, CHANNELS), field(work, COPIES), field(work, PARTS)
    rows, channels = field(work, ROWS), field(work, CHANNELS) // field(work, COPIES)
    count = float(rows * copies)
    for channel in range(channels):
        mean = 0.0
        spread = 0.0
        done = 0.0
        for copy in range(copies):
            c = copy * channels + channel
            total = 0.0
            square = 0.0
            for part in range(parts):
                total += single(sums, part * 2 * wide + c)
                square += single(sums, (part * 2 + 1) * wide + c)
            here = single(x, c) + total / rows
            # Chan, Golub and LeVeque 1979: the mean and the squares around it of two groups together.
            both = done + rows
            spread += max(square - total * total / rows, 0.0) + (here - mean) ** 2 * done * rows / both
            mean += (here - mean) * rows / both
            done = both
        inverse = 1.0 / math.sqrt(spread / count + number(work, EPS))
        write(channels_at(work, DEVIATIONS), channel, inverse)
        scale = single(channels_at(work, WEIGHT), channel) * inverse
        shift = single(channels_at(work, BIAS), channel) - scale * mean
        for copy in range(copies):
            c = copy * channels + channel
            write(table, MEAN * wide + c, mean)
            write(table, SCALE * wide + c, scale)
            write(table, SHIFT * wide + c, shift)
        if field(work, RUNNING_MEAN) != 0:
            follow(work, RUNNING_MEAN, channel, mean)
            follow(work, RUNNING_VARIANCE, channel, spread / max(count - 1.0, 1.0))


@piece
def follow(work: Any, which: Any, channel: Any, value: Any) -> None:
    """Move a running statistic towards this batch's."""
    running = channels_at(work, which)
    before = single(running, channel)
    write(running, channel, before + (value - before) * number(work, MOMENTUM))


def through(work: Any) -> None:
    """Go through all pixels: without GRADIENT forward, with it backward."""
    channels, size = field(work, CHANNELS), field(work, PART_ROWS)
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        for row in range(part * size, min((part + 1) * size, field(work, ROWS))):
            c = 0
            while c < channels:
                c = min(c, channels - LANES)
                if field(work, GRADIENT) == 0:
                    forward_block(work, row * channels + c, c)
                else:
                    backward_block(work, row * channels + c, c)
                c += LANES


@piece
def forward_block(work: Any, at: Any, c: Any) -> None:
    """Compute OUT = activation(SCALE x + SHIFT), plus ADDED where there is one, of one vector."""
    table, long = channels_at(work, TABLE), field(work, LONG)
    z = load(pixels_at(work, X), at) * load(table, SCALE * long + c) + load(table, SHIFT * long + c)
    y = activated(work, z)
    if field(work, ADDED) != 0:
        y += load(pixels_at(work, ADDED), at)
    store(pixels_at(work, OUT), at, y)


@piece
def backward_block(work: Any, at: Any, c: Any) -> None:
    """Compute OUT = SCALE g + FACTOR x + CONSTANT, the gradient of x, where g is that of z, of one vector."""
    table, long = channels_at(work, TABLE), field(work, LONG)
    x, scale = load(pixels_at(work, X), at), load(table, SCALE * long + c)
    g = load(pixels_at(work, GRADIENT), at) * slope_of_activation(work, x * scale + load(table, SHIFT * long + c))
    constant = load(table, FACTOR * long + c) * x + load(table, CONSTANT * long + c)
    store(pixels_at(work, OUT), at, g * scale + constant)


def forward_pool(work: Any) -> None:
    """Find in every 2 x 2 pixels the largest activation, the x that it came from, and which of the four it was.

    Both activations fall at first, if at all, and rise then: the largest is that of the largest or smallest z.
    """
    long = field(work, LONG)
    table = channels_at(work, TABLE)
    channels, width, size = field(work, CHANNELS), field(work, WIDTH), field(work, PART_ROWS)
    half, half_height = field(work, WIDTH) // 2, field(work, HEIGHT) // 2
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        for row in range(part * size, min((part + 1) * size, field(work, ROWS))):
            # The upper one of the two rows that this one is made of; an odd one at the end of an image is left out.
            above = row // half_height * field(work, HEIGHT) + row % half_height * 2
            for column in range(half):
                at, out = (above * width + column * 2) * channels, (row * half + column) * channels
                c = 0
                while c < channels:
                    c = min(c, channels - LANES)
                    pool_block(work, at + c, out + c, load(table, SCALE * long + c), load(table, SHIFT * long + c))
                    c += LANES


@piece
def pool_block(work: Any, at: Any, out: Any, scale: Any, shift: Any) -> None:
    """Compute one vector of forward_pool."""
    x, below = pixels_at(work, X), at + field(work, WIDTH) * field(work, CHANNELS)
    channels = field(work, CHANNELS)
    x0, x1, x2, x3 = load(x, at), load(x, at + channels), load(x, below), load(x, below + channels)
    z0, z1, z2, z3 = x0 * scale + shift, x1 * scale + shift, x2 * scale + shift, x3 * scale + shift
    zero, one = filled(z0, 0.0), filled(z0, 1.0)
    two, three = one + one, one + one + one
    # The larger of each pair, the first where they are equal; then of the two; the smaller alike.
    upper, lower = z1 > z0, z3 > z2
    high0, high1 = choose(upper, z1, z0), choose(lower, z3, z2)
    second = high1 > high0
    high = choose(second, high1, high0)
    place = choose(second, choose(lower, three, two), choose(upper, one, zero))
    chosen = choose(second, choose(lower, x3, x2), choose(upper, x1, x0))
    value = activated(work, high)
    if field(work, KIND) == SILU:
        upper, lower = z0 > z1, z2 > z3
        low0, low1 = choose(upper, z1, z0), choose(lower, z3, z2)
        second = low0 > low1
        other = activated(work, choose(second, low1, low0))
        fallen = other > value
        value = choose(fallen, other, value)
        low_place = choose(second, choose(lower, three, two), choose(upper, one, zero))
        place = choose(fallen, low_place, place)
        chosen = choose(fallen, choose(second, choose(lower, x3, x2), choose(upper, x1, x0)), chosen)
    store(pixels_at(work, OUT), out, value)
    if field(work, PLACES) != 0:
        store(pixels_at(work, CHOSEN), out, chosen)
        store(places_at(work, PLACES), out, place)


def gradient_sums(work: Any) -> None:
    """Sum the gradient g of z, and g (x - mean), over every part: SUMS is parts x 2 x channels."""
    sums, channels, size = channels_at(work, SUMS), field(work, CHANNELS), field(work, PART_ROWS)
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        first = part * size
        last = min(first + size, field(work, ROWS))
        out = moved(sums, part * 2 * channels)
        c = 0
        while c < channels:
            c = min(c, channels - LANES)
            if channels - c >= 2 * LANES:
                gradient_sums_of_two_blocks(work, first, last, c, out)
                c += 2 * LANES
            else:
                gradient_sums_of_block(work, first, last, c, out)
                c += LANES


@piece
def gradient_sums_of_block(work: Any, first: Any, last: Any, c: Any, out: Any) -> None:
    """Compute one vector of channels of gradient_sums."""
    long = field(work, LONG)
    x, gradient, table = pixels_at(work, X), pixels_at(work, GRADIENT), channels_at(work, TABLE)
    channels = field(work, CHANNELS)
    mean, scale, shift = load(table, c), load(table, SCALE * long + c), load(table, SHIFT * long + c)
    total = product = filled(mean, 0.0)
    for row in range(first, last):
        value = load(x, row * channels + c)
        g = load(gradient, row * channels + c) * slope_of_activation(work, value * scale + shift)
        total += g
        product += g * (value - mean)
    store(out, c, total)
    store(out, channels + c, product)


@piece
def gradient_sums_of_two_blocks(work: Any, first: Any, last: Any, c: Any, out: Any) -> None:
    """Compute two vectors of channels of gradient_sums."""
    long = field(work, LONG)
    x, gradient, table = pixels_at(work, X), pixels_at(work, GRADIENT), channels_at(work, TABLE)
    channels, d = field(work, CHANNELS), c + LANES
    mean, scale, shift = load(table, c), load(table, SCALE * long + c), load(table, SHIFT * long + c)
    mean2, scale2, shift2 = load(table, d), load(table, SCALE * long + d), load(table, SHIFT * long + d)
    total = product = total2 = product2 = filled(mean, 0.0)
    for row in range(first, last):
        value, value2 = load(x, row * channels + c), load(x, row * channels + d)
        g = load(gradient, row * channels + c) * slope_of_activation(work, value * scale + shift)
        g2 = load(gradient, row * channels + d) * slope_of_activation(work, value2 * scale2 + shift2)
        total, total2 = total + g, total2 + g2
        product, product2 = product + g * (value - mean), product2 + g2 * (value2 - mean2)
    store(out, c, total)
    store(out, channels + c, product)
    store(out, d, total2)
    store(out, channels + d, product2)


def finish_gradient_sums(work: Any) -> None:
    """Write the gradients of weight and bias, and the table's FACTOR and CONSTANT; x has COUNT pixels."""
    sums, table = channels_at(work, SUMS), channels_at(work, TABLE)
    wide, copies, parts = field(work, CHANNELS), field(work, COPIES), field(work, PARTS)
    channels, count, long = wide // copies, float(field(work, COUNT)), field(work, LONG)
    for channel in range(channels):
        total = 0.0
        product = 0.0
        for part in range(parts):
            for copy in range(copies):
                total += single(sums, part * 2 * wide + copy * channels + channel)
                product += single(sums, (part * 2 + 1) * wide + copy * channels + channel)
        inverse = single(channels_at(work, DEVIATIONS), channel)
        write(channels_at(work, WEIGHT), channel, product * inverse)
        write(channels_at(work, BIAS), channel, total)
        mean, scale = single(table, MEAN * long + channel), single(table, SCALE * long + channel)
        factor = -scale * inverse * inverse * product / count
        for copy in range(field(work, TABLE_COPIES)):
            c = copy * channels + channel
            write(table, FACTOR * long + c, factor)
            write(table, CONSTANT * long + c, -scale * total / count - factor * mean)


def backward_pool(work: Any) -> None:
    """Sum the same behind a pool: g is that of the chosen one of each four pixels, the other three have none."""
    channels, width, size = field(work, CHANNELS), field(work, WIDTH), field(work, PART_ROWS)
    half, height = field(work, WIDTH) // 2, field(work, HEIGHT)
    half_rows = (height + 1) // 2
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        for row in range(part * size, min((part + 1) * size, field(work, ROWS))):
            image, inside = row // half_rows, row % half_rows
            above = image * height + inside * 2
            if inside * 2 + 1 == height:
                unchosen(work, above * width * channels, width)
                continue
            pooled = (image * (height // 2) + inside) * half * channels
            for column in range(half):
                at, of_pool = (above * width + column * 2) * channels, pooled + column * channels
                c = 0
                while c < channels:
                    c = min(c, channels - LANES)
                    backward_pool_block(work, at + c, of_pool + c, c)
                    c += LANES
            if width % 2:
                unchosen(work, (above * width + width - 1) * channels, 1)
                unchosen(work, ((above + 1) * width + width - 1) * channels, 1)


@piece
def backward_pool_block(work: Any, at: Any, of_pool: Any, c: Any) -> None:
    """Compute one vector of four pixels of backward_pool."""
    long = field(work, LONG)
    x, out, table = pixels_at(work, X), pixels_at(work, OUT), channels_at(work, TABLE)
    channels = field(work, CHANNELS)
    below = at + field(work, WIDTH) * channels
    scale, shift = load(table, SCALE * long + c), load(table, SHIFT * long + c)
    factor, constant = load(table, FACTOR * long + c), load(table, CONSTANT * long + c)
    inner = slope_of_activation(work, load(pixels_at(work, CHOSEN), of_pool) * scale + shift)
    g = load(pixels_at(work, GRADIENT), of_pool) * inner * scale
    place = load(places_at(work, PLACES), of_pool)
    zero = filled(g, 0.0)
    v0, v1 = load(x, at) * factor + constant, load(x, at + channels) * factor + constant
    v2, v3 = load(x, below) * factor + constant, load(x, below + channels) * factor + constant
    store(out, at, v0 + choose(place == filled(place, 0.0), g, zero))
    store(out, at + channels, v1 + choose(place == filled(place, 1.0), g, zero))
    store(out, below, v2 + choose(place == filled(place, 2.0), g, zero))
    store(out, below + channels, v3 + choose(place == filled(place, 3.0), g, zero))


@piece
def unchosen(work: Any, at: Any, pixels: Any) -> None:
    """Write the gradient of pixels of an odd last row or column, which no pool looks at."""
    long = field(work, LONG)
    x, out, table = pixels_at(work, X), pixels_at(work, OUT), channels_at(work, TABLE)
    channels = field(work, CHANNELS)
    for pixel in range(pixels):
        c = 0
        while c < channels:
            c = min(c, channels - LANES)
            here = at + pixel * channels + c
            store(out, here, load(x, here) * load(table, FACTOR * long + c) + load(table, CONSTANT * long + c))
            c += LANES
