"""The layout of a `.tbrt` file, shared by writer and reader: config fields, tensor names, padding. See FORMAT.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinybert_rt.config import ACTIVATIONS as ACTIVATIONS
from tinybert_rt.config import COLUMN_MULTIPLE as COLUMN_MULTIPLE
from tinybert_rt.config import LANES as LANES

FORMAT_NAME = "tbrt"
FORMAT_VERSION = 2
ALIGNMENT = 64
"""Every tensor starts at, and is as long as, a multiple of this many bytes."""

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_LAYERS = 64
MAX_HIDDEN_SIZE = 16384
MAX_DEPTH = 65536
"""Largest number of inputs of a linear layer: 255 · 128 · 65536 fits into an int32 accumulator."""

MAX_VOCAB_SIZE = 1 << 22
MAX_POSITIONS = 1 << 20
MAX_TYPES = 1 << 16
MAX_TRIE_NODES = 1 << 24
"""The base of a trie node has 24 bits."""

MAX_PIECES_BYTES = 1 << 28

DEPTH_GROUP = 4
"""Input values of one int8 weight group."""

MAX_PAIR_SUM = 128
"""The pair rule: of the int8 weights of inputs 2i and 2i + 1 of a column, those of one sign add up to at most this."""

# The int32 tensor "config": field i is CONFIG_FIELDS[i]; the rest of its CONFIG_SIZE elements is zero.
CONFIG_SIZE = 64
CONFIG_FIELDS = (
    "architecture",
    "num_layers",
    "hidden_size",
    "num_heads",
    "intermediate_size",
    "vocab_size",
    "max_positions",
    "type_vocab_size",
    "activation",
    "weight_dtype",
    "pooling",
    "normalize",
    "max_tokens",
    "layer_norm_eps_bits",
    "tokenizer_kind",
    "tokenizer_flags",
    "max_word_chars",
    "unk_id",
    "cls_id",
    "sep_id",
    "pad_id",
    "mask_id",
    "trie_nodes",
    "added_tokens",
    "pieces_bytes",
)
CONFIG_INDEX = {name: index for index, name in enumerate(CONFIG_FIELDS)}

ARCHITECTURES = {"bert": 1}
WEIGHT_DTYPES = {"f32": 0, "int8": 1}
POOLINGS = {"cls": 1, "mean": 2, "max": 3}
TOKENIZER_KINDS = {"wordpiece": 1}

# Bits of "tokenizer_flags".
CLEAN_TEXT = 1
SPLIT_CJK = 2
STRIP_ACCENTS = 4
LOWERCASE = 8

LARGEST_WORD_CHARS = 1024
_ID = (0, MAX_VOCAB_SIZE - 1)

# Smallest and largest value of each field; ids must also be below vocab_size.
CONFIG_RANGES: dict[str, tuple[int, int]] = {
    "architecture": (1, len(ARCHITECTURES)),
    "num_layers": (1, MAX_LAYERS),
    "hidden_size": (1, MAX_HIDDEN_SIZE),
    "num_heads": (1, MAX_HIDDEN_SIZE),
    "intermediate_size": (1, MAX_DEPTH),
    "vocab_size": (1, MAX_VOCAB_SIZE),
    "max_positions": (2, MAX_POSITIONS),
    "type_vocab_size": (1, MAX_TYPES),
    "activation": (0, len(ACTIVATIONS) - 1),
    "weight_dtype": (0, len(WEIGHT_DTYPES) - 1),
    "pooling": (1, len(POOLINGS)),
    "normalize": (0, 1),
    "max_tokens": (2, MAX_POSITIONS),
    "layer_norm_eps_bits": (0x00800000, 0x3F7FFFFF),
    "tokenizer_kind": (1, len(TOKENIZER_KINDS)),
    "tokenizer_flags": (0, CLEAN_TEXT | SPLIT_CJK | STRIP_ACCENTS | LOWERCASE),
    "max_word_chars": (1, LARGEST_WORD_CHARS),
    "unk_id": _ID,
    "cls_id": _ID,
    "sep_id": _ID,
    "pad_id": _ID,
    "mask_id": _ID,
    "trie_nodes": (1, MAX_TRIE_NODES),
    "added_tokens": (0, MAX_VOCAB_SIZE),
    "pieces_bytes": (1, MAX_PIECES_BYTES),
}
CONFIG_KINDS = ("architecture", "activation", "weight_dtype", "pooling", "normalize", "tokenizer_kind", "tokenizer_flags")
"""Fields that choose among kinds: a value out of range is one that a later release may know."""

CONFIG_IDS = ("unk_id", "cls_id", "sep_id", "pad_id", "mask_id")

DTYPE_BYTES = {"U8": 1, "I8": 1, "I32": 4, "U32": 4, "F32": 4, "F16": 2}
DTYPE_CODES = {name: code for code, name in enumerate(DTYPE_BYTES)}


def pad(value: int, multiple: int) -> int:
    """`value` rounded up to a multiple."""
    return -(-value // multiple) * multiple


def head_width(hidden_size: int, num_heads: int) -> int:
    """Columns of one attention head in memory: its size padded to whole vectors, the padding being zero."""
    return pad(hidden_size // num_heads, LANES)


HEADS_WIDTH = "heads_width"
"""A size that follows from the configuration: num_heads · head_width."""


class Dimension(NamedTuple):
    """One dimension of a tensor: factor · pad(max(size, 1) + plus, multiple) / divisor.

    `size` is a config field or HEADS_WIDTH; without a name it counts as 0, so that `plus` is the dimension.
    """

    size: str
    plus: int = 0
    multiple: int = 1
    factor: int = 1
    divisor: int = 1

    def of(self, sizes: dict[str, int]) -> int:
        """The dimension for the config's fields and HEADS_WIDTH."""
        value = (max(sizes[self.size], 1) if self.size else 0) + self.plus
        return self.factor * pad(value, self.multiple) // self.divisor


class TensorRule(NamedTuple):
    """One tensor of the file: its name (for a layer's tensor, without `layers.N.`), dtype, shape, and when it is there."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    weight_dtype: int | None = None
    """The `weight_dtype` of the files that have this tensor; None: all."""


# Name → inputs, outputs of one part, parts side by side.
_LINEARS = {
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
    return {name: (sizes[inputs], sizes[outputs], parts) for name, (inputs, outputs, parts) in _LINEARS.items()}


_HIDDEN = Dimension("hidden_size", multiple=COLUMN_MULTIPLE)
_F32, _INT8 = WEIGHT_DTYPES["f32"], WEIGHT_DTYPES["int8"]


def _number(value: int) -> Dimension:
    return Dimension("", plus=value)


def _table(name: str, rows: str) -> list[TensorRule]:
    return [
        TensorRule(name, "I8", (Dimension(rows), _HIDDEN), _INT8),
        TensorRule(f"{name}.scale", "F32", (Dimension(rows, multiple=LANES),), _INT8),
        TensorRule(name, "F32", (Dimension(rows), _HIDDEN), _F32),
    ]


def _norm(name: str) -> list[TensorRule]:
    return [TensorRule(f"{name}.weight", "F32", (_HIDDEN,)), TensorRule(f"{name}.bias", "F32", (_HIDDEN,))]


def _linear(name: str) -> list[TensorRule]:
    inputs, outputs, parts = _LINEARS[name]
    columns = Dimension(outputs, multiple=COLUMN_MULTIPLE, factor=parts)
    blocks = columns._replace(divisor=LANES)
    groups = Dimension(inputs, multiple=DEPTH_GROUP, divisor=DEPTH_GROUP)
    return [
        TensorRule(f"{name}.weight", "I8", (blocks, groups, _number(LANES), _number(DEPTH_GROUP)), _INT8),
        TensorRule(f"{name}.scale", "F32", (columns,), _INT8),
        TensorRule(f"{name}.column_sum", "I32", (columns,), _INT8),
        TensorRule(f"{name}.weight", "F32", (blocks, Dimension(inputs), _number(LANES)), _F32),
        TensorRule(f"{name}.bias", "F32", (columns,)),
    ]


GLOBAL_RULES: tuple[TensorRule, ...] = (
    TensorRule("config", "I32", (_number(CONFIG_SIZE),)),
    TensorRule("tokenizer.trie", "U32", (Dimension("trie_nodes", multiple=8), _number(2))),
    TensorRule("tokenizer.pieces", "U8", (Dimension("pieces_bytes", multiple=ALIGNMENT),)),
    TensorRule("tokenizer.piece_offsets", "U32", (Dimension("vocab_size", plus=1, multiple=LANES),)),
    TensorRule("tokenizer.added", "I32", (Dimension("added_tokens", multiple=LANES),)),
    *_table("embeddings.word", "vocab_size"),
    *_table("embeddings.position", "max_positions"),
    *_table("embeddings.type", "type_vocab_size"),
    *_norm("embeddings.norm"),
)
"""The tensors before the layers, in file order."""

LAYER_RULES: tuple[TensorRule, ...] = (
    *_linear("attention.qkv"),
    *_linear("attention.output"),
    *_norm("attention.norm"),
    *_linear("ffn.in"),
    *_linear("ffn.out"),
    *_norm("ffn.norm"),
)
"""The tensors of each layer, in file order."""


def tensor_rules(num_layers: int, weight_dtype: int) -> Iterator[tuple[str, TensorRule]]:
    """Full name and rule of every tensor of a file, in file order."""
    for rule in GLOBAL_RULES:
        if rule.weight_dtype in (None, weight_dtype):
            yield rule.name, rule
    for layer in range(num_layers):
        for rule in LAYER_RULES:
            if rule.weight_dtype in (None, weight_dtype):
                yield f"layers.{layer}.{rule.name}", rule


def tensor_specs(config: dict[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of a file in file order: name → dtype, shape. `config` maps CONFIG_FIELDS to their values."""
    sizes = dict(config)
    sizes[HEADS_WIDTH] = config["num_heads"] * head_width(config["hidden_size"], config["num_heads"])
    rules = tensor_rules(config["num_layers"], config["weight_dtype"])
    return {name: (rule.dtype, tuple(each.of(sizes) for each in rule.shape)) for name, rule in rules}
