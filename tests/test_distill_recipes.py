"""The commands of the README, one after the other, with their recipes, on small data, from a small random checkpoint."""

from __future__ import annotations

import gzip
import importlib
import json
import lzma
import re
from pathlib import Path

import distill_files
import pytest
from models import write_checkpoint

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from pretraining import text

from distill import pretrain

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "distill" / "recipes"
COMMANDS = re.findall(r"^python -m (distill\.\w+) (.+ --data \$DATA)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
# Settings for what is not there, or takes too long.
INSTEAD = {
    "pretrain-tiny": ["training.steps=2"],
    "sst2": ["model=base"],
    "sst2-4x312": ["student.hidden=36", "student.intermediate=64"],
    "sst2-2x128": ["student.hidden=16", "student.intermediate=32"],
    "sentences": ["teacher=base", "stages.0.texts.limit=128", "student.hidden=48", "student.intermediate=64", "student.embedding=16"],
}


def write_data(folder: Path) -> None:
    """The files that the recipes name."""
    for name in ("glue/sst2", "glue/stsb", "corpus/wiki"):
        (folder / name).mkdir(parents=True)
    for make, name, columns in (
        (distill_files.classification, "sst2", "sentence\tother\tlabel"),
        (distill_files.similarity, "stsb", "sentence1\tsentence2\tscore"),
    ):
        for file in make(folder, 256):
            _, *rows = (folder / file).read_text(encoding="utf-8").splitlines()
            with gzip.open(folder / "glue" / name / f"{file}.gz", "wt", encoding="utf-8") as packed:
                packed.write("\n".join([columns, *rows]) + "\n")
    for file, documents in (("train-0", 100), ("valid", 20)):
        with lzma.open(folder / "corpus" / "wiki" / f"{file}.txt.xz", "wt", encoding="utf-8") as packed:
            packed.write(text(documents))


def test_every_command_of_the_readme_runs_with_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(COMMANDS) >= 7
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    sizes = {"hidden_size": 48, "num_attention_heads": 12, "intermediate_size": 96, "num_hidden_layers": 4}
    write_checkpoint(tmp_path / "base", max_position_embeddings=256, **sizes)
    (tmp_path / "distill").symlink_to(ROOT / "distill")
    for module, line in COMMANDS:
        arguments = line.replace("$DATA", "data").split()
        recipe = next(Path(each).stem for each in arguments if each.endswith(".toml"))
        training = module != "distill.evaluate"
        instead = [part for each in INSTEAD.get(recipe, []) if training for part in ("--set", each)]
        assert importlib.import_module(module).main([*arguments, *instead]) == 0, capsys.readouterr().err
    runs = {each.name for each in (tmp_path / "runs").iterdir()}
    assert runs == {"pretrain-tiny", "sst2-minilm", "sst2-4x312", "sst2-2x128", "sst2-2x128-qat", "sentences"}
    for name in runs:
        assert (tmp_path / "runs" / name / "model.tbrt").exists()
        assert json.loads((tmp_path / "runs" / name / "report.json").read_text(encoding="utf-8"))["finished"]


def test_the_recipe_for_a_gpu_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path)
    given = [str(RECIPES / "pretrain-small-gpu.toml"), "--data", str(tmp_path), "--dry-run", "--set", "training.device=cpu"]
    assert pretrain.main(given) == 0
    assert "nothing was written" in capsys.readouterr().out
