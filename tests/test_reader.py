"""What the reader fills in from a valid file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from format_files import reader, small_bytes, small_config, small_tensors, write_small

from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors


@pytest.mark.parametrize(("weight_dtype", "marks"), [("f32", b""), ("int8", b""), ("int8", bytes([6, 0, 9]))])
def test_valid_file_fills_the_structs(weight_dtype: str, marks: bytes, tmp_path: Path) -> None:
    kinds = {"weight_dtype": layout.WEIGHT_DTYPES[weight_dtype], "float_linears": len(layout.float_linears(marks))}
    config = small_config(**kinds, num_layers=3, layer_norm_eps_bits=0x3A83126F)
    expected = small_tensors(config, marks)
    path = write_small(tmp_path / "m.tbrt", marks=marks, **config)
    model = reader().open(path.read_bytes())
    for name in ("num_layers", "hidden_size", "num_heads", "vocab_size", "max_tokens", "pooling", "normalize", "activation"):
        assert getattr(model, name) == config[name]
    assert (model.hidden_width, model.intermediate_width, model.head_size) == (64, 64, 8)
    assert model.layer_norm_eps == np.float32(1e-3)
    tokenizer = model.tokenizer
    assert (tokenizer.added_count, tokenizer.cls_id, tokenizer.mask_id, tokenizer.flags) == (5, 2, 4, 15)
    assert tokenizer.continuation_root > 0
    int8 = weight_dtype == "int8"
    tables = {"word": model.word, "position": model.position, "type": model.type}
    for name, table in tables.items():
        values = expected[f"embeddings.{name}"]
        assert table.rows == len(values)
        assert np.array_equal(reader().view(table.values, values.dtype.str, values.size), values.ravel())
        if int8:
            scale = expected[f"embeddings.{name}.scale"]
            assert np.array_equal(reader().view(table.scale, "<f4", scale.size), scale)
        else:
            assert table.scale == 0
    for index in range(3):
        layer = reader().layer(index)
        linears = {
            "attention.qkv": layer.qkv,
            "attention.output": layer.attention_output,
            "ffn.in": layer.ffn_in,
            "ffn.out": layer.ffn_out,
        }
        for name, (inputs, outputs, parts) in file_tensors.layer_linears(16, 24, 2).items():
            linear = linears[name]
            assert (linear.inputs, linear.outputs) == (inputs, parts * layout.pad(outputs, 64))
            for part in ("weight", "scale", "column_sum", "bias"):
                values = expected.get(f"layers.{index}.{name}.{part}")
                if values is None:
                    assert getattr(linear, part) == 0
                else:
                    assert np.array_equal(reader().view(getattr(linear, part), values.dtype.str, values.size), values.ravel())
        for name, norm in (("attention.norm", layer.attention_norm), ("ffn.norm", layer.ffn_norm)):
            for part in ("weight", "bias"):
                values = expected[f"layers.{index}.{name}.{part}"]
                assert np.array_equal(reader().view(getattr(norm, part), "<f4", values.size), values)


def test_address_needs_no_alignment(tmp_path: Path) -> None:
    valid = small_bytes(tmp_path)
    buffer = np.zeros(len(valid) + 64, np.uint8)
    for shift in (1, 2, 3, 7, 33):
        moved = buffer[shift : shift + len(valid)]
        moved[:] = np.frombuffer(valid, np.uint8)
        assert reader().status(moved) == 0


def test_metadata_may_hold_escapes(tmp_path: Path) -> None:
    path = write_small(tmp_path / "m.tbrt", {"source": 'quote " backslash \\ tab \t ä 😀 \x7f'})
    assert reader().status(path.read_bytes()) == 0
