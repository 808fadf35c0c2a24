"""The layout of a `.tbrt` file, shared by writer and reader: config fields, their kinds and limits, padding. See FORMAT.md."""

from __future__ import annotations

from tinybert_rt.config import ACTIVATIONS as ACTIVATIONS
from tinybert_rt.config import COLUMN_MULTIPLE as COLUMN_MULTIPLE
from tinybert_rt.config import HEAD_ACTIVATIONS as HEAD_ACTIVATIONS
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
    "embedding_size",
    "stored_layers",
    "inner_layers",
    "head",
    "labels",
    "head_activation",
    "problem",
    "labels_bytes",
    "no_positions",
    "relative_span",
    "content_to_position",
    "position_to_content",
    "conv_kernel",
    "conv_activation",
    "merges",
    "added_options",
    "transform_activation",
    "own_decoder",
    "scored_pieces",
    "unigram_flags",
    "expansion",
    "rewrites",
    "rewrite_nodes",
    "rewrite_bytes",
    "float_linears",
)
"""Fields are only ever added at the end, with 0 for what files without them mean."""

OPTIONAL_FIELDS = CONFIG_FIELDS[CONFIG_FIELDS.index("embedding_size") :]
"""Those that have been added; the readable copy leaves them out where they are 0."""

CONFIG_INDEX = {name: index for index, name in enumerate(CONFIG_FIELDS)}

ARCHITECTURES = {
    "bert": 1,
    "roberta": 2,
    "distilbert": 3,
    "albert": 4,
    "electra": 5,
    "deberta": 6,
    "deberta-v2": 7,
    "xlm-roberta": 8,
    "camembert": 9,
}
"""Families by number. For people: the other fields say what is computed, so a number without a name here is no error."""

WEIGHT_DTYPES = {"f32": 0, "int8": 1}
FLOAT_LINEARS = {"attention.qkv": 1, "attention.output": 2, "ffn.in": 4, "ffn.out": 8}
"""Linear layers of an encoder layer that may stay float32 in an int8 file → their bits in the tensor "float_linears"."""

POOLINGS = {"cls": 1, "mean": 2, "max": 3}
TOKENIZER_KINDS = {"wordpiece": 1, "bpe": 2, "unigram": 3}

HEADS = {"none": 0, "sequence_classification": 1, "token_classification": 2, "question_answering": 3, "masked_token": 4}
TRANSFORM_ACTIVATIONS = {"none": 0, **{name: 1 + code for name, code in ACTIVATIONS.items()}}
"""Behind the dense layer of a head that predicts masked tokens; "none": there is no such head."""

PROBLEMS = {"single_label": 0, "multi_label": 1, "regression": 2}
"""What the outputs of a head are: logits of one label of all, of labels that hold or not, or numbers."""

MAX_RELATIVE_SPAN = 65536
MAX_CONV_KERNEL = 15

MAX_LABELS = 65536
MAX_LABELS_BYTES = 1 << 20

# Bits of "tokenizer_flags".
CLEAN_TEXT = 1
SPLIT_CJK = 2
STRIP_ACCENTS = 4
LOWERCASE = 8
PREFIX_SPACE = 16
"""A space is put before every part of the text, between added tokens, that does not begin with one."""

DOUBLE_SEPARATOR = 32
"""A pair has two separators between its texts, and all its token types are 0."""

# Bits of the options of an added token: white space before or behind it belongs to it.
STRIP_LEFT = 1
STRIP_RIGHT = 2

# Bits of "unigram_flags": what is done to each part of the text between added tokens, in the order of the numbers. White space is cut
# off before it is rewritten, or after.
TRIM_BEGIN = 1
TRIM_END = 2
DECOMPOSE_HANGUL = 4
"""Syllables become jamo in the first stage of rewriting."""

STRIP_BEGIN = 8
STRIP_END = 16
COLLAPSE_SPACES = 32
"""Neighbouring spaces become one space."""

COLLAPSE_TO_MARK = 64
"""Two or more neighbouring spaces become one word mark."""

SPLIT_SPACES = 128
"""White space separates words and is dropped."""

SPLIT_PUNCTUATION = 256
"""Each punctuation character is a word."""

PREFIX_ALWAYS = 512
"""The word mark is put before every part that the two above leave, unless it begins with it or with a space."""

PREFIX_FIRST = 1024
"""The same, at the begin of the text only."""

UNIGRAM_FLAGS = 2047
"""All of them."""

MAX_REWRITE_BYTES = 1 << 24
MAX_EXPANSION = 255

LARGEST_WORD_CHARS = 1024
_ID = (0, MAX_VOCAB_SIZE - 1)

# Smallest and largest value of each field; ids must also be below vocab_size.
CONFIG_RANGES: dict[str, tuple[int, int]] = {
    "architecture": (1, 255),
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
    "tokenizer_flags": (0, CLEAN_TEXT | SPLIT_CJK | STRIP_ACCENTS | LOWERCASE | PREFIX_SPACE | DOUBLE_SEPARATOR),
    "max_word_chars": (1, LARGEST_WORD_CHARS),
    "unk_id": _ID,
    "cls_id": _ID,
    "sep_id": _ID,
    "pad_id": _ID,
    "mask_id": _ID,
    "trie_nodes": (1, MAX_TRIE_NODES),
    "added_tokens": (0, MAX_VOCAB_SIZE),
    "pieces_bytes": (1, MAX_PIECES_BYTES),
    "embedding_size": (0, MAX_HIDDEN_SIZE),
    "stored_layers": (0, MAX_LAYERS),
    "inner_layers": (0, MAX_LAYERS),
    "head": (0, len(HEADS) - 1),
    "labels": (0, MAX_LABELS),
    "head_activation": (0, len(HEAD_ACTIVATIONS) - 1),
    "problem": (0, len(PROBLEMS) - 1),
    "labels_bytes": (0, MAX_LABELS_BYTES),
    "no_positions": (0, 1),
    "relative_span": (0, MAX_RELATIVE_SPAN),
    "content_to_position": (0, 1),
    "position_to_content": (0, 1),
    "conv_kernel": (0, MAX_CONV_KERNEL),
    "conv_activation": (0, len(HEAD_ACTIVATIONS) - 1),
    "merges": (0, MAX_VOCAB_SIZE),
    "added_options": (0, 1),
    "transform_activation": (0, len(TRANSFORM_ACTIVATIONS) - 1),
    "own_decoder": (0, 1),
    "scored_pieces": (0, MAX_VOCAB_SIZE),
    "unigram_flags": (0, UNIGRAM_FLAGS),
    "expansion": (0, MAX_EXPANSION),
    "rewrites": (0, MAX_VOCAB_SIZE),
    "rewrite_nodes": (0, MAX_TRIE_NODES),
    "rewrite_bytes": (0, MAX_REWRITE_BYTES),
    "float_linears": (0, len(FLOAT_LINEARS) * MAX_LAYERS),
}
CONFIG_KINDS = (
    "architecture",
    "activation",
    "weight_dtype",
    "pooling",
    "normalize",
    "tokenizer_kind",
    "tokenizer_flags",
    "head",
    "head_activation",
    "problem",
    "conv_activation",
    "added_options",
    "transform_activation",
    "own_decoder",
    "unigram_flags",
)
"""Fields that choose among kinds: a value out of range is one that a later release may know."""

CONFIG_IDS = ("unk_id", "cls_id", "sep_id", "pad_id", "mask_id")

DTYPE_BYTES = {"U8": 1, "I8": 1, "I32": 4, "U32": 4, "F32": 4, "F16": 2, "F64": 8}
DTYPE_CODES = {name: code for code, name in enumerate(DTYPE_BYTES)}


def pad(value: int, multiple: int) -> int:
    """`value` rounded up to a multiple."""
    return -(-value // multiple) * multiple


def head_width(hidden_size: int, num_heads: int) -> int:
    """Columns of one attention head in memory: its size padded to whole vectors, the padding being zero."""
    return pad(hidden_size // num_heads, LANES)


def stored_layers(config: dict[str, int]) -> int:
    """Encoder layers in the file: `stored_layers`, or num_layers where that is 0."""
    return config["stored_layers"] or config["num_layers"]


def float_linears(marks: bytes) -> list[str]:
    """Names of the linear layers that the tensor "float_linears" marks, in file order."""
    return [f"layers.{layer}.{name}" for layer, bits in enumerate(marks) for name, bit in FLOAT_LINEARS.items() if bits & bit]


def layer_source(config: dict[str, int], layer: int) -> int:
    """Which stored layer runs as layer number `layer`.

    ALBERT's groups share (Lan et al. 2020, section 3.1): `inner_layers` consecutive layers are one block; the blocks are divided
    evenly among the stored ones, as transformers' AlbertTransformer does.
    """
    stored, inner = stored_layers(config), config["inner_layers"] or 1
    blocks, groups = config["num_layers"] // inner, stored // inner
    return layer // inner * groups // blocks * inner + layer % inner
