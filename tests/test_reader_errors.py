"""Everything that can be wrong with a model file, one cause at a time: its error class, and what the message says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from format_files import join, patched, reader, small_bytes, small_config, split, write_small

from tinybert_rt import errors
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.layout import CONFIG_INDEX

Header = dict[str, Any]
CASES: dict[str, tuple[type[errors.TinyBertError], str, Callable[[bytes], bytes]]] = {}


def case(error: type[errors.TinyBertError], says: str) -> Callable[[Callable[[bytes], bytes]], Callable[[bytes], bytes]]:
    """Register a way to damage a valid file: the error it gives, and a part of the message."""

    def register(damage: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        CASES[damage.__name__] = (error, says, damage)
        return damage

    return register


def header_case(error: type[errors.TinyBertError], says: str) -> Callable[[Callable[[Header], Header | None]], None]:
    """The same for a change of the header object."""

    def register(change: Callable[[Header], Header | None]) -> None:
        def damage(data: bytes) -> bytes:
            header, body = split(data)
            return join(change(header) or header, body)

        damage.__name__ = change.__name__
        case(error, says)(damage)

    return register


def text_case(name: str, error: type[errors.TinyBertError], says: str, old: str, new: str) -> None:
    """The same for a replacement in the header's text."""

    def damage(data: bytes) -> bytes:
        header, body = split(data)
        text = json.dumps(header, separators=(",", ":"))
        assert old in text
        return join(text.replace(old, new, 1), body)

    damage.__name__ = name
    case(error, says)(damage)


def config_case(name: str, error: type[errors.TinyBertError], says: str, **values: int) -> None:
    """The same for fields of the tensor "config"; "element_N" is element N."""

    def damage(data: bytes) -> bytes:
        for field, value in values.items():
            index = CONFIG_INDEX[field] if field in CONFIG_INDEX else int(field.removeprefix("element_"))
            data = patched(data, "config", index, value)
        return data

    damage.__name__ = name
    case(error, says)(damage)


def element_case(name: str, error: type[errors.TinyBertError], says: str, tensor: str, index: int, value: Any) -> None:
    """The same for one element of a tensor."""

    def damage(data: bytes) -> bytes:
        return patched(data, tensor, index, value)

    damage.__name__ = name
    case(error, says)(damage)


# ---------------------------------------------------------------- the file


@case(errors.NotAModelFileError, "tinybert-rt convert")
def a_text_file(data: bytes) -> bytes:
    return b"# This is no model file, whatever its name says.\n" * 20


@case(errors.NotAModelFileError, "header")
def header_length_zero(data: bytes) -> bytes:
    return bytes(8) + data[8:]


@case(errors.NotAModelFileError, "limit")
def header_length_beyond_the_limit(data: bytes) -> bytes:
    return (layout.MAX_HEADER_BYTES + 64).to_bytes(8, "little") + data[8:]


@case(errors.NotAModelFileError, "18,446,744,073,709,551,615 bytes")
def header_length_negative_as_signed(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


@case(errors.NotAModelFileError, "header")
def header_is_no_object(data: bytes) -> bytes:
    return data[:8] + b"[" + data[9:]


@case(errors.TruncatedFileError, "8 are needed")
def shorter_than_the_length_field(data: bytes) -> bytes:
    return data[:7]


@case(errors.TruncatedFileError, "was cut off")
def cut_in_the_header(data: bytes) -> bytes:
    return data[:200]


@case(errors.TruncatedFileError, "was cut off")
def cut_in_the_tensors(data: bytes) -> bytes:
    return data[:-1]


@case(errors.TrailingBytesError, "its tensors end at")
def bytes_behind_the_tensors(data: bytes) -> bytes:
    return data + bytes(64)


# ---------------------------------------------------------------- the header's form


@case(errors.HeaderAlignmentError, "multiple of 64")
def header_not_padded(data: bytes) -> bytes:
    header, body = split(data)
    header["__metadata__"]["source"] = ""
    while (8 + len(json.dumps(header, separators=(",", ":")))) % 64 == 0:
        header["__metadata__"]["source"] += "x"
    return join(header, body, multiple=1)


@case(errors.HeaderSyntaxError, "near")
def line_break_in_the_header(data: bytes) -> bytes:
    return data.replace(b'"config":{', b'"config"\n{', 1)


@case(errors.HeaderSyntaxError, "near")
def header_with_utf8_text(data: bytes) -> bytes:
    return data.replace(b"a test", b"\xc3\xa4test", 1)


@case(errors.HeaderSyntaxError, "near")
def more_padding_than_needed(data: bytes) -> bytes:
    header, body = split(data)
    text = json.dumps(header, separators=(",", ":"))
    return join(text + " " * 64, body)


@case(errors.HeaderSyntaxError, "near")
def text_in_the_padding(data: bytes) -> bytes:
    header, body = split(data)
    header["__metadata__"]["source"] = ""
    while len(json.dumps(header, separators=(",", ":"))) % 64 != 40:
        header["__metadata__"]["source"] += "x"
    damaged = bytearray(join(header, body))
    end = 8 + int.from_bytes(damaged[:8], "little")
    damaged[end - 1] = ord("x")
    return bytes(damaged)


def _syntax(name: str, old: str, new: str) -> None:
    text_case(name, errors.HeaderSyntaxError, "near", old, new)


_syntax("space_between_tokens", '"shape":[64]', '"shape": [64]')
_syntax("keys_in_another_order", '"dtype":"I32","shape":[64]', '"shape":[64],"dtype":"I32"')
_syntax("negative_number", "[0,256]", "[-0,256]")
_syntax("leading_zero", "[0,256]", "[0,0256]")
_syntax("fraction", "[0,256]", "[0,256.0]")
_syntax("number_of_16_digits", "[0,256]", "[0,9999999999999999]")
_syntax("number_missing", "[0,256]", "[0,]")
_syntax("third_offset", "[0,256]", "[0,256,256]")
_syntax("scalar_tensor", '"shape":[64]', '"shape":[]')
_syntax("capital_letter_in_a_name", '"config":{', '"Config":{')
_syntax("empty_name", '"config":{', '"":{')
_syntax("escape_in_a_name", '"config":{', '"\\u0063onfig":{')
_syntax("name_of_128_bytes", '"config":{', '"' + "c" * 128 + '":{')
_syntax("unknown_key", '"dtype":"I32"', '"dtypes":"I32"')
_syntax("missing_brace", "[0,256]}", "[0,256]")
_syntax("comma_at_the_end", "]}}", "]},}")
_syntax("metadata_value_is_a_number", '"source":"a test"', '"source":1')
_syntax("metadata_with_an_unknown_escape", '"source":"a test"', '"source":"\\x41"')
_syntax("metadata_with_a_broken_escape", '"source":"a test"', '"source":"\\u12g4"')
_syntax("metadata_with_half_a_surrogate_pair", '"source":"a test"', '"source":"\\ud83d"')
_syntax("metadata_with_a_lone_low_surrogate", '"source":"a test"', '"source":"\\ude00"')
_syntax("metadata_says_the_version_twice", '"source":"a test"', '"version":"2"')
_syntax("metadata_says_the_format_twice", '"source":"a test"', '"format":"pt"')
_syntax("metadata_not_closed", '"a test"},', '"a test",')


@header_case(errors.MissingMetadataError, "tinybert-rt convert")
def metadata_missing(header: Header) -> Header:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


@header_case(errors.MissingMetadataError, "tinybert-rt convert")
def metadata_not_first(header: Header) -> Header:
    return {**{name: entry for name, entry in header.items() if name != "__metadata__"}, "__metadata__": header["__metadata__"]}


text_case("checkpoint_not_converted", errors.WrongFormatError, "('pt')", '"format":"tbrt"', '"format":"pt"')
text_case("later_version", errors.UnsupportedVersionError, "version 3, this release reads version 2", '"version":"2"', '"version":"3"')
text_case("earlier_version", errors.UnsupportedVersionError, "convert the checkpoint again", '"version":"2"', '"version":"1"')
text_case("version_is_no_number", errors.UnsupportedVersionError, "this release reads version 2", '"version":"2"', '"version":"x"')


# ---------------------------------------------------------------- the list of tensors


text_case("tensor_twice", errors.DuplicateTensorError, "'config' is listed twice", '"tokenizer.trie"', '"config"')
text_case("unknown_tensor", errors.UnknownTensorError, "'embeddings.extra'", '"embeddings.type"', '"embeddings.extra"')
text_case(
    "tensor_of_a_layer_too_many", errors.UnknownTensorError, "'layers.1.ffn.in.bias'", '"layers.0.ffn.in.bias"', '"layers.1.ffn.in.bias"'
)
text_case("layer_with_a_leading_zero", errors.UnknownTensorError, "'layers.00.", '"layers.0.ffn.in.bias"', '"layers.00.ffn.in.bias"')


@case(errors.UnknownTensorError, "'zzz'")
def tensor_behind_the_last(data: bytes) -> bytes:
    header, body = split(data)
    header["zzz"] = {"dtype": "U8", "shape": [64], "data_offsets": [len(body), len(body) + 64]}
    return join(header, body + bytes(64))


@case(errors.DuplicateTensorError, "'config' is listed twice")
def known_tensor_behind_the_last(data: bytes) -> bytes:
    header, body = split(data)
    text = json.dumps(header, separators=(",", ":"))[:-1]
    text += f',"config":{{"dtype":"I32","shape":[64],"data_offsets":[{len(body)},{len(body) + 256}]}}}}'
    return join(text, body + bytes(256))


@case(errors.MissingTensorError, "'layers.0.ffn.norm.bias' is missing")
def last_tensor_missing(data: bytes) -> bytes:
    header, body = split(data)
    begin, _ = header.pop("layers.0.ffn.norm.bias")["data_offsets"]
    return join(header, body[:begin])


@case(errors.MissingTensorError, "'layers.0.attention.qkv.column_sum' is missing")
def tensor_in_the_middle_missing(data: bytes) -> bytes:
    header, body = split(data)
    begin, end = header.pop("layers.0.attention.qkv.column_sum")["data_offsets"]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [each - end + begin for each in entry["data_offsets"]]
    return join(header, body[:begin] + body[end:])


@case(errors.MissingTensorError, "'config' is missing")
def no_tensor_at_all(data: bytes) -> bytes:
    return join({"__metadata__": split(data)[0]["__metadata__"]}, b"")


@case(errors.MissingTensorError, "'layers.1.attention.qkv.weight' is missing")
def layer_missing(data: bytes) -> bytes:
    return patched(data, "config", CONFIG_INDEX["num_layers"], 2)


@case(errors.TensorOrderError, "'layers.0.attention.qkv.column_sum' stands where 'layers.0.attention.qkv.scale' must be")
def tensors_in_another_order(data: bytes) -> bytes:
    text = json.dumps(split(data)[0], separators=(",", ":"))
    first, second = '"layers.0.attention.qkv.scale"', '"layers.0.attention.qkv.column_sum"'
    return join(text.replace(first, "#").replace(second, first).replace("#", second), split(data)[1])


@case(errors.TensorOrderError, "'tokenizer.trie' stands where 'config' must be")
def config_not_first(data: bytes) -> bytes:
    text = json.dumps(split(data)[0], separators=(",", ":"))
    return join(text.replace('"config":{', "#").replace('"tokenizer.trie"', '"config"').replace("#", '"tokenizer.trie":{'), split(data)[1])


text_case("dtype_of_the_same_size", errors.TensorDtypeError, "'config' must be I32", '"dtype":"I32"', '"dtype":"F32"')
text_case("dtype_unknown_to_us", errors.TensorDtypeError, "'config' must be I32", '"dtype":"I32"', '"dtype":"BF16"')
text_case("dtype_of_blanks", errors.HeaderSyntaxError, "near", '"dtype":"I32"', '"dtype":"U8 "')
text_case("one_dimension_more", errors.TensorRankError, "has 2 dimensions, it must have 1", '"shape":[64]', '"shape":[64,1]')
text_case("five_dimensions", errors.TensorRankError, "more than 4 dimensions", '"shape":[64]', '"shape":[64,1,1,1,1]')
text_case("other_shape", errors.TensorShapeError, "dimension 0 of tensor 'config' must be 64", '"shape":[64]', '"shape":[32]')
text_case(
    "shape_whose_product_overflows",
    errors.TensorShapeError,
    "dimension 0",
    '"shape":[11,64]',
    '"shape":[999999999999999,999999999999999]',
)


@header_case(errors.TensorSizeError, "256 bytes, its shape and dtype ask for")
def byte_range_too_short(header: Header) -> None:
    begin, end = header["tokenizer.trie"]["data_offsets"]
    header["tokenizer.trie"]["data_offsets"] = [begin, begin + 256]
    header["tokenizer.pieces"]["data_offsets"][0] = begin + 256
    assert end > begin + 256


@header_case(errors.TensorGapError, "'tokenizer.trie' begins at byte")
def hole_between_tensors(header: Header) -> None:
    header["tokenizer.trie"]["data_offsets"][0] += 64


@header_case(errors.TensorGapError, "'config' begins at byte")
def hole_before_the_first_tensor(header: Header) -> None:
    header["config"]["data_offsets"] = [64, 320]


@header_case(errors.TensorOverlapError, "'tokenizer.trie'")
def tensors_share_bytes(header: Header) -> None:
    header["tokenizer.trie"]["data_offsets"][0] -= 64


@header_case(errors.TensorOverlapError, "'tokenizer.trie'")
def byte_range_backwards(header: Header) -> None:
    header["tokenizer.trie"]["data_offsets"][1] = 0


@header_case(errors.TensorAlignmentError, "no multiple of 64")
def tensor_not_aligned(header: Header) -> None:
    header["config"]["data_offsets"] = [0, 252]
    header["tokenizer.trie"]["data_offsets"][0] = 252


@header_case(errors.TruncatedFileError, "was cut off")
def last_byte_range_beyond_the_file(header: Header) -> None:
    header["layers.0.ffn.norm.bias"]["data_offsets"][1] = 999_999_999_999_999


@case(errors.TooManyTensorsError, f"more than {layout.MAX_TENSORS} tensors")
def too_many_tensors(data: bytes) -> bytes:
    header = {"__metadata__": split(data)[0]["__metadata__"]}
    header |= {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(layout.MAX_TENSORS + 1)}
    return join(header, b"")


# ---------------------------------------------------------------- the configuration


@case(errors.BucketError, "bucket 0")
def bucket_below_the_one_before(_: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        whole = write_small(Path(folder) / "model.tbrt", relative_span=3, content_to_position=1).read_bytes()
    return patched(whole, "relative.buckets", 0, 1)


for _field, (_low, _high) in layout.CONFIG_RANGES.items():
    _error = errors.UnknownConfigValueError if _field in layout.CONFIG_KINDS else errors.ConfigRangeError
    config_case(f"{_field}_too_small", _error, f"'{_field}' is {_low - 1}", **{_field: _low - 1})
    config_case(f"{_field}_too_large", _error, f"'{_field}' is {_high + 1}", **{_field: _high + 1})
config_case("number_negative", errors.ConfigRangeError, "'hidden_size' is -16", hidden_size=-16)
config_case("reserved_element_in_use", errors.ReservedConfigError, "element 63", element_63=1)
config_case("heads_do_not_divide", errors.HeadSizeError, "3 attention heads do not divide hidden_size 16", num_heads=3)
config_case("heads_take_too_many_columns", errors.HeadSizeError, "65536 padded columns", hidden_size=16384, num_heads=16384)
config_case("float_linears_of_a_float_file", errors.FloatLinearsError, "is 1, but 0 linear", weight_dtype=0, float_linears=1)
config_case("more_stored_layers_than_layers", errors.LayerSharingError, "2 stored layers cannot be shared by 1 layers", stored_layers=2)
config_case("inner_layers_do_not_divide", errors.LayerSharingError, "1 stored layers cannot be shared by 1 layers", inner_layers=2)
config_case("head_without_labels", errors.HeadLabelsError, "a head of the kind 1 cannot have 0 labels", head=1)
config_case("labels_without_a_head", errors.HeadLabelsError, "a head of the kind 0 cannot have 3 labels", labels=3)
config_case("labels_that_are_empty", errors.HeadLabelsError, "a head of the kind 2 cannot have 3 labels", head=2, labels=3, labels_bytes=2)
config_case("merges_of_wordpiece", errors.MergeTableError, "a tokenizer of the kind 1 cannot have 3 merges", merges=3)
config_case("scored_pieces_of_wordpiece", errors.PieceScoreError, "kind 1 cannot have 3 scored pieces", scored_pieces=3)
config_case("bpe_without_merges", errors.MergeTableError, "a tokenizer of the kind 2 cannot have 0 merges", tokenizer_kind=2)
config_case("masked_tokens_without_a_transform", errors.HeadLabelsError, "a head of the kind 4 cannot have 0 labels", head=4)
config_case("masked_tokens_with_labels", errors.HeadLabelsError, "kind 4 cannot have 2", head=4, transform_activation=1, labels=2)
config_case("transform_without_a_head", errors.HeadLabelsError, "a head of the kind 0", transform_activation=1)
config_case("decoder_of_another_head", errors.HeadLabelsError, "the kind 1", head=1, labels=1, labels_bytes=1, own_decoder=1)
config_case("more_tokens_than_positions", errors.TokenLimitError, "'max_tokens' is 9, but there are only 8", max_tokens=9)
for _field in layout.CONFIG_IDS:
    config_case(f"{_field}_outside_the_vocabulary", errors.SpecialTokenError, f"'{_field}' is 11", **{_field: 11})

# ---------------------------------------------------------------- the contents

NAN, INFINITY = float("nan"), float("inf")
_TRIE = small_config()["trie_nodes"]
_PIECES = small_config()["pieces_bytes"]

element_case("trie_base_outside", errors.TrieError, "node 1", "tokenizer.trie", 2, (1 << 32) - 1)
element_case("trie_id_outside", errors.TrieError, "node 3", "tokenizer.trie", 7, 12)
element_case("trie_id_huge", errors.TrieError, "node 3", "tokenizer.trie", 7, (1 << 32) - 1)
element_case("trie_root_with_a_label", errors.TrieError, "node 0", "tokenizer.trie", 0, 1)
element_case("trie_padding", errors.PaddingError, "'tokenizer.trie'", "tokenizer.trie", 2 * _TRIE, 1)
element_case("piece_offsets_start_late", errors.PieceTableError, "offset 0", "tokenizer.piece_offsets", 0, 1)
element_case("piece_offsets_descend", errors.PieceTableError, "offset 2", "tokenizer.piece_offsets", 2, 3)
element_case("piece_empty", errors.PieceTableError, "offset 2", "tokenizer.piece_offsets", 2, 5)
element_case("piece_outside", errors.PieceTableError, "offset 3", "tokenizer.piece_offsets", 3, _PIECES + 1)
element_case("piece_offset_huge", errors.PieceTableError, "offset 3", "tokenizer.piece_offsets", 3, (1 << 32) - 1)
element_case("last_piece_ends_early", errors.PieceTableError, "offset 11", "tokenizer.piece_offsets", 11, _PIECES - 1)
element_case("piece_offsets_padding", errors.PaddingError, "'tokenizer.piece_offsets'", "tokenizer.piece_offsets", 12, 1)
element_case("pieces_padding", errors.PaddingError, "'tokenizer.pieces'", "tokenizer.pieces", _PIECES, 1)
element_case("added_id_negative", errors.AddedTokenError, "id -1", "tokenizer.added", 0, -1)
element_case("added_id_outside", errors.AddedTokenError, "id 11", "tokenizer.added", 4, 11)
element_case("added_ids_not_ascending", errors.AddedTokenError, "id 0", "tokenizer.added", 1, 0)
element_case("added_padding", errors.PaddingError, "'tokenizer.added'", "tokenizer.added", 5, 1)
for _name in ("embeddings.word.scale", "layers.0.ffn.in.scale"):
    element_case(f"{_name}_negative", errors.NegativeScaleError, f"'{_name}': scale 1", _name, 1, -1.0)
for _name in (
    "embeddings.word.scale",
    "embeddings.position.scale",
    "embeddings.type.scale",
    "embeddings.norm.weight",
    "embeddings.norm.bias",
    *(f"layers.0.{layer}.{part}" for layer in file_tensors.layer_linears(1, 1, 1) for part in ("scale", "bias")),
    "layers.0.attention.norm.weight",
    "layers.0.ffn.norm.bias",
):
    element_case(f"{_name}_nan", errors.NonFiniteWeightError, f"'{_name}': element 1", _name, 1, NAN)
    element_case(f"{_name}_infinite", errors.NonFiniteWeightError, f"'{_name}': element 0", _name, 0, -INFINITY)
    element_case(f"{_name}_padding", errors.PaddingError, f"'{_name}'", _name, -1, 1.0)
element_case("bias_between_heads", errors.PaddingError, "qkv.bias", "layers.0.attention.qkv.bias", 8, 1.0)
element_case("column_sum_too_large", errors.ColumnSumError, "the sum 2033", "layers.0.ffn.in.column_sum", 3, 127 * 16 + 1)
element_case("column_sum_too_small", errors.ColumnSumError, "the sum -3049", "layers.0.ffn.out.column_sum", 3, -127 * 24 - 1)
element_case("column_sum_padding", errors.PaddingError, "column_sum", "layers.0.ffn.in.column_sum", 24, 1)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bytes(tmp_path_factory.mktemp("format"))


@pytest.mark.parametrize("name", CASES)
def test_is_refused(name: str, valid: bytes) -> None:
    error, says, damage = CASES[name]
    damaged = damage(valid)
    assert damaged != valid
    with pytest.raises(errors.TinyBertError) as caught:
        reader().open(damaged)
    assert type(caught.value) is error, caught.value
    message = str(caught.value)
    assert message.startswith("model.tbrt: ")
    assert says in message
    assert "\n" not in message


def test_every_error_of_the_parser_has_a_case() -> None:
    parser = {kind for code, kind in errors.error_classes().items() if errors.EmptyFileError.code < code < 80}
    assert {error for error, _, _ in CASES.values()} == parser


def test_too_few_entries_are_refused_not_overrun(valid: bytes) -> None:
    with pytest.raises(errors.TooManyTensorsError, match="more than 3 tensors"):
        reader().open(valid, max_entries=3)
