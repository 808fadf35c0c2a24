"""Calibration against sums by hand, and foldings that leave the float model as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_checkpoint
from test_architectures import CASES, write_case

import tinybert_rt as tb
from tools import calibrate as tool
from tools.blocks import quantize_columns
from tools.calibrate import calibrate, load, main, save
from tools.convert import convert
from tools.fold import Recipe, clipped, linear_sources, output_error, preparation, weight_errors
from tools.hf import ConversionError, read_config, read_weights
from tools.rows import DataError
from tools.tbrt import TbrtFile

TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "small, fast model!",
    "text of vectors",
    "the mat",
    "cats and dogs sat in a model",
    "zwölf Übungen",
]


def lines(path: Path) -> Path:
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def states_by_hand(model: Any, directory: Path, texts: list[str]) -> list[np.ndarray]:
    """The hidden states of each text, alone, without padding: float32 (layers + 1, tokens, dim)."""
    import torch
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(str(directory / "vocab.txt"))
    with torch.inference_mode():
        out = [model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states for text in texts]
    return [torch.cat(each).numpy() for each in out]


def test_inputs_are_those_of_each_layer(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path)
    found = calibrate(tmp_path, TEXTS)
    assert (found.texts, len(found.held_out)) == (6, 1)
    used = [text for text in TEXTS if text not in found.held_out]
    states = np.concatenate(states_by_hand(model, tmp_path, used), axis=1).astype(np.float64)
    assert found.tokens == states.shape[1]
    for layer in (0, 1):
        inputs = found.statistics.inputs[f"layers.{layer}.attention.qkv"]
        gram = states[layer].T @ states[layer] / found.tokens
        np.testing.assert_allclose(inputs.gram, gram, atol=1e-5 * np.diag(gram).max())
        np.testing.assert_allclose(inputs.second_moment, (states[layer] ** 2).mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(inputs.largest, np.abs(states[layer]).max(axis=0), rtol=1e-4)
        expected = np.percentile(np.abs(states[layer]), tool.PERCENTILES, axis=1).mean(axis=1)
        np.testing.assert_allclose(found.percentiles[f"layers.{layer}.attention.qkv"], expected, rtol=1e-4)
        weights = model.encoder.layer[layer].attention.self
        for part, expected_linear in zip(
            found.statistics.attention[f"layers.{layer}"], (weights.query, weights.key, weights.value), strict=True
        ):
            made = states[layer] @ expected_linear.weight.detach().numpy().T + expected_linear.bias.detach().numpy()
            np.testing.assert_allclose(part, np.abs(made).max(axis=0), rtol=1e-3)
    assert found.statistics.inputs["layers.1.ffn.out"].largest.shape == (128,)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    found = calibrate(tmp_path, TEXTS, samples=3)
    save(found, tmp_path / "c.npz")
    again = load(tmp_path / "c.npz")
    assert (again.texts, again.held_out, again.sha256) == (3, found.held_out, found.sha256)
    assert set(again.statistics.inputs) == set(linear_sources(read_config(tmp_path)))
    assert np.array_equal(again.statistics.attention["layers.1"], found.statistics.attention["layers.1"])
    for name, each in found.statistics.inputs.items():
        np.testing.assert_allclose(again.statistics.inputs[name].gram, each.gram, atol=1e-6 * each.gram.max())
        assert np.array_equal(again.statistics.inputs[name].largest, each.largest)


MIGRATED = ["bert", "bert-odd", "roberta", "distilbert", "albert-inner", "electra-small", "deberta", "deberta-v2", "deberta-v3"]


@pytest.mark.parametrize("name", MIGRATED)
def test_migration_leaves_the_float_model_as_it_is(name: str, tmp_path: Path) -> None:
    write_case(tmp_path, CASES[name])
    statistics = calibrate(tmp_path, TEXTS).statistics
    kind: dict[str, Any] = {"dtype": "f32", "pooling": "mean", "normalize": False}
    convert(tmp_path, tmp_path / "plain.tbrt", **kind)
    convert(tmp_path, tmp_path / "migrated.tbrt", prepare=preparation(Recipe(migrate=True), statistics), **kind)
    plain, migrated = (tb.load(tmp_path / f"{each}.tbrt", threads=1).hidden_states(TEXTS) for each in ("plain", "migrated"))
    for ours, theirs in zip(migrated, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    if name != "deberta":  # whose one matrix for queries, keys and values is left as it is
        changed = (tmp_path / "plain.tbrt").read_bytes() != (tmp_path / "migrated.tbrt").read_bytes()
        assert changed


def test_migration_evens_the_channels_out(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    statistics = calibrate(tmp_path, TEXTS).statistics
    encoder = read_config(tmp_path)
    weights = read_weights(tmp_path, encoder.architecture)
    sources = linear_sources(encoder)["layers.0.attention.qkv"]
    before = [weights.peek(f"{each}.weight", 64, 64) for each in sources]
    preparation(Recipe(migrate=True), statistics)(weights, encoder)
    after = [weights.peek(f"{each}.weight", 64, 64) for each in sources]
    factors = [new[:, 0] / old[:, 0] for new, old in zip(after, before, strict=True)]
    queries, keys, _ = statistics.attention["layers.0"]
    np.testing.assert_allclose(queries * factors[0], keys * factors[1], rtol=1e-5)
    output = read_weights(tmp_path, encoder.architecture).peek("encoder.layer.0.attention.output.dense.weight", 64, 64)
    context = statistics.inputs["layers.0.attention.output"].largest
    np.testing.assert_allclose(1 / factors[2], np.sqrt(context / np.abs(output).max(axis=0)), rtol=1e-5)


def test_clipping_lowers_the_error_of_the_output() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 256)).astype(np.float32)
    weight[:, 5] *= 12
    moment = np.ones(256)
    moment[5] = 1e-3  # an outlier among the weights that meets small inputs
    plain = output_error(weight, weight, moment)
    best = output_error(weight, clipped(weight, moment, "mse"), moment)
    assert (best <= plain).all()
    assert best.sum() < 0.8 * plain.sum()
    cut = clipped(weight, moment, "99")
    np.testing.assert_allclose(np.abs(cut).max(axis=1), np.percentile(np.abs(weight), 99, axis=1), rtol=1e-6)
    quantized, scale = quantize_columns(cut)
    expected = ((weight - quantized * scale[:, None].astype(np.float64)) ** 2 * moment).sum(axis=1)
    np.testing.assert_allclose(output_error(weight, cut, moment), expected, rtol=1e-9)


def test_errors_of_weights_are_those_of_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    statistics = calibrate(tmp_path, TEXTS).statistics
    report = convert(tmp_path, tmp_path / "model.tbrt")
    encoder = read_config(tmp_path)
    found = weight_errors(read_weights(tmp_path, encoder.architecture), encoder, Recipe(), statistics)
    by_name = {each.name: each.error.relative_rms for each in report.tensors}
    assert found["layers.1.ffn.in"][0] == pytest.approx(by_name["encoder.layer.1.intermediate.dense.weight"], rel=1e-6)
    migrated = Recipe(migrate=True, gptq=True)
    best = weight_errors(read_weights(tmp_path, encoder.architecture), encoder, migrated, statistics)
    assert all(best[name][1] < found[name][1] for name in found)


@pytest.mark.parametrize("migrate", [False, True])
def test_errors_of_outputs_are_those_of_the_file(migrate: bool, tmp_path: Path) -> None:
    """Heads of 11: in the file they lie apart, and pairs begin anew with each."""
    model = write_checkpoint(tmp_path, hidden_size=33, num_attention_heads=3)
    statistics, encoder = calibrate(tmp_path, TEXTS).statistics, read_config(tmp_path)
    recipe = Recipe(migrate=migrate, gptq=True)
    convert(tmp_path, tmp_path / "model.tbrt", prepare=preparation(recipe, statistics))
    convert(tmp_path, tmp_path / "float.tbrt", dtype="f32", prepare=preparation(Recipe(migrate=migrate), statistics))
    expected = weight_errors(read_weights(tmp_path, encoder.architecture), encoder, recipe, statistics)
    files = (TbrtFile(tmp_path / f"{name}.tbrt").layers() for name in ("model", "float"))
    for index, (made, exact) in enumerate(zip(*files, strict=True)):
        weight = exact.output.weight.floats().astype(np.float64)
        lost = weight - made.output.weight.floats()
        factor = weight[0] / model.encoder.layer[index].attention.output.dense.weight.detach().numpy()[0]
        name = f"layers.{index}.attention.output"
        gram = statistics.inputs[name].gram / factor / factor[:, None]
        error = np.sqrt(((lost @ gram) * lost).sum() / ((weight @ gram) * weight).sum())
        assert expected[name][1] == pytest.approx(error, rel=1e-3)
        plain, scale = quantize_columns(weight, 11)
        nearest = weight - plain * scale.astype(np.float64)[:, None]
        assert ((lost @ gram) * lost).sum() < 0.6 * ((nearest @ gram) * nearest).sum()


def test_errors_of_outputs_are_those_of_the_inputs(tmp_path: Path) -> None:
    """Behind a migration too: of attention's output, where both the inputs and the weight are changed."""
    model = write_checkpoint(tmp_path)
    found = calibrate(tmp_path, TEXTS)
    encoder = read_config(tmp_path)
    seen: list[np.ndarray] = []
    dense = model.encoder.layer[0].attention.output.dense
    dense.register_forward_hook(lambda module, given, out: seen.append(given[0][0].numpy().astype(np.float64)))
    states_by_hand(model, tmp_path, [text for text in TEXTS if text not in found.held_out])
    inputs = np.concatenate(seen)
    for migrate in (False, True):
        weights = read_weights(tmp_path, encoder.architecture)
        preparation(Recipe(migrate=migrate), found.statistics)(weights, encoder)
        weight = weights.peek("encoder.layer.0.attention.output.dense.weight", 64, 64).astype(np.float64)
        factor = weight[0] / dense.weight.detach().numpy()[0]
        quantized, scale = quantize_columns(weight)
        lost = (inputs / factor) @ (weight - quantized * scale[:, None]).T
        expected = np.sqrt(np.square(lost).sum() / np.square((inputs / factor) @ weight.T).sum())
        errors = weight_errors(read_weights(tmp_path, encoder.architecture), encoder, Recipe(migrate=migrate), found.statistics)
        assert errors["layers.0.attention.output"][1] == pytest.approx(expected, rel=1e-3)


def test_what_stays_float_is_not_clipped(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    statistics = calibrate(tmp_path, TEXTS).statistics
    encoder = read_config(tmp_path)
    weights, changed = (read_weights(tmp_path, encoder.architecture) for _ in range(2))
    assert preparation(Recipe("90"), statistics, ["layers.0.ffn.in"])(changed, encoder) == "clip 90"
    for layer, same in ((0, True), (1, False)):
        name = f"encoder.layer.{layer}.intermediate.dense.weight"
        assert np.array_equal(changed.peek(name, 128, 64), weights.peek(name, 128, 64)) is same


def test_a_calibration_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "deep", num_hidden_layers=3)
    statistics = calibrate(tmp_path / "one", TEXTS).statistics
    with pytest.raises(ConversionError, match=r"of another checkpoint: layers\.2"):
        convert(tmp_path / "deep", tmp_path / "m.tbrt", prepare=preparation(Recipe("mse"), statistics))


def test_the_command_writes_whole_files_or_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "one")
    texts = lines(tmp_path / "lines.txt")
    out = tmp_path / "c.npz"
    assert main([str(tmp_path / "one"), "--texts", str(texts), "--out", str(out)]) == 0
    assert "layers.1.ffn.out" in capsys.readouterr().out
    assert load(out).texts == 6
    before = out.read_bytes()
    (tmp_path / "few.txt").write_text("one\none\n")
    for arguments, words in (
        ((tmp_path / "nowhere", "--texts", texts, "--out", out), "there is no such directory"),
        ((tmp_path / "one", "--texts", tmp_path / "few.txt", "--out", out), "at least 2 that differ"),
        ((tmp_path / "one", "--texts", texts, "--out", tmp_path / "nowhere" / "c.npz"), "no such directory to write to"),
        ((tmp_path / "one", "--texts", texts, "--out", out, "--samples", 0), "--samples must be at least 1"),
        ((tmp_path / "one", "--texts", texts, "--out", out, "--column", "a"), "has no columns"),
    ):
        assert main(list(map(str, arguments))) == 2
        err = capsys.readouterr().err
        assert words in err
        assert len(err.splitlines()) == 1
    assert out.read_bytes() == before
    with pytest.raises(DataError, match="is no calibration"):
        load(texts)
