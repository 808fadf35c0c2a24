"""Disentangled attention: buckets of distances, the file's tables, what the converter refuses, and the same bytes on every level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LEVELS
from format_files import patched, reader, small_config, small_tensors, write_small
from test_architectures import CASES, Case, expected_states, inputs, write_case
from test_encoder import tolerance

import tinybert_rt as tb
from tinybert_rt import errors
from tinybert_rt.format import layout
from tools.convert import convert
from tools.hf import ConversionError, Relative
from tools.relative import buckets

RELATIVE = {"relative_span": 3, "content_to_position": 1, "position_to_content": 1}


@pytest.mark.parametrize(("size", "most"), [(256, 512), (32, 128), (8, 96), (24, 96), (64, 1024), (256, 256)])
def test_buckets_are_those_of_transformers(size: int, most: int) -> None:
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = torch.arange(2 * most)
    expected = make_log_bucket_position(distances, size, most).numpy()
    found = buckets(Relative(size, size, most, True, True, True, True), 2 * most)
    assert np.array_equal(found, expected)
    assert (np.diff(found) >= 0).all()


def test_without_buckets_every_distance_is_its_own() -> None:
    assert buckets(Relative(5, 0, 5, True, True, False, False), 9).tolist() == list(range(9))


@pytest.mark.parametrize("name", ["deberta-26", "deberta-v2", "deberta-v3"])
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_same_bytes_on_every_level_with_any_threads_and_neighbours(name: str, dtype: str, tmp_path: Path) -> None:
    model = write_case(tmp_path, CASES[name])
    convert(tmp_path, tmp_path / "model.tbrt", dtype=dtype, pooling="mean", normalize=True)
    ids, offsets, types = inputs(model)
    expected = tb.load(tmp_path / "model.tbrt", threads=1, isa=LEVELS[-1]).encode_ids(ids, offsets, types)
    for level in LEVELS:
        for threads in (1, 2, 3):
            found = tb.load(tmp_path / "model.tbrt", threads=threads, isa=level).encode_ids(ids, offsets, types)
            assert found.tobytes() == expected.tobytes(), (level, threads)
    a, b = offsets[10], offsets[11]
    alone = tb.load(tmp_path / "model.tbrt", threads=2).encode_ids(ids[a:b], np.array([0, b - a]), types[a:b])
    assert alone.tobytes() == expected[10:11].tobytes()


@pytest.mark.parametrize("name", ["deberta", "deberta-v3"])
def test_texts_beyond_the_span_match_transformers(name: str, tmp_path: Path) -> None:
    shorter = CASES[name].config | {"max_relative_positions": 9, "position_buckets": 10}
    model = write_case(tmp_path, Case(CASES[name].architecture, shorter))
    ids, offsets, types = inputs(model)
    convert(tmp_path, tmp_path / "model.tbrt", dtype="f32", pooling="mean", normalize=True)
    states = tb.load(tmp_path / "model.tbrt", threads=1).encode_ids(ids, offsets, types, hidden_states=True)
    expected = expected_states(model, ids, offsets, types)
    assert np.abs(states - expected).max() <= tolerance(3, np.abs(expected).max())


def test_a_position_table_that_the_model_does_not_look_at_is_left_out(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_case(tmp_path, CASES["deberta-v3"])
    convert(tmp_path, tmp_path / "without.tbrt", pooling="mean", normalize=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["embeddings.position_embeddings.weight"] = np.ones((96, 104), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    convert(tmp_path, tmp_path / "with.tbrt", pooling="mean", normalize=True)
    texts = ["the cat sat on the mat"]
    assert tb.load(tmp_path / "with.tbrt").encode(texts).tobytes() == tb.load(tmp_path / "without.tbrt").encode(texts).tobytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"talking_head": True}, "talking_head is True"),
        ({"embedding_size": 32}, "embedding_size is 32"),
        ({"attention_head_size": 10}, "attention_head_size is 10"),
        ({"pos_att_type": ["c2p", "p2p"]}, "pos_att_type is"),
        ({"relative_attention": False}, "relative_attention is off"),
        ({"max_relative_positions": "many"}, "max_relative_positions is 'many'"),
        ({"position_buckets": 2}, "position_buckets is 2"),
        ({"position_buckets": 300}, "fewer than 2·max_relative_positions"),
        ({"conv_kernel_size": 4}, "conv_kernel_size is 4"),
        ({"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act is 'mish'"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups is 2"),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    write_case(tmp_path, CASES["deberta-v3"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ConversionError, match=says):
        convert(tmp_path, tmp_path / "model.tbrt", pooling="mean", normalize=True)


def test_the_reader_knows_the_tables_of_a_layer(tmp_path: Path) -> None:
    data = write_small(tmp_path / "model.tbrt", **RELATIVE, no_positions=1, conv_kernel=3, conv_activation=1).read_bytes()
    model = reader().open(data)
    layer = reader().layer(0)
    assert (model.relative_span, model.relative_width, model.relative_near, model.score_parts) == (3, 64, 1, 3)
    assert (layer.position_key.inputs, layer.position_key.outputs) == (16, 2 * 64)
    assert (layer.position_query.bias, model.position.values) == (0, 0)
    assert (model.convolution.inputs, model.convolution.outputs) == (16, 3 * 64)


@pytest.mark.parametrize(("span", "field", "value"), [(3, "relative_span", 0), (0, "relative_span", 3), (0, "content_to_position", 1)])
def test_a_span_without_products_or_products_without_a_span_are_refused(span: int, field: str, value: int, tmp_path: Path) -> None:
    data = write_small(tmp_path / "model.tbrt", **(RELATIVE if span else {})).read_bytes()
    with pytest.raises(errors.ConfigRangeError, match="'relative_span' is"):
        reader().open(patched(data, "config", layout.CONFIG_INDEX[field], value))


def test_buckets_may_rise_by_the_whole_span_at_once(tmp_path: Path) -> None:
    """Tables of zeros: whatever the span is, the vectors are the same."""
    from tinybert_rt.format.writer import write_model

    vectors = []
    for span in (3, 60_000):
        config = small_config(**RELATIVE | {"relative_span": span})
        tensors = small_tensors(config)
        tensors["relative.buckets"][1 : config["max_positions"]] = span
        write_model(tmp_path / f"{span}.tbrt", config, tensors, {"source": "a test"})
        model = tb.load(tmp_path / f"{span}.tbrt", threads=1)
        vectors.append(model.encode_ids(np.array([1, 2, 3, 1], np.int32), np.array([0, 4])).tobytes())
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize(("index", "value"), [(2, -1), (0, 1), (5, 1 << 20)])
def test_buckets_that_fall_or_are_out_of_range_are_refused(index: int, value: int, tmp_path: Path) -> None:
    from tinybert_rt.format.writer import write_model

    config = small_config(**RELATIVE)
    tensors = small_tensors(config)
    tensors["relative.buckets"][index] = value
    write_model(tmp_path / "model.tbrt", config, tensors, {"source": "a test"})
    with pytest.raises(errors.BucketError, match=r"'relative\.buckets'"):
        reader().open((tmp_path / "model.tbrt").read_bytes())
