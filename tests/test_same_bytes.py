"""The promise: kernels give the same bytes on every instruction-set level."""

from __future__ import annotations

import hashlib

import numpy as np
from conftest import LEVELS, Functions, compiled
from test_kernels import aligned, at, pair_rule, random
from test_linear import EPILOGUES, row_target
from test_rows import group_scratch, quantized

from tools.blocks import block_int8


def outputs_of_linear_layers(kernels: Functions, q: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> list[np.ndarray]:
    """Of a layer with 128 outputs, with each epilogue."""
    weight = pair_rule(np.random.default_rng(1).integers(-127, 128, (128, q.shape[1])))
    blocks, weight_scale, bias, column_sum = (
        block_int8(weight),
        random(128) * 0.01,
        random(128, 2)[:, 0].copy(),
        weight.sum(1, dtype=np.int32),
    )
    sizes = {"inputs": q.shape[1], "outputs": 128}
    layer = kernels.struct("kernel_linear", weight=at(blocks), scale=at(weight_scale), bias=at(bias), column_sum=at(column_sum), **sizes)
    residual, tile, results = random(len(q), 128), np.empty(1 << 12, np.float32), []
    for epilogue in EPILOGUES.values():
        out = np.empty((len(q), 128), np.float32)
        target = row_target(kernels, out, residual)
        kernels("linear_int8", at(q), q.shape[1], at(scales), at(zeros), len(q), layer, 0, 8, 8, target, epilogue, at(tile))
        results.append(out)
    return results


def test_every_level_gives_the_same_bytes() -> None:
    """Float kernels on all levels of this machine, compared bit by bit."""
    digests = set()
    for level in LEVELS:
        kernels = compiled(level, "kernel_exports")
        x = random(37, 384, scale=3.0)
        results = []
        for kind in (0, 1, 2):
            y = np.empty_like(x)
            kernels("map_activation", kind, x.size, at(x), at(y))
            results.append(y)
        y = np.empty_like(x)
        kernels("map_exp2", x.size, at(x), at(y))
        weights = random(8, 384, 16)
        product = np.empty((37, 128), np.float32)
        arguments = np.array([at(x), 1536, at(weights), 384 * 64, 64, 384, 8, 37, at(product), 512], np.int64)
        kernels("float_matrix", at(arguments))
        q, scales, zeros = quantized(kernels, x)
        heads = random(3, 128, 32)
        context = np.empty((37, 32), np.float32)
        scratch = np.zeros(kernels("attention_bytes", 64, 32) // 4, np.float32)
        kernels("attention_head", at(heads[0]), 37, at(heads[1]), at(heads[2]), 37, 32, 0.17, 0, 0, at(context), 128, at(scratch), 64)
        results += [y, product, q, scales, zeros, context]
        for tokens, width in ((37, 32), (130, 16), (300, 80)):
            heads = random(3, 304, width)
            context = np.empty((tokens, width), np.float32)
            scratch = aligned(kernels("attention_int8_bytes", 304, width), 0)
            queries, *others = (at(each) for each in heads)
            added = random(tokens, 304, scale=2.0)
            for more in (0, at(added)):
                kernels(
                    "attention_head_int8", queries, tokens, *others, tokens, width, 0.17, more, 304 * 4, at(context), width * 4, at(scratch)
                )
                results.append(context.copy())
        results += outputs_of_linear_layers(kernels, q, scales, zeros)
        y, other = np.empty_like(x), np.empty_like(x)
        kernels("map_gelu_near", x.size, at(x), at(y))
        kernels("map_gelu_tanh_near", x.size, at(x), at(other))
        weight, bias = random(384), random(2, 384)[0]
        norm = kernels.struct("kernel_norm", weight=at(weight), bias=at(bias))
        with group_scratch(kernels) as scratch_at:
            kernels("layer_norm_rows", at(x), 1536, 37, 384, 384, norm, 1e-12, at(q), 384, at(scales), at(zeros), scratch_at)
        results += [y, other, x, q, scales, zeros]
        digests.add(hashlib.sha256(b"".join(each.tobytes() for each in results)).hexdigest())
    assert len(digests) == 1
