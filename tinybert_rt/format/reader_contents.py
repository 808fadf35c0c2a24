"""What the small tensors of a model file hold: vocabulary, trie, scales, biases, norms. The weights themselves are not touched."""

# Kernels are typed by Numba, not by annotations.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from tinybert_rt import errors
from tinybert_rt.format.layout import FLOAT_LINEARS, MAX_RELATIVE_SPAN, STRIP_LEFT, STRIP_RIGHT
from tinybert_rt.format.reader_header import fail, name_error, name_nothing
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import load_i32, load_i64, load_u8, load_u32

_PIECES = errors.PieceTableError.code
_ADDED = errors.AddedTokenError.code
_MERGES = errors.MergeTableError.code
_SCORES = errors.PieceScoreError.code
_TRIE = errors.TrieError.code
_NON_FINITE = errors.NonFiniteWeightError.code
_NEGATIVE = errors.NegativeScaleError.code
_COLUMN_SUM = errors.ColumnSumError.code
_PADDING = errors.PaddingError.code
_BUCKETS = errors.BucketError.code
_FLOATS = errors.FloatLinearsError.code
_FLOAT_BITS = sum(FLOAT_LINEARS.values())

ANY_SIGN = 0
NOT_NEGATIVE = 1

_EXPONENT = 0x7F800000
_EXPONENT_F64 = 0x7FF


@kernel
def _check_zero(data, begin, end, error):
    """Bytes begin … end of the file are zero; returns a status."""
    for position in range(begin, end):
        if load_u8(data + position) != 0:
            return fail(error, _PADDING, load_u8(data + position), position)
    return 0


@kernel
def check_trie(data, entry, nodes, vocab_size, error):
    """The root has no label, bases lie in the 256-blocks of the nodes, ids in the vocabulary; returns a status."""
    name_error(error, entry)
    trie = data + entry.begin
    limit = (nodes + 255) & ~255
    for node in range(nodes):
        unit = load_i64(trie + 8 * node)
        if (unit >> 8) & 0xFFFFFF >= limit or (unit >> 32) & 0xFFFFFFFF > vocab_size:
            return fail(error, _TRIE, node, entry.begin + 8 * node)
    if load_u8(trie) != 0:
        return fail(error, _TRIE, 0, entry.begin)
    return _check_zero(data, entry.begin + 8 * nodes, entry.end, error)


@kernel
def _check_offsets(data, entry, count, end, least, cause, error):
    """`count` + 1 offsets start at 0, rise by `least` or more and stop at `end`; returns a status, `cause` where they do not."""
    name_error(error, entry)
    lowest = 0
    for index in range(count + 1):
        position = entry.begin + 4 * index
        offset = load_u32(data + position)
        if offset < lowest or offset > end or (index == 0 and offset != 0) or (index == count and offset != end):
            return fail(error, cause, index, position)
        lowest = offset + least
    return _check_zero(data, entry.begin + 4 * (count + 1), entry.end, error)


@kernel
def check_pieces(data, pieces, offsets, pieces_bytes, vocab_size, error):
    """Piece offsets start at 0, ascend (no piece is empty) and end at the end of the pieces; returns a status."""
    status = _check_offsets(data, offsets, vocab_size, pieces_bytes, 1, _PIECES, error)
    if status != 0:
        return status
    name_error(error, pieces)
    return _check_zero(data, pieces.begin + pieces_bytes, pieces.end, error)


@kernel
def check_added(data, entry, count, vocab_size, error):
    """Ids of added tokens ascend within the vocabulary; returns a status."""
    name_error(error, entry)
    last = -1
    for index in range(count):
        token = load_i32(data + entry.begin + 4 * index)
        if token <= last or token >= vocab_size:
            return fail(error, _ADDED, token, entry.begin + 4 * index)
        last = token
    return _check_zero(data, entry.begin + 4 * count, entry.end, error)


@kernel
def check_buckets(data, entry, count, error):
    """Buckets of distances are none below another before it, and none beyond the largest span; returns a status."""
    name_error(error, entry)
    last = 0
    for index in range(count):
        bucket = load_i32(data + entry.begin + 4 * index)
        if bucket < last or bucket > MAX_RELATIVE_SPAN:
            return fail(error, _BUCKETS, bucket, entry.begin + 4 * index)
        last = bucket
    return _check_zero(data, entry.begin + 4 * count, entry.end, error)


@kernel
def check_float_linears(data, entry, layers, count, error):
    """Only known linear layers are marked, `count` of them in all, and none behind the `layers` stored ones; returns a status."""
    name_error(error, entry)
    marked = 0
    for layer in range(layers):
        marks = load_u8(data + entry.begin + layer)
        if marks & ~_FLOAT_BITS != 0:
            return fail(error, _FLOATS, layer, entry.begin + layer)
        while marks != 0:
            marked += marks & 1
            marks >>= 1
    status = _check_zero(data, entry.begin + layers, entry.end, error)
    if status == 0 and marked != count:
        name_nothing(error)
        return fail(error, _FLOATS, marked, count)
    return status


@kernel
def check_added_options(data, entry, count, error):
    """No option of an added token that is not known; returns a status."""
    name_error(error, entry)
    for position in range(entry.begin, entry.begin + count):
        if load_u8(data + position) & ~(STRIP_LEFT | STRIP_RIGHT) != 0:
            return fail(error, _PADDING, load_u8(data + position), position)
    return _check_zero(data, entry.begin + count, entry.end, error)


@kernel
def check_merges(data, tokens, starts, merges, count, vocab_size, error):
    """Tokens lie in the vocabulary, ranks below `count`, rows ascend and belong to a left token each; returns a status.

    Args:
        tokens, starts, merges: the entries of tokenizer.bytes, tokenizer.merge_starts, tokenizer.merges.
    """
    name_error(error, tokens)
    for index in range(256):
        token = load_i32(data + tokens.begin + 4 * index)
        if token < 0 or token >= vocab_size:
            return fail(error, _MERGES, index, tokens.begin + 4 * index)
    status = _check_offsets(data, starts, vocab_size, count, 0, _MERGES, error)
    if status != 0:
        return status
    name_error(error, merges)
    for left in range(vocab_size):
        last = -1
        for row in range(load_u32(data + starts.begin + 4 * left), load_u32(data + starts.begin + 4 * left + 4)):
            position = merges.begin + 12 * row
            right = load_u32(data + position)
            if right <= last or right >= vocab_size:
                return fail(error, _MERGES, 3 * row, position)
            if load_u32(data + position + 4) >= count:
                return fail(error, _MERGES, 3 * row + 1, position + 4)
            if load_u32(data + position + 8) >= vocab_size:
                return fail(error, _MERGES, 3 * row + 2, position + 8)
            last = right
    return _check_zero(data, merges.begin + 12 * count, merges.end, error)


@kernel
def check_scores(data, entry, count, error):
    """The scores of the pieces are finite, zero behind the first `count`; returns a status."""
    name_error(error, entry)
    for index in range(count):
        if (load_i64(data + entry.begin + 8 * index) >> 52) & _EXPONENT_F64 == _EXPONENT_F64:
            return fail(error, _NON_FINITE, index, entry.begin + 8 * index)
    return _check_zero(data, entry.begin + 8 * count, entry.end, error)


@kernel
def check_rewrites(data, trie, texts, offsets, nodes, text_bytes, count, error):
    """The trie refers to rules, the offsets of their replacements ascend from 0 to the end of the texts; returns a status.

    Args:
        trie, texts, offsets: the entries of tokenizer.rewrite_trie, tokenizer.rewrite_texts, tokenizer.rewrite_offsets.
    """
    status = check_trie(data, trie, nodes, count, error)
    if status != 0:
        return status
    status = _check_offsets(data, offsets, count, text_bytes, 0, _SCORES, error)
    if status != 0:
        return status
    name_error(error, texts)
    return _check_zero(data, texts.begin + text_bytes, texts.end, error)


@inline
def _is_padding(index, part_width, used, group_width, group_size):
    """Whether a column holds nothing: behind the `used` columns of its part, or behind the `group_size` of its group."""
    column = index % part_width
    return column >= used or column % group_width >= group_size


@kernel
def check_floats(data, entry, part_width, used, group_width, group_size, sign, error):
    """A float32 vector is finite, not negative where that is asked, and zero in its padding; returns a status.

    Args:
        entry: a vector of parts of part_width columns; `used` of these are groups of group_width columns, and of each group
            the first group_size hold values.
        sign: ANY_SIGN or NOT_NEGATIVE.
    """
    name_error(error, entry)
    for index in range((entry.end - entry.begin) >> 2):
        position = entry.begin + 4 * index
        bits = load_i32(data + position)
        if bits & _EXPONENT == _EXPONENT:
            return fail(error, _NON_FINITE, index, position)
        if sign == NOT_NEGATIVE and bits < 0:
            return fail(error, _NEGATIVE, index, position)
        if bits != 0 and _is_padding(index, part_width, used, group_width, group_size):
            return fail(error, _PADDING, bits, position)
    return 0


@kernel
def check_sums(data, entry, part_width, used, group_width, group_size, inputs, error):
    """Column sums are what int8 weights can give, and zero in the padding (see `check_floats`); returns a status."""
    name_error(error, entry)
    for index in range((entry.end - entry.begin) >> 2):
        position = entry.begin + 4 * index
        value = load_i32(data + position)
        if value > 127 * inputs or value < -127 * inputs:
            return fail(error, _COLUMN_SUM, value, position)
        if value != 0 and _is_padding(index, part_width, used, group_width, group_size):
            return fail(error, _PADDING, value, position)
    return 0
