"""The runtime in the place of PyTorch: the outputs of a `.tbrt` file's head for the features of a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinybert_rt as tb

from .batches import Feature
from .models import check_labels
from .settings import DistillError
from .tasks import Task

_HEADS = {
    "classification": "sequence_classification",
    "regression": "sequence_classification",
    "choice": "sequence_classification",
    "tagging": "token_classification",
    "answers": "question_answering",
}
"""the heads of a file that tasks need; sentence vectors need none"""


def evaluate(task: Task, path: str | Path, rows: Sequence[Any], tokenizer: Any) -> dict[str, float]:
    """The task's numbers for a `.tbrt` file, from the same token ids as PyTorch gets. Raises DistillError."""
    model = load(path)
    _check_head(task, model, path)
    features = task.features(rows, tokenizer)
    try:
        found = outputs(task, model, features)
    except tb.TinyBertError as error:
        raise DistillError(f"{path}: {error}") from None
    numbers = task.measure(found, rows, features)
    return {**numbers, "score": numbers[task.main_metric]}


def _check_head(task: Task, model: Any, path: str | Path) -> None:
    """Raise DistillError for a head that is not the task's."""
    head, wanted = model.info()["head"], _HEADS.get(task.data.kind)
    if wanted is None:
        return
    if head != wanted:
        raise DistillError(f"{path}: its head is {head!r}, data of kind {task.data.kind!r} need {wanted!r}")
    if task.data.kind in ("regression", "choice") and len(model.labels) != 1:
        raise DistillError(f"{path}: its head has {len(model.labels)} outputs, data of kind {task.data.kind!r} need one")
    check_labels(str(path), model.labels, task.labels)


def load(path: str | Path) -> Any:
    """A model of the runtime. Raises DistillError."""
    try:
        return tb.load(str(path))
    except tb.TinyBertError as error:
        raise DistillError(f"{path}: {error}") from None


def outputs(task: Task, model: Any, features: Sequence[Feature]) -> list[Any]:
    """What `Task.outputs` gives, for all features, computed by the runtime."""
    kind = task.data.kind
    if kind in ("similarity", "pairs"):
        first, second = (ragged([each["texts"][side] for each in features]) for side in (0, 1))
        return list(np.stack([model.encode_ids(*first), model.encode_ids(*second)], 1))
    if kind == "choice":
        scores = model.logits(*ragged([choice for each in features for choice in each["choices"]])).ravel()
        return np.split(scores, np.cumsum([len(each["choices"]) for each in features])[:-1])
    ids, offsets, types = ragged(features)
    logits = model.logits(ids, offsets, types)
    if kind == "tagging":
        tokens = np.split(logits.argmax(1), offsets[1:-1])
        return [found[np.array(each["labels"]) != -100] for found, each in zip(tokens, features, strict=True)]
    return np.split(logits, offsets[1:-1]) if kind == "answers" else list(logits)


def ragged(features: Sequence[Feature]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """ids int32 (tokens,), offsets int64 (texts + 1,), types uint8 (tokens,) or None."""
    ids = np.concatenate([np.array(each["input_ids"], np.int32) for each in features])
    offsets = np.concatenate([[0], np.cumsum([len(each["input_ids"]) for each in features])]).astype(np.int64)
    types = None
    if "token_type_ids" in features[0]:
        types = np.concatenate([np.array(each["token_type_ids"], np.uint8) for each in features])
    return ids, offsets, types
