"""Heads of checkpoints: which one config.json names, its labels, and where its weights are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.format import layout

from . import quantize
from .architectures import Architecture
from .hf import ConversionError, Weights, read_json_object

# The end of a class name in config.json's "architectures" → the head.
_CLASSES = {
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMultipleChoice": "multiple_choice",
    "ForNextSentencePrediction": "next_sentence",
    "ElectraForPreTraining": "replaced_token",
}
# Heads that are another kind with labels of their own: kind, labels, problem.
_FIXED = {
    "question_answering": ("question_answering", ("start", "end"), "single_label"),
    "multiple_choice": ("sequence_classification", ("choice",), "regression"),
    "next_sentence": ("sequence_classification", ("next", "random"), "single_label"),
    "replaced_token": ("token_classification", ("replaced",), "multi_label"),
}
_PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
NONE = "none"


@dataclass(frozen=True)
class Head:
    """A head: its kind (`layout.HEADS`), what it is for, its labels in the order of its outputs, and what these mean."""

    kind: str
    task: str
    labels: tuple[str, ...]
    problem: str = "single_label"


def read_head(directory: Path) -> Head | None:
    """The head that config.json names, or None. Raises ConversionError for labels that are not understood."""
    path = directory / "config.json"
    values = read_json_object(path)
    classes = values.get("architectures") or []
    kinds = [kind for name in classes for end, kind in _CLASSES.items() if str(name).endswith(end)]
    if not kinds:
        return None
    if kinds[0] in _FIXED:
        kind, names, meaning = _FIXED[kinds[0]]
        return Head(kind, kinds[0], names, meaning)
    labels = _labels(path, values)
    problem = values.get("problem_type")
    if problem is not None and problem not in _PROBLEMS:
        raise ConversionError(f"{path}: problem_type is {problem!r}; known: {', '.join(_PROBLEMS)}")
    if kinds[0] == "token_classification":
        return Head(kinds[0], kinds[0], labels)
    # As transformers does: one output is a number, more are one label of all.
    named = _PROBLEMS[problem] if problem else "regression" if len(labels) == 1 else "single_label"
    return Head(kinds[0], kinds[0], labels, named)


def _labels(path: Path, values: dict[str, Any]) -> tuple[str, ...]:
    names = values.get("id2label")
    if names is None:
        count = values.get("num_labels", 2)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= layout.MAX_LABELS:
            raise ConversionError(f"{path}: num_labels is {count!r}; it must be an integer from 1 to {layout.MAX_LABELS}")
        return tuple(f"LABEL_{index}" for index in range(count))
    try:
        numbered = {int(index): name for index, name in names.items()}
    except (AttributeError, TypeError, ValueError):
        raise ConversionError(f"{path}: id2label is no object of labels by number") from None
    labels = tuple(numbered.get(index) for index in range(len(numbered)))
    if not 1 <= len(labels) <= layout.MAX_LABELS or not all(isinstance(label, str) and label and "\0" not in label for label in labels):
        raise ConversionError(f"{path}: id2label must have a name for each number from 0 on")
    if len(set(labels)) != len(labels):
        raise ConversionError(f"{path}: id2label has the same name for two numbers")
    return labels  # type: ignore[return-value]


def head_layers(task: str, architecture: Architecture) -> tuple[str, str, str]:
    """Where the weights of a head are: its dense layer or "", the activation behind that, its output layer."""
    if task == "sequence_classification":
        return architecture.pooled
    if task in ("multiple_choice", "next_sentence"):
        dense, activation, output = architecture.chosen or architecture.pooled
        return dense, activation, "cls.seq_relationship" if task == "next_sentence" else output
    if task == "replaced_token":
        return "discriminator_predictions.dense", "gelu", "discriminator_predictions.dense_prediction"
    return "", "none", "classifier" if task == "token_classification" else "qa_outputs"


def head_tensors(
    head: Head | None, architecture: Architecture, weights: Weights, hidden_size: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The tensors of a `.tbrt` file for a head, in float32, and its config fields."""
    if head is None:
        return {}, dict.fromkeys(("head", "labels", "head_activation", "problem", "labels_bytes"), 0)
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, source: str, outputs: int) -> None:
        matrix = weights.take(f"{source}.weight", outputs, hidden_size)
        bias = weights.take(f"{source}.bias", outputs)
        tensors.update(quantize.linear_tensors(name, [matrix], [bias], False)[0])

    dense, activation, output = head_layers(head.task, architecture)
    if dense:
        linear("head.dense", dense, hidden_size)
    linear("head.output", output, len(head.labels))
    texts = [label.encode() for label in head.labels]
    joined = b"".join(texts)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
    tensors["head.labels"] = quantize.pad_vector(np.frombuffer(joined, np.uint8), layout.ALIGNMENT)
    tensors["head.label_offsets"] = quantize.pad_vector(offsets, layout.LANES)
    return tensors, {
        "head": layout.HEADS[head.kind],
        "labels": len(head.labels),
        "head_activation": layout.HEAD_ACTIVATIONS[activation],
        "problem": layout.PROBLEMS[head.problem],
        "labels_bytes": len(joined),
    }
