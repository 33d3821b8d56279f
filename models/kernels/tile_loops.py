"""The loops of winograd.py's tiles, which numba compiles: sums and differences of pixels, of weights, and backwards.

Images lie as pixels x channels, weights as outputs x 9 x channels, tiles as 16 places (the row first) x tiles x
channels. All threads share the parts of a work order, of PART_ROWS rows of tiles each (of outputs for weights). Names
follow winograd.py; a tile reaches one pixel beyond its own two in every direction, outside the image are zeros.
"""

from typing import Any

from models.kernels.vectors import channels_at, field, filled, load, next_part, piece, pixels_at, store
from models.kernels.work_order import CHANNELS, HEIGHT, OUT, PART_ROWS, PARTS, ROWS, WEIGHT, WIDTH, X

LANES = 16


@piece
def pixel(work: Any, image: Any, row: Any, column: Any, c: Any) -> Any:
    """Read sixteen channels of a pixel; zeros outside the image."""
    height, width, channels = field(work, HEIGHT), field(work, WIDTH), field(work, CHANNELS)
    x = pixels_at(work, X)
    if 0 <= row < height and 0 <= column < width:
        return load(x, ((image * height + row) * width + column) * channels + c)
    return filled(load(x, c), 0.0)


@piece
def write_pixel(work: Any, image: Any, row: Any, column: Any, c: Any, value: Any) -> None:
    """Write sixteen channels of a pixel; nothing outside the image."""
    height, width, channels = field(work, HEIGHT), field(work, WIDTH), field(work, CHANNELS)
    if row < height and column < width:
        store(pixels_at(work, OUT), ((image * height + row) * width + column) * channels + c, value)


@piece
def input_tile(work: Any, image: Any, i: Any, j: Any, c: Any, at: Any, plane: Any) -> None:
    """Write the 16 places of a tile."""
    row, column = 2 * i - 1, 2 * j - 1
    a0, a1, a2, a3 = spread_column(work, image, row, column, c)
    b0, b1, b2, b3 = spread_column(work, image, row, column + 1, c)
    c0, c1, c2, c3 = spread_column(work, image, row, column + 2, c)
    d0, d1, d2, d3 = spread_column(work, image, row, column + 3, c)
    out = pixels_at(work, OUT)
    store_spread(out, at, plane, a0, b0, c0, d0)
    store_spread(out, at + 4 * plane, plane, a1, b1, c1, d1)
    store_spread(out, at + 8 * plane, plane, a2, b2, c2, d2)
    store_spread(out, at + 12 * plane, plane, a3, b3, c3, d3)


@piece
def store_spread(out: Any, at: Any, plane: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """Write four places, next to each other, of four neighbours."""
    store(out, at, a - c)
    store(out, at + plane, b + c)
    store(out, at + 2 * plane, c - b)
    store(out, at + 3 * plane, b - d)


@piece
def spread_column(work: Any, image: Any, row: Any, column: Any, c: Any) -> Any:
    """Return four places of four pixels below each other."""
    a, b = pixel(work, image, row, column, c), pixel(work, image, row + 1, column, c)
    d, e = pixel(work, image, row + 2, column, c), pixel(work, image, row + 3, column, c)
    return a - d, b + d, d - b, b - e


@piece
def gather(x: Any, at: Any, step: Any) -> Any:
    """Return two values of four places."""
    a, b, c, d = load(x, at), load(x, at + step), load(x, at + 2 * step), load(x, at + 3 * step)
    return a + b + c, b - c - d


@piece
def output_tile(work: Any, image: Any, i: Any, j: Any, c: Any, at: Any, plane: Any) -> None:
    """Write the four pixels of a tile."""
    x = pixels_at(work, X)
    a0, a1 = gather(x, at, plane)
    b0, b1 = gather(x, at + 4 * plane, plane)
    c0, c1 = gather(x, at + 8 * plane, plane)
    d0, d1 = gather(x, at + 12 * plane, plane)
    write_pixel(work, image, 2 * i, 2 * j, c, a0 + b0 + c0)
    write_pixel(work, image, 2 * i, 2 * j + 1, c, a1 + b1 + c1)
    write_pixel(work, image, 2 * i + 1, 2 * j, c, b0 - c0 - d0)
    write_pixel(work, image, 2 * i + 1, 2 * j + 1, c, b1 - c1 - d1)


@piece
def store_pair(out: Any, at: Any, plane: Any, a: Any, b: Any) -> None:
    """Write four places, next to each other, of a pair's gradient."""
    store(out, at, a)
    store(out, at + plane, a + b)
    store(out, at + 2 * plane, a - b)
    store(out, at + 3 * plane, filled(b, 0.0) - b)


@piece
def output_tile_gradient(work: Any, image: Any, i: Any, j: Any, c: Any, at: Any, plane: Any) -> None:
    """Write the 16 places of the gradient of four pixels."""
    a, b = pixel(work, image, 2 * i, 2 * j, c), pixel(work, image, 2 * i, 2 * j + 1, c)
    d, e = pixel(work, image, 2 * i + 1, 2 * j, c), pixel(work, image, 2 * i + 1, 2 * j + 1, c)
    out, zero = pixels_at(work, OUT), filled(a, 0.0)
    store_pair(out, at, plane, a, b)
    store_pair(out, at + 4 * plane, plane, a + d, b + e)
    store_pair(out, at + 8 * plane, plane, a - d, b - e)
    store_pair(out, at + 12 * plane, plane, zero - d, zero - e)


@piece
def across(work: Any, j: Any, at: Any, plane: Any) -> Any:
    """Sum up what a row of places gives to the two columns of tile j: its own, and those of the tiles beside it."""
    x, channels = pixels_at(work, X), field(work, CHANNELS)
    a, b, c, d = load(x, at), load(x, at + plane), load(x, at + 2 * plane), load(x, at + 3 * plane)
    even, odd = b - c + d, b + c - a
    if j > 0:
        even = even - load(x, at + 3 * plane - channels)
    if j + 1 < (field(work, WIDTH) + 1) // 2:
        odd = odd + load(x, at + channels)
    return even, odd


@piece
def input_tile_gradient(work: Any, image: Any, i: Any, j: Any, c: Any, at: Any, plane: Any) -> None:
    """Write the gradient of a tile's own four pixels, which are also in the tiles around it."""
    a0, a1 = across(work, j, at, plane)
    b0, b1 = across(work, j, at + 4 * plane, plane)
    c0, c1 = across(work, j, at + 8 * plane, plane)
    d0, d1 = across(work, j, at + 12 * plane, plane)
    e0, e1, o0, o1 = b0 - c0 + d0, b1 - c1 + d1, b0 + c0 - a0, b1 + c1 - a1
    row = (field(work, WIDTH) + 1) // 2 * field(work, CHANNELS)
    if i > 0:
        f0, f1 = across(work, j, at + 12 * plane - row, plane)
        e0, e1 = e0 - f0, e1 - f1
    if i + 1 < (field(work, HEIGHT) + 1) // 2:
        g0, g1 = across(work, j, at + row, plane)
        o0, o1 = o0 + g0, o1 + g1
    write_pixel(work, image, 2 * i, 2 * j, c, e0)
    write_pixel(work, image, 2 * i, 2 * j + 1, c, e1)
    write_pixel(work, image, 2 * i + 1, 2 * j, c, o0)
    write_pixel(work, image, 2 * i + 1, 2 * j + 1, c, o1)


@piece
def through_tiles(work: Any, tile: Any) -> None:
    """Go through all tiles of all images with one of the functions above."""
    channels, size = field(work, CHANNELS), field(work, PART_ROWS)
    rows, columns = (field(work, HEIGHT) + 1) // 2, (field(work, WIDTH) + 1) // 2
    plane = field(work, ROWS) * columns * channels
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        for row in range(part * size, min((part + 1) * size, field(work, ROWS))):
            for j in range(columns):
                c = 0
                while c < channels:
                    c = min(c, channels - LANES)
                    tile(work, row // rows, row % rows, j, c, (row * columns + j) * channels + c, plane)
                    c += LANES


def input_tiles(work: Any) -> None:
    """Turn X, images, into OUT, tiles."""
    through_tiles(work, input_tile)


def output_of_tiles(work: Any) -> None:
    """Turn X, tiles, into OUT, images."""
    through_tiles(work, output_tile)


def output_tiles_gradient(work: Any) -> None:
    """Turn X, the gradient of output_of_tiles' images, into OUT, that of its tiles."""
    through_tiles(work, output_tile_gradient)


def input_gradient(work: Any) -> None:
    """Turn X, the gradient of input_tiles' tiles, into OUT, that of its images."""
    through_tiles(work, input_tile_gradient)


@piece
def store_weights(out: Any, at: Any, plane: Any, a: Any, b: Any, c: Any) -> None:
    """Write four places, next to each other, of three weights."""
    half = filled(a, 0.5)
    store(out, at, a)
    store(out, at + plane, (a + b + c) * half)
    store(out, at + 2 * plane, (a - b + c) * half)
    store(out, at + 3 * plane, c)


@piece
def weight_tile(work: Any, at: Any, plane: Any, tile: Any) -> None:
    """Turn WEIGHT, 3 x 3 weights, into OUT, 16 places."""
    weight, out, step = channels_at(work, WEIGHT), pixels_at(work, OUT), field(work, CHANNELS)
    a0, a1, a2 = load(weight, at), load(weight, at + step), load(weight, at + 2 * step)
    b0, b1, b2 = load(weight, at + 3 * step), load(weight, at + 4 * step), load(weight, at + 5 * step)
    c0, c1, c2 = load(weight, at + 6 * step), load(weight, at + 7 * step), load(weight, at + 8 * step)
    half = filled(a0, 0.5)
    store_weights(out, tile, plane, a0, a1, a2)
    store_weights(out, tile + 4 * plane, plane, (a0 + b0 + c0) * half, (a1 + b1 + c1) * half, (a2 + b2 + c2) * half)
    store_weights(out, tile + 8 * plane, plane, (a0 - b0 + c0) * half, (a1 - b1 + c1) * half, (a2 - b2 + c2) * half)
    store_weights(out, tile + 12 * plane, plane, c0, c1, c2)


@piece
def gather_weights(x: Any, at: Any, plane: Any) -> Any:
    """Return three weights' gradients of four places."""
    a, b, c, d = load(x, at), load(x, at + plane), load(x, at + 2 * plane), load(x, at + 3 * plane)
    half = filled(a, 0.5)
    return a + (b + c) * half, (b - c) * half, (b + c) * half + d


@piece
def weight_tile_gradient(work: Any, at: Any, plane: Any, tile: Any) -> None:
    """Turn X, the gradient of 16 places, into WEIGHT, that of 3 x 3 weights."""
    weight, x, step = channels_at(work, WEIGHT), pixels_at(work, X), field(work, CHANNELS)
    a0, a1, a2 = gather_weights(x, tile, plane)
    b0, b1, b2 = gather_weights(x, tile + 4 * plane, plane)
    c0, c1, c2 = gather_weights(x, tile + 8 * plane, plane)
    d0, d1, d2 = gather_weights(x, tile + 12 * plane, plane)
    half = filled(a0, 0.5)
    store(weight, at, a0 + (b0 + c0) * half)
    store(weight, at + step, a1 + (b1 + c1) * half)
    store(weight, at + 2 * step, a2 + (b2 + c2) * half)
    store(weight, at + 3 * step, (b0 - c0) * half)
    store(weight, at + 4 * step, (b1 - c1) * half)
    store(weight, at + 5 * step, (b2 - c2) * half)
    store(weight, at + 6 * step, (b0 + c0) * half + d0)
    store(weight, at + 7 * step, (b1 + c1) * half + d1)
    store(weight, at + 8 * step, (b2 + c2) * half + d2)


@piece
def through_weights(work: Any, tile: Any) -> None:
    """Go through the weights of all outputs with one of the two functions above."""
    channels, size = field(work, CHANNELS), field(work, PART_ROWS)
    plane = field(work, ROWS) * channels
    while True:
        part = next_part(work)
        if part >= field(work, PARTS):
            return
        for row in range(part * size, min((part + 1) * size, field(work, ROWS))):
            for block in range((channels + LANES - 1) // LANES):
                c = min(block * LANES, channels - LANES)
                tile(work, row * 9 * channels + c, plane, row * channels + c)


def weight_tiles(work: Any) -> None:
    """Turn WEIGHT, outputs x 9 x channels, into OUT, 16 x outputs x channels."""
    through_weights(work, weight_tile)


def weight_gradient(work: Any) -> None:
    """Turn X, the gradient of weight_tiles' OUT, into WEIGHT, that of the weights."""
    through_weights(work, weight_tile_gradient)
