"""The writer: canonical bytes, valid safetensors, nothing half-written; and FORMAT.md says what the code does."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from format_files import config_table, small_bytes, small_config, small_tensors, split, tensor_table, write_small

from tinybert_rt.errors import OutputFileError
from tinybert_rt.format import layout
from tinybert_rt.format import tensors as file_tensors
from tinybert_rt.format.metadata import read_metadata
from tinybert_rt.format.writer import write_model
from tinybert_rt.text.limits import MAX_WORD_CHARS

DOCUMENT = Path(layout.__file__).with_name("FORMAT.md")


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = write_small(tmp_path / "first.tbrt", {"a": "1", "b": "2"}).read_bytes()
    second = write_small(tmp_path / "second.tbrt", {"b": "2", "a": "1"}).read_bytes()
    assert first == second


def test_order_of_the_tensors_in_the_call_does_not_matter(tmp_path: Path) -> None:
    config = small_config()
    tensors = small_tensors(config)
    write_model(tmp_path / "a.tbrt", config, tensors, {})
    write_model(tmp_path / "b.tbrt", dict(reversed(config.items())), dict(reversed(tensors.items())), {})
    assert (tmp_path / "a.tbrt").read_bytes() == (tmp_path / "b.tbrt").read_bytes()


@pytest.mark.parametrize("weight_dtype", layout.WEIGHT_DTYPES)
def test_safetensors_reads_the_file(weight_dtype: str, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    config = small_config(weight_dtype=layout.WEIGHT_DTYPES[weight_dtype])
    path = write_small(tmp_path / "m.tbrt", {"source": 'ä "quoted" 😀'}, **config)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata()["source"] == 'ä "quoted" 😀'
        shown = json.loads(file.metadata()["config"])
        assert {**dict.fromkeys(layout.OPTIONAL_FIELDS, 0), **shown} == config
        assert all(shown[name] != 0 for name in shown if name in layout.OPTIONAL_FIELDS)
        assert set(file.keys()) == set(file_tensors.tensor_specs(config))
        for name, values in small_tensors(config).items():
            assert np.array_equal(file.get_tensor(name), values)
        assert file.get_tensor("config")[: len(config)].tolist() == [config[name] for name in layout.CONFIG_FIELDS]


def test_tensors_are_aligned_and_without_holes(tmp_path: Path) -> None:
    data = small_bytes(tmp_path)
    header, body = split(data)
    assert (len(data) - len(body)) % 64 == 0
    assert list(header) == ["__metadata__", *file_tensors.tensor_specs(small_config())]
    reached = 0
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            assert begin == reached
            assert begin % 64 == end % 64 == 0
            reached = end
    assert reached == len(body)


def test_metadata_can_be_read_back(tmp_path: Path) -> None:
    data = write_small(tmp_path / "m.tbrt", {"source": "ä"}).read_bytes()
    for form in (data, memoryview(data), np.frombuffer(data, np.uint8)):
        metadata = read_metadata(form)
        assert list(metadata)[:2] == ["format", "version"]
        assert metadata["source"] == "ä"


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_small(tmp_path / "m.tbrt")
    before = path.read_bytes()
    config = small_config()
    with pytest.raises(ValueError, match="missing"):
        write_model(path, config, {}, {})
    directory = tmp_path / "directory.tbrt"
    directory.mkdir()
    with pytest.raises(OutputFileError, match="is a directory"):
        write_model(directory, config, small_tensors(config), {})
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["directory.tbrt", "m.tbrt"]


def test_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    path = write_small(tmp_path / "m.tbrt")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_wrong_shape_dtype_name_and_field_are_refused(tmp_path: Path) -> None:
    config, path = small_config(), tmp_path / "m.tbrt"
    tensors = small_tensors(config)
    norm = "embeddings.norm.bias"
    with pytest.raises(ValueError, match=r"embeddings\.norm\.bias"):
        write_model(path, config, {**tensors, norm: tensors[norm][:-1]}, {})
    with pytest.raises(ValueError, match="float64"):
        write_model(path, config, {**tensors, norm: tensors[norm].astype(np.float64)}, {})
    with pytest.raises(ValueError, match="extra"):
        write_model(path, config, {**tensors, "extra": tensors[norm]}, {})
    with pytest.raises(ValueError, match="max_tokens"):
        write_model(path, {name: value for name, value in config.items() if name != "max_tokens"}, tensors, {})
    with pytest.raises(ValueError, match="wings"):
        write_model(path, {**config, "wings": 2}, tensors, {})
    with pytest.raises(ValueError, match="32 bits"):
        write_model(path, {**config, "max_word_chars": 2**31}, tensors, {})
    with pytest.raises(ValueError, match="version"):
        write_model(path, config, tensors, {"version": "7"})
    with pytest.raises(ValueError, match="shorten"):
        write_model(path, config, tensors, {"note": "x" * layout.MAX_HEADER_BYTES})
    assert not path.exists()


def test_weights_that_break_the_pair_rule_are_refused(tmp_path: Path) -> None:
    config, path = small_config(), tmp_path / "m.tbrt"
    tensors = small_tensors(config)
    name = "layers.0.ffn.in.weight"
    for pair, good in (((64, 64), True), ((127, 1), True), ((127, -127), True), ((127, 2), False), ((-65, -64), False)):
        tensors[name][1, 2, 3, 2:] = pair
        if good:
            write_model(path, config, tensors, {})
        else:
            with pytest.raises(ValueError, match=r"layers\.0\.ffn\.in\.weight.*pair rule"):
                write_model(path, config, tensors, {})


def test_document_lists_the_config_fields() -> None:
    assert config_table() in DOCUMENT.read_text(encoding="utf-8")


def test_document_lists_the_tensors() -> None:
    assert tensor_table() in DOCUMENT.read_text(encoding="utf-8")


def test_limits_agree() -> None:
    assert layout.LARGEST_WORD_CHARS == MAX_WORD_CHARS
    assert tuple(layout.CONFIG_RANGES) == layout.CONFIG_FIELDS
    assert 255 * 128 * layout.MAX_DEPTH < 2**31
    largest = dict.fromkeys(layout.CONFIG_FIELDS, 1) | {"num_layers": layout.MAX_LAYERS}
    assert len(file_tensors.tensor_specs(largest)) <= layout.MAX_TENSORS
    assert max(high for _, high in layout.CONFIG_RANGES.values()) < 2**31
