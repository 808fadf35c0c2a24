"""Fine-tune a checkpoint for a task, and make a `.tbrt` file of it.

Usage:
    python -m distill.finetune distill/recipes/sst2.toml --data DATA
    python -m distill.finetune SETTINGS.toml --set training.epochs=1 --set model=path/to/bert --dry-run
    torchrun --nproc-per-node 2 -m distill.finetune SETTINGS.toml       (the same run in two processes)

The folder `out` gets `model/` (a Hugging Face directory: the best of the evaluations), `model.tbrt`, `report.json` and `report.md`,
`log.jsonl` and `checkpoints/`; the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from . import command, models, report, tasks
from .batches import ShuffledBatches
from .devices import Place
from .training import Batch, Training, load_best, train


@dataclass(frozen=True)
class Settings:
    """A fine-tuning."""

    model: str
    """a directory, or a name on the Hugging Face Hub"""
    out: str
    data: tasks.Data
    training: Training
    dropout: float | None = None
    """of hidden states and attention, in place of the checkpoint's"""
    dtype: Literal["int8", "f32"] = "int8"
    """of the `.tbrt` file"""
    quantization_aware: bool = False
    """train with the rounding of the int8 runtime in the forward pass"""

    def training_of_all(self) -> list[Training]:
        """The trainings of the run."""
        return [self.training]


class Objective(torch.nn.Module):
    """A model and its task's loss."""

    def __init__(self, model: Any, task: tasks.Task) -> None:
        super().__init__()
        self.model = model
        self._loss = task.loss
        self.leaves_parts_out = task.pooled  # an encoder may have a layer behind [CLS], which means do not use

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """{"loss": scalar}"""
        return {"loss": self._loss(self.model, batch)}


def run(settings: Settings, root: Path, place: Place, *, dry: bool = False) -> dict[str, Any] | None:
    """Run the settings; returns the report, None in a process that is not the first or in a dry run. Raises DistillError."""
    task = tasks.make_task(settings.data, root)
    tokenizer = models.load_tokenizer(settings.model)
    torch.manual_seed(settings.training.seed)  # a new head is random
    model = models.load_model(settings.model, task.auto, **task.head_config(), **models.dropout(settings.dropout, settings.model))
    models.check_vocabulary(model, tokenizer, settings.model)
    models.check_length(model, settings.data.max_tokens, "data.max_tokens")
    if settings.quantization_aware:
        models.prepare_int8(model, settings.model)
    features = task.features(task.train, tokenizer)
    batches = ShuffledBatches(features, settings.training.batch_size, task.collate(tokenizer), settings.training.seed)
    measure = partial(tasks.evaluate, task, model, tokenizer, task.dev, place.device)
    objective = Objective(model, task)
    if dry:
        command.describe(settings.out, model, features, batches, settings.training.total(batches))
        return None
    out = Path(settings.out)
    outcome = train(objective, batches, settings.training, out, settings, place, evaluate=measure, title=out.name)
    if not place.first:
        return None
    load_best(out, objective)
    if settings.quantization_aware:
        from .fake_quantization import restore

        restore(model)
    return report.finish(out, model, tokenizer, task, settings, outcome, place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return command.main("distill.finetune", "Fine-tune a checkpoint for a task.", Settings, run, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
