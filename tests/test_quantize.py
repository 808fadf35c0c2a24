"""`tools.quantize` on a small random checkpoint: what is tried, taken, kept in float and reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_checkpoint
from test_calibrate import TEXTS, lines

import tinybert_rt as tb
from tools.calibrate import calibrate, save
from tools.convert import convert
from tools.fold import Recipe
from tools.hf import ConversionError
from tools.quantize import Goal, Search, choose, fewest, main, quantize
from tools.tasks import Task

LAYERS = [f"layers.{layer}.{part}" for layer in (0, 1) for part in ("attention.qkv", "attention.output", "ffn.in", "ffn.out")]


def scored_pairs(directory: Path) -> Path:
    """Pairs of texts with the cosines of the float model: every error of a quantized one costs correlation."""
    convert(directory, directory / "exact.tbrt", dtype="f32")
    vectors = tb.load(directory / "exact.tbrt", threads=1).encode(TEXTS)
    rows = [{"a": TEXTS[i], "b": TEXTS[j], "label": float(vectors[i] @ vectors[j])} for i in range(len(TEXTS)) for j in range(i)]
    path = directory / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_and_a_report_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "one")
    out, report = tmp_path / "model.tbrt", tmp_path / "report"
    texts = lines(tmp_path / "lines.txt")
    assert main([str(tmp_path / "one"), "--texts", str(texts), "--out", str(out), "--report", str(report), "--threads", "1"]) == 0
    found = json.loads((report / "report.json").read_text())
    files = found["files"]
    assert list(files) == ["float", "plain", "clip", "gptq", "migrate", "migrate+clip", "migrate+gptq"]
    assert files["float"]["tokens"]["min_cosine"] == pytest.approx(1)
    best = found["chosen"]
    assert 1 - files[best]["tokens"]["mean_cosine"] <= 1 - files["plain"]["tokens"]["mean_cosine"]
    assert out.stat().st_size == files[best]["bytes"] < files["float"]["bytes"]
    assert set(found["weights"]) == set(LAYERS)
    assert len(found["layers"]) == 3
    assert set(found["speed"]) == {"float", "int8"}
    text = (report / "report.md").read_text()
    assert f"**{best}**" in text
    assert all(name in text for name in LAYERS)
    assert (report / "report.png").read_bytes().startswith(b"\x89PNG")
    assert best in capsys.readouterr().out.splitlines()[-1]


def test_what_is_reported_is_what_the_file_does(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    calibration = calibrate(tmp_path, TEXTS)
    found = quantize(tmp_path, tmp_path / "model.tbrt", calibration, threads=1)
    convert(tmp_path, tmp_path / "exact.tbrt", dtype="f32")
    ours, exact = (tb.load(tmp_path / name, threads=1).encode(calibration.held_out) for name in ("model.tbrt", "exact.tbrt"))
    assert found["files"][found["chosen"]]["pooled"]["mean_cosine"] == pytest.approx(float((ours * exact).sum(axis=1).mean()), abs=1e-6)
    assert found["files"]["plain"]["recipe"] == "plain"
    assert "prepared" in json.loads(tb.load(tmp_path / "model.tbrt")._file.metadata["quantization"])


class Stub:
    """A search whose files lose a point for each of three layers that is in int8."""

    bad = LAYERS[2:5]

    def __init__(self, goal: Goal | None) -> None:
        self.goal = goal
        self.results: dict[str, dict[str, Any]] = {}

    def attempt(self, name: str, recipe: Recipe, keep_float: Sequence[str] = ()) -> dict[str, Any]:
        lost = sum(each not in keep_float for each in self.bad) + 0.5 * (recipe.clip == "")
        self.results[name] = {"drop": lost, "float_layers": list(keep_float)}
        return self.results[name]

    def error(self, name: str) -> float:
        return 1.0 - 0.1 * (name == "clip")

    def sensitivity(self, recipe: Recipe) -> dict[str, float]:
        return dict.fromkeys([*self.bad, *(each for each in LAYERS if each not in self.bad)], 0.0)


@pytest.mark.parametrize(("max_drop", "kept"), [(3.0, 0), (2.0, 1), (0.9, 3), (0.0, 3)])
def test_as_few_layers_as_will_do_stay_float(max_drop: float, kept: int) -> None:
    search = Stub(Goal(Task("stsb", Path()), max_drop=max_drop))
    name, recipe, errors = choose(search, "mse")  # type: ignore[arg-type]
    assert recipe == Recipe("mse")
    assert search.results[name]["float_layers"] == Stub.bad[:kept]
    assert bool(errors) == (kept > 0)


@pytest.mark.parametrize(
    ("errors", "taken"),
    [
        ({"clip": 0.96, "migrate": 0.97}, "plain"),
        ({"clip": 0.9, "migrate": 0.97, "gptq": 0.92}, "clip"),
        ({"clip": 1.2, "migrate": 1.3, "migrate+clip": 0.5}, "migrate+clip"),
        ({"clip": 1.2, "migrate": 1.3, "gptq": 0.7, "migrate+gptq": 0.6}, "migrate+gptq"),
        ({"clip": 1.2, "migrate": 1.3, "migrate+clip": 1.1, "gptq": 0.96}, "plain"),
    ],
)
def test_weights_change_only_where_that_helps(errors: dict[str, float], taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stub, "error", lambda self, name: errors.get(name, 1.0))
    assert choose(Stub(None), "mse")[0] == taken  # type: ignore[arg-type]


def test_a_goal_out_of_reach_is_an_error() -> None:
    with pytest.raises(ConversionError, match=r"--max-drop -1 is not met: .* 0\.00 points"):
        choose(Stub(Goal(Task("stsb", Path()), max_drop=-1.0)), "mse")  # type: ignore[arg-type]


def test_bisection_finds_the_smallest_number() -> None:
    for count in (1, 2, 7, 24):
        for needed in range(1, count + 1):
            assert fewest(count, lambda n, needed=needed: n >= needed) == needed  # type: ignore[misc]
        assert fewest(count, lambda n: False) is None


def test_layers_are_ranked_and_kept_by_the_runtime(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    goal = Goal(Task("pairs", scored_pairs(tmp_path), "a", "b"), "pearson", max_drop=0.0)
    search = Search(tmp_path, tmp_path, calibrate(tmp_path, TEXTS), goal, 1, {})
    errors = search.sensitivity(Recipe())
    assert set(errors) == set(LAYERS)
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    plain = search.attempt("plain", Recipe())
    kept = search.attempt("kept", Recipe(), list(errors)[:4])
    assert plain["tokens"]["relative_rms"] > kept["tokens"]["relative_rms"] > 0
    assert plain["bytes"] < kept["bytes"] < search.results["float"]["bytes"]


def test_the_drop_is_met_with_layers_in_float(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = scored_pairs(tmp_path)
    calibration = calibrate(tmp_path, TEXTS)
    tasks = Task("pairs", path, "a", "b")
    lost = quantize(tmp_path, tmp_path / "loose.tbrt", calibration, goal=Goal(tasks, "pearson", 100.0), threads=1)
    worst = lost["files"][lost["chosen"]]["drop"]
    found = quantize(tmp_path, tmp_path / "model.tbrt", calibration, goal=Goal(tasks, "pearson", 0.75 * worst), threads=1)
    assert found["float_layers"]
    assert found["files"][found["chosen"]]["drop"] <= 0.75 * worst
    assert found["float_layers"] == list(found["sensitivity"])[: len(found["float_layers"])]


def test_a_task_is_measured_in_points(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    goal = Goal(Task("pairs", scored_pairs(tmp_path), "a", "b"), "pearson", max_drop=50.0)
    found = quantize(tmp_path, tmp_path / "model.tbrt", calibrate(tmp_path, TEXTS), goal=goal, threads=1)
    files = found["files"]
    assert files["float"]["score"] == pytest.approx(100, abs=1e-4)
    assert all(each["drop"] == pytest.approx(100 - 100 * each["task"]["pearson"], abs=1e-4) for each in files.values())
    assert np.isfinite(files["plain"]["drop"])


def test_bad_input_is_one_line_and_leaves_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "other", seed=1)
    save(calibrate(tmp_path / "other", TEXTS), tmp_path / "other.npz")
    out = tmp_path / "model.tbrt"
    out.write_bytes(b"before")
    common = [str(tmp_path / "one"), "--out", str(out)]
    for arguments, words in (
        (["--calibration", str(tmp_path / "other.npz")], "of other weights"),
        (["--calibration", str(tmp_path / "nowhere.npz")], "no such file"),
        (["--calibration", str(tmp_path / "other.npz"), "--clip", "most"], "'mse' or a percentile"),
        (["--calibration", str(tmp_path / "other.npz"), "--task", "stsb"], "--task and --data go together"),
        (["--calibration", str(tmp_path / "other.npz"), "--report", str(out)], "is no directory"),
    ):
        assert main([*common, *arguments]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert sum("error" in line for line in err.splitlines()) == 1
    assert out.read_bytes() == b"before"


def test_options_of_the_model_are_those_of_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path)
    save(calibrate(tmp_path, TEXTS), tmp_path / "c.npz")
    common = [str(tmp_path), "--calibration", str(tmp_path / "c.npz"), "--out", str(tmp_path / "m.tbrt"), "--threads", "1"]
    assert main([*common, "--no-normalize"]) == 0
    assert "only 1 text is" in capsys.readouterr().err
    assert not tb.load(tmp_path / "m.tbrt").info()["normalized"]
    assert main([*common, "--max-tokens", "0"]) == 2


def test_damaged_calibrations_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path)
    save(calibrate(tmp_path, TEXTS), tmp_path / "c.npz")
    arrays = dict(np.load(tmp_path / "c.npz"))
    key = "layers.0.ffn.in/gram"
    for values, words in ((arrays[key] * np.nan, "is not finite"), (-arrays[key], "no E[x xᵀ]"), (arrays[key][1:], "is no calibration")):
        np.savez(tmp_path / "bad.npz", **(arrays | {key: values}))
        assert main([str(tmp_path), "--calibration", str(tmp_path / "bad.npz"), "--out", str(tmp_path / "m.tbrt"), "--threads", "1"]) == 2
        err = capsys.readouterr().err.splitlines()
        assert words in err[-1]
