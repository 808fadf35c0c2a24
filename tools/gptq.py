"""Rounding of weights to int8 that lets later inputs of a row make up for the errors of earlier ones.

GPTQ (Frantar et al. 2023, section 4 and Algorithm 1), which is OBS (Hassibi and Stork 1993) for one weight after another: of all ways to
round, the nearest one has the smallest error of the weights, but inputs that go together let their errors cancel. For an output w·x the
expected squared error of other weights v is (w − v)ᵀ H (w − v) with H = E[x xᵀ], which `calibrate` measures. Inputs are rounded in their
order, and each time the weights that are still free move to where they make up best for the error so far.
"""

from __future__ import annotations

import numpy as np

from tinybert_rt.format.layout import MAX_PAIR_SUM
from tinybert_rt.format.writer import pair_sums

from .blocks import LARGEST, paired, quantize_columns, unpaired
from .hf import ConversionError

DAMPING = 0.01
"""What is added to H's diagonal, relative to its mean: Frantar et al. 2023, section 4, step 3."""

_BLOCK = 64
"""Inputs whose errors reach the weights behind their block at once, in one product of matrices: section 4, step 2."""


def rounded(weight: np.ndarray, gram: np.ndarray, pair_span: int = 0) -> np.ndarray:
    """Weights that lie on the int8 grid of each row, so that `quantize_columns` keeps them as they are.

    The scales are those of `quantize_columns`, and the pair rule of FORMAT.md holds. What makes the scale of a row, its largest weight or
    pair, and whatever else is at the bounds, is rounded to the nearest, so that the scale stays.

    Args:
        weight: float (outputs, inputs), finite.
        gram: float (inputs, inputs), E[x xᵀ] of the inputs.
        pair_span: as `quantize_columns` has it.

    Returns float32 (outputs, inputs). Raises ConversionError for a gram that is none.
    """
    outputs, inputs = weight.shape
    nearest, scale = quantize_columns(weight, pair_span)
    fixed = _fixed(nearest, pair_span)
    span = pair_span or inputs
    nearest, step = nearest.astype(np.float64), np.where(scale > 0, scale, 1).astype(np.float64)
    free = weight / step[:, None]  # in steps of the grid
    factor = _factor(gram)
    found = np.zeros_like(nearest)
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.zeros((outputs, end - start))
        for i in range(start, end):
            place = i % span
            partner = i - place + (place ^ 1)
            if partner < i:
                beside = found[:, partner]
            elif place ^ 1 < span:
                beside = np.where(fixed[:, partner], nearest[:, partner], 0)
            else:
                beside = np.zeros(outputs)
            lowest = np.maximum(-LARGEST, -MAX_PAIR_SUM + np.maximum(-beside, 0))
            highest = np.minimum(LARGEST, MAX_PAIR_SUM - np.maximum(beside, 0))
            found[:, i] = np.where(fixed[:, i], nearest[:, i], np.clip(np.rint(free[:, i]), lowest, highest))
            errors[:, i - start] = (free[:, i] - found[:, i]) / factor[i, i]
            free[:, i:end] -= errors[:, i - start, None] * factor[i, i:end]
        free[:, end:] -= errors @ factor[start:end, end:]
    return (found * scale[:, None].astype(np.float64)).astype(np.float32)


def _fixed(nearest: np.ndarray, pair_span: int) -> np.ndarray:
    """bool (outputs, inputs): the values at a bound: ±LARGEST, or of a pair with MAX_PAIR_SUM."""
    wide = paired(nearest, pair_span)
    fixed = np.abs(wide) == LARGEST
    for sign in (1, -1):
        fixed |= np.repeat(pair_sums(sign * wide) == MAX_PAIR_SUM, 2, axis=1) & (sign * wide > 0)
    return unpaired(fixed, nearest.shape[1], pair_span)


def _factor(gram: np.ndarray) -> np.ndarray:
    """The upper triangle U with UᵀU = (H + damping)⁻¹: Frantar et al. 2023, section 4, step 3."""
    gram = gram.astype(np.float64)
    damping = DAMPING * float(np.diag(gram).mean()) or 1.0
    try:
        return np.asarray(np.linalg.cholesky(np.linalg.inv(gram + damping * np.eye(len(gram)))).T)
    except np.linalg.LinAlgError:
        raise ConversionError("what is known of a layer's inputs is no E[x xᵀ]: the calibration is damaged, make it again") from None
