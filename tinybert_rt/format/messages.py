"""What is wrong with a model file or a text, in words: from a status code and what the engine says of the failure.

The messages are data: Python renders them here, the C library from the tables that `aot.message_table` makes of them.
A template's text is one of `str.format` with these placeholders and no others:

- {status}; {detail}, {position} of the ErrorInfo, {detail:,} and {position:,} with grouped digits, and {unsigned:,},
  which is the detail as uint64;
- {tensor}: the tensor's name in the file; {excerpt}: the 16 bytes at the position; {word}: these up to a double quote;
- {rule}, {field}, {bounds}, {dtype}: the tensor, the config field, its range and the dtype whose number the detail is;
- {item}, {tokens}, {limit} of a text.

Importing this does not import Numba.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from tinybert_rt import errors
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors


class ErrorInfo(Protocol):
    """The C struct `kernel_error_info`, see `structs`."""

    detail: int
    position: int
    name_offset: int
    name_size: int


class Condition(IntEnum):
    """When a template's alternative takes the place of its text."""

    NEVER = 0
    NO_DETAIL = 1
    """The detail is 0."""

    NO_TENSOR = 2
    """The error names no tensor, or one outside the file."""


class Template(NamedTuple):
    """A message for one status."""

    text: str
    alternative: str = ""
    condition: Condition = Condition.NEVER


_CONSTANTS = {
    "ALIGNMENT": str(layout.ALIGNMENT),
    "FORMAT_VERSION": str(layout.FORMAT_VERSION),
    "MAX_DEPTH": str(layout.MAX_DEPTH),
    "MAX_HEADER_BYTES": f"{layout.MAX_HEADER_BYTES:,}",
    "CONVERT": "a model file is made with: tinybert-rt convert DIRECTORY --out FILE",
    "DAMAGED": "the file is damaged; get or convert it again",
    "FOREIGN": "the file was not written by this format's writer; convert the checkpoint again",
    "VERSION": "this release reads version {FORMAT_VERSION}: update tinybert_rt, or convert the checkpoint again",
}


def _constants(text: str) -> str:
    """The text with the names in capitals replaced by _CONSTANTS, which may hold such names again."""
    return re.sub(r"\{([A-Z_]+)\}", lambda found: _constants(_CONSTANTS[found[1]]), text)


def _template(text: str, alternative: str = "", condition: Condition = Condition.NEVER) -> Template:
    return Template(_constants(text), _constants(alternative), condition)


TEMPLATES: dict[int, Template] = {
    errors.ModelNotFoundError.code: _template("no such file"),
    errors.UnreadableFileError.code: _template("cannot be read"),
    errors.EmptyFileError.code: _template("the file is empty; {CONVERT}"),
    errors.NotAModelFileError.code: _template(
        "not a model file: its first 8 bytes say that a header of {unsigned:,} bytes follows, which is not the case"
        " or beyond the limit of {MAX_HEADER_BYTES}; {CONVERT}"
    ),
    errors.TruncatedFileError.code: _template("the file has {position:,} bytes, {detail:,} are needed: it was cut off; get it again"),
    errors.TrailingBytesError.code: _template("the file has {position:,} bytes, its tensors end at {detail:,}: {DAMAGED}"),
    errors.HeaderSyntaxError.code: _template(
        "the header is not in the format's form at byte {position}, near '{excerpt}' (tensor '{tensor}'): {FOREIGN}",
        "the header is not in the format's form at byte {position}, near '{excerpt}': {FOREIGN}",
        Condition.NO_TENSOR,
    ),
    errors.HeaderAlignmentError.code: _template("the header ends at byte {detail}, which is no multiple of {ALIGNMENT}: {FOREIGN}"),
    errors.MissingMetadataError.code: _template(
        "a safetensors file, but not a model file (it does not begin with __metadata__): {CONVERT}"
    ),
    errors.WrongFormatError.code: _template("a safetensors file of another format ('{word}'), not a model file: {CONVERT}"),
    errors.UnsupportedVersionError.code: _template(
        "format version {detail}, {VERSION}", "format version '{excerpt}', {VERSION}", Condition.NO_DETAIL
    ),
    errors.TooManyTensorsError.code: _template("the header lists more than {detail} tensors: {FOREIGN}"),
    errors.DuplicateTensorError.code: _template("tensor '{tensor}' is listed twice (as number {detail} and {position}): {FOREIGN}"),
    errors.UnknownTensorError.code: _template("tensor '{tensor}' does not belong into this file: {FOREIGN}"),
    errors.MissingTensorError.code: _template("tensor '{rule}' is missing: {FOREIGN}"),
    errors.TensorOrderError.code: _template("tensor '{tensor}' stands where '{rule}' must be: {FOREIGN}"),
    errors.TensorDtypeError.code: _template("tensor '{tensor}' must be {dtype}: {FOREIGN}"),
    errors.TensorRankError.code: _template(
        "tensor '{tensor}' has {position} dimensions, it must have {detail}: {FOREIGN}",
        "tensor '{tensor}' has more than 4 dimensions: {FOREIGN}",
        Condition.NO_DETAIL,
    ),
    errors.TensorShapeError.code: _template("dimension {position} of tensor '{tensor}' must be {detail} for this configuration: {FOREIGN}"),
    errors.TensorSizeError.code: _template("tensor '{tensor}' has {position:,} bytes, its shape and dtype ask for {detail:,}: {FOREIGN}"),
    errors.TensorGapError.code: _template(
        "tensor '{tensor}' begins at byte {position:,}, the one before ends at {detail:,}: the bytes between belong to none"
    ),
    errors.TensorOverlapError.code: _template(
        "tensor '{tensor}' has a limit at byte {position:,}, but the bytes up to {detail:,} are taken: {FOREIGN}"
    ),
    errors.TensorAlignmentError.code: _template(
        "tensor '{tensor}' begins at byte {position:,}, which is no multiple of {ALIGNMENT}: {FOREIGN}"
    ),
    errors.ConfigRangeError.code: _template("config field '{field}' is {position}, it must be {bounds}: {DAMAGED}"),
    errors.UnknownConfigValueError.code: _template(
        "config field '{field}' is {position}, this release knows values {bounds}: update tinybert_rt"
    ),
    errors.ReservedConfigError.code: _template(
        "element {detail} of the tensor 'config' is {position}, this release knows only 0 there: update tinybert_rt"
    ),
    errors.HeadSizeError.code: _template(
        "{position} attention heads do not divide hidden_size {detail}, or take more than {MAX_DEPTH} padded columns"
    ),
    errors.HeadLabelsError.code: _template("a head of the kind {detail} cannot have {position} labels: {DAMAGED}"),
    errors.FloatLinearsError.code: _template(
        "tensor '{tensor}': byte {position:,} marks linear layers of layer {detail} that this release does not know: update tinybert_rt",
        "config field 'float_linears' is {position}, but {detail} linear layers are float32 among int8 ones: {DAMAGED}",
        Condition.NO_TENSOR,
    ),
    errors.LayerSharingError.code: _template("{detail} stored layers cannot be shared by {position} layers: {DAMAGED}"),
    errors.TokenLimitError.code: _template("config field 'max_tokens' is {position}, but there are only {detail} positions: {DAMAGED}"),
    errors.SpecialTokenError.code: _template("config field '{field}' is {position}, which is outside the vocabulary: {DAMAGED}"),
    errors.PieceTableError.code: _template(
        "tensor '{tensor}': offset {detail} (byte {position:,}) does not ascend within the pieces: {DAMAGED}"
    ),
    errors.AddedTokenError.code: _template(
        "tensor '{tensor}': id {detail} (byte {position:,}) is outside the vocabulary or not above the one before: {DAMAGED}"
    ),
    errors.BucketError.code: _template(
        "tensor '{tensor}': bucket {detail} (byte {position:,}) is below the one before or out of range: {DAMAGED}"
    ),
    errors.MergeTableError.code: _template(
        "tensor '{tensor}': element {detail} (byte {position:,}) is out of order or refers to nothing: {DAMAGED}",
        "a tokenizer of the kind {detail} cannot have {position} merges: {DAMAGED}",
        Condition.NO_TENSOR,
    ),
    errors.PieceScoreError.code: _template(
        "tensor '{tensor}': element {detail} (byte {position:,}) is out of order or refers to nothing: {DAMAGED}",
        "a tokenizer of the kind {detail} cannot have {position} scored pieces: {DAMAGED}",
        Condition.NO_TENSOR,
    ),
    errors.TrieError.code: _template("tensor '{tensor}': node {detail} (byte {position:,}) refers to nothing: {DAMAGED}"),
    errors.NonFiniteWeightError.code: _template("tensor '{tensor}': element {detail} (byte {position:,}) is NaN or infinite: {DAMAGED}"),
    errors.NegativeScaleError.code: _template("tensor '{tensor}': scale {detail} (byte {position:,}) is negative: {DAMAGED}"),
    errors.ColumnSumError.code: _template(
        "tensor '{tensor}': the sum {detail} (byte {position:,}) is more than int8 weights can add up to: {DAMAGED}"
    ),
    errors.PaddingError.code: _template("tensor '{tensor}': byte {position:,} is padding and must be zero: {DAMAGED}"),
}
"""Status → message about a model file."""

FILE_FALLBACK = "not readable (status {status})"
"""About a model file, for a status that has no template."""

TEXT_TEMPLATES: dict[int, Template] = {
    errors.InvalidArgumentError.code: Template("text {item} has {tokens} tokens: between 1 and {limit} are possible"),
    errors.TextTooLongError.code: Template("text {item} has {tokens} tokens, the limit is {limit}: shorten it, or let it be truncated"),
    errors.TokenIdError.code: Template("text {item} has a token id or type outside the model's tables"),
    errors.NonFiniteResultError.code: Template("text {item}: the model computed NaN or infinity; its file is damaged: convert it again"),
}
"""Status → message about a text of a request."""

TEXT_FALLBACK = "text {item}: status {status}"
"""About a text, for a status that has no template."""

REQUEST_MESSAGE = "a number of the request is out of range"
"""For any status, where no text is at fault: `item` is negative."""

RULE_NAMES = tuple(rule.name for rule in (*file_tensors.GLOBAL_RULES, *file_tensors.LAYER_RULES))
"""The tensor names that the parser's numbers stand for, see `_rule_name`."""

UNKNOWN_BOUNDS = "within its range"
EXCERPT_BYTES = 16


def _escaped(data: bytes) -> str:
    """Bytes of a file in a message: all but the printable ones of ASCII as \\xNN, so that a message has one line."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data)


def _field(index: int) -> str:
    return layout.CONFIG_FIELDS[index] if 0 <= index < len(layout.CONFIG_FIELDS) else f"reserved element {index}"


def _bounds(index: int) -> str:
    if not 0 <= index < len(layout.CONFIG_FIELDS):
        return UNKNOWN_BOUNDS
    low, high = layout.CONFIG_RANGES[layout.CONFIG_FIELDS[index]]
    return f"from {low} to {high}"


def _rule_name(place: int) -> str:
    """The name of a tensor from the parser's number for it: (layer + 1) · 65536 + rule."""
    layer, rule = (place >> 16) - 1, place & 0xFFFF
    name = RULE_NAMES[rule] if rule < len(RULE_NAMES) else "?"
    return f"layers.{layer}.{name}" if layer >= 0 else name


def _dtype(code: int) -> str:
    return list(layout.DTYPE_BYTES)[code] if 0 <= code < len(layout.DTYPE_BYTES) else "?"


def file_message(code: int, info: ErrorInfo | None, data: Any) -> str:
    """The message for a failed open, without the file's name. Any values of `info` give a message; None: nothing is known."""
    detail, position, name_offset, name_size = 0, -1, -1, 0
    if info is not None:
        detail, position, name_offset, name_size = int(info.detail), int(info.position), int(info.name_offset), int(info.name_size)
    tensor = b""
    if name_offset >= 0 and name_size > 0:
        tensor = bytes(data[name_offset : name_offset + name_size])
    begin = max(position, 0)
    excerpt = bytes(data[begin : begin + EXCERPT_BYTES])
    template = TEMPLATES.get(code, Template(FILE_FALLBACK))
    held = {Condition.NEVER: False, Condition.NO_DETAIL: detail == 0, Condition.NO_TENSOR: not tensor}[template.condition]
    return (template.alternative if held else template.text).format(
        status=code,
        detail=detail,
        position=position,
        unsigned=detail & (2**64 - 1),
        tensor=_escaped(tensor),
        excerpt=_escaped(excerpt),
        word=_escaped(excerpt.split(b'"')[0]),
        rule=_rule_name(detail),
        field=_field(detail),
        bounds=_bounds(detail),
        dtype=_dtype(detail),
    )


def file_error(code: int, info: ErrorInfo | None, name: str, data: Any, reason: str = "") -> errors.TinyBertError:
    """The exception for a failed open.

    Args:
        code: the parser's status, not 0.
        info: what it says of the failure; None where it did not come to be called.
        name: what to call the file.
        data: the file's bytes, or at least its header: bytes, memoryview or a uint8 array.
        reason: the system's words, if there are any.
    """
    kind = errors.error_classes().get(code, errors.ModelFileError)
    return kind(f"{name}: {file_message(code, info, data)}{': ' if reason else ''}{reason}")


def text_message(status: int, item: int, tokens: int, limit: int) -> str:
    """The message for a status of `encode` or `tokenize` about text `item`; negative: about the request as a whole."""
    if item < 0:
        return REQUEST_MESSAGE
    template = TEXT_TEMPLATES.get(status, Template(TEXT_FALLBACK))
    return template.text.format(status=status, item=item, tokens=tokens, limit=limit)
