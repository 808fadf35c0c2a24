"""What is wrong with a model file, in words: from the parser's status code and ErrorInfo. Importing this does not import Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from tinybert_rt import errors
from tinybert_rt.format.layout import (
    ALIGNMENT,
    CONFIG_FIELDS,
    CONFIG_RANGES,
    DTYPE_BYTES,
    FORMAT_VERSION,
    GLOBAL_RULES,
    LAYER_RULES,
    MAX_DEPTH,
    MAX_HEADER_BYTES,
)


class ErrorInfo(Protocol):
    """The C struct `kernel_error_info`, see `structs`."""

    detail: int
    position: int
    name_offset: int
    name_size: int


class _Fault(NamedTuple):
    """An ErrorInfo with the tensor's name read from the file."""

    detail: int
    position: int
    tensor: str
    data: Any


_CONVERT = "a model file is made with: tinybert-rt convert DIRECTORY --out FILE"
_DAMAGED = "the file is damaged; get or convert it again"
_FOREIGN = "the file was not written by this format's writer; convert the checkpoint again"


def _excerpt(data: Any, position: int) -> str:
    return bytes(data[max(position, 0) : position + 16]).decode("ascii", "backslashreplace")


def _field(index: int) -> str:
    return CONFIG_FIELDS[index] if 0 <= index < len(CONFIG_FIELDS) else f"reserved element {index}"


def _bounds(index: int) -> str:
    low, high = CONFIG_RANGES[CONFIG_FIELDS[index]]
    return f"from {low} to {high}"


def _rule_name(place: int) -> str:
    """The name of a tensor from the parser's number for it: (layer + 1) · 65536 + rule."""
    rules = (*GLOBAL_RULES, *LAYER_RULES)
    layer, rule = (place >> 16) - 1, place & 0xFFFF
    name = rules[rule].name if rule < len(rules) else "?"
    return f"layers.{layer}.{name}" if layer >= 0 else name


def _dtype(code: int) -> str:
    return list(DTYPE_BYTES)[code]


def _version(fault: _Fault) -> str:
    found = f"version {fault.detail}" if fault.detail else f"version {_excerpt(fault.data, fault.position)!r}"
    return f"format {found}, this release reads version {FORMAT_VERSION}: update tinybert_rt, or convert the checkpoint again"


_MESSAGES: dict[type[errors.TinyBertError], Callable[[_Fault], str]] = {
    errors.NotAModelFileError: lambda f: (
        f"not a model file: its first 8 bytes say that a header of {f.detail & (2**64 - 1):,} bytes follows, which is not the case"
        f" or beyond the limit of {MAX_HEADER_BYTES:,}; {_CONVERT}"
    ),
    errors.TruncatedFileError: lambda f: f"the file has {f.position:,} bytes, {f.detail:,} are needed: it was cut off; get it again",
    errors.TrailingBytesError: lambda f: f"the file has {f.position:,} bytes, its tensors end at {f.detail:,}: {_DAMAGED}",
    errors.HeaderSyntaxError: lambda f: (
        f"the header is not in the format's form at byte {f.position}, near {_excerpt(f.data, f.position)!r}"
        f"{f' (tensor {f.tensor!r})' if f.tensor else ''}: {_FOREIGN}"
    ),
    errors.HeaderAlignmentError: lambda f: f"the header ends at byte {f.detail}, which is no multiple of {ALIGNMENT}: {_FOREIGN}",
    errors.MissingMetadataError: lambda f: f"a safetensors file, but not a model file (it does not begin with __metadata__): {_CONVERT}",
    errors.WrongFormatError: lambda f: (
        f"a safetensors file of another format ({_excerpt(f.data, f.position).split(chr(34))[0]!r}), not a model file: {_CONVERT}"
    ),
    errors.UnsupportedVersionError: _version,
    errors.TooManyTensorsError: lambda f: f"the header lists more than {f.detail} tensors: {_FOREIGN}",
    errors.DuplicateTensorError: lambda f: f"tensor {f.tensor!r} is listed twice (as number {f.detail} and {f.position}): {_FOREIGN}",
    errors.UnknownTensorError: lambda f: f"tensor {f.tensor!r} does not belong into this file: {_FOREIGN}",
    errors.MissingTensorError: lambda f: f"tensor {_rule_name(f.detail)!r} is missing: {_FOREIGN}",
    errors.TensorOrderError: lambda f: f"tensor {f.tensor!r} stands where {_rule_name(f.detail)!r} must be: {_FOREIGN}",
    errors.TensorDtypeError: lambda f: f"tensor {f.tensor!r} must be {_dtype(f.detail)}: {_FOREIGN}",
    errors.TensorRankError: lambda f: (
        f"tensor {f.tensor!r} has {f.position} dimensions, it must have {f.detail}: {_FOREIGN}"
        if f.detail
        else f"tensor {f.tensor!r} has more than 4 dimensions: {_FOREIGN}"
    ),
    errors.TensorShapeError: lambda f: (
        f"dimension {f.position} of tensor {f.tensor!r} must be {f.detail} for this configuration: {_FOREIGN}"
    ),
    errors.TensorSizeError: lambda f: f"tensor {f.tensor!r} has {f.position:,} bytes, its shape and dtype ask for {f.detail:,}: {_FOREIGN}",
    errors.TensorGapError: lambda f: (
        f"tensor {f.tensor!r} begins at byte {f.position:,}, the one before ends at {f.detail:,}: the bytes between belong to none"
    ),
    errors.TensorOverlapError: lambda f: (
        f"tensor {f.tensor!r} has a limit at byte {f.position:,}, but the bytes up to {f.detail:,} are taken: {_FOREIGN}"
    ),
    errors.TensorAlignmentError: lambda f: (
        f"tensor {f.tensor!r} begins at byte {f.position:,}, which is no multiple of {ALIGNMENT}: {_FOREIGN}"
    ),
    errors.ConfigRangeError: lambda f: f"config field {_field(f.detail)!r} is {f.position}, it must be {_bounds(f.detail)}: {_DAMAGED}",
    errors.UnknownConfigValueError: lambda f: (
        f"config field {_field(f.detail)!r} is {f.position}, this release knows values {_bounds(f.detail)}: update tinybert_rt"
    ),
    errors.ReservedConfigError: lambda f: (
        f"element {f.detail} of the tensor 'config' is {f.position}, this release knows only 0 there: update tinybert_rt"
    ),
    errors.HeadSizeError: lambda f: (
        f"{f.position} attention heads do not divide hidden_size {f.detail}, or take more than {MAX_DEPTH} padded columns"
    ),
    errors.TokenLimitError: lambda f: f"config field 'max_tokens' is {f.position}, but there are only {f.detail} positions: {_DAMAGED}",
    errors.SpecialTokenError: lambda f: f"config field {_field(f.detail)!r} is {f.position}, which is outside the vocabulary: {_DAMAGED}",
    errors.PieceTableError: lambda f: (
        f"tensor {f.tensor!r}: offset {f.detail} (byte {f.position:,}) does not ascend within the pieces: {_DAMAGED}"
    ),
    errors.AddedTokenError: lambda f: (
        f"tensor {f.tensor!r}: id {f.detail} (byte {f.position:,}) is outside the vocabulary or not above the one before: {_DAMAGED}"
    ),
    errors.TrieError: lambda f: f"tensor {f.tensor!r}: node {f.detail} (byte {f.position:,}) refers to nothing: {_DAMAGED}",
    errors.NonFiniteWeightError: lambda f: f"tensor {f.tensor!r}: element {f.detail} (byte {f.position:,}) is NaN or infinite: {_DAMAGED}",
    errors.NegativeScaleError: lambda f: f"tensor {f.tensor!r}: scale {f.detail} (byte {f.position:,}) is negative: {_DAMAGED}",
    errors.ColumnSumError: lambda f: (
        f"tensor {f.tensor!r}: the sum {f.detail} (byte {f.position:,}) is more than int8 weights can add up to: {_DAMAGED}"
    ),
    errors.PaddingError: lambda f: f"tensor {f.tensor!r}: byte {f.position:,} is padding and must be zero: {_DAMAGED}",
}


def file_error(code: int, info: ErrorInfo, name: str, data: Any) -> errors.TinyBertError:
    """The exception for a failed open.

    Args:
        code: the parser's status, not 0.
        info: what it says of the failure.
        name: what to call the file.
        data: the file's bytes, or at least its header: bytes, memoryview or a uint8 array.
    """
    tensor = ""
    if info.name_offset >= 0 and info.name_size > 0:
        tensor = bytes(data[info.name_offset : info.name_offset + info.name_size]).decode("ascii", "backslashreplace")
    kind = errors.error_classes().get(code, errors.ModelFileError)
    message = _MESSAGES.get(kind)
    fault = _Fault(int(info.detail), int(info.position), tensor, data)
    return kind(f"{name}: {message(fault) if message else f'not readable (status {code})'}")
