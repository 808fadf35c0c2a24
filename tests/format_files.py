"""Small model files for the tests of the format, the compiled reader, and the tables that FORMAT.md must contain."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from tinybert_rt.engine.jit import load_kernels
from tinybert_rt.format import layout, structs
from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.messages import file_error
from tinybert_rt.format.trie import build_trie
from tinybert_rt.format.writer import NUMPY_DTYPES, write_model
from tinybert_rt.isa.levels import choose_level

PIECES = [b"[PAD]", b"[UNK]", b"[CLS]", b"[SEP]", b"[MASK]", b"a", b"b", b"##a", b"##b", b"the", "é".encode()]

_ffi = cffi.FFI()
for _struct in (structs.ErrorInfo, structs.Linear, structs.Norm, structs.Table, structs.Layer, structs.Tokenizer, structs.Model):
    _ffi.cdef(_struct.c_declaration())


def small_config(**changes: int) -> dict[str, int]:
    """One layer, hidden size 16: a valid configuration for PIECES."""
    config = {
        "architecture": 1,
        "num_layers": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "vocab_size": len(PIECES),
        "max_positions": 8,
        "type_vocab_size": 2,
        "activation": 0,
        "weight_dtype": layout.WEIGHT_DTYPES["int8"],
        "pooling": layout.POOLINGS["mean"],
        "normalize": 1,
        "max_tokens": 8,
        "layer_norm_eps_bits": int(np.float32(1e-12).view(np.int32)),
        "tokenizer_kind": 1,
        "tokenizer_flags": 15,
        "max_word_chars": 100,
        "unk_id": 1,
        "cls_id": 2,
        "sep_id": 3,
        "pad_id": 0,
        "mask_id": 4,
        "trie_nodes": len(build_trie(PIECES)),
        "added_tokens": 5,
        "pieces_bytes": len(b"".join(PIECES)),
    }
    return {**config, **dict.fromkeys(layout.OPTIONAL_FIELDS, 0), **changes}


def small_tensors(config: dict[str, int], marks: bytes = b"") -> dict[str, np.ndarray]:
    """A valid tokenizer, and weights of which all are 0 but some scales, biases and norms that are in use.

    marks: the first bytes of the tensor "float_linears".
    """
    tensors = {name: np.zeros(shape, NUMPY_DTYPES[dtype]) for name, (dtype, shape) in file_tensors.tensor_specs(config, marks).items()}
    del tensors["config"]
    if marks:
        tensors["float_linears"][: len(marks)] = list(marks)
    trie = build_trie(PIECES)
    tensors["tokenizer.trie"][: len(trie)] = trie
    tensors["tokenizer.pieces"][: config["pieces_bytes"]] = np.frombuffer(b"".join(PIECES), np.uint8)
    tensors["tokenizer.piece_offsets"][: len(PIECES) + 1] = np.cumsum([0, *map(len, PIECES)])
    tensors["tokenizer.added"][:5] = range(5)
    for name, values in tensors.items():
        if values.dtype == np.float32 and values.ndim == 1:
            values[:2] = 0.25
        if name.endswith("column_sum"):
            values[:2] = [-127, 127]
    return tensors


def write_small(path: Path, metadata: dict[str, str] | None = None, marks: bytes = b"", **changes: int) -> Path:
    """A valid file."""
    config = small_config(**{"float_linears": len(layout.float_linears(marks)), **changes})
    write_model(path, config, small_tensors(config, marks), metadata or {"source": "a test"})
    return path


@cache
def small_bytes(tmp: Path, weight_dtype: str = "int8") -> bytes:
    """The bytes of a valid file; "mixed": int8, with two linear layers in float32."""
    path = tmp / f"small-{weight_dtype}.tbrt"
    if weight_dtype == "mixed":
        return write_small(path, marks=bytes([9])).read_bytes()
    return write_small(path, weight_dtype=layout.WEIGHT_DTYPES[weight_dtype]).read_bytes()


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header object and everything behind it."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header: dict[str, Any] | str, body: bytes, multiple: int = 64) -> bytes:
    """A file from a header, given as object or text, and the bytes behind it."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    encoded = text.encode()
    size = layout.pad(8 + len(encoded), multiple) - 8
    return size.to_bytes(8, "little") + encoded.ljust(size) + body


def patched(data: bytes, tensor: str, index: int, value: Any) -> bytes:
    """The file with one element of a tensor replaced."""
    header, _ = split(data)
    begin = len(data) - header_end(header) + header[tensor]["data_offsets"][0]
    index %= int(np.prod(header[tensor]["shape"]))
    item = np.array([value]).astype(NUMPY_DTYPES[header[tensor]["dtype"]]).tobytes()
    at = begin + index * len(item)
    return data[:at] + item + data[at + len(item) :]


def header_end(header: dict[str, Any]) -> int:
    """Bytes of all tensors together."""
    return max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")


class Reader:
    """The compiled `open_model`."""

    def __init__(self) -> None:
        self._kernels = load_kernels(choose_level(), "format_exports")
        pointer = "int64_t (*)(int64_t, int64_t, int64_t, int64_t, void *, void *)"
        self._open = _ffi.cast(pointer, self._kernels.address("format_open_model"))
        self._entries = np.empty(layout.MAX_TENSORS * structs.TensorEntry.size, np.uint8)
        self._error = _ffi.new("kernel_error_info *")
        self._memory = _ffi.new("int64_t[]", structs.MODEL_BYTES // 8)
        self.model = _ffi.cast("kernel_model *", self._memory)

    def status(self, data: Any, max_entries: int = layout.MAX_TENSORS) -> int:
        """The parser's status for these bytes."""
        array = np.frombuffer(data, np.uint8)
        return int(self._open(array.ctypes.data, array.size, self._entries.ctypes.data, max_entries, self.model, self._error))

    def open(self, data: bytes, max_entries: int = layout.MAX_TENSORS) -> Any:
        """The filled model struct; raises the error that a user would see."""
        self.kept = np.frombuffer(data, np.uint8)
        status = self.status(self.kept, max_entries)
        if status != 0:
            raise file_error(status, self._error, "model.tbrt", self.kept)
        return self.model

    def layer(self, index: int) -> Any:
        """A layer of the opened model."""
        return _ffi.cast("kernel_layer *", self.model.layers)[index]

    def view(self, address: int, dtype: str, count: int) -> np.ndarray:
        """Memory of the opened model as an array."""
        begin = address - self.kept.ctypes.data
        return self.kept[begin : begin + count * np.dtype(dtype).itemsize].view(dtype)


@cache
def reader() -> Reader:
    """The compiled reader, once per session."""
    return Reader()


def config_table() -> str:
    """The table of config fields in FORMAT.md."""
    lines = ["| element | field | from | to |", "|---|---|---|---|"]
    for index, name in enumerate(layout.CONFIG_FIELDS):
        low, high = layout.CONFIG_RANGES[name]
        lines.append(f"| {index} | `{name}` | {low} | {high} |")
    return "\n".join(lines)


def dimension_text(dimension: file_tensors.Dimension) -> str:
    """A dimension as FORMAT.md writes it."""
    if not dimension.size:
        return str(dimension.plus)
    text = dimension.size + (f" + {dimension.plus}" if dimension.plus else "")
    text = f"pad({text}, {dimension.multiple})" if dimension.multiple > 1 else text
    text = f"{dimension.factor}·{text}" if dimension.factor > 1 else text
    return f"{text}/{dimension.divisor}" if dimension.divisor > 1 else text


def tensor_table() -> str:
    """The table of tensors in FORMAT.md."""
    kinds = {None: "all", **{code: name for name, code in layout.WEIGHT_DTYPES.items()}}
    lines = ["| tensor | in files | dtype | shape |", "|---|---|---|---|"]
    for prefix, rules in (("", file_tensors.GLOBAL_RULES), ("layers.N.", file_tensors.LAYER_RULES)):
        for rule in rules:
            shape = ", ".join(map(dimension_text, rule.shape))
            kept = {"int8": ", not in `float_linears`", "f32": " or in `float_linears`"}.get(kinds[rule.weight_dtype], "")
            files = kinds[rule.weight_dtype] + (kept if rule.linear else "") + (f", `{rule.field}` > 0" if rule.field else "")
            files += f", `{rule.absent}` = 0" if rule.absent else ""
            lines.append(f"| `{prefix}{rule.name}` | {files} | {rule.dtype} | {shape} |")
    return "\n".join(lines)


def tokenizer_address(model: Any) -> int:
    """The address of the tokenizer of an opened model."""
    return int(_ffi.cast("intptr_t", _ffi.addressof(model, "tokenizer")))
