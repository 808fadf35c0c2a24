"""The header of a model file: a parser of exactly one form of JSON, the one that `writer` writes. See FORMAT.md.

    {"__metadata__":{"format":"tbrt","version":"2","key":"value",…},"name":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},…}

Every byte is printable ASCII, there are no spaces but those behind the last brace, and keys stand in this order.
A position is a byte offset in the file; a scanning function returns the position behind what it read, or -1.
"""

# Kernels are typed by Numba, not by annotations.
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from tinybert_rt import errors
from tinybert_rt.format.layout import ALIGNMENT, DTYPE_BYTES, FORMAT_NAME, FORMAT_VERSION, MAX_HEADER_BYTES, MAX_TENSORS
from tinybert_rt.format.structs import TensorEntry
from tinybert_rt.kernels.jit import inline, kernel
from tinybert_rt.kernels.memory import constant_table, load_i64, load_u8
from tinybert_rt.kernels.struct_types import struct_at

MAX_NAME_BYTES = 127
_MAX_DIGITS = 15
_MAX_RANK = 4

_NOT_A_MODEL = errors.NotAModelFileError.code
_TRUNCATED = errors.TruncatedFileError.code
_TRAILING = errors.TrailingBytesError.code
_SYNTAX = errors.HeaderSyntaxError.code
_HEADER_ALIGNMENT = errors.HeaderAlignmentError.code
_NO_METADATA = errors.MissingMetadataError.code
_WRONG_FORMAT = errors.WrongFormatError.code
_VERSION = errors.UnsupportedVersionError.code
_TOO_MANY = errors.TooManyTensorsError.code
_RANK = errors.TensorRankError.code
_GAP = errors.TensorGapError.code
_OVERLAP = errors.TensorOverlapError.code
_ALIGNMENT = errors.TensorAlignmentError.code

entries_at = struct_at(TensorEntry)

_BEGINNING = b'{"__metadata__":{"format":"'
_FORMAT = FORMAT_NAME.encode() + b'","version":"'
_NUMBER = str(FORMAT_VERSION).encode() + b'"'
_DTYPE = b':{"dtype":"'
_SHAPE = b'","shape":['
_OFFSETS = b'],"data_offsets":['
_DTYPES = b"".join(name.encode().ljust(4) for name in DTYPE_BYTES)
_DTYPE_COUNT = len(DTYPE_BYTES)
_SIZES = tuple(map(len, (_BEGINNING, _FORMAT, _NUMBER, _DTYPE, _SHAPE, _OFFSETS)))
_BEGINNING_SIZE, _FORMAT_SIZE, _NUMBER_SIZE, _DTYPE_SIZE, _SHAPE_SIZE, _OFFSETS_SIZE = _SIZES
_beginning, _format, _number, _dtype, _shape, _offsets, _dtypes, _format_key, _version_key = (
    constant_table(text) for text in (_BEGINNING, _FORMAT, _NUMBER, _DTYPE, _SHAPE, _OFFSETS, _DTYPES, b'"format"', b'"version"')
)

_QUOTE, _COMMA, _COLON, _BRACKET, _OPEN, _CLOSE, _BACKSLASH, _SPACE = (ord(each) for each in '",:]{}\\ ')
_DIGIT_0, _DIGIT_9, _LOWER_A, _LOWER_F, _LOWER_Z, _LOWER_U, _UPPER_A, _UPPER_F, _DOT, _UNDERSCORE = (ord(each) for each in "09afzuAF._")
_ESCAPES = constant_table(b'"\\/bfnrt')


@inline
def fail(error, code, detail, position):
    """Note what an error is about; returns its code."""
    error.detail = detail
    error.position = position
    return code


@inline
def name_error(error, entry):
    """Note which tensor an error is about."""
    error.name_offset = entry.name_offset
    error.name_size = entry.name_size


@inline
def name_nothing(error):
    """Note that an error is about no tensor."""
    error.name_offset = -1
    error.name_size = 0


@kernel
def equal_bytes(first, second, size):
    """Whether two ranges of memory hold the same bytes."""
    same = 0
    while same < size and load_u8(first + same) == load_u8(second + same):
        same += 1
    return same == size


@kernel
def _expect(data, position, end, text, size):
    """Position behind `text`, or -1 if something else stands there."""
    if position < 0 or end - position < size or not equal_bytes(data + position, text, size):
        return -1
    return position + size


@inline
def _byte_at(data, position, end):
    """The byte at a position, or -1 at the end."""
    if position < 0 or position >= end:
        return -1
    return load_u8(data + position)


@kernel
def _number_at(data, position, end):
    """A decimal number of at most 15 digits, without leading zeros: value, position behind it."""
    value = 0
    start = position
    while True:
        digit = _byte_at(data, position, end)
        if digit < _DIGIT_0 or digit > _DIGIT_9:
            break
        value = value * 10 + digit - _DIGIT_0
        position += 1
        if position - start > _MAX_DIGITS or (position - start > 1 and load_u8(data + start) == _DIGIT_0):
            return 0, -1
    if position == start:
        return 0, -1
    return value, position


@kernel
def _hex_at(data, position, end):
    """The value of four hexadecimal digits, or -1."""
    if end - position < 4:
        return -1
    value = 0
    for i in range(4):
        digit = load_u8(data + position + i)
        if _DIGIT_0 <= digit <= _DIGIT_9:
            digit -= _DIGIT_0
        elif _LOWER_A <= digit <= _LOWER_F:
            digit -= _LOWER_A - 10
        elif _UPPER_A <= digit <= _UPPER_F:
            digit -= _UPPER_A - 10
        else:
            return -1
        value = value * 16 + digit
    return value


@kernel
def _escape_end(data, position, end):
    """Position behind the escape whose backslash is at `position`; a surrogate must be half of a pair."""
    byte = _byte_at(data, position + 1, end)
    if byte == _LOWER_U:
        value = _hex_at(data, position + 2, end)
        if value < 0 or 0xDC00 <= value < 0xE000:
            return -1
        if value < 0xD800 or value >= 0xE000:
            return position + 6
        if _byte_at(data, position + 6, end) != _BACKSLASH or _byte_at(data, position + 7, end) != _LOWER_U:
            return -1
        low = _hex_at(data, position + 8, end)
        return position + 12 if 0xDC00 <= low < 0xE000 else -1
    for i in range(8):
        if byte == load_u8(_ESCAPES() + i):
            return position + 2
    return -1


@kernel
def _text_end(data, position, end, escapes):
    """Position behind the string that begins at `position`."""
    if _byte_at(data, position, end) != _QUOTE:
        return -1
    position += 1
    while position < end:
        byte = load_u8(data + position)
        if byte == _QUOTE:
            return position + 1
        if byte == _BACKSLASH:
            position = _escape_end(data, position, end) if escapes else -1
            if position < 0:
                return -1
        else:
            position += 1
    return -1


@kernel
def _name_end(data, position, end):
    """Position of the quote behind a tensor's name: 1 to 127 of a–z, 0–9, dot and underscore."""
    start = position
    while position < end:
        byte = load_u8(data + position)
        if not (_LOWER_A <= byte <= _LOWER_Z or _DIGIT_0 <= byte <= _DIGIT_9 or byte in (_DOT, _UNDERSCORE)):
            break
        position += 1
    if position == start or position - start > MAX_NAME_BYTES or _byte_at(data, position, end) != _QUOTE:
        return -1
    return position


@kernel
def _metadata_end(data, end, error):
    """(0, position behind `__metadata__`), or (status, where it is wrong)."""
    position = _expect(data, 8, end, _beginning(), _BEGINNING_SIZE)
    if position < 0:
        return fail(error, _NO_METADATA, 0, 8), 8
    start = position
    position = _expect(data, position, end, _format(), _FORMAT_SIZE)
    if position < 0:
        return fail(error, _WRONG_FORMAT, 0, start), start
    start = position
    position = _expect(data, position, end, _number(), _NUMBER_SIZE)
    if position < 0:
        found, _ = _number_at(data, start, end)
        return fail(error, _VERSION, found, start), start
    while _byte_at(data, position, end) == _COMMA:
        start = position + 1
        position = _text_end(data, start, end, False)
        # Said once, at the beginning.
        again = (position - start == 8 and equal_bytes(data + start, _format_key(), 8)) or (
            position - start == 9 and equal_bytes(data + start, _version_key(), 9)
        )
        if position < 0 or again or _byte_at(data, position, end) != _COLON:
            return fail(error, _SYNTAX, 0, start), start
        start = position + 1
        position = _text_end(data, start, end, True)
        if position < 0:
            return fail(error, _SYNTAX, 0, start), start
    if _byte_at(data, position, end) != _CLOSE:
        return fail(error, _SYNTAX, 0, position), position
    return 0, position + 1


@kernel
def _entry_end(data, position, end, entry):
    """Read `"name":{…}` at `position`. Returns (0, position behind it) or (status, where it is wrong)."""
    start = position + 1
    position = _name_end(data, start, end) if _byte_at(data, position, end) == _QUOTE else -1
    if position < 0:
        return _SYNTAX, start
    entry.name_offset = start
    entry.name_size = position - start
    start = position + 1
    position = _expect(data, start, end, _dtype(), _DTYPE_SIZE)
    if position < 0:
        return _SYNTAX, start
    start = position
    while _byte_at(data, position, end) > _QUOTE:
        position += 1
    entry.dtype = _dtype_code(data + start, position - start)
    start = position
    position = _expect(data, start, end, _shape(), _SHAPE_SIZE)
    if position < 0:
        return _SYNTAX, start
    rank = 0
    while True:
        start = position
        value, position = _number_at(data, start, end)
        if position < 0:
            return _SYNTAX, start
        if rank == _MAX_RANK:
            return _RANK, start
        if rank == 0:
            entry.shape0 = value
        elif rank == 1:
            entry.shape1 = value
        elif rank == 2:
            entry.shape2 = value
        else:
            entry.shape3 = value
        rank += 1
        if _byte_at(data, position, end) != _COMMA:
            break
        position += 1
    entry.rank = rank
    start = position
    position = _expect(data, start, end, _offsets(), _OFFSETS_SIZE)
    if position < 0:
        return _SYNTAX, start
    start = position
    entry.begin, position = _number_at(data, start, end)
    if _byte_at(data, position, end) != _COMMA:
        return _SYNTAX, start
    start = position + 1
    entry.end, position = _number_at(data, start, end)
    if _byte_at(data, position, end) != _BRACKET or _byte_at(data, position + 1, end) != _CLOSE:
        return _SYNTAX, start
    return 0, position + 2


@kernel
def _dtype_code(text, size):
    """Index of a dtype's name in DTYPE_BYTES, or -1."""
    for code in range(_DTYPE_COUNT):
        known = _dtypes() + 4 * code
        if 2 <= size <= 3 and equal_bytes(text, known, size) and load_u8(known + size) == _SPACE:
            return code
    return -1


@kernel
def parse_header(data, size, entries, max_entries, error):
    """Read the header and check what can be checked without knowing the tensors' meaning.

    On success the tensors lie one behind the other, 64-byte aligned, from the end of the header to the end of the file.

    Args:
        data, size: the file in memory.
        entries: TensorEntry [max_entries], filled; begin and end become offsets in the file.
        error: filled on failure.

    Returns (0, number of tensors) or (status, 0).
    """
    if size < 8:
        return fail(error, _TRUNCATED, 8, size), 0
    length = load_i64(data)
    if length < 2 or length > MAX_HEADER_BYTES:
        return fail(error, _NOT_A_MODEL, length, 0), 0
    if size > 8 and load_u8(data + 8) != _OPEN:
        return fail(error, _NOT_A_MODEL, length, 8), 0
    end = length + 8
    if size < end:
        return fail(error, _TRUNCATED, end, size), 0
    for position in range(8, end):
        if not 0x20 <= load_u8(data + position) <= 0x7E:
            return fail(error, _SYNTAX, 0, position), 0
    status, position = _metadata_end(data, end, error)
    if status != 0:
        return status, 0
    if end % ALIGNMENT != 0:
        return fail(error, _HEADER_ALIGNMENT, end, 0), 0
    count = 0
    reached = end
    while _byte_at(data, position, end) == _COMMA:
        if count == min(max_entries, MAX_TENSORS):
            return fail(error, _TOO_MANY, min(max_entries, MAX_TENSORS), position), 0
        entry = entries_at(entries)[count]
        entry.name_offset = -1
        entry.name_size = 0
        status, position = _entry_end(data, position + 1, end, entry)
        name_error(error, entry)
        if status != 0:
            return fail(error, status, 0, position), 0
        entry.begin = entry.begin + end
        entry.end = entry.end + end
        if entry.begin != reached:
            return fail(error, _GAP if entry.begin > reached else _OVERLAP, reached, entry.begin), 0
        if entry.end < entry.begin:
            return fail(error, _OVERLAP, entry.begin, entry.end), 0
        if entry.begin % ALIGNMENT != 0:
            return fail(error, _ALIGNMENT, 0, entry.begin), 0
        reached = entry.end
        count += 1
    name_nothing(error)
    if _byte_at(data, position, end) != _CLOSE or end - position > ALIGNMENT:
        return fail(error, _SYNTAX, 0, position), 0
    for behind in range(position + 1, end):
        if load_u8(data + behind) != _SPACE:
            return fail(error, _SYNTAX, 0, behind), 0
    if reached != size:
        return fail(error, _TRUNCATED if reached > size else _TRAILING, reached, size), 0
    return 0, count
