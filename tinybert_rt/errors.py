"""One class per cause. Each has the status code that the C ABI returns for it; 0 means success."""

from __future__ import annotations


class TinyBertError(Exception):
    """An error of this package, or (as a status) a fault of the library."""

    code = 1


# ---------------------------------------------------------------- use of the API (2–19)


class InvalidArgumentError(TinyBertError, ValueError):
    """An argument has a value that the function does not accept."""

    code = 2


class InvalidTextError(TinyBertError, TypeError):
    """A text is not a str, or not a pair of str."""

    code = 3


class TextTooLongError(TinyBertError, ValueError):
    """A text has more tokens than the model takes, and was not to be truncated."""

    code = 4


class TokenIdError(TinyBertError, ValueError):
    """A token id or token type is outside the model's table."""

    code = 5


class MissingHeadError(TinyBertError, ValueError):
    """The model has no head for this."""

    code = 11


class NonFiniteResultError(TinyBertError, ArithmeticError):
    """The model computed NaN or infinity: its weights are damaged."""

    code = 6


class CancelledError(TinyBertError):
    """A progress callback asked to stop."""

    code = 7


class OutputFileError(TinyBertError, OSError):
    """A result cannot be written where it was asked for."""

    code = 8


class BufferTooSmallError(TinyBertError, ValueError):
    """The memory given for a result is too small."""

    code = 9


class BusyError(TinyBertError, RuntimeError):
    """A session is in use by another thread."""

    code = 10


class TruncationWarning(UserWarning):
    """Texts were longer than the model takes and were cut."""


# ---------------------------------------------------------------- the machine (20–29)


class UnknownIsaError(TinyBertError, ValueError):
    """No instruction-set level has this name."""

    code = 20


class UnsupportedIsaError(TinyBertError, ValueError):
    """This machine cannot run the instruction-set level."""

    code = 21


class CompileError(TinyBertError, RuntimeError):
    """The kernels could not be compiled on this machine."""

    code = 22


class ThreadStartError(TinyBertError, RuntimeError):
    """The system could not start the worker threads."""

    code = 23


class OutOfMemoryError(TinyBertError, MemoryError):
    """There is not enough memory."""

    code = 24


class ForkedError(TinyBertError, RuntimeError):
    """A session or an index was opened before fork(): its threads, or its locks, are not in this process."""

    code = 25


class LibraryError(TinyBertError, RuntimeError):
    """The compiled library cannot be loaded, or is of another version than the package."""

    code = 26


# ---------------------------------------------------------------- the model file (30–69)


class ModelFileError(TinyBertError, ValueError):
    """Base of everything that can be wrong with a model file."""

    code = 30


class ModelNotFoundError(ModelFileError, FileNotFoundError):
    """There is no file at this path."""

    code = 31


class UnreadableFileError(ModelFileError, OSError):
    """The file cannot be opened or read."""

    code = 32


class EmptyFileError(ModelFileError):
    """The file has no bytes."""

    code = 33


class NotAModelFileError(ModelFileError):
    """The file does not begin like a model file."""

    code = 34


class TruncatedFileError(ModelFileError):
    """The file ends before its header or its tensors do."""

    code = 35


class TrailingBytesError(ModelFileError):
    """The file goes on behind its last tensor."""

    code = 36


class HeaderSyntaxError(ModelFileError):
    """The JSON header is not in the canonical form of the format."""

    code = 37


class HeaderAlignmentError(ModelFileError):
    """The header does not end at a multiple of 64 bytes."""

    code = 38


class MissingMetadataError(ModelFileError):
    """The header does not begin with the format's name: a safetensors file without our metadata."""

    code = 39


class WrongFormatError(ModelFileError):
    """A safetensors file of another format, such as a checkpoint that was not converted."""

    code = 40


class UnsupportedVersionError(ModelFileError):
    """The file has a version of the format that this release does not read."""

    code = 41


class TooManyTensorsError(ModelFileError):
    """The file has more tensors than any model can have."""

    code = 42


class DuplicateTensorError(ModelFileError):
    """Two tensors have the same name."""

    code = 43


class UnknownTensorError(ModelFileError):
    """A tensor's name is not part of the format."""

    code = 44


class MissingTensorError(ModelFileError):
    """A tensor that the configuration asks for is not there."""

    code = 45


class TensorOrderError(ModelFileError):
    """The tensors are not in the order of the format."""

    code = 46


class TensorDtypeError(ModelFileError):
    """A tensor has another dtype than the format gives it."""

    code = 47


class TensorRankError(ModelFileError):
    """A tensor has another number of dimensions than the format gives it."""

    code = 48


class TensorShapeError(ModelFileError):
    """A dimension of a tensor is not what the configuration asks for."""

    code = 49


class TensorSizeError(ModelFileError):
    """A tensor's byte range is not as long as its shape asks for."""

    code = 50


class TensorGapError(ModelFileError):
    """There are bytes between two tensors that belong to none."""

    code = 51


class TensorOverlapError(ModelFileError):
    """Two tensors share bytes."""

    code = 52


class TensorAlignmentError(ModelFileError):
    """A tensor does not start at a multiple of 64 bytes."""

    code = 53


class ConfigRangeError(ModelFileError):
    """A number of the configuration is out of range."""

    code = 54


class UnknownConfigValueError(ModelFileError):
    """The configuration names a kind (of activation, pooling, tokenizer …) that this release does not know."""

    code = 55


class ReservedConfigError(ModelFileError):
    """An element of the configuration that must be zero is not."""

    code = 56


class HeadSizeError(ModelFileError):
    """The attention heads do not divide the hidden size, or are too many."""

    code = 57


class BucketError(ModelFileError):
    """A bucket of relative positions in the file is out of range or below the one before."""

    code = 71


class FloatLinearsError(ModelFileError):
    """The file does not say consistently which linear layers stay float32 among int8 ones."""

    code = 72


class HeadLabelsError(ModelFileError):
    """The file's head has no labels, or its labels have no head."""

    code = 68


class LayerSharingError(ModelFileError):
    """The file's layers cannot be shared by the model's as its configuration says."""

    code = 67


class TokenLimitError(ModelFileError):
    """The longest text is longer than the position table."""

    code = 58


class SpecialTokenError(ModelFileError):
    """The id of a special token is outside the vocabulary."""

    code = 59


class PieceTableError(ModelFileError):
    """The offsets of the vocabulary's pieces do not ascend within the pieces."""

    code = 60


class AddedTokenError(ModelFileError):
    """The id of an added token is outside the vocabulary."""

    code = 61


class MergeTableError(ModelFileError):
    """The merges of a byte-level BPE vocabulary are missing, not in order, or refer to nothing."""

    code = 69


class PieceScoreError(ModelFileError):
    """The scores or the rewriting rules of a Unigram vocabulary are missing, not in order, or refer to nothing."""

    code = 70


class TrieError(ModelFileError):
    """The vocabulary's trie is damaged."""

    code = 62


class NonFiniteWeightError(ModelFileError):
    """A scale, bias or norm of the file is NaN or infinite."""

    code = 63


class NegativeScaleError(ModelFileError):
    """A scale of the file is negative."""

    code = 64


class ColumnSumError(ModelFileError):
    """A column sum of the file is larger than int8 weights can give."""

    code = 65


class PaddingError(ModelFileError):
    """Padding that must be zero is not."""

    code = 66


# ---------------------------------------------------------------- search (Python only)


class SearchError(TinyBertError):
    """Something is wrong with an index of passages."""

    code = 80


class IndexFileError(SearchError, OSError):
    """The file is no index, or cannot be opened."""

    code = 81


class IndexVersionError(SearchError):
    """The index was written by a later release."""

    code = 82


class IndexModelError(SearchError, ValueError):
    """The index has vectors of another model, or in another form."""

    code = 83


class IndexWriteError(SearchError, OSError):
    """The index cannot be written: the disk is full, or another process is writing."""

    code = 84


def error_classes() -> dict[int, type[TinyBertError]]:
    """Status code → class, of every error of this module."""
    found: dict[int, type[TinyBertError]] = {}
    for value in globals().values():
        if isinstance(value, type) and issubclass(value, TinyBertError):
            found[value.code] = value
    return found
