"""Changes of a checkpoint's weights that make them lose less in int8, and that the runtime need not know of.

Clipping: each row of a weight (an output) is cut to ±c before it is quantized. The largest weights of the row lose, all others are rounded
in finer steps. c minimises the error of the output, Σ_k E[x_k²]·(w_k − v_k)² for inputs x and quantized weights v: the diagonal of the
Hessian that OBS and GPTQ use (Frantar et al. 2023, section 3), with E[x_k²] from `calibrate`.

GPTQ: weights are rounded one input after another, so that later ones make up for the errors of earlier ones, see `gptq`.

Migration: Xiao et al. 2022 (SmoothQuant), section 4: Y = (X·diag(s)⁻¹)·(diag(s)·W) is the same for any s > 0, and s moves what is hard
to quantize from activations to weights, s_j = max|X_j|^α / max|W_j|^(1−α) (equation 4). diag(s)⁻¹ must go into what makes X. In an encoder
with the norm behind the residual sum there are two places where that is exact:
    values → attention's output: the context is a weighted mean of values, so rows of W_v and b_v are divided by s, columns of W_o
        multiplied;
    queries → keys: only q·k counts, so rows of W_q and b_q are multiplied by s, those of W_k and b_k divided; both are activations
        here, and s_j = √(max|k_j| / max|q_j|) makes their channels equally large. (Not with relative positions, which meet q and k too.)
It is not exact elsewhere. What goes into query, key and value and into the first layer of the feed-forward block is the output of a
LayerNorm that the residual sum takes as well: its gain cannot be divided by s without changing that sum (in encoders with the norm in
front, which SmoothQuant is about, the residual does not pass through it). What goes into the second layer of that block is the output of
GELU, and GELU(x / s) is not GELU(x) / s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from . import gptq
from .blocks import quantize_columns
from .hf import ConversionError, EncoderConfig, Weights

PARTS = ("attention.qkv", "attention.output", "ffn.in", "ffn.out")
"""The linear layers of an encoder layer: layers.0.attention.qkv and so on."""

ALPHA = 0.5
"""Of equation 4: the share of the difficulty that moves; Xiao et al. 2022, section 5.1, take 0.5 for most models."""

RATIOS = np.linspace(1, 0.6, 17)
"""Clip values that are tried, relative to the largest weight of a row."""


@dataclass(frozen=True)
class LinearInput:
    """What goes into a linear layer: E[x xᵀ], float32 (inputs, inputs), and the largest |x| of each channel, float64 (inputs,)."""

    gram: np.ndarray
    largest: np.ndarray

    @property
    def second_moment(self) -> np.ndarray:
        """E[x²] of each channel, float64 (inputs,)."""
        return np.diag(self.gram).astype(np.float64)

    def divided(self, factor: np.ndarray) -> LinearInput:
        """The same of inputs divided by a factor, float (inputs,)."""
        return LinearInput((self.gram / factor / factor[:, None]).astype(np.float32), self.largest / factor)


@dataclass(frozen=True)
class Statistics:
    """What `calibrate` found: inputs by the name of a linear layer, and the largest |q|, |k| and |v|, float64 (3, hidden_size), by that of
    an encoder layer ("layers.0"), which is not there where one matrix makes all three."""

    inputs: Mapping[str, LinearInput]
    attention: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """How weights are changed, see above: migrated, and then clipped or rounded by GPTQ.

    clip: "" for not at all, "mse" for the smallest error, or a percentile of the row's |w|, as "99.9".
    """

    clip: str = ""
    migrate: bool = False
    gptq: bool = False

    def __post_init__(self) -> None:
        if self.clip and self.gptq:
            raise ValueError("GPTQ makes up for rounding, not for clipping: a recipe has one of them")

    def __str__(self) -> str:
        return ", ".join(["migrate"] * self.migrate + [f"clip {self.clip}"] * bool(self.clip) + ["gptq"] * self.gptq) or "plain"

    def changed(self, weight: np.ndarray, inputs: LinearInput, pair_span: int = 0) -> np.ndarray:
        """A weight, float (outputs, inputs), clipped or rounded as the recipe says. pair_span: as `quantize_columns` has it."""
        if self.clip:
            return clipped(weight, inputs.second_moment, self.clip)
        return gptq.rounded(weight, inputs.gram, pair_span) if self.gptq else weight


def linear_sources(encoder: EncoderConfig) -> dict[str, list[str]]:
    """The linear layers of a file ("layers.3.ffn.out") → the names of their parts in the checkpoint."""
    kind = encoder.architecture
    sources = {}
    for layer in range(encoder.stored_layers):
        group, member = divmod(layer, encoder.inner_layers or 1)
        source = kind.layer.format(layer=layer, group=group, inner=member)
        for part in PARTS:
            linears = (kind.packed,) if part == "attention.qkv" and kind.packed else kind.linears[part]
            sources[f"layers.{layer}.{part}"] = [f"{source}.{each}" for each in linears]
    return sources


def shapes(encoder: EncoderConfig) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each part of PARTS in the checkpoint."""
    hidden, inner = encoder.hidden_size, encoder.intermediate_size
    qkv = 3 * hidden if encoder.architecture.packed else hidden
    return dict(zip(PARTS, ((qkv, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)), strict=True))


def pair_span(encoder: EncoderConfig, name: str) -> int:
    """As `quantize_columns` has it, of a linear layer: in the file, heads of attention's context lie apart."""
    return encoder.hidden_size // encoder.num_heads if name.endswith("attention.output") else 0


def check_clip(clip: str) -> str:
    """`clip` as it is. Raises ConversionError if it is neither "mse" nor a percentile."""
    try:
        if clip == "mse" or 0 < float(clip) <= 100:
            return clip
    except ValueError:
        pass
    raise ConversionError(f"clip is {clip!r}; it must be 'mse' or a percentile above 0, up to 100")


def clipped(weight: np.ndarray, second_moment: np.ndarray, how: str) -> np.ndarray:
    """The weight, float (outputs, inputs), with each row cut to ± its clip value; second_moment (inputs,) of its inputs."""
    if how != "mse":
        limits = np.percentile(np.abs(weight), float(how), axis=1, keepdims=True)
        return np.asarray(np.clip(weight, -limits, limits))
    largest = np.abs(weight).max(axis=1, keepdims=True)
    best = np.full(len(weight), np.inf)
    limits = largest.copy()
    for ratio in RATIOS:
        error = output_error(weight, np.clip(weight, -ratio * largest, ratio * largest), second_moment)
        better = error < best
        best[better] = error[better]
        limits[better] = ratio * largest[better]
    return np.asarray(np.clip(weight, -limits, limits))


def output_error(weight: np.ndarray, changed: np.ndarray, second_moment: np.ndarray) -> np.ndarray:
    """float64 (outputs,): Σ_k E[x_k²]·(w_k − v_k)², where v is the `changed` weight in int8."""
    quantized, scale = quantize_columns(changed)
    difference = weight - quantized * scale.astype(np.float64)[:, None]
    found: np.ndarray = (difference * difference) @ second_moment
    return found


def migrate_layer(
    weights: Weights, encoder: EncoderConfig, layer: str, sources: Mapping[str, list[str]], statistics: Statistics
) -> np.ndarray | None:
    """Both foldings of one encoder layer, as far as they are exact there. Returns what the inputs of attention's output are divided
    by, float64 (hidden_size,), or None where nothing can be folded."""
    if layer not in statistics.attention:
        return None
    hidden = encoder.hidden_size
    query, key, value = sources[f"{layer}.attention.qkv"]
    (output,) = sources[f"{layer}.attention.output"]

    def multiply_rows(name: str, factor: np.ndarray) -> None:
        weights.put(f"{name}.weight", weights.peek(f"{name}.weight", hidden, hidden) * factor[:, None])
        weights.put(f"{name}.bias", weights.peek(f"{name}.bias", hidden) * factor)

    queries, keys, _ = statistics.attention[layer]
    if encoder.relative is None:
        factor = np.sqrt(_ratio(keys, queries))
        multiply_rows(query, factor)
        multiply_rows(key, 1 / factor)
    matrix = weights.peek(f"{output}.weight", hidden, hidden)
    context = statistics.inputs[f"{layer}.attention.output"].largest
    factor = _ratio(context**ALPHA, np.abs(matrix).max(axis=0).astype(np.float64) ** (1 - ALPHA))
    multiply_rows(value, 1 / factor)
    weights.put(f"{output}.weight", matrix * factor)
    return factor


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; 1 where one of them is 0, as there is nothing to balance."""
    both = (above > 0) & (below > 0)
    return np.where(both, above, 1) / np.where(both, below, 1)


def preparation(recipe: Recipe, statistics: Statistics, keep_float: Collection[str] = ()) -> Callable[[Weights, EncoderConfig], str]:
    """What `convert` calls as `prepare`: changes the weights as the recipe says; linear layers of `keep_float` are only migrated.

    Raises ConversionError for statistics that do not fit the encoder.
    """

    def prepare(weights: Weights, encoder: EncoderConfig) -> str:
        inputs = migrate(recipe, weights, encoder, statistics)
        for name, sources in changeable(encoder).items():
            if name in keep_float:
                continue
            shape = shapes(encoder)[name.split(".", 2)[2]]
            for source in sources:
                weight = weights.peek(f"{source}.weight", *shape)
                weights.put(f"{source}.weight", recipe.changed(weight, inputs[name], pair_span(encoder, name)))
        return str(recipe)

    return prepare


def changeable(encoder: EncoderConfig) -> dict[str, list[str]]:
    """`linear_sources` without attention.qkv where queries and keys project relative positions as well: those stay exact."""
    shared = encoder.relative is not None and encoder.relative.shared
    return {name: each for name, each in linear_sources(encoder).items() if not (shared and name.endswith("attention.qkv"))}


def migrate(recipe: Recipe, weights: Weights, encoder: EncoderConfig, statistics: Statistics) -> dict[str, LinearInput]:
    """The recipe's migration, if it has one. Returns what goes into the linear layers behind it.

    Raises ConversionError for statistics that do not fit the encoder.
    """
    sources = linear_sources(encoder)
    for name in sources:
        found = statistics.inputs.get(name)
        if found is None or found.largest.shape != shapes(encoder)[name.split(".", 2)[2]][1:]:
            raise ConversionError(f"the calibration is of another checkpoint: {name} is not in it, or has another size")
    inputs = dict(statistics.inputs)
    if recipe.migrate:
        for layer in dict.fromkeys(name.rsplit(".", 2)[0] for name in sources):
            factor = migrate_layer(weights, encoder, layer, sources, statistics)
            if factor is not None:
                name = f"{layer}.attention.output"
                inputs[name] = inputs[name].divided(factor)
    return inputs


def weight_errors(weights: Weights, encoder: EncoderConfig, recipe: Recipe, statistics: Statistics) -> dict[str, tuple[float, float]]:
    """Of each linear layer in int8: √(Σ (w − v)² / Σ w²) over its weights, and √(E[‖(W − V) x‖²] / E[‖W x‖²]), the relative RMS of its
    output over the inputs of the calibration. Migration changes neither W nor its output, so W is the weight behind it."""
    inputs = migrate(recipe, weights, encoder, statistics)
    errors = {}
    can_change = changeable(encoder)
    for name, sources in linear_sources(encoder).items():
        shape = shapes(encoder)[name.split(".", 2)[2]]
        gram = inputs[name].gram.astype(np.float64)
        lost, all_of_it = np.zeros(2), np.zeros(2)  # squares of weights, of outputs
        for source in sources:
            matrix = weights.peek(f"{source}.weight", *shape).astype(np.float64)
            changed = recipe.changed(matrix, inputs[name], pair_span(encoder, name)) if name in can_change else matrix
            quantized, scale = quantize_columns(changed, pair_span(encoder, name))
            difference = matrix - quantized * scale.astype(np.float64)[:, None]
            for sums, values in ((lost, difference), (all_of_it, matrix)):
                sums += np.square(values).sum(), ((values @ gram) * values).sum()
        of_weights, of_outputs = np.sqrt(np.divide(lost, all_of_it, out=np.zeros(2), where=all_of_it > 0)).tolist()
        errors[name] = (of_weights, of_outputs)
    return errors
