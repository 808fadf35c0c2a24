"""Measure a PyTorch checkpoint or a `.tbrt` file on the task of a recipe: its [data], with the official metrics.

Usage:
    python -m distill.evaluate runs/sst2-minilm/model distill/recipes/sst2.toml --data DATA
    python -m distill.evaluate runs/sst2-minilm/model.tbrt distill/recipes/sst2.toml --data DATA --json numbers.json
    python -m distill.evaluate MODEL RECIPE.toml --set data.dev=glue/stsb/test.tsv.gz

A `.tbrt` file gets the token ids of the tokenizer in `--tokenizer` (default: the directory `model` beside the file), so that both forms
see the same; `tinybert-rt evaluate` measures a file from raw text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from tinybert_rt.cli import OneLineParser

from . import command, models, runtime, tasks
from .settings import DistillError, SettingsError, read_settings


def evaluate(model: str, data: tasks.Data, root: Path, tokenizer: str | None = None) -> dict[str, float]:
    """The task's numbers for a checkpoint directory or a `.tbrt` file. Raises DistillError."""
    task = tasks.make_task(data, root)
    if model.endswith(".tbrt"):
        if not Path(model).is_file():
            raise SettingsError(f"{model}: there is no such file")
        beside = tokenizer or str(Path(model).with_name("model"))
        if not Path(beside).is_dir():
            raise SettingsError(f"{beside}: there is no such directory of a tokenizer: say --tokenizer")
        return runtime.evaluate(task, model, task.dev, models.load_tokenizer(beside))
    loaded = models.load_model(model, task.auto, trained_head=not task.pooled, **({} if task.labels else task.head_config()))
    models.check_length(loaded, data.max_tokens, "data.max_tokens")
    names = loaded.config.id2label
    models.check_labels(model, [names[index] for index in sorted(names)], task.labels)
    return tasks.evaluate(task, loaded, models.load_tokenizer(tokenizer or model), task.dev, torch.device("cpu"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    prog = "python -m distill.evaluate"
    parser = OneLineParser(prog=prog, description="Measure a checkpoint or a .tbrt file on the task of a recipe.")
    parser.add_argument("model", help="a Hugging Face directory, or a .tbrt file")
    parser.add_argument("settings", type=Path, help="a TOML file with a table [data]")
    parser.add_argument("--data", type=Path, default=Path(), metavar="DIR", help="where the files of the settings lie (default: here)")
    parser.add_argument("--set", action="append", default=[], metavar="data.KEY=VALUE", help="replaces a value of the settings")
    parser.add_argument("--tokenizer", metavar="DIR", help="of a .tbrt file; default: the directory 'model' beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to a file")
    options = parser.parse_args(arguments)

    def work() -> None:
        found = evaluate(options.model, read_settings(options.settings, tasks.Data, options.set, "data"), options.data, options.tokenizer)
        if options.json:
            try:
                options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                raise DistillError(f"{options.json}: cannot be written: {error.strerror}") from None
        for name, value in found.items():
            print(f"{name:12} {value:.6f}")

    return command.guarded(prog, work)


if __name__ == "__main__":
    raise SystemExit(main())
