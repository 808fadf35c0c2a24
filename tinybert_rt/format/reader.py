"""Open a model file that lies in memory: check everything, then fill the structs that the encoder reads.

The file's address needs no alignment: kernels load unaligned. (A mapped file is aligned anyway, which is faster.)
"""

# Kernels are typed by Numba, not by annotations.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from tinybert_rt.format.layout import COLUMN_MULTIPLE, CONFIG_INDEX, FLOAT_LINEARS, HEADS, LANES, WEIGHT_DTYPES
from tinybert_rt.format.reader_contents import (
    ANY_SIGN,
    NOT_NEGATIVE,
    check_buckets,
    check_floats,
    check_pieces,
    check_sums,
)
from tinybert_rt.format.reader_header import entries_at, parse_header
from tinybert_rt.format.reader_rules import check_tensors, embedding_columns, field, layer_source, stored_layers
from tinybert_rt.format.reader_tokenizer import open_tokenizer
from tinybert_rt.format.structs import Layer, Model
from tinybert_rt.format.tensors import layer_linears
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_f32, load_i32, load_i64, load_u8, store_i64
from tinybert_rt.kernels.struct_types import struct_at

_INT8 = WEIGHT_DTYPES["int8"]
_MASKED = HEADS["masked_token"]
_layers_at = struct_at(Layer)
_MODEL_BYTES = Model.size
_LAYER_BYTES = Layer.size
_QKV_PARTS = layer_linears(1, 1, 1)["attention.qkv"][2]

_CONFIG = 0  # the first tensor, see tensors.GLOBAL_RULES

_ARCHITECTURE = CONFIG_INDEX["architecture"]
_NUM_LAYERS = CONFIG_INDEX["num_layers"]
_HIDDEN_SIZE = CONFIG_INDEX["hidden_size"]
_NUM_HEADS = CONFIG_INDEX["num_heads"]
_INTERMEDIATE_SIZE = CONFIG_INDEX["intermediate_size"]
_VOCAB_SIZE = CONFIG_INDEX["vocab_size"]
_MAX_POSITIONS = CONFIG_INDEX["max_positions"]
_TYPE_VOCAB_SIZE = CONFIG_INDEX["type_vocab_size"]
_ACTIVATION = CONFIG_INDEX["activation"]
_WEIGHT_DTYPE = CONFIG_INDEX["weight_dtype"]
_POOLING = CONFIG_INDEX["pooling"]
_NORMALIZE = CONFIG_INDEX["normalize"]
_MAX_TOKENS = CONFIG_INDEX["max_tokens"]
_EPS_BITS = CONFIG_INDEX["layer_norm_eps_bits"]
_EMBEDDING_SIZE = CONFIG_INDEX["embedding_size"]
_HEAD = CONFIG_INDEX["head"]
_LABELS = CONFIG_INDEX["labels"]
_HEAD_ACTIVATION = CONFIG_INDEX["head_activation"]
_PROBLEM = CONFIG_INDEX["problem"]
_LABELS_BYTES = CONFIG_INDEX["labels_bytes"]
_NO_POSITIONS = CONFIG_INDEX["no_positions"]
_RELATIVE_SPAN = CONFIG_INDEX["relative_span"]
_CONTENT_TO_POSITION = CONFIG_INDEX["content_to_position"]
_POSITION_TO_CONTENT = CONFIG_INDEX["position_to_content"]
_CONV_KERNEL = CONFIG_INDEX["conv_kernel"]
_CONV_ACTIVATION = CONFIG_INDEX["conv_activation"]
_TRANSFORM_ACTIVATION = CONFIG_INDEX["transform_activation"]
_OWN_DECODER = CONFIG_INDEX["own_decoder"]
_FLOAT_LINEARS = CONFIG_INDEX["float_linears"]
_FLOAT_QKV, _FLOAT_OUTPUT, _FLOAT_IN, _FLOAT_OUT = FLOAT_LINEARS.values()


@inline
def _pad(value, multiple):
    return (value + multiple - 1) // multiple * multiple


@kernel
def _read_config(config, model):
    """The numbers of the model; the configuration has been checked."""
    model.architecture = field(config, _ARCHITECTURE)
    model.num_layers = field(config, _NUM_LAYERS)
    model.hidden_size = field(config, _HIDDEN_SIZE)
    model.hidden_width = _pad(model.hidden_size, COLUMN_MULTIPLE)
    model.num_heads = field(config, _NUM_HEADS)
    model.head_size = model.hidden_size // model.num_heads
    model.intermediate_size = field(config, _INTERMEDIATE_SIZE)
    model.intermediate_width = _pad(model.intermediate_size, COLUMN_MULTIPLE)
    model.vocab_size = field(config, _VOCAB_SIZE)
    model.max_positions = field(config, _MAX_POSITIONS)
    model.type_vocab_size = field(config, _TYPE_VOCAB_SIZE)
    model.activation = field(config, _ACTIVATION)
    model.weight_dtype = field(config, _WEIGHT_DTYPE)
    model.pooling = field(config, _POOLING)
    model.normalize = field(config, _NORMALIZE)
    model.max_tokens = field(config, _MAX_TOKENS)
    model.layer_norm_eps = load_f32(config + 4 * _EPS_BITS)
    model.embedding_size = embedding_columns(config)
    model.embedding_width = _pad(model.embedding_size, COLUMN_MULTIPLE)
    model.projected = 1 if field(config, _EMBEDDING_SIZE) != 0 else 0
    model.relative_span = field(config, _RELATIVE_SPAN)
    model.relative_width = _pad(2 * model.relative_span, COLUMN_MULTIPLE)
    model.relative_near = 0
    model.buckets = 0
    model.score_parts = 1 + field(config, _CONTENT_TO_POSITION) + field(config, _POSITION_TO_CONTENT)
    model.conv_kernel = field(config, _CONV_KERNEL)
    model.conv_activation = field(config, _CONV_ACTIVATION)
    model.position.values = 0
    model.head = field(config, _HEAD)
    model.labels = field(config, _LABELS)
    model.head_activation = field(config, _HEAD_ACTIVATION)
    model.problem = field(config, _PROBLEM)
    model.transform_activation = field(config, _TRANSFORM_ACTIVATION)
    model.label_texts = 0
    model.label_offsets = 0
    model.float_linears = 0
    model.layers = _layers_at(model.address + _MODEL_BYTES)


@kernel
def _open_table(data, entries, place, int8, rows, table, error):
    """Check and fill an embedding table at `place`; returns status, next place."""
    entry = entries_at(entries)
    table.values = data + entry[place].begin
    table.scale = 0
    table.rows = rows
    if not int8:
        return 0, place + 1
    scale = entry[place + 1]
    table.scale = data + scale.begin
    width = _pad(rows, LANES)
    return check_floats(data, scale, width, rows, width, rows, NOT_NEGATIVE, error), place + 2


@kernel
def _open_norm(data, entries, place, size, norm, error):
    """Check and fill a layer normalization at `place`; returns status, next place."""
    entry = entries_at(entries)
    norm.weight = data + entry[place].begin
    norm.bias = data + entry[place + 1].begin
    width = _pad(size, COLUMN_MULTIPLE)
    status = check_floats(data, entry[place], width, size, width, size, ANY_SIGN, error)
    if status == 0:
        status = check_floats(data, entry[place + 1], width, size, width, size, ANY_SIGN, error)
    return status, place + 2


@kernel
def _open_matrix(data, entries, place, int8, inputs, parts, used, group_width, group_size, linear, error):
    """Check and fill a linear layer without bias at `place`; returns status, next place.

    Each part has `used` columns (padded to a multiple of 64) in groups of group_width, the first group_size of them in use.
    """
    entry = entries_at(entries)
    width = _pad(used, COLUMN_MULTIPLE)
    linear.inputs = inputs
    linear.outputs = parts * width
    linear.weight = data + entry[place].begin
    linear.scale = 0
    linear.column_sum = 0
    place += 1
    if int8:
        scale = entry[place]
        linear.scale = data + scale.begin
        status = check_floats(data, scale, width, used, group_width, group_size, NOT_NEGATIVE, error)
        if status != 0:
            return status, place
        sums = entry[place + 1]
        linear.column_sum = data + sums.begin
        status = check_sums(data, sums, width, used, group_width, group_size, inputs, error)
        if status != 0:
            return status, place
        place += 2
    linear.bias = 0
    return 0, place


@kernel
def _open_linear(data, entries, place, int8, inputs, parts, used, group_width, group_size, linear, error):
    """Check and fill a linear layer at `place`; returns status, next place. Arguments as of `_open_matrix`."""
    status, place = _open_matrix(data, entries, place, int8, inputs, parts, used, group_width, group_size, linear, error)
    if status != 0:
        return status, place
    bias = entries_at(entries)[place]
    linear.bias = data + bias.begin
    width = _pad(used, COLUMN_MULTIPLE)
    return check_floats(data, bias, width, used, group_width, group_size, ANY_SIGN, error), place + 1


@kernel
def _open_relative(data, entries, place, model, error):
    """Check and fill the buckets of distances at `place`; returns status, next place."""
    entry = entries_at(entries)[place]
    model.buckets = data + entry.begin
    status = check_buckets(data, entry, model.max_positions, error)
    near = 0
    while near < min(model.max_positions, model.relative_span) and load_i32(model.buckets + 4 * near) == near:
        near += 1
    model.relative_near = near
    return status, place + 1


@kernel
def _open_layer(data, entries, place, config, index, model, layer, error):
    """Check and fill stored layer number `index` at `place`; returns status, next place."""
    int8 = model.weight_dtype == _INT8
    marks = load_u8(model.float_linears + index) if model.float_linears != 0 else 0
    qkv, output = int8 and marks & _FLOAT_QKV == 0, int8 and marks & _FLOAT_OUTPUT == 0
    ffn_in, ffn_out = int8 and marks & _FLOAT_IN == 0, int8 and marks & _FLOAT_OUT == 0
    hidden = model.hidden_size
    inner = model.intermediate_size
    head_width = _pad(model.head_size, LANES)
    heads = model.num_heads * head_width
    status, place = _open_linear(data, entries, place, qkv, hidden, _QKV_PARTS, heads, head_width, model.head_size, layer.qkv, error)
    positions = 2 * model.relative_span
    count = model.num_heads
    layer.position_key.weight = 0
    layer.position_query.weight = 0
    if status == 0 and field(config, _CONTENT_TO_POSITION) != 0:
        status, place = _open_matrix(
            data, entries, place, int8, head_width, count, positions, positions, positions, layer.position_key, error
        )
    if status == 0 and field(config, _POSITION_TO_CONTENT) != 0:
        status, place = _open_matrix(
            data, entries, place, int8, head_width, count, positions, positions, positions, layer.position_query, error
        )
    if status == 0:
        status, place = _open_linear(data, entries, place, output, heads, 1, hidden, hidden, hidden, layer.attention_output, error)
    if status == 0:
        status, place = _open_norm(data, entries, place, hidden, layer.attention_norm, error)
    if status == 0:
        status, place = _open_linear(data, entries, place, ffn_in, hidden, 1, inner, inner, inner, layer.ffn_in, error)
    if status == 0:
        status, place = _open_linear(data, entries, place, ffn_out, inner, 1, hidden, hidden, hidden, layer.ffn_out, error)
    if status == 0:
        status, place = _open_norm(data, entries, place, hidden, layer.ffn_norm, error)
    return status, place


@kernel
def _open_head(data, entries, place, labels_bytes, model, error):
    """Check and fill the head at `place`; returns status, next place."""
    entry = entries_at(entries)
    hidden = model.hidden_size
    labels = model.labels
    status = 0
    if model.head_activation != 0:
        status, place = _open_linear(data, entries, place, False, hidden, 1, hidden, hidden, hidden, model.head_dense, error)
    if status == 0:
        status, place = _open_linear(data, entries, place, False, hidden, 1, labels, labels, labels, model.head_output, error)
    if status != 0:
        return status, place
    model.label_texts = data + entry[place].begin
    model.label_offsets = data + entry[place + 1].begin
    return check_pieces(data, entry[place], entry[place + 1], labels_bytes, labels, error), place + 2


@kernel
def _open_masked(data, entries, place, own_decoder, model, error):
    """Check and fill the head that predicts masked tokens at `place`; returns status, next place."""
    size = model.embedding_size
    pieces = model.vocab_size
    status, place = _open_linear(data, entries, place, False, model.hidden_size, 1, size, size, size, model.transform, error)
    if status == 0:
        status, place = _open_norm(data, entries, place, size, model.transform_norm, error)
    model.decoder.values = model.word.values
    model.decoder.scale = model.word.scale
    model.decoder.rows = pieces
    if status == 0 and own_decoder != 0:
        status, place = _open_table(data, entries, place, model.weight_dtype == _INT8, pieces, model.decoder, error)
    if status != 0:
        return status, place
    entry = entries_at(entries)[place]
    model.decoder_bias = data + entry.begin
    width = _pad(pieces, LANES)
    return check_floats(data, entry, width, pieces, width, pieces, ANY_SIGN, error), place + 1


@kernel
def _copy_layer(source, target):
    """The same weights for another layer."""
    for offset in range(0, _LAYER_BYTES, 8):
        store_i64(target.address + offset, load_i64(source.address + offset))


@kernel
def open_model(data, size, entries, max_entries, model, error):
    """Check a model file in memory and fill `model`, with its layers right behind it.

    Nothing of the file is trusted: every byte range is checked before it is read. The weights themselves are not read,
    so opening takes time for the header, the vocabulary and the small float tensors only.

    Args:
        data: address of the file's first byte, of any alignment; the memory stays unchanged while the model is used.
        size: bytes of the file.
        entries: scratch, TensorEntry [max_entries].
        max_entries: at least the number of tensors in the file; layout.MAX_TENSORS is always enough.
        model: MODEL_BYTES bytes; valid only if the result is 0.
        error: filled if the result is not 0.

    Returns 0 or the code of one of the model file's errors.
    """
    error.detail = 0
    error.position = -1
    error.name_offset = -1
    error.name_size = 0
    status, count = parse_header(data, size, entries, max_entries, error)
    if status != 0:
        return status
    status = check_tensors(data, entries, count, error)
    if status != 0:
        return status
    config = data + entries_at(entries)[_CONFIG].begin
    _read_config(config, model)
    status, place = open_tokenizer(data, entries, config, model.tokenizer, error)
    int8 = model.weight_dtype == _INT8
    if status == 0:
        status, place = _open_table(data, entries, place, int8, model.vocab_size, model.word, error)
    if status == 0 and field(config, _NO_POSITIONS) == 0:
        status, place = _open_table(data, entries, place, int8, model.max_positions, model.position, error)
    if status == 0:
        status, place = _open_table(data, entries, place, int8, model.type_vocab_size, model.type, error)
    if status == 0:
        status, place = _open_norm(data, entries, place, model.embedding_size, model.embedding_norm, error)
    hidden = model.hidden_size
    if status == 0 and model.projected != 0:
        size = model.embedding_size
        status, place = _open_linear(data, entries, place, int8, size, 1, hidden, hidden, hidden, model.embedding_project, error)
    if status == 0 and model.relative_span != 0:
        status, place = _open_relative(data, entries, place, model, error)
    if status == 0 and model.conv_kernel != 0:
        taps = model.conv_kernel
        status, place = _open_linear(data, entries, place, int8, hidden, taps, hidden, hidden, hidden, model.convolution, error)
        if status == 0:
            status, place = _open_norm(data, entries, place, hidden, model.convolution_norm, error)
    if status == 0 and model.head == _MASKED:
        status, place = _open_masked(data, entries, place, field(config, _OWN_DECODER), model, error)
    elif status == 0 and model.head != 0:
        status, place = _open_head(data, entries, place, field(config, _LABELS_BYTES), model, error)
    if status == 0 and field(config, _FLOAT_LINEARS) != 0:
        model.float_linears = data + entries_at(entries)[place].begin
        place += 1
    for index in range(stored_layers(config)):
        if status == 0:
            status, place = _open_layer(data, entries, place, config, index, model, model.layers[index], error)
    # From the last on: a layer is stored at or before the place of every layer that runs it.
    for index in range(model.num_layers - 1, -1, -1):
        _copy_layer(model.layers[layer_source(config, index)], model.layers[index])
    return status
