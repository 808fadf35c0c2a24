"""Quantization-aware training: a `transformers` encoder that computes what its int8 model file will, to the last bit.

    prepare(model)      # before, or in the middle of, an ordinary training loop
    …
    model.save_pretrained(directory)      # an ordinary checkpoint: python -m tools.convert reads it
    restore(model)      # float again

What is quantized, and how, is what the runtime does, see `integers` and `floats`. Heads on top of the encoder stay float. Weights are
quantized anew in each forward pass, and of embedding tables the rows that it reads.

Gradients are those of the straight-through estimator (Bengio, Léonard and Courville 2013, section 4): rounding counts as the identity
and scales as constants, so that a product has the gradient of its dequantized operands. Ranges are those of the values themselves:
nothing lies outside of them, and clamping, which only undoes a step of rounding, stops no gradient.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, GELUActivation, GELUTanh, NewGELUActivation
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tools.architectures import ARCHITECTURES, Architecture

from . import floats
from .integers import quantize_activations, quantize_keys, quantize_table, quantize_weights, rounded_product, value_scales

_ATTENTION = "tinybert_rt_int8"
_BLOCK = 128
"""Keys whose attention weights share one scale, `kernels.attention_int8.BLOCK`."""
_NEVER = -1e30


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc]
    """`value`, with the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Product(torch.autograd.Function):  # type: ignore[misc]
    """x·yᵀ + added by codes and scales: (q_x·q_yᵀ)·(scale_x·scale_yᵀ) + added, the gradient that of the dequantized operands.

    Args:
        x, y: float32 (…, m, k) and (…, n, k), for their gradients.
        added: float32 (n,), or without a gradient.
        q_x, scale_x, q_y, scale_y: codes without a zero point, and scales (…, m, 1) and (…, n, 1).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        y: torch.Tensor,
        added: torch.Tensor,
        q_x: torch.Tensor,
        scale_x: torch.Tensor,
        q_y: torch.Tensor,
        scale_y: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(q_x, scale_x, q_y, scale_y)
        return floats.fma(q_x @ q_y.mT, scale_x * scale_y.mT, added)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_x, scale_x, q_y, scale_y = ctx.saved_tensors
        of_x, of_y, of_added, *_ = ctx.needs_input_grad
        return (
            gradient @ (q_y * scale_y) if of_x else None,
            gradient.mT @ (q_x * scale_x) if of_y else None,
            gradient.sum(0) if of_added else None,
            *[None] * 4,
        )


class _Linear(torch.nn.Linear):  # type: ignore[misc]
    """`kernels.linear.linear_int8`. pair_span: see `quantize_weights`."""

    pair_span: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            rows = x.float().flatten(0, -2)
            levels, scale, zero = quantize_activations(rows)
            q, weight_scale = quantize_weights(self.weight, self.pair_span)
            product = _Product.apply(rows, self.weight, self.bias, levels.sub_(zero), scale, q, weight_scale)
            return product.unflatten(0, x.shape[:-1])


class _Embedding(torch.nn.Embedding):  # type: ignore[misc]
    """One table of `kernels.rows.embed_row`.

    first_type: 1 for positions, −1 for token types, else 0: how often the row of the first token type, `types[0].weight[0]`, is added
    before a row is quantized, as `tools.tensors` does it.
    """

    first_type = 0
    types: tuple[torch.nn.Embedding, ...] = ()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = super().forward(ids)
        if self.first_type:
            rows = rows + self.first_type * self.types[0].weight[0]
        q, scale = quantize_table(rows)
        return _StraightThrough.apply(rows, q.mul_(scale))


class _LayerNorm(torch.nn.LayerNorm):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            value = floats.layer_norm(x.detach().float(), self.weight.detach(), self.bias.detach(), self.eps)
            return _StraightThrough.apply(super().forward(x.float()), value)


class _Gelu(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _StraightThrough.apply(torch.nn.functional.gelu(x), floats.gelu(x.detach()))


class _GeluTanh(torch.nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _StraightThrough.apply(torch.nn.functional.gelu(x, approximate="tanh"), floats.gelu_tanh(x.detach()))


_COUNTERPARTS = {
    torch.nn.Linear: _Linear,
    torch.nn.Embedding: _Embedding,
    torch.nn.LayerNorm: _LayerNorm,
    GELUActivation: _Gelu,
    NewGELUActivation: _GeluTanh,
    FastGELUActivation: _GeluTanh,
    GELUTanh: _GeluTanh,
    torch.nn.ReLU: torch.nn.ReLU,
    torch.nn.Dropout: torch.nn.Dropout,
}


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kernels.attention_int8.attention_head_int8`, for texts that begin at the first token: padding is on the right.

    Args:
        query, key, value: float32 (batch, heads, tokens, head_size).
        attention_mask: bool (batch or 1, heads or 1, tokens, tokens), true for keys that count; None: all of them.

    Returns the context (batch, tokens, heads, head_size) and the attention weights before they are rounded, (batch, heads, tokens, tokens).
    """
    if attention_mask is not None and attention_mask.dtype != torch.bool:
        raise ValueError(f"attention_mask: {attention_mask.dtype}, {attention_mask.dim()} axes; give one of 0 and 1, (batch, tokens)")
    with torch.autocast(query.device.type, enabled=False):
        tokens, head_size = query.shape[2:]
        keys = min(tokens + -tokens % 16, _BLOCK)
        more = -tokens % keys

        levels, query_scale, zero = quantize_activations(query)
        key_codes, key_scale = quantize_keys(key)
        value_scale, value_inverse = value_scales(value)
        scaling = float(np.float32(1) / np.sqrt(np.float32(head_size)))
        log2_e = math.log2(math.e)
        shifts = floats.log2(value_scale).mT
        factors = query_scale * scaling * log2_e
        scores = _Product.apply(query * (scaling * log2_e), key, shifts, levels.sub_(zero), factors, key_codes, key_scale)
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, _NEVER)

        # From here on, keys are in blocks: (batch, heads, blocks, tokens, keys).
        scores = torch.nn.functional.pad(scores, (0, more), value=_NEVER).unflatten(-1, (-1, keys)).transpose(2, 3)
        inverses = torch.nn.functional.pad(value_inverse, (0, 0, 0, more)).unflatten(2, (-1, keys)).mT
        codes = _StraightThrough.apply(value * value_inverse, rounded_product(value.detach(), value_inverse))
        codes = torch.nn.functional.pad(codes, (0, 0, 0, more)).unflatten(2, (-1, keys))
        peaks = scores.detach().amax(-1, keepdim=True)
        differences = scores - peaks
        rounded_from = floats.exp2_levels(differences.detach()).masked_fill_(scores.detach() == _NEVER, 0.0)
        weights = _StraightThrough.apply(differences.exp2() * 255.0, rounded_from)
        totals = _StraightThrough.apply((weights * inverses).sum(-1, keepdim=True), floats.dot(weights.detach(), inverses))
        of_blocks = floats.exp2(peaks - peaks.amax(2, keepdim=True))
        of_blocks = of_blocks * (1.0 / _in_order(of_blocks * totals))
        dropped = torch.nn.functional.dropout(weights, dropout, module.training)
        sums = _StraightThrough.apply(dropped, dropped.detach().round()) @ codes
        context = _in_order(sums * of_blocks).squeeze(2)
        probabilities = (dropped * inverses * of_blocks).transpose(2, 3).flatten(-2)[..., :tokens]
        return context.transpose(1, 2), probabilities


def _in_order(x: torch.Tensor) -> torch.Tensor:
    """The sum over blocks, from the first to the last: (batch, heads, blocks, …) → (batch, heads, 1, …)."""
    total, *others = x.split(1, 2)
    for other in others:
        total = total + other
    return total


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(_ATTENTION, sdpa_mask)


def prepare(model: PreTrainedModel) -> None:
    """Make a model compute its encoder as its int8 file will, in training and in evaluation, until `restore`.

    Parameters, their names and `state_dict()` stay what they are. The model gets a config of its own, should it share one.

    Args:
        model: float32, of an architecture of `tools.architectures` without relative positions, with or without a head.

    Raises ValueError for a model that this cannot be done with; it is then unchanged.
    """
    kind = _architecture(model)
    parts = list(_parts(model, kind))
    for name, module, _ in parts:
        if type(module) not in _COUNTERPARTS:
            raise ValueError(f"{name} is a {type(module).__name__}, for which there is no fake quantization")
        for parameter in module.parameters(recurse=False):
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name} has weights of {parameter.dtype}; fake quantization is of float32 weights: model.float()")
    shared, own = model.config, copy.deepcopy(model.config)
    for module in model.modules():
        if getattr(module, "config", None) is shared:
            module.config = own
    model.float_attention = own._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    for _, module, pair_span in parts:
        module.float_class = type(module)
        module.pair_span = pair_span
        module.__class__ = _COUNTERPARTS[type(module)]
    tables = {name.rpartition(".")[2]: module for name, module, _ in parts if isinstance(module, _Embedding)}
    if "token_type_embeddings" in tables:  # every architecture here has positions
        types = tables["token_type_embeddings"]
        for name, times in (("position_embeddings", 1), ("token_type_embeddings", -1)):
            tables[name].first_type, tables[name].types = times, (types,)  # in a tuple it is no module of this one


def restore(model: PreTrainedModel) -> None:
    """Take fake quantization off a model.

    Raises ValueError if there is none.
    """
    if not hasattr(model, "float_attention"):
        raise ValueError("the model has no fake quantization: prepare() was not called with it")
    model.set_attn_implementation(model.float_attention)
    del model.float_attention
    for module in model.modules():
        if hasattr(module, "float_class"):
            module.__class__ = module.float_class
            del module.float_class, module.pair_span
            for name in ("first_type", "types"):
                module.__dict__.pop(name, None)


def _architecture(model: PreTrainedModel) -> Architecture:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{type(model).__name__} is no model of transformers: give the one inside of it")
    if hasattr(model, "float_attention"):
        raise ValueError("the model has fake quantization already")
    able = [kind.name for kind in ARCHITECTURES.values() if not kind.relative]
    if model.config.model_type not in able:
        raise ValueError(f"no fake quantization for models of type {model.config.model_type!r}, only for {', '.join(able)}")
    if getattr(model.config, "is_decoder", False):
        raise ValueError("is_decoder is true in the model's config; only encoders are supported")
    return ARCHITECTURES[model.config.model_type]


def _parts(model: PreTrainedModel, kind: Architecture) -> Iterator[tuple[str, torch.nn.Module, int]]:
    """The modules that an encoder's embeddings and layers are made of: name, module, and its `pair_span` if it is a linear layer.

    The rows of a context are heads that lie apart, so that no pair has elements of two of them.
    """
    layer = kind.layer.format(layer=r"\d+", group=r"\d+", inner=r"\d+")
    context = re.compile(rf"{layer}\.({'|'.join(kind.linears['attention.output'])})")
    inside = re.compile(rf"embeddings\..+|{layer}\..+|{kind.project or 'embeddings'}")
    head_size = model.config.hidden_size // model.config.num_attention_heads
    for name, module in model.base_model.named_modules():
        if inside.fullmatch(name) and not list(module.children()):
            yield name, module, head_size if context.fullmatch(name) else getattr(module, "in_features", 0)
