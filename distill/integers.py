"""The runtime's integers in torch: every function gives the codes and scales that kernels and converter compute, bit for bit.

Codes are integers held in float32. Sums of their products are exact there, in any order, as long as they stay below 2**24: layers of up
to 514 inputs cannot reach that, and wider ones only if nearly all their products were of one sign and as large as they can be.

Float32 is divided by tensors and of tensors only: with a Python number, torch may multiply with a reciprocal, which rounds twice.
"""

from __future__ import annotations

import torch

from tinybert_rt.format.layout import MAX_PAIR_SUM
from tools.blocks import LARGEST

from .floats import fma

_LEVELS = 255.0 - 2.0**-12
_ROUND_MAGIC = 12582912.0  # 1.5·2**23: a sum with it is rounded to an integer
_SMALLEST_RANGE = 1e-30
_KEY_LIMIT = 127.0
_VALUE_LIMIT = 64.0
_SMALLEST_MAGNITUDE = 1e-20


def quantize_activations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`kernels.rows.quantize_rows`: each row to 0 … 255, x ≈ scale·(q − zero).

    Args:
        x: float32 (…, n).

    Returns q (…, n), scale (…, 1) and zero (…, 1), float32.
    """
    x = x.detach()
    low = x.amin(-1, keepdim=True).clamp_(max=0.0)
    spread = x.amax(-1, keepdim=True).clamp_(min=0.0) - low
    small = spread < _SMALLEST_RANGE
    levels = spread.new_tensor(_LEVELS)
    inverse = (levels / spread).masked_fill_(small, 0.0)
    zero = rounded_product(-low, inverse)
    return rounded_product(x, inverse, zero), (spread / levels).masked_fill_(small, 1.0), zero


def rounded_product(x: torch.Tensor, y: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
    """x·y + more rounded once, half to even, to integers below 2**22 in magnitude; `more` are integers."""
    shift = torch.full_like(y, _ROUND_MAGIC)
    return fma(x, y, shift if more is None else shift + more) - _ROUND_MAGIC


def quantize_weights(weight: torch.Tensor, pair_span: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`tools.blocks.quantize_columns`: each output to −127 … 127 under the pair rule of FORMAT.md, w ≈ scale·q.

    The rule is about pairs of one sign; |a + b| may stand for all pairs, as it is below |a| or |b| where the signs differ.

    Args:
        weight: float32 (outputs, inputs).
        pair_span: inputs after which pairs begin anew, as the heads of a context do; divides inputs.

    Returns q (outputs, inputs) and scale (outputs, 1), float32.
    """
    outputs, inputs = weight.shape
    exact = weight.detach().double().view(outputs, -1, pair_span)
    exact = torch.nn.functional.pad(exact, (0, pair_span % 2)).view(outputs, -1, 2)
    largest = exact.abs().amax((1, 2))
    sums = exact.sum(2).abs_().amax(1)
    scale = torch.maximum(largest / LARGEST, sums / MAX_PAIR_SUM).float()
    scale[scale < torch.finfo(torch.float32).tiny] = 0.0
    # Divided by infinity, a row without a scale becomes zeros.
    exact = exact / torch.where(scale > 0, scale, torch.inf).double()[:, None, None]
    q = exact.round().clamp_(-LARGEST, LARGEST)
    sums = q.sum(2)
    over = sums.abs() > MAX_PAIR_SUM
    sign = sums[over].sign()[:, None]
    excess = (q[over] - exact[over]) * sign
    first = excess[:, :1] >= excess[:, 1:]
    q[over] -= sign * torch.cat([first, ~first], 1)
    q = q.view(outputs, inputs // pair_span, -1)[..., :pair_span]
    return q.reshape(outputs, inputs).float(), scale[:, None]


def quantize_table(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`tools.blocks.quantize_rows`: each row to −127 … 127, x ≈ scale·q.

    Args:
        rows: float32 (…, n).

    Returns q (…, n) and scale (…, 1), float32.
    """
    exact = rows.detach().double()
    scale = (exact.abs().amax(-1, keepdim=True) / LARGEST).float()
    q = (exact / torch.where(scale > 0, scale, 1.0).double()).round_().clamp_(-LARGEST, LARGEST)
    return q.float(), scale


def quantize_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys of `kernels.attention_int8`: elements 2i and 2i + 1 of a row add up to at most 127 before they are rounded.

    Args:
        keys: float32 (…, head_size).

    Returns q (…, head_size) and scale (…, 1), float32.
    """
    keys = keys.detach()
    pairs = torch.nn.functional.pad(keys, (0, keys.shape[-1] % 2)).unflatten(-1, (-1, 2))
    largest = torch.maximum(keys.abs().amax(-1, keepdim=True), pairs.sum(-1).abs_().amax(-1, keepdim=True))
    limit = largest.new_tensor(_KEY_LIMIT)
    inverse = (limit / largest).masked_fill_(largest < _SMALLEST_MAGNITUDE, 0.0)
    return rounded_product(keys, inverse), largest / limit


def value_scales(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales of `kernels.attention_int8` for values, whose codes are `rounded_product(value, inverse)`, −64 … 64.

    Args:
        values: float32 (…, head_size).

    Returns scale and inverse, float32 (…, 1).
    """
    scale = values.detach().abs().amax(-1, keepdim=True).clamp_(min=_SMALLEST_MAGNITUDE) * (1.0 / _VALUE_LIMIT)
    return scale, scale.reciprocal()
