"""Write a `.tbrt` file: a safetensors file in one canonical form, so that equal input gives equal bytes. See FORMAT.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.format.layout import (
    ALIGNMENT,
    CONFIG_FIELDS,
    CONFIG_SIZE,
    FORMAT_NAME,
    FORMAT_VERSION,
    MAX_HEADER_BYTES,
    MAX_PAIR_SUM,
    OPTIONAL_FIELDS,
    float_linears,
    pad,
)
from tinybert_rt.format.tensors import tensor_specs
from tinybert_rt.output import whole_file

NUMPY_DTYPES = {"U8": "u1", "I8": "i1", "I32": "<i4", "U32": "<u4", "F32": "<f4", "F16": "<f2", "F64": "<f8"}


def config_tensor(config: dict[str, int]) -> np.ndarray:
    """The int32 tensor "config", shape (CONFIG_SIZE,). Raises ValueError for a missing or unknown field."""
    missing = [name for name in CONFIG_FIELDS if name not in config]
    unknown = [name for name in config if name not in CONFIG_FIELDS]
    if missing or unknown:
        raise ValueError(f"config: missing fields {missing}, unknown fields {unknown}")
    values = np.zeros(CONFIG_SIZE, np.int64)
    values[: len(CONFIG_FIELDS)] = [config[name] for name in CONFIG_FIELDS]
    if (values < -(2**31)).any() or (values >= 2**31).any():
        raise ValueError("config: a value does not fit into 32 bits")
    return values.astype("<i4")


def file_header(config: dict[str, int], metadata: dict[str, str], marks: bytes = b"") -> bytes:
    """The bytes before the first tensor: length, JSON header, spaces up to a multiple of ALIGNMENT.

    marks: the tensor "float_linears", where the file has it.
    """
    shown = {name: value for name, value in config.items() if value or name not in OPTIONAL_FIELDS}
    text = {"config": json.dumps(shown, sort_keys=True), **metadata}
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT_NAME, "version": str(FORMAT_VERSION), **dict(sorted(text.items()))}}
    if set(header["__metadata__"]) & {"format", "version"} & set(metadata):
        raise ValueError("metadata: the keys 'format' and 'version' are written by the format itself")
    begin = 0
    for name, (dtype, shape) in tensor_specs(config, marks).items():
        end = begin + int(np.prod(shape, dtype=np.int64)) * np.dtype(NUMPY_DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=True).replace("\x7f", "\\u007f").encode("ascii")
    size = pad(8 + len(encoded), ALIGNMENT) - 8
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"the header takes {size} bytes, the format allows {MAX_HEADER_BYTES}: shorten the metadata")
    return size.to_bytes(8, "little") + encoded.ljust(size)


def write_model(path: str | Path, config: dict[str, int], tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> int:
    """Write a model file; it appears whole or not at all.

    Args:
        path: the file, replaced if it exists.
        config: every one of CONFIG_FIELDS.
        tensors: every tensor of `tensor_specs` but "config", with exactly these dtypes and shapes.
        metadata: text for `__metadata__`, beside "format", "version" and "config", which are added.

    Returns the size of the file in bytes. Raises ValueError when something does not match.
    """
    tensors = {"config": config_tensor(config), **tensors}
    marks = np.asarray(tensors.get("float_linears", ())).astype(np.uint8).tobytes()
    if config["float_linears"] != len(float_linears(marks)):
        raise ValueError(f"config: float_linears is {config['float_linears']}, the tensor marks {len(float_linears(marks))} linear layers")
    specs = tensor_specs(config, marks)
    for name in tensors:
        if name not in specs:
            raise ValueError(f"tensor {name!r} does not belong into this file")
    arrays = [_checked(name, tensors, NUMPY_DTYPES[dtype], shape) for name, (dtype, shape) in specs.items()]
    header = file_header(config, metadata, marks)
    with whole_file(path) as file:
        file.write(header)
        for array in arrays:
            file.write(array.tobytes())
        return file.tell()


def _checked(name: str, tensors: dict[str, np.ndarray], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing")
    array = np.asarray(tensors[name])
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(f"tensor {name!r} is {array.dtype} {array.shape}, the format wants {np.dtype(dtype)} {shape}")
    if array.dtype == np.int8 and array.ndim == 4:
        pairs = array.astype(np.int16)
        if max(pair_sums(pairs).max(initial=0), pair_sums(-pairs).max(initial=0)) > MAX_PAIR_SUM:
            raise ValueError(f"tensor {name!r} breaks the pair rule: neighbouring weights of one sign add up to more than {MAX_PAIR_SUM}")
    if array.nbytes % ALIGNMENT:
        raise ValueError(f"tensor {name!r} has {array.nbytes} bytes, no multiple of {ALIGNMENT}")
    return array


def pair_sums(values: np.ndarray) -> np.ndarray:
    """The sum of the positive ones of elements 2i and 2i + 1 of the last axis: (…, 2n) → (…, n)."""
    positive = np.maximum(values, 0)
    sums: np.ndarray = positive[..., ::2] + positive[..., 1::2]
    return sums
