"""Heads on top of the encoder: labels of a text from its first token, or of every token. Their weights are float32 in every file."""

from __future__ import annotations

import numpy as np

from tinybert_rt.encoder.structs import HEAD_ROWS
from tinybert_rt.errors import NonFiniteResultError
from tinybert_rt.format.layout import HEADS, PROBLEMS
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.linear import PLAIN, linear_float
from tinybert_rt.kernels.memory import load_i64
from tinybert_rt.kernels.probabilities import activate_row, copy_row, logistic_row, softmax_row
from tinybert_rt.kernels.rows import is_finite_row

_NON_FINITE = NonFiniteResultError.code
_OF_TEXTS = HEADS["sequence_classification"]
_MULTI_LABEL = PROBLEMS["multi_label"]
_SINGLE_LABEL = PROBLEMS["single_label"]


@inline
def head_linear(local, x, x_stride, rows, weights, out, epilogue):  # type: ignore[no-untyped-def]
    """All columns of a float32 linear layer, to rows of `outputs` elements; see `linear_float`."""
    target = local.target
    target.out = out
    target.residual = 0
    target.row_stride = weights.outputs * 4
    target.part_blocks = weights.outputs >> 4
    target.part_stride = 0
    target.group_blocks = weights.outputs >> 4
    target.group_stride = 0
    linear_float(x, x_stride, rows, weights, np.int64(0), weights.outputs >> 4, target, epilogue, local.tile)


@kernel
def apply_head(session, request, local, x, tokens, item):  # type: ignore[no-untyped-def]
    """Scores of one text into request.scores, of its first token or of each token, through the dense layer if there is one.

    Args:
        x: float32 [tokens][hidden_width], the text's hidden states. item: its number in the request.
    """
    model = session.model
    labels = model.labels
    stride = model.hidden_width * 4
    scores = local.head + HEAD_ROWS * stride
    scores_stride = model.head_output.outputs * 4
    first = item
    rows = np.int64(1)
    if model.head != _OF_TEXTS:
        first = load_i64(request.id_offsets + 8 * item)
        rows = tokens
    for begin in range(0, rows, HEAD_ROWS):
        count = min(HEAD_ROWS, rows - begin)
        source = x + begin * stride
        if model.head_activation != 0:
            head_linear(local, source, stride, count, model.head_dense, local.head, PLAIN)
            activate_row(model.head_activation, local.head, count * model.hidden_width)
            source = local.head
        head_linear(local, source, stride, count, model.head_output, scores, PLAIN)
        for row in range(count):
            if is_finite_row(scores + row * scores_stride, model.head_output.outputs) == 0:
                request.item = item
                request.status = _NON_FINITE
            _write(model, request, scores + row * scores_stride, request.scores + (first + begin + row) * labels * 4)


@kernel
def _write(model, request, scores, out):  # type: ignore[no-untyped-def]
    """One row of logits, or what they mean, to the caller's memory."""
    if request.probabilities != 0:
        if model.problem == _SINGLE_LABEL:
            softmax_row(scores, model.labels)
        elif model.problem == _MULTI_LABEL:
            logistic_row(scores, model.labels)
    copy_row(scores, out, model.labels)
