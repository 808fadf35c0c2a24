"""A convolution over the tokens of one text, of which the products with each tap's weights are there already."""

from __future__ import annotations

from tinybert_rt.kernels.jit import kernel
from tinybert_rt.kernels.vector import load_f32x16, store_f32x16


@kernel
def sum_taps(products, taps, tap_stride, width, row, start, end, out):  # type: ignore[no-untyped-def]
    """out = Σ_k products[k][row + k − (taps − 1)/2] over the rows start … end−1 of the text; the others count as zero.

    Args:
        products: float32 [taps][rows][width], tap_stride bytes from tap to tap. out: float32 [width], width a multiple of 16.
    """
    middle = (taps - 1) // 2
    for i in range(0, width * 4, 64):
        total = load_f32x16(products + middle * tap_stride + row * width * 4 + i)
        for tap in range(taps):
            source = row + tap - middle
            if tap != middle and start <= source < end:
                total = total + load_f32x16(products + tap * tap_stride + source * width * 4 + i)
        store_f32x16(out + i, total)


@kernel
def add_row(x, y, width):  # type: ignore[no-untyped-def]
    """x += y for one row of float32 [width], width a multiple of 16."""
    for i in range(0, width * 4, 64):
        store_f32x16(x + i, load_f32x16(x + i) + load_f32x16(y + i))
