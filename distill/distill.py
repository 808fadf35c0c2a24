"""Distill a teacher into a smaller student, and make a `.tbrt` file of it.

Usage:
    python -m distill.distill distill/recipes/sst2-4x312.toml --data DATA
    python -m distill.distill SETTINGS.toml --set stages.0.training.epochs=1 --dry-run

The methods, each a set of losses (`losses.py`) that `[stages.losses]` may weigh anew:
    soft                 the teacher's distribution over labels (Hinton et al. 2015)
    distilbert           soft targets of masked tokens, masked tokens themselves, cosine of hidden states (Sanh et al. 2019)
    tinybert-layers      embeddings, hidden states and attention of mapped layers (Jiao et al. 2020, stage 1, or before stage 2)
    tinybert-prediction  the logits (Jiao et al. 2020, stage 2)
    minilm               attention and value relations of the last layer (Wang et al. 2020)
    minilm2              relations of queries, keys and values of one layer (Wang et al. 2021)
    patient              soft targets, labels and normalized [CLS] states of the layers between (Sun et al. 2019)
    embedding            sentence vectors, and the similarities in a batch (Reimers and Gurevych 2020)
Stages follow each other with one student. The folder `out` gets a folder for each, `model/`, `model.tbrt` and the report; the same
command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from tqdm import tqdm

from . import command, models, report, runtime, tasks, texts
from .augment import Augment, augmented, neighbours
from .batches import Collate, Feature, ShuffledBatches, collate, in_order
from .devices import Place, first_alone
from .matching import Matching
from .settings import DistillError, SettingsError
from .students import Student, make_student
from .training import Outcome, Training, load_best, train

Method = Literal["soft", "distilbert", "tinybert-layers", "tinybert-prediction", "minilm", "minilm2", "patient", "embedding"]

METHODS: dict[str, dict[str, float]] = {
    "soft": {"soft": 1.0},
    "distilbert": {"soft": 5.0, "masked": 2.0, "cosine": 1.0},
    "tinybert-layers": {"embedding": 1.0, "hidden": 1.0, "attention": 1.0},
    "tinybert-prediction": {"soft": 1.0},
    "minilm": {"attention_relation": 1.0, "value_relation": 1.0},
    "minilm2": {"query_relation": 1.0, "key_relation": 1.0, "value_relation": 1.0},
    "patient": {"soft": 0.5, "labels": 0.5, "patient": 100.0},
    "embedding": {"vector": 1.0, "similarity": 1.0},
}
_VECTORS = METHODS["embedding"].keys()
_SAMPLES = 64
"""texts that a student is fitted to its teacher with"""
_LABELLED_AT_ONCE = 4096


@dataclass(frozen=True)
class Stage:
    """One training of the student."""

    method: Method
    training: Training
    texts: texts.Texts | None = None
    """plain texts to train on; default: the task's"""
    augment: Augment | None = None
    losses: dict[str, float] = field(default_factory=dict)
    """weights in place of the method's; 0 leaves a loss out"""
    temperature: float = 1.0
    relation_heads: int | None = None
    """of minilm and minilm2; default: the teacher's attention heads"""
    teacher_layer: int | None = None
    """of minilm and minilm2, from 1; default: the last"""
    labels_by: Literal["pytorch", "int8"] = "pytorch"
    """what computes the teacher's logits or vectors where nothing else of it is needed: int8 is this runtime, faster on a CPU"""

    def __post_init__(self) -> None:
        if unknown := sorted(self.losses.keys() - self._possible()):
            raise ValueError(f"losses: method {self.method!r} has no loss {unknown[0]!r}; known: {', '.join(sorted(self._possible()))}")
        if not self.weights():
            raise ValueError("losses: every weight is 0")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")

    def _possible(self) -> set[str]:
        """The losses that can be computed in this method: of vectors, of a masked language model, or of a task."""
        if self.method == "embedding":
            return set(_VECTORS)
        every = {name for weights in METHODS.values() for name in weights} - _VECTORS
        return every - ({"labels"} if self.method == "distilbert" else {"masked"})

    def weights(self) -> dict[str, float]:
        """The losses of the stage and their weights."""
        return {name: weight for name, weight in {**METHODS[self.method], **self.losses}.items() if weight}


@dataclass(frozen=True)
class Settings:
    """A distillation."""

    teacher: str
    """a directory, or a name on the Hugging Face Hub"""
    out: str
    student: Student
    stages: tuple[Stage, ...]
    data: tasks.Data
    """the task that the student is for: what it is measured on, and trained on where a stage names no texts"""
    dtype: Literal["int8", "f32"] = "int8"
    dropout: float | None = None
    quantization_aware: bool = False
    """the last stage trains with the rounding of the int8 runtime in the forward pass"""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("there must be at least one [[stages]]")

    def training_of_all(self) -> list[Training]:
        """The trainings of the run."""
        return [stage.training for stage in self.stages]


def run(settings: Settings, root: Path, place: Place, *, dry: bool = False) -> dict[str, Any] | None:
    """Run the settings; returns the report, None in a process that is not the first or in a dry run. Raises DistillError."""
    task = tasks.make_task(settings.data, root)
    masked = any("masked" in stage.weights() for stage in settings.stages)
    kind = transformers.AutoModelForMaskedLM if masked else task.auto
    if masked and len(settings.stages) > 1:
        raise SettingsError(
            "method 'distilbert' trains a masked language model: make it a run of its own, and say student.checkpoint after it"
        )
    if any(stage.method == "embedding" for stage in settings.stages) and not task.pooled:
        raise SettingsError(f"method 'embedding' needs data of kind 'similarity' or 'pairs', not {settings.data.kind!r}")
    answers = any("soft" in stage.weights() for stage in settings.stages)
    teacher = models.load_model(settings.teacher, kind, trained_head=answers, **({} if masked else task.head_config()))
    if answers and not masked:
        own = models.load_config(settings.teacher).id2label
        models.check_labels(settings.teacher, [own[index] for index in sorted(own)], task.labels)
    tokenizer = models.load_tokenizer(settings.teacher)
    models.check_vocabulary(teacher, tokenizer, settings.teacher)
    student = _student(settings, task, kind, teacher, tokenizer)
    for model in (teacher, student):
        models.check_length(model, settings.data.max_tokens, "data.max_tokens")
        for index, stage in enumerate(settings.stages):
            if stage.texts is not None:
                models.check_length(model, stage.texts.max_tokens, f"stages.{index}.texts.max_tokens")
    features = [_features(stage, task, tokenizer, teacher, root) for stage in settings.stages]
    out = Path(settings.out)
    outcome: Outcome | None = None
    for index, (stage, own) in enumerate(zip(settings.stages, features, strict=True)):
        aware = settings.quantization_aware and index == len(settings.stages) - 1
        folder = out / f"stage-{index + 1}"
        torch.manual_seed(stage.training.seed)  # of projections, whatever ran before
        objective = Matching(student, teacher.to(place.device), stage, task, tokenizer)
        together = _collate(stage, task, tokenizer)
        batches = ShuffledBatches(own, stage.training.batch_size, together, stage.training.seed)
        if dry:
            command.describe(f"{out.name}, stage {index + 1} ({stage.method})", student, own, batches, stage.training.total(batches))
            continue
        if objective.outputs_of_teacher:
            _label(own, objective, together, stage, folder, place, settings.teacher)
        if aware:
            models.prepare_int8(student, "the student")
        measure = None if masked else partial(tasks.evaluate, task, student, tokenizer, task.dev, place.device)
        title = f"{out.name}, stage {index + 1} of {len(settings.stages)}"
        outcome = train(objective, batches, stage.training, folder, settings, place, evaluate=measure, title=title)
        if index == len(settings.stages) - 1:
            load_best(folder, objective)
        if aware:
            from .fake_quantization import restore

            restore(student)
        if not outcome.finished:
            break
    if outcome is None or not place.first:
        return None
    return report.finish(out, student, tokenizer, None if masked else task, settings, outcome, place)


def _student(settings: Settings, task: tasks.Task, kind: Any, teacher: Any, tokenizer: Any) -> Any:
    head = {} if kind is transformers.AutoModelForMaskedLM else task.head_config()
    head |= models.dropout(settings.dropout, settings.student.checkpoint)
    torch.manual_seed(settings.stages[0].training.seed)  # a new head is random
    if settings.student.checkpoint is not None:
        student = models.load_model(settings.student.checkpoint, kind, **head)
        models.check_vocabulary(student, tokenizer, settings.student.checkpoint)
        return student
    rows = task.train or task.dev
    sample = task.features(rows[: _SAMPLES * 8 : 8] if len(rows) >= _SAMPLES * 8 else rows[:_SAMPLES], tokenizer)
    batches = [batch for _, batch in in_order(sample, _SAMPLES, task.collate(tokenizer))]
    return make_student(settings.student, teacher, kind, head, batches)


def _features(stage: Stage, task: tasks.Task, tokenizer: Any, teacher: Any, root: Path) -> list[Feature]:
    if stage.texts is not None:
        made = texts.features(texts.read(stage.texts, root), tokenizer, stage.texts.max_tokens)
    else:
        made = task.features(task.train, tokenizer)
        if stage.method == "embedding":  # each text of a pair is an example
            made = [text for each in made for text in each["texts"]]
    if not made:
        raise SettingsError(f"method {stage.method!r} has nothing to train on: say 'texts' in its stage or 'train' in [data]")
    if stage.augment is not None:
        table = neighbours(teacher.get_input_embeddings().weight.detach(), tokenizer, stage.augment.neighbours)
        made = augmented(made, table, stage.augment, stage.training.seed)
    return made


def _collate(stage: Stage, task: tasks.Task, tokenizer: Any) -> Collate:
    own = stage.texts is None and stage.method != "embedding"
    return task.collate(tokenizer) if own else partial(collate, pad_id=tokenizer.pad_token_id)


def _label(features: list[Feature], objective: Matching, together: Collate, stage: Stage, folder: Path, place: Place, teacher: str) -> None:
    """Give each feature what the teacher says of it, once for all epochs and processes; kept in the folder, under a digest of teacher and
    texts. Raises DistillError when it cannot be written."""
    kept = folder / f"teacher-{objective.teacher_digest(features, stage.labels_by)}.npy"

    def labels() -> np.ndarray:
        if kept.exists():
            found: np.ndarray = np.load(kept)
            return found
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if stage.labels_by == "int8":
                found = _labels_by_runtime(features, stage, folder, teacher)
            else:
                found = _labels_by_pytorch(features, objective, together, 4 * stage.training.batch_size, place)
            with (folder / ".teacher.npy").open("wb") as file:
                np.save(file, found)
            (folder / ".teacher.npy").replace(kept)
        except OSError as error:
            raise DistillError(f"{kept}: cannot be written: {error.strerror or error}: make room and give the same command again") from None
        return found

    for feature, row in zip(features, first_alone(labels, place), strict=True):
        feature["teacher"] = row


def _labels_by_pytorch(features: list[Feature], objective: Matching, together: Collate, size: int, place: Place) -> np.ndarray:
    """float32 (features, labels or dim) by the teacher's checkpoint."""
    rows: list[Any] = [None] * len(features)
    with tqdm(total=len(features), desc="teacher", unit="text", disable=None) as bar:
        for places, batch in in_order(features, size, together):
            for index, row in zip(places, objective.label(batch, place), strict=True):
                rows[index] = row
            bar.update(len(places))
    return np.stack(rows)


def _labels_by_runtime(features: list[Feature], stage: Stage, folder: Path, teacher: str) -> np.ndarray:
    """float32 (features, labels or dim) by an int8 file of the teacher."""
    path = models.export(models.find_checkpoint(teacher), folder / ".teacher.tbrt", drop_unused_rows=True)
    try:
        model = runtime.load(path)
        parts = [features[begin : begin + _LABELLED_AT_ONCE] for begin in range(0, len(features), _LABELLED_AT_ONCE)]
        compute = model.encode_ids if stage.method == "embedding" else model.logits
        return np.concatenate([compute(*runtime.ragged(part)) for part in tqdm(parts, desc="teacher", unit="group", disable=None)])
    finally:
        path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    return command.main("distill.distill", "Distill a teacher into a smaller student.", Settings, run, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
