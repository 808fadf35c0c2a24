"""The configuration and the list of tensors of a model file, checked against `layout`: its tables, compiled in as constants."""

# Kernels are typed by Numba, not by annotations.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import struct

from tinybert_rt import errors
from tinybert_rt.format.layout import (
    COLUMN_MULTIPLE,
    CONFIG_FIELDS,
    CONFIG_IDS,
    CONFIG_INDEX,
    CONFIG_KINDS,
    CONFIG_RANGES,
    CONFIG_SIZE,
    DTYPE_BYTES,
    DTYPE_CODES,
    HEADS,
    LANES,
    MAX_DEPTH,
    TOKENIZER_KINDS,
    WEIGHT_DTYPES,
)
from tinybert_rt.format.reader_contents import check_float_linears
from tinybert_rt.format.reader_header import entries_at, equal_bytes, fail, name_error, name_nothing
from tinybert_rt.format.tensors import (
    CONV_COLUMNS,
    EMBEDDING_COLUMNS,
    GLOBAL_RULES,
    HEAD_COLUMNS,
    HEADS_WIDTH,
    LAYER_RULES,
    RELATIVE_COLUMNS,
    TensorRule,
)
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, load_i32, load_u8

_UNKNOWN = errors.UnknownTensorError.code
_DUPLICATE = errors.DuplicateTensorError.code
_MISSING = errors.MissingTensorError.code
_ORDER = errors.TensorOrderError.code
_DTYPE = errors.TensorDtypeError.code
_RANK = errors.TensorRankError.code
_SHAPE = errors.TensorShapeError.code
_SIZE = errors.TensorSizeError.code
_RANGE = errors.ConfigRangeError.code
_KIND = errors.UnknownConfigValueError.code
_RESERVED = errors.ReservedConfigError.code
_HEADS = errors.HeadSizeError.code
_SHARING = errors.LayerSharingError.code
_LABELS = errors.HeadLabelsError.code
_LIMIT = errors.TokenLimitError.code
_MERGES = errors.MergeTableError.code
_SPECIAL = errors.SpecialTokenError.code
_SCORES = errors.PieceScoreError.code
_FLOATS = errors.FloatLinearsError.code

RULES = (*GLOBAL_RULES, *LAYER_RULES)
_GLOBALS = len(GLOBAL_RULES)
_ALL = len(RULES)
_FIELDS = len(CONFIG_FIELDS)
_HEADS_WIDTH, _EMBEDDING_COLUMNS, _HEAD_COLUMNS, _RELATIVE_COLUMNS, _CONV_COLUMNS = range(CONFIG_SIZE, CONFIG_SIZE + 5)
_NO_SIZE = -1

# A rule: name's offset in the names, its size, dtype, weight_dtype or -1, config field that must not be 0 or -1, config field that must
# be 0 or -1, bit in "float_linears" or 0, rank, then per dimension: size, plus, multiple, factor, divisor; int32 each.
_NAME, _NAME_SIZE, _RULE_DTYPE, _RULE_WEIGHTS, _RULE_FIELD, _RULE_ABSENT, _RULE_LINEAR, _RULE_RANK, _DIMENSIONS = range(9)
_DIMENSION_INTS = 5
_RULE_INTS = _DIMENSIONS + 4 * _DIMENSION_INTS
_DERIVED_SIZES = {
    "": _NO_SIZE,
    HEADS_WIDTH: _HEADS_WIDTH,
    HEAD_COLUMNS: _HEAD_COLUMNS,
    EMBEDDING_COLUMNS: _EMBEDDING_COLUMNS,
    RELATIVE_COLUMNS: _RELATIVE_COLUMNS,
    CONV_COLUMNS: _CONV_COLUMNS,
}


def _packed_rule(rule: TensorRule, name_offset: int) -> bytes:
    kind = -1 if rule.weight_dtype is None else rule.weight_dtype
    field, absent = (CONFIG_INDEX[name] if name else -1 for name in (rule.field, rule.absent))
    numbers = [name_offset, len(rule.name), DTYPE_CODES[rule.dtype], kind, field, absent, rule.linear, len(rule.shape)]
    for each in rule.shape:
        size = _DERIVED_SIZES[each.size] if each.size in _DERIVED_SIZES else CONFIG_INDEX[each.size]
        numbers += [size, each.plus, each.multiple, each.factor, each.divisor]
    return struct.pack(f"<{_RULE_INTS}i", *numbers, *[0] * (_RULE_INTS - len(numbers)))


_NAMES = "".join(rule.name for rule in RULES)
_OFFSETS = [sum(len(rule.name) for rule in RULES[:index]) for index in range(_ALL)]
_rules = constant_table(b"".join(map(_packed_rule, RULES, _OFFSETS)))
_names = constant_table(_NAMES.encode())
_ranges = constant_table(b"".join(struct.pack("<3i", *CONFIG_RANGES[name], name in CONFIG_KINDS) for name in CONFIG_FIELDS))
_ids = constant_table(struct.pack(f"<{len(CONFIG_IDS)}i", *(CONFIG_INDEX[name] for name in CONFIG_IDS)))
_ID_COUNT = len(CONFIG_IDS)
_dtype_bytes = constant_table(bytes(DTYPE_BYTES.values()))
_layers = constant_table(b"layers.")
_LAYERS_SIZE = len(b"layers.")

_HIDDEN_FIELD, _HEADS_FIELD, _MAX_TOKENS_FIELD, _POSITIONS_FIELD, _VOCAB_FIELD, _WEIGHT_FIELD, _LAYERS_FIELD = (
    CONFIG_INDEX[name] for name in ("hidden_size", "num_heads", "max_tokens", "max_positions", "vocab_size", "weight_dtype", "num_layers")
)
_EMBEDDING_FIELD, _STORED_FIELD, _INNER_FIELD = (CONFIG_INDEX[name] for name in ("embedding_size", "stored_layers", "inner_layers"))


_SPAN_FIELD, _TO_POSITION_FIELD, _TO_CONTENT_FIELD, _KERNEL_FIELD = (
    CONFIG_INDEX[name] for name in ("relative_span", "content_to_position", "position_to_content", "conv_kernel")
)
_HEAD_FIELD, _LABELS_FIELD, _LABELS_BYTES_FIELD, _HEAD_ACTIVATION_FIELD, _TRANSFORM_FIELD, _DECODER_FIELD = (
    CONFIG_INDEX[name] for name in ("head", "labels", "labels_bytes", "head_activation", "transform_activation", "own_decoder")
)
_MASKED = HEADS["masked_token"]

_KIND_FIELD, _MERGES_FIELD = CONFIG_INDEX["tokenizer_kind"], CONFIG_INDEX["merges"]
_BPE = TOKENIZER_KINDS["bpe"]
_SCORED_FIELD = CONFIG_INDEX["scored_pieces"]
_UNIGRAM = TOKENIZER_KINDS["unigram"]

_FLOATS_FIELD = CONFIG_INDEX["float_linears"]
_FLOATS_RULE = next(index for index, rule in enumerate(RULES) if rule.name == "float_linears")
_F32, _INT8 = WEIGHT_DTYPES["f32"], WEIGHT_DTYPES["int8"]


@inline
def field(config, index):
    """A field of the tensor "config"."""
    return load_i32(config + 4 * index)


@kernel
def head_width(config):
    """Columns of one head, see `layout`."""
    return (field(config, _HIDDEN_FIELD) // field(config, _HEADS_FIELD) + LANES - 1) // LANES * LANES


@kernel
def heads_width(config):
    """num_heads · head_width, see `layout`."""
    return field(config, _HEADS_FIELD) * head_width(config)


@kernel
def embedding_columns(config):
    """Elements of an embedding: embedding_size, or hidden_size where that is 0."""
    size = field(config, _EMBEDDING_FIELD)
    return size if size != 0 else field(config, _HIDDEN_FIELD)


@kernel
def stored_layers(config):
    """Layers in the file, see `layout`."""
    stored = field(config, _STORED_FIELD)
    return stored if stored != 0 else field(config, _LAYERS_FIELD)


@kernel
def layer_source(config, layer):
    """Which stored layer runs as layer number `layer`, see `layout`."""
    inner = max(field(config, _INNER_FIELD), 1)
    return layer // inner * (stored_layers(config) // inner) // (field(config, _LAYERS_FIELD) // inner) * inner + layer % inner


@kernel
def _is_head(config):
    """Whether the fields of the head fit its kind: labels, or what predicts masked tokens, or nothing."""
    head = field(config, _HEAD_FIELD)
    labels = field(config, _LABELS_FIELD)
    dense = field(config, _HEAD_ACTIVATION_FIELD) != 0
    transform = field(config, _TRANSFORM_FIELD) != 0
    if head == _MASKED:
        return labels == 0 and not dense and transform
    if transform or field(config, _DECODER_FIELD) != 0:
        return False
    if head == 0:
        return labels == 0 and not dense
    return labels != 0 and field(config, _LABELS_BYTES_FIELD) >= labels


@kernel
def check_config(config, error):
    """Check every element of the tensor "config"; returns a status. In an error, detail is the field and position its value."""
    for index in range(_FIELDS):
        value = field(config, index)
        bounds = _ranges() + 12 * index
        if value < load_i32(bounds) or value > load_i32(bounds + 4):
            return fail(error, _KIND if load_i32(bounds + 8) != 0 else _RANGE, index, value)
    for index in range(_FIELDS, CONFIG_SIZE):
        if field(config, index) != 0:
            return fail(error, _RESERVED, index, field(config, index))
    if field(config, _HIDDEN_FIELD) % field(config, _HEADS_FIELD) != 0 or heads_width(config) > MAX_DEPTH:
        return fail(error, _HEADS, field(config, _HIDDEN_FIELD), field(config, _HEADS_FIELD))
    layers = field(config, _LAYERS_FIELD)
    inner = max(field(config, _INNER_FIELD), 1)
    stored = stored_layers(config)
    if stored > layers or layers % inner != 0 or stored % inner != 0:
        return fail(error, _SHARING, stored, layers)
    if not _is_head(config):
        return fail(error, _LABELS, field(config, _HEAD_FIELD), field(config, _LABELS_FIELD))
    relative = field(config, _TO_POSITION_FIELD) != 0 or field(config, _TO_CONTENT_FIELD) != 0
    if relative != (field(config, _SPAN_FIELD) != 0):
        return fail(error, _RANGE, _SPAN_FIELD, field(config, _SPAN_FIELD))
    floats = field(config, _FLOATS_FIELD)
    if floats != 0 and field(config, _WEIGHT_FIELD) != _INT8:
        return fail(error, _FLOATS, 0, floats)
    kind = field(config, _KIND_FIELD)
    merges = field(config, _MERGES_FIELD)
    if (kind == _BPE) != (merges != 0):
        return fail(error, _MERGES, kind, merges)
    scored = field(config, _SCORED_FIELD)
    if (kind == _UNIGRAM) != (scored != 0) or scored > field(config, _VOCAB_FIELD):
        return fail(error, _SCORES, kind, scored)
    if field(config, _MAX_TOKENS_FIELD) > field(config, _POSITIONS_FIELD):
        return fail(error, _LIMIT, field(config, _POSITIONS_FIELD), field(config, _MAX_TOKENS_FIELD))
    for i in range(_ID_COUNT):
        index = load_i32(_ids() + 4 * i)
        if field(config, index) >= field(config, _VOCAB_FIELD):
            return fail(error, _SPECIAL, index, field(config, index))
    return 0


@inline
def _rule(index):
    return _rules() + 4 * _RULE_INTS * index


@inline
def _padded(columns):
    return (columns + COLUMN_MULTIPLE - 1) // COLUMN_MULTIPLE * COLUMN_MULTIPLE


@kernel
def _dimension(rule, axis, config):
    """The size that a rule gives to a dimension: `file_tensors.Dimension.of`."""
    part = rule + 4 * (_DIMENSIONS + axis * _DIMENSION_INTS)
    index = load_i32(part)
    value = 0
    if index == _HEADS_WIDTH:
        value = heads_width(config)
    elif index == _EMBEDDING_COLUMNS:
        value = embedding_columns(config)
    elif index == _HEAD_COLUMNS:
        value = head_width(config)
    elif index == _RELATIVE_COLUMNS:
        value = field(config, _HEADS_FIELD) * _padded(2 * field(config, _SPAN_FIELD))
    elif index == _CONV_COLUMNS:
        value = field(config, _KERNEL_FIELD) * _padded(field(config, _HIDDEN_FIELD))
    elif index != _NO_SIZE:
        value = max(field(config, index), 1)
    multiple = load_i32(part + 8)
    padded = (value + load_i32(part + 4) + multiple - 1) // multiple * multiple
    return load_i32(part + 12) * padded // load_i32(part + 16)


@kernel
def _layer_and_name(data, entry):
    """Layer, or -1, and the offset of the rest of a name: "layers.12.ffn.in.bias" gives 12 and the offset of "ffn"."""
    position = entry.name_offset + _LAYERS_SIZE
    end = entry.name_offset + entry.name_size
    if entry.name_size <= _LAYERS_SIZE or not equal_bytes(data + entry.name_offset, _layers(), _LAYERS_SIZE):
        return -1, entry.name_offset
    start = position
    layer = 0
    while position < end and 48 <= load_u8(data + position) <= 57 and position - start < 4:
        layer = layer * 10 + load_u8(data + position) - 48
        position += 1
    if position == start or position >= end or load_u8(data + position) != 46:
        return -1, entry.name_offset
    if position - start > 1 and load_u8(data + start) == 48:
        return -1, entry.name_offset
    return layer, position + 1


@kernel
def _has_name(data, entry, layer, index):
    """Whether an entry is the tensor of rule `index` in `layer` (-1: a tensor before the layers)."""
    found, name = _layer_and_name(data, entry)
    rule = _rule(index)
    size = entry.name_offset + entry.name_size - name
    known_size = load_i32(rule + 4 * _NAME_SIZE)
    return found == layer and size == known_size and equal_bytes(data + name, _names() + load_i32(rule + 4 * _NAME), size)


@kernel
def _marks(floats, layer):
    """The byte for a layer of the tensor "float_linears" at `floats` (0: the file has none, or it has not been reached)."""
    return load_u8(floats + layer) if floats != 0 and layer >= 0 else 0


@kernel
def _belongs(config, marks, index):
    """Whether files of this configuration (0: of any) have the tensor of rule `index`, in a layer of these `_marks`."""
    if config == 0:
        return True
    kind = load_i32(_rule(index) + 4 * _RULE_WEIGHTS)
    wanted = load_i32(_rule(index) + 4 * _RULE_FIELD)
    unwanted = load_i32(_rule(index) + 4 * _RULE_ABSENT)
    if (wanted >= 0 and field(config, wanted) == 0) or (unwanted >= 0 and field(config, unwanted) != 0):
        return False
    weights = _F32 if marks & load_i32(_rule(index) + 4 * _RULE_LINEAR) != 0 else field(config, _WEIGHT_FIELD)
    return kind < 0 or kind == weights


@kernel
def _is_known(data, entry, config, floats):
    """Whether files of this configuration (0: of any) and with these float linear layers have a tensor of this name."""
    layer, _ = _layer_and_name(data, entry)
    if config != 0 and layer >= stored_layers(config):
        return False
    for index in range(_GLOBALS if layer >= 0 else 0, _ALL if layer >= 0 else _GLOBALS):
        if _belongs(config, _marks(floats, layer), index) and _has_name(data, entry, layer, index):
            return True
    return False


@kernel
def _explain(data, entries, count, place, layer, index, config, floats, error):
    """Why entry `place` is not the tensor of rule `index` in `layer`: duplicate, unknown, out of order, or the other is missing."""
    if place < count:
        entry = entries_at(entries)[place]
        name_error(error, entry)
        for other in range(place):
            earlier = entries_at(entries)[other]
            if earlier.name_size == entry.name_size and equal_bytes(data + earlier.name_offset, data + entry.name_offset, entry.name_size):
                return fail(error, _DUPLICATE, other, place)
        if not _is_known(data, entry, config, floats):
            return fail(error, _UNKNOWN, 0, place)
    expected = ((layer + 1) << 16) | index
    for other in range(place, count):
        if _has_name(data, entries_at(entries)[other], layer, index):
            return fail(error, _ORDER, expected, place)
    name_nothing(error)
    return fail(error, _MISSING, expected, place)


@kernel
def _check_entry(entry, index, config, error):
    """Dtype, shape and size of an entry; returns a status."""
    rule = _rule(index)
    name_error(error, entry)
    if entry.dtype != load_i32(rule + 4 * _RULE_DTYPE):
        return fail(error, _DTYPE, load_i32(rule + 4 * _RULE_DTYPE), entry.begin)
    rank = load_i32(rule + 4 * _RULE_RANK)
    if entry.rank != rank:
        return fail(error, _RANK, rank, entry.rank)
    size = load_u8(_dtype_bytes() + entry.dtype)
    for axis in range(rank):
        found = entry.shape0
        if axis == 1:
            found = entry.shape1
        elif axis == 2:
            found = entry.shape2
        elif axis == 3:
            found = entry.shape3
        # The tensor "config" comes first and has a fixed shape, so it is not read here before it was checked.
        wanted = _dimension(rule, axis, config)
        if found != wanted:
            return fail(error, _SHAPE, wanted, axis)
        size *= wanted
    if entry.end - entry.begin != size:
        return fail(error, _SIZE, size, entry.end - entry.begin)
    return 0


@kernel
def check_tensors(data, entries, count, error):
    """Check the configuration, and that the file has exactly the tensors that it asks for, in order; returns a status."""
    if count < 1 or not _has_name(data, entries_at(entries)[0], -1, 0):
        return _explain(data, entries, count, 0, -1, 0, 0, 0, error)
    status = _check_entry(entries_at(entries)[0], 0, 0, error)
    if status != 0:
        return status
    config = data + entries_at(entries)[0].begin
    # What is wrong with a field is told by the field, not by the tensor that it is in.
    name_nothing(error)
    status = check_config(config, error)
    if status != 0:
        return status
    place = 0
    floats = 0
    for layer in range(-1, stored_layers(config)):
        for index in range(_GLOBALS if layer >= 0 else 0, _ALL if layer >= 0 else _GLOBALS):
            if not _belongs(config, _marks(floats, layer), index):
                continue
            if place >= count or not _has_name(data, entries_at(entries)[place], layer, index):
                return _explain(data, entries, count, place, layer, index, config, floats, error)
            entry = entries_at(entries)[place]
            status = _check_entry(entry, index, config, error)
            if status == 0 and index == _FLOATS_RULE:
                floats = data + entry.begin
                status = check_float_linears(data, entry, stored_layers(config), field(config, _FLOATS_FIELD), error)
            if status != 0:
                return status
            place += 1
    if place < count:
        name_error(error, entries_at(entries)[place])
        # Every known tensor has been seen: this one is a second one of its name, or unknown.
        return _explain(data, entries, count, place, -1, 0, config, floats, error)
    return 0
