"""The encoder against `transformers` on small random-weight models, float and int8, ragged batches, all levels and threads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import LEVELS
from models import convert, ragged, rows_apart, write_checkpoint

import tinybert_rt as tb

LENGTHS = [1, 2, 3, 7, 16, 17, 31, 64, 5, 33, 90]

# Name → configuration; sizes sweep the edges of tiles and heads.
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    "narrow-heads": {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 80, "num_hidden_layers": 3},
    "head-of-26": {"hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200},
    "odd": {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 77, "num_hidden_layers": 1},
    "tanh": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu", "type_vocab_size": 1, "layer_norm_eps": 1e-5},
}


def reference(model: Any, ids: np.ndarray, offsets: np.ndarray, types: np.ndarray) -> np.ndarray:
    """Last hidden states of all tokens by torch, one text at a time."""
    import torch

    states = []
    with torch.inference_mode():
        for start, end in pairwise(offsets):
            text = torch.from_numpy(ids[start:end].astype(np.int64))[None]
            kind = torch.from_numpy(types[start:end].astype(np.int64))[None]
            states.append(model(input_ids=text, token_type_ids=kind).last_hidden_state[0].numpy())
    return np.concatenate(states)


def tolerance(layers: int, magnitude: float) -> float:
    """Float32 rounding grows with depth; measured constants of transformers against itself in float64 are about a third."""
    return 3e-6 * (layers + 1) * magnitude


@pytest.mark.parametrize("hidden_size", [128, 256, 512, 768, 1024])
def test_published_widths_match_transformers(hidden_size: int, tmp_path: Path) -> None:
    """The miniatures of Turc et al. 2019 have these widths with heads of 64, Large (Devlin et al. 2019) the last; depth repeats layers."""
    sizes = {"hidden_size": hidden_size, "num_attention_heads": hidden_size // 64, "intermediate_size": 4 * hidden_size}
    model = write_checkpoint(tmp_path, **sizes, num_hidden_layers=1, max_position_embeddings=512)
    ids, offsets, types = ragged([512, 3, 40], model.config.vocab_size)
    expected = reference(model, ids, offsets, types)
    states = tb.load(convert(tmp_path, "f32")).encode_ids(ids, offsets, types, hidden_states=True)
    assert np.abs(states - expected).max() <= tolerance(1, np.abs(expected).max())
    int8 = tb.load(convert(tmp_path, "int8")).encode_ids(ids, offsets, types, hidden_states=True)
    assert ((int8 * states).sum(1) / np.linalg.norm(int8, axis=1) / np.linalg.norm(states, axis=1)).mean() >= 0.995


@pytest.mark.parametrize("name", CONFIGS)
def test_float_model_matches_transformers(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = write_checkpoint(tmp_path, **config)
    ids, offsets, types = ragged(LENGTHS, model.config.vocab_size)
    types = np.minimum(types, model.config.type_vocab_size - 1).astype(np.uint8)
    expected = reference(model, ids, offsets, types)
    got = tb.load(convert(tmp_path, "f32"), threads=1).encode_ids(ids, offsets, types, hidden_states=True)
    assert np.abs(got - expected).max() <= tolerance(model.config.num_hidden_layers, np.abs(expected).max())


@pytest.mark.parametrize("name", CONFIGS)
def test_int8_model_stays_near_the_float_model(name: str, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path, **CONFIGS[name])
    ids, offsets, types = ragged(LENGTHS, model.config.vocab_size)
    types = np.minimum(types, model.config.type_vocab_size - 1).astype(np.uint8)
    expected = reference(model, ids, offsets, types)
    got = tb.load(convert(tmp_path, "int8"), threads=1).encode_ids(ids, offsets, types, hidden_states=True)
    cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.mean() >= 0.995


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_matches_its_definition(pooling: str, normalize: bool, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path, pooling=pooling, normalize=normalize)
    ids, offsets, types = ragged(LENGTHS, model.config.vocab_size)
    states = reference(model, ids, offsets, types).astype(np.float64)
    texts = [states[a:b] for a, b in pairwise(offsets)]
    expected = np.stack([{"cls": x[0], "mean": x.mean(0), "max": x.max(0)}[pooling] for x in texts])
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    got = tb.load(convert(tmp_path, "f32"), threads=1).encode_ids(ids, offsets, types)
    assert np.abs(got - expected).max() < 2e-5


@pytest.mark.parametrize("dtype", ["int8", "f32"])
def test_the_same_bytes_on_every_level_with_any_threads_and_neighbours(dtype: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, hidden_size=96, num_attention_heads=3)
    path = convert(tmp_path, dtype)
    lengths = [int(n) for n in np.random.default_rng(3).integers(1, 97, 120)]
    ids, offsets, types = ragged(lengths, 100)
    first = tb.load(path, threads=1, isa=LEVELS[-1]).encode_ids(ids, offsets, types)
    for level in LEVELS:
        for threads in (1, 2, 3):
            model = tb.load(path, threads=threads, isa=level)
            assert model.encode_ids(ids, offsets, types).tobytes() == first.tobytes(), (level, threads)
            for i in (0, 17, 119):
                a, b = offsets[i], offsets[i + 1]
                alone = model.encode_ids(ids[a:b], np.array([0, b - a]), types[a:b])
                assert alone.tobytes() == first[i].tobytes(), (level, threads, i)


@pytest.mark.parametrize("name", ["tiny", "head-of-26", "odd"])
@pytest.mark.parametrize("dtype", ["int8", "f32"])
def test_vectors_of_first_tokens_are_those_of_hidden_states(name: str, dtype: str, tmp_path: Path) -> None:
    """The last layer is then computed for first tokens only; for hidden states, it is for all."""
    write_checkpoint(tmp_path, **CONFIGS[name], pooling="cls", normalize=False)
    path = convert(tmp_path, dtype)
    for lengths in (LENGTHS, [1], [80]):
        ids, offsets, types = ragged(lengths, 100)
        expected = tb.load(path, threads=1).encode_ids(ids, offsets, types, hidden_states=True)[offsets[:-1]]
        for level in LEVELS:
            for threads, rows in ((1, 1), (2, 1), (2, 1000), (3, 1000)):
                model = tb.load(path, threads=threads, isa=level)
                rows_apart(model, rows)
                assert model.encode_ids(ids, offsets, types).tobytes() == expected.tobytes(), (level, threads, rows, lengths)


@pytest.mark.parametrize(("hidden", "heads"), [(256, 4), (320, 8), (280, 7), (240, 6)])
@pytest.mark.parametrize("dtype", ["int8", "f32"])
def test_workers_that_take_heads_give_the_bytes_of_those_that_take_columns(hidden: int, heads: int, dtype: str, tmp_path: Path) -> None:
    """Heads of 64 and of 40 elements in groups of 64 and 192 columns: 4, 2, 2 of which one is not full, and no whole number.

    Three workers never get as many each.

    Of the long texts, queries, keys and values of one group of heads are alive at a time, of the short ones those of all.
    """
    write_checkpoint(tmp_path, hidden_size=hidden, num_attention_heads=heads, max_position_embeddings=240)
    path = convert(tmp_path, dtype)
    for lengths in ([3], [80], [100], [240], [17, 1, 60, 44]):
        ids, offsets, types = ragged(lengths, 100)
        expected = tb.load(path, threads=3).encode_ids(ids, offsets, types)
        for threads, rows in ((1, 1), (2, 4), (2, 1000), (4, 4), (4, 1000)):
            model = tb.load(path, threads=threads)
            rows_apart(model, rows)
            assert model.encode_ids(ids, offsets, types).tobytes() == expected.tobytes(), (lengths, threads, rows)


def test_more_workers_than_a_text_has_rows_for(tmp_path: Path) -> None:
    """Eight workers share the columns of 31 rows, and have four rows each of 32."""
    write_checkpoint(tmp_path, max_position_embeddings=200)
    path = convert(tmp_path, "int8")
    model = tb.load(path, threads=8)
    assert rows_apart(model) == 4
    for length in (3, 31, 32, 80, 200):
        ids, offsets, types = ragged([length], 100)
        expected = tb.load(path, threads=1).encode_ids(ids, offsets, types)
        assert model.encode_ids(ids, offsets, types).tobytes() == expected.tobytes(), length


def test_workers_share_the_columns_of_a_heavy_model_for_longer(tmp_path: Path) -> None:
    """Of layers of 18 MB, eight workers share the columns of 80 rows, in two turns of the inner rows, and have own rows from 128 on."""
    shape = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 8192}
    write_checkpoint(tmp_path, **shape, num_hidden_layers=4, max_position_embeddings=200)
    path = convert(tmp_path, "int8")
    for threads in (2, 4, 8):
        model = tb.load(path, threads=threads)
        assert rows_apart(model) == 16
        for length in (20, 80, 130):
            ids, offsets, types = ragged([length], 100)
            expected = tb.load(path, threads=1).encode_ids(ids, offsets, types)
            assert model.encode_ids(ids, offsets, types).tobytes() == expected.tobytes(), (length, threads)


@pytest.mark.parametrize(("dtype", "threads", "rows"), [("int8", 2, 4), ("int8", 8, 16), ("f32", 2, 16), ("f32", 1, 4)])
def test_a_model_is_light_by_the_bytes_that_all_workers_read(dtype: str, threads: int, rows: int, tmp_path: Path) -> None:
    """4.5 MB of layers in int8, 18 in float32, beside 33.5 MB for all workers together."""
    write_checkpoint(tmp_path, hidden_size=256, num_attention_heads=4, intermediate_size=8192, num_hidden_layers=1)
    assert rows_apart(tb.load(convert(tmp_path, dtype), threads=threads)) == rows


def test_a_model_with_one_token_type_gives_it_to_both_texts_of_a_pair(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, type_vocab_size=1)
    model = tb.load(convert(tmp_path, "f32"), threads=1)
    tokens = model.tokenize("the cat", "a dog")
    expected = model.encode_ids(tokens.ids, np.array([0, tokens.ids.size]))
    assert (model.encode([("the cat", "a dog")]) == expected).all()


def test_numbers_out_of_range_are_refused_behind_the_abi(tmp_path: Path) -> None:
    """A C program has no Python in front of it: the border checks what would lead outside a buffer."""
    write_checkpoint(tmp_path)
    model = tb.load(convert(tmp_path, "int8"), threads=1)
    session = model._pool.take()
    text, out = np.frombuffer(b"the cat", np.uint8), np.empty((1, 64), np.float32)
    offsets = np.array([0, 7], np.int64)
    start, end = offsets.ctypes.data, offsets.ctypes.data + 8
    good = {"texts": text.ctypes.data, "text_starts": start, "text_ends": end, "n_texts": 1, "max_tokens": 96, "dim": 64, "pairs": 0}
    for name, values in {"max_tokens": [1, 97, 10**9], "dim": [0, 65], "pairs": [-1, 2], "n_texts": [-1]}.items():
        for value in values:
            for field, number in {**good, "out": out.ctypes.data, name: value}.items():
                setattr(session.request, field, number)
            assert session.run() == tb.errors.InvalidArgumentError.code, (name, value)
            assert session.request.done == 0
    for field, number in good.items():
        setattr(session.request, field, number)
    offsets[:] = [7, 0]
    assert session.run() == tb.errors.InvalidArgumentError.code
    offsets[:] = [0, 7]
    assert session.run() == 0


def test_refused_offsets_leave_nothing_behind(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = tb.load(convert(tmp_path, "int8"), threads=1)
    ids = np.array([2, 5], np.int32)
    expected = model.encode(["hello the cat"]).tobytes()
    for start in (1, -200, -(1 << 40)):
        with pytest.raises(tb.errors.InvalidArgumentError, match="offsets"):
            model.encode_ids(ids, np.array([start, 2]))
        assert model.encode(["hello the cat"]).tobytes() == expected


def test_arrays_of_other_layouts_have_the_same_vectors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = tb.load(convert(tmp_path, "int8"), threads=1)
    ids, offsets, _ = ragged([3, 4], 100)
    expected = model.encode_ids(ids, offsets).tobytes()
    for other in (np.repeat(ids, 2)[::2], ids.astype(">i4"), ids.astype(np.uint16)):
        assert model.encode_ids(other, offsets).tobytes() == expected
    assert model.encode_ids(ids, np.repeat(offsets, 2)[::2]).tobytes() == expected
    for wrong in (ids[None], ids[0]):
        with pytest.raises(tb.errors.InvalidArgumentError, match="one-dimensional"):
            model.encode_ids(wrong, offsets)


def test_bad_ids_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = tb.load(convert(tmp_path, "int8"), threads=1)
    good = np.array([2, 5, 3], np.int32)
    for ids, offsets, types in (
        (np.array([2, 100000, 3]), [0, 3], None),
        (np.array([2, -1, 3]), [0, 3], None),
        (good, [0, 3], np.array([0, 2, 0], np.uint8)),
    ):
        with pytest.raises(tb.errors.TokenIdError, match="text 0"):
            model.encode_ids(ids, np.array(offsets), types)
    for ids in (np.array([2, 2**32 + 5, 3]), np.array([2, 2.9, 3]), np.array(["a", "b", "c"])):
        with pytest.raises(tb.errors.InvalidArgumentError, match="ids"):
            model.encode_ids(ids, np.array([0, 3]))
    with pytest.raises(tb.errors.InvalidArgumentError, match="ids must be one sequence"):
        model.encode_ids([[2, 5], [3]], np.array([0, 3]))
    with pytest.raises(tb.errors.InvalidArgumentError, match="types"):
        model.encode_ids(good, np.array([0, 3]), np.array([0, 256, 0]))
    for offsets in ([0, 2], [1, 3], [0]):
        with pytest.raises(tb.errors.InvalidArgumentError, match="offsets"):
            model.encode_ids(good, np.array(offsets))
    with pytest.raises(tb.errors.InvalidArgumentError, match="between 1 and 96"):
        model.encode_ids(good, np.array([0, 0, 3]))
    for offsets in ([0, 90, 3], [0, 2, 1, 3], [0, -5, 3]):
        text = next(i for i in range(3) if offsets[i + 1] < offsets[i])
        with pytest.raises(tb.errors.InvalidArgumentError, match=f"offsets do not rise at text {text}: from {offsets[text]} to"):
            model.encode_ids(good, np.array(offsets))
    with pytest.raises(tb.errors.InvalidArgumentError, match="97 tokens"):
        model.encode_ids(np.full(97, 5), np.array([0, 97]))
