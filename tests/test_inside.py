"""Hidden states and attention probabilities of every layer, against `transformers`, for every architecture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LEVELS
from models import ragged, rows_apart, small_model_file
from test_architectures import CASES, inputs, write_case
from test_encoder import tolerance

import tinybert_rt as tb
from tinybert_rt.engine.declarations import ffi
from tools.convert import convert


@pytest.fixture(scope="module")
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


def expected_inside(model: Any, ids: np.ndarray, offsets: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """By torch, one text at a time: hidden states (layers + 1, total tokens, dim); of each attentions (layers, heads, tokens, tokens)."""
    import torch

    model.set_attn_implementation("eager")
    states, attentions = [], []
    with torch.inference_mode():
        for start, end in pairwise(offsets):
            given = {"input_ids": torch.from_numpy(ids[start:end].astype(np.int64))[None]}
            if hasattr(model.config, "type_vocab_size"):
                given["token_type_ids"] = torch.from_numpy(types[start:end].astype(np.int64))[None]
            out = model(**given, output_hidden_states=True, output_attentions=True)
            states.append(torch.stack([each[0] for each in out.hidden_states]).numpy())
            attentions.append(torch.stack([each[0] for each in out.attentions]).numpy())
    return np.concatenate(states, axis=1), attentions


@pytest.mark.parametrize("name", CASES)
def test_hidden_states_and_attentions_match_transformers(name: str, tmp_path: Path) -> None:
    reference = write_case(tmp_path, CASES[name])
    ids, offsets, types = inputs(reference)
    states, attentions = expected_inside(reference, ids, offsets, types)
    convert(tmp_path, tmp_path / "f32.tbrt", dtype="f32", pooling="mean", normalize=True)
    convert(tmp_path, tmp_path / "int8.tbrt", dtype="int8", pooling="mean", normalize=True)
    ours, rounded = (tb.load(tmp_path / f"{dtype}.tbrt", threads=1) for dtype in ("f32", "int8"))
    found = ours.hidden_states_ids(ids, offsets, types)
    assert found.shape == states.shape
    layers = ours.info()["layers"]
    for layer in range(layers + 1):
        assert np.abs(found[layer] - states[layer]).max() <= tolerance(layer + 1, np.abs(states).max()), layer
    assert found[-1].tobytes() == ours.encode_ids(ids, offsets, types, hidden_states=True).tobytes()
    maps = ours.attentions_ids(ids, offsets, types)
    for mine, theirs in zip(maps, attentions, strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= 1e-4  # scores of about ±8 with relative errors of float32
        assert np.abs(mine.sum(axis=-1) - 1).max() <= 1e-6
    near = rounded.hidden_states_ids(ids, offsets, types)
    cosines = (near * found).sum(-1) / np.linalg.norm(near, axis=-1) / np.linalg.norm(found, axis=-1)
    assert cosines.mean(axis=1).min() >= 0.995
    rounded_maps = rounded.attentions_ids(ids, offsets, types)
    assert max(np.abs(a - b).mean(dtype=float) * len(a[0, 0]) for a, b in zip(rounded_maps, maps, strict=True)) <= 0.1


@pytest.mark.parametrize("name", ["albert-groups", "bert-odd"])
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_the_inside_has_the_same_bytes_on_every_level_with_any_threads_and_neighbours(name: str, dtype: str, tmp_path: Path) -> None:
    reference = write_case(tmp_path, CASES[name])
    convert(tmp_path, tmp_path / "model.tbrt", dtype=dtype, pooling="mean", normalize=True)
    ids, offsets, types = inputs(reference)
    first = tb.load(tmp_path / "model.tbrt", threads=1, isa=LEVELS[-1])
    states, maps = first.hidden_states_ids(ids, offsets, types), first.attentions_ids(ids, offsets, types)
    for level in LEVELS:
        for threads, rows in ((1, 1), (2, 1), (2, 1000), (3, 1000)):
            model = tb.load(tmp_path / "model.tbrt", threads=threads, isa=level)
            rows_apart(model, rows)
            assert model.hidden_states_ids(ids, offsets, types).tobytes() == states.tobytes(), (level, threads)
            found = model.attentions_ids(ids, offsets, types)
            assert [each.tobytes() for each in found] == [each.tobytes() for each in maps], (level, threads)
            for i in (0, 7, 10):
                a, b = offsets[i], offsets[i + 1]
                alone = ids[a:b], np.array([0, b - a]), types[a:b]
                assert model.hidden_states_ids(*alone).tobytes() == np.ascontiguousarray(states[:, a:b]).tobytes()
                assert model.attentions_ids(*alone)[0].tobytes() == maps[i].tobytes()


def test_more_texts_than_a_group_holds(model: tb.Model) -> None:
    ids, offsets, types = ragged([3, 70, 1] * 500, 100)
    maps, states = model.attentions_ids(ids, offsets, types), model.hidden_states_ids(ids, offsets, types)
    assert len(maps) == 1500
    for i in (0, 1, 1023, 1024, 1498, 1499):
        a, b = offsets[i], offsets[i + 1]
        alone = ids[a:b], np.array([0, b - a]), types[a:b]
        assert (model.attentions_ids(*alone)[0] == maps[i]).all()
        assert (model.hidden_states_ids(*alone) == states[:, a:b]).all()


def test_one_text_gives_an_array_and_several_a_list(model: tb.Model) -> None:
    one = model.hidden_states("the cat sat")
    assert one.shape == (3, 5, 64)
    assert one.dtype == np.float32
    several = model.hidden_states(["the cat sat", "a dog"])
    assert [each.shape for each in several] == [(3, 5, 64), (3, 4, 64)]
    assert several[0].tobytes() == one.tobytes()
    assert model.attentions("the cat sat").shape == (2, 2, 5, 5)
    assert [each.shape for each in model.attentions(iter(["the cat sat", "a dog"]))] == [(2, 2, 5, 5), (2, 2, 4, 4)]


def test_a_pair_has_the_types_of_both_texts(model: tb.Model) -> None:
    tokens = model.tokenize("the cat", "a dog")
    expected = model.hidden_states_ids(tokens.ids, np.array([0, tokens.ids.size]), tokens.types)
    assert (model.hidden_states(("the cat", "a dog")) == expected).all()
    assert (model.hidden_states([("the cat", "a dog")])[0] == expected).all()
    inside = model.inspect("the cat", "a dog")
    assert (inside.hidden_states == expected).all()
    assert inside.types.tolist() == tokens.types.tolist()


def test_inspect_names_the_tokens_and_their_characters(model: tb.Model) -> None:
    inside = model.inspect("The cats")
    assert inside.tokens == ["[CLS]", "the", "cat", "##s", "[SEP]"]
    assert inside.ids.tolist() == model.tokenize("The cats").ids.tolist()
    assert inside.spans.tolist() == [[-1, -1], [0, 3], [4, 8], [4, 8], [-1, -1]]
    assert inside.hidden_states.tobytes() == model.hidden_states("The cats").tobytes()
    assert inside.attentions.tobytes() == model.attentions("The cats").tobytes()
    assert isinstance(inside, tb.Inside)


def test_a_long_text_is_cut_with_a_warning_or_refused(model: tb.Model) -> None:
    text = "cat " * 200
    with pytest.warns(tb.TruncationWarning, match="1 of 2 texts has more than 96 tokens"):
        assert [each.shape[1] for each in model.hidden_states(["a dog", text])] == [4, 96]
    assert model.inspect(text, truncation="truncate", max_tokens=9).attentions.shape == (2, 2, 9, 9)
    with pytest.raises(tb.errors.TextTooLongError, match=r"text 1 .*202"):
        model.attentions(["a dog", text], truncation="error")


def test_bad_input_is_refused(model: tb.Model) -> None:
    with pytest.raises(tb.errors.InvalidArgumentError, match="empty"):
        model.hidden_states([])
    with pytest.raises(tb.errors.InvalidTextError, match="text 1 is not a str"):
        model.attentions(["a", 3])  # type: ignore[list-item]
    with pytest.raises(tb.errors.InvalidTextError, match="a tuple of 3 items"):
        model.hidden_states(("a", "b", "c"))  # type: ignore[arg-type]
    with pytest.raises(tb.errors.InvalidArgumentError, match="truncation"):
        model.inspect("a", truncation="perhaps")
    ids = np.full(200, 7, np.int32)
    for offsets in ([0, 200], [0, 50, 50, 200], [0, 90, 60, 200]):
        with pytest.raises(tb.errors.InvalidArgumentError):
            model.attentions_ids(ids, np.array(offsets))
        with pytest.raises(tb.errors.InvalidArgumentError):
            model.hidden_states_ids(ids, np.array(offsets))
    with pytest.raises(tb.errors.TokenIdError):
        model.attentions_ids(np.array([10**6], np.int32), np.array([0, 1]))


def test_texts_have_no_room_behind_the_abi(model: tb.Model) -> None:
    """A C program that asks for the inside of texts, whose tokens it does not know: refused."""
    session = model._pool.take()
    text, room = np.frombuffer(b"the cat", np.uint8), np.full(10**5, 7, np.float32)
    ends = np.array([0, 7], np.int64)
    for field in ("layers", "attentions"):
        request = ffi.new("kernel_request *")
        request.texts, request.text_starts, request.text_ends = text.ctypes.data, ends.ctypes.data, ends.ctypes.data + 8
        request.n_texts, request.max_tokens = 1, 96
        setattr(request, field, room.ctypes.data)
        assert session.run(request) == tb.errors.InvalidArgumentError.code
    assert (room == 7).all()
