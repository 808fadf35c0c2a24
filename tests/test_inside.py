"""Hidden states and attention probabilities of every layer, against `transformers`, for every architecture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import small_model_file
from test_architectures import CASES, inputs, write_case
from test_encoder import tolerance

import tinybert_rt as tb
from tools.convert import convert


@pytest.fixture(scope="module")
def model() -> tb.Model:
    return tb.load(small_model_file(), threads=1)


def expected_inside(model: Any, ids: np.ndarray, offsets: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """By torch, one text at a time: hidden states (outputs, total tokens, dim) and attentions (layers, heads, tokens, tokens) of each.

    What an ALBERT group's inner layers give is collected by hooks: transformers' own lists have outputs of whole groups only.
    """
    import torch

    model.set_attn_implementation("eager")
    inner = [module for module in model.modules() if type(module).__name__ == "AlbertLayer"]
    caught: list[torch.Tensor] = []

    def catch(module: Any, arguments: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(catch) for module in inner]
    states, attentions = [], []
    with torch.inference_mode():
        for start, end in pairwise(offsets):
            given = {"input_ids": torch.from_numpy(ids[start:end].astype(np.int64))[None]}
            if hasattr(model.config, "type_vocab_size"):
                given["token_type_ids"] = torch.from_numpy(types[start:end].astype(np.int64))[None]
            caught.clear()
            out = model(**given, output_hidden_states=True, output_attentions=True)
            outputs = [out.hidden_states[0], *caught] if inner else out.hidden_states
            states.append(torch.stack([each.reshape(end - start, -1) for each in outputs]).numpy())
            attentions.append(torch.stack([each[0] for each in out.attentions]).numpy())
    for hook in hooks:
        hook.remove()
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
    assert max(np.abs(a - b).mean(dtype=float) * len(a[0, 0]) for a, b in zip(rounded_maps, maps, strict=True)) <= 0.25
