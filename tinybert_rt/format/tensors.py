"""The tensors of a `.tbrt` file: which files have them, in which order, of what dtype and shape. See FORMAT.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinybert_rt.format.layout import (
    ALIGNMENT,
    COLUMN_MULTIPLE,
    CONFIG_SIZE,
    DEPTH_GROUP,
    FLOAT_LINEARS,
    LANES,
    MAX_LAYERS,
    WEIGHT_DTYPES,
    head_width,
    pad,
    stored_layers,
)

HEADS_WIDTH = "heads_width"
"""A size that follows from the configuration: num_heads · head_width."""

HEAD_COLUMNS = "head_columns"
"""A size that follows from the configuration: head_width."""

EMBEDDING_COLUMNS = "embedding_columns"
"""A size that follows from the configuration: embedding_size, or hidden_size where that is 0."""

RELATIVE_COLUMNS = "relative_columns"
"""A size that follows from the configuration: num_heads · the 2 · relative_span relative positions, padded to 64."""

CONV_COLUMNS = "conv_columns"
"""A size that follows from the configuration: conv_kernel · hidden_size padded to 64."""


class Dimension(NamedTuple):
    """One dimension of a tensor: factor · pad(max(size, 1) + plus, multiple) / divisor.

    `size` is a config field or one of the sizes that follow from them (HEADS_WIDTH …); without a name it counts as 0, so that `plus`
    is the dimension.
    """

    size: str
    plus: int = 0
    multiple: int = 1
    factor: int = 1
    divisor: int = 1

    def of(self, sizes: dict[str, int]) -> int:
        """The dimension for the config's fields and the sizes that follow from them."""
        value = (max(sizes[self.size], 1) if self.size else 0) + self.plus
        return self.factor * pad(value, self.multiple) // self.divisor


class TensorRule(NamedTuple):
    """One tensor of the file: its name (for a layer's tensor, without `layers.N.`), dtype, shape, and when it is there."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    weight_dtype: int | None = None
    """The `weight_dtype` of the files that have this tensor; None: all."""

    field: str = ""
    """The config field that is not 0 in the files that have this tensor; "": all."""

    absent: str = ""
    """The config field that is 0 in the files that have this tensor; "": all."""

    linear: int = 0
    """The bit, in `float_linears`, of the linear layer that this is a tensor of; 0: it has none."""

    def belongs(self, config: dict[str, int], marks: int = 0) -> bool:
        """Whether files of this configuration have the tensor. `marks`: the byte of `float_linears` for the tensor's layer."""
        weight_dtype = _F32 if self.linear & marks else config["weight_dtype"]
        wanted = (not self.field or config[self.field] != 0) and (not self.absent or config[self.absent] == 0)
        return wanted and self.weight_dtype in (None, weight_dtype)


# Name → inputs, outputs of one part, parts side by side.
_LINEARS = {
    "embeddings.project": (EMBEDDING_COLUMNS, "hidden_size", 1),
    "attention.qkv": ("hidden_size", HEADS_WIDTH, 3),
    "attention.output": (HEADS_WIDTH, "hidden_size", 1),
    "ffn.in": ("hidden_size", "intermediate_size", 1),
    "ffn.out": ("intermediate_size", "hidden_size", 1),
}


def layer_linears(hidden_size: int, intermediate_size: int, num_heads: int) -> dict[str, tuple[int, int, int]]:
    """The linear layers of one encoder layer: name → inputs, outputs of one part, parts side by side.

    The query, key and value projections are one weight of three parts; each part is padded on its own. Within a part,
    and in the inputs of the attention output, each head takes `head_width` columns: a head of 26 has 6 columns of zeros.
    """
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    sizes[HEADS_WIDTH] = num_heads * head_width(hidden_size, num_heads)
    named = {name: parts for name, parts in _LINEARS.items() if not name.startswith("embeddings.")}
    return {name: (sizes[inputs], sizes[outputs], parts) for name, (inputs, outputs, parts) in named.items()}


_HIDDEN = Dimension("hidden_size", multiple=COLUMN_MULTIPLE)
_EMBEDDING = Dimension(EMBEDDING_COLUMNS, multiple=COLUMN_MULTIPLE)
_F32, _INT8 = WEIGHT_DTYPES["f32"], WEIGHT_DTYPES["int8"]


def _number(value: int) -> Dimension:
    return Dimension("", plus=value)


def _table(name: str, rows: str, field: str = "", absent: str = "") -> list[TensorRule]:
    return [
        TensorRule(name, "I8", (Dimension(rows), _EMBEDDING), _INT8, field, absent),
        TensorRule(f"{name}.scale", "F32", (Dimension(rows, multiple=LANES),), _INT8, field, absent),
        TensorRule(name, "F32", (Dimension(rows), _EMBEDDING), _F32, field, absent),
    ]


def _norm(name: str, width: Dimension = _HIDDEN, field: str = "") -> list[TensorRule]:
    return [TensorRule(f"{name}.{part}", "F32", (width,), None, field) for part in ("weight", "bias")]


def _head_linear(name: str, outputs: str, field: str) -> list[TensorRule]:
    columns = Dimension(outputs, multiple=COLUMN_MULTIPLE)
    weight = (columns._replace(divisor=LANES), Dimension("hidden_size"), _number(LANES))
    return [TensorRule(f"{name}.weight", "F32", weight, None, field), TensorRule(f"{name}.bias", "F32", (columns,), None, field)]


def _linear(name: str, field: str = "") -> list[TensorRule]:
    inputs, outputs, parts = _LINEARS[name]
    return _with_bias(name, inputs, Dimension(outputs, multiple=COLUMN_MULTIPLE, factor=parts), field)


def _with_bias(name: str, inputs: str, columns: Dimension, field: str) -> list[TensorRule]:
    return [*_matrix(name, inputs, columns, field), TensorRule(f"{name}.bias", "F32", (columns,), None, field)]


def _matrix(name: str, inputs: str, columns: Dimension, field: str) -> list[TensorRule]:
    blocks = columns._replace(divisor=LANES)
    groups = Dimension(inputs, multiple=DEPTH_GROUP, divisor=DEPTH_GROUP)
    linear = FLOAT_LINEARS.get(name, 0)
    return [
        TensorRule(f"{name}.weight", "I8", (blocks, groups, _number(LANES), _number(DEPTH_GROUP)), _INT8, field, linear=linear),
        TensorRule(f"{name}.scale", "F32", (columns,), _INT8, field, linear=linear),
        TensorRule(f"{name}.column_sum", "I32", (columns,), _INT8, field, linear=linear),
        TensorRule(f"{name}.weight", "F32", (blocks, Dimension(inputs), _number(LANES)), _F32, field, linear=linear),
    ]


GLOBAL_RULES: tuple[TensorRule, ...] = (
    TensorRule("config", "I32", (_number(CONFIG_SIZE),)),
    TensorRule("tokenizer.trie", "U32", (Dimension("trie_nodes", multiple=8), _number(2))),
    TensorRule("tokenizer.pieces", "U8", (Dimension("pieces_bytes", multiple=ALIGNMENT),)),
    TensorRule("tokenizer.piece_offsets", "U32", (Dimension("vocab_size", plus=1, multiple=LANES),)),
    TensorRule("tokenizer.added", "I32", (Dimension("added_tokens", multiple=LANES),)),
    TensorRule("tokenizer.added_options", "U8", (Dimension("added_tokens", multiple=ALIGNMENT),), None, "added_options"),
    TensorRule("tokenizer.bytes", "I32", (_number(256),), None, "merges"),
    TensorRule("tokenizer.merge_starts", "U32", (Dimension("vocab_size", plus=1, multiple=LANES),), None, "merges"),
    TensorRule("tokenizer.merges", "U32", (Dimension("merges", multiple=LANES), _number(3)), None, "merges"),
    TensorRule("tokenizer.scores", "F64", (Dimension("vocab_size", multiple=LANES),), None, "scored_pieces"),
    TensorRule("tokenizer.rewrite_trie", "U32", (Dimension("rewrite_nodes", multiple=8), _number(2)), None, "rewrites"),
    TensorRule("tokenizer.rewrite_texts", "U8", (Dimension("rewrite_bytes", multiple=ALIGNMENT),), None, "rewrites"),
    TensorRule("tokenizer.rewrite_offsets", "U32", (Dimension("rewrites", plus=1, multiple=LANES),), None, "rewrites"),
    *_table("embeddings.word", "vocab_size"),
    *_table("embeddings.position", "max_positions", absent="no_positions"),
    *_table("embeddings.type", "type_vocab_size"),
    *_norm("embeddings.norm", _EMBEDDING),
    *_linear("embeddings.project", "embedding_size"),
    TensorRule("relative.buckets", "I32", (Dimension("max_positions", multiple=LANES),), None, "relative_span"),
    *_with_bias("convolution", "hidden_size", Dimension(CONV_COLUMNS), "conv_kernel"),
    *_norm("convolution.norm", _HIDDEN, "conv_kernel"),
    *_head_linear("head.dense", "hidden_size", "head_activation"),
    *_head_linear("head.output", "labels", "labels"),
    TensorRule("head.labels", "U8", (Dimension("labels_bytes", multiple=ALIGNMENT),), None, "labels"),
    TensorRule("head.label_offsets", "U32", (Dimension("labels", plus=1, multiple=LANES),), None, "labels"),
    *_head_linear("head.transform", EMBEDDING_COLUMNS, "transform_activation"),
    *_norm("head.norm", _EMBEDDING, "transform_activation"),
    *_table("head.decoder", "vocab_size", "own_decoder"),
    TensorRule("head.decoder.bias", "F32", (Dimension("vocab_size", multiple=LANES),), None, "transform_activation"),
    TensorRule("float_linears", "U8", (_number(MAX_LAYERS),), None, "float_linears"),
)
"""The tensors before the layers, in file order."""

LAYER_RULES: tuple[TensorRule, ...] = (
    *_linear("attention.qkv"),
    *_matrix("attention.position_key", HEAD_COLUMNS, Dimension(RELATIVE_COLUMNS), "content_to_position"),
    *_matrix("attention.position_query", HEAD_COLUMNS, Dimension(RELATIVE_COLUMNS), "position_to_content"),
    *_linear("attention.output"),
    *_norm("attention.norm"),
    *_linear("ffn.in"),
    *_linear("ffn.out"),
    *_norm("ffn.norm"),
)
"""The tensors of each layer, in file order."""


def tensor_rules(config: dict[str, int], float_linears: bytes = b"") -> Iterator[tuple[str, TensorRule]]:
    """Full name and rule of every tensor of a file, in file order.

    Args:
        config: CONFIG_FIELDS → their values.
        float_linears: the bytes of the tensor of that name, where the file has it.
    """
    for rule in GLOBAL_RULES:
        if rule.belongs(config):
            yield rule.name, rule
    for layer in range(stored_layers(config)):
        marks = float_linears[layer] if layer < len(float_linears) else 0
        for rule in LAYER_RULES:
            if rule.belongs(config, marks):
                yield f"layers.{layer}.{rule.name}", rule


def derived_sizes(config: dict[str, int]) -> dict[str, int]:
    """The sizes that follow from the config's fields."""
    heads, width = config["num_heads"], head_width(config["hidden_size"], config["num_heads"])
    return {
        HEADS_WIDTH: heads * width,
        HEAD_COLUMNS: width,
        EMBEDDING_COLUMNS: config["embedding_size"] or config["hidden_size"],
        RELATIVE_COLUMNS: heads * pad(2 * config["relative_span"], COLUMN_MULTIPLE),
        CONV_COLUMNS: config["conv_kernel"] * pad(config["hidden_size"], COLUMN_MULTIPLE),
    }


def tensor_specs(config: dict[str, int], float_linears: bytes = b"") -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of a file in file order: name → dtype, shape. Arguments as of `tensor_rules`."""
    sizes = config | derived_sizes(config)
    return {name: (rule.dtype, tuple(each.of(sizes) for each in rule.shape)) for name, rule in tensor_rules(config, float_linears)}
