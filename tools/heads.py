"""Heads of checkpoints: which one config.json names, its labels, and where its weights are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.format import layout

from . import blocks
from .architectures import ARCHITECTURES, Architecture, MaskedHead
from .hf import ConversionError, EncoderConfig, Weights, read_json_object

# The end of a class name in config.json's "architectures" → what its heads are for; the first one is taken where none is asked for.
_CLASSES = {
    "ForSequenceClassification": ("sequence_classification",),
    "ForTokenClassification": ("token_classification",),
    "ForQuestionAnswering": ("question_answering",),
    "ForMultipleChoice": ("multiple_choice",),
    "ForNextSentencePrediction": ("next_sentence",),
    "ElectraForPreTraining": ("replaced_token",),
    "ForMaskedLM": ("masked_token",),
    "AlbertForPreTraining": ("masked_token", "sentence_order"),
    "BertForPreTraining": ("masked_token", "next_sentence"),
}
# Heads that are another kind with labels of their own: kind, labels, problem.
_FIXED = {
    "question_answering": ("question_answering", ("start", "end"), "single_label"),
    "multiple_choice": ("sequence_classification", ("choice",), "regression"),
    "next_sentence": ("sequence_classification", ("next", "random"), "single_label"),
    "sentence_order": ("sequence_classification", ("in_order", "swapped"), "single_label"),
    "replaced_token": ("token_classification", ("replaced",), "multi_label"),
    "masked_token": ("masked_token", (), "single_label"),
}
_PROBLEMS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
# transformers' names of activations behind the dense layer of a head.
_ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "tanh": "tanh", "relu": "relu"}
_FIELDS = ("head", "labels", "head_activation", "problem", "labels_bytes", "transform_activation", "own_decoder")
NONE = "none"
TASKS = (NONE, *dict.fromkeys(task for tasks in _CLASSES.values() for task in tasks))
"""What `--head` may ask for."""


@dataclass(frozen=True)
class Head:
    """A head: its kind (`layout.HEADS`), what it is for, its labels in the order of its outputs, and what these mean."""

    kind: str
    task: str
    labels: tuple[str, ...]
    problem: str = "single_label"
    others: tuple[str, ...] = ()
    """What the checkpoint has heads for beside this one."""

    activation: str = ""
    """Behind its dense layer, where that is not the architecture's."""


def read_head(directory: Path, wanted: str | None = None, notes: list[str] | None = None) -> Head | None:
    """The head that config.json names, or None; `wanted`: one of TASKS, where there are several, or to leave it out.

    `notes` gets one of each class with a head that is not known. Raises ConversionError for labels and settings that are not
    understood, and where the checkpoint has no head that is wanted.
    """
    path = directory / "config.json"
    values = read_json_object(path)
    if wanted is not None and wanted not in TASKS:
        raise ConversionError(f"head is {wanted!r}; known: {', '.join(TASKS)}")
    classes = values.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConversionError(f"{path}: architectures is {classes!r}; it must be a list of class names")
    found = [tasks for name in classes for end, tasks in _CLASSES.items() if name.endswith(end)]
    tasks = found[0] if found else ()
    if notes is not None and wanted != NONE:
        unknown = [name for name in classes if re.search("For[A-Z]", name) and not name.endswith(tuple(_CLASSES))]
        notes += [f"{path.name}: the head of {name} is not known: left out" for name in unknown]
    if wanted not in (None, NONE) and not tasks:
        tasks = (str(wanted),)  # DeBERTa's published directories name no class
    if wanted not in (None, NONE) and wanted not in tasks:
        raise ConversionError(f"{path}: no head for {wanted}: architectures {classes} has {', '.join(tasks) or 'none'}")
    if not tasks or wanted == NONE:
        return None
    task = wanted or tasks[0]
    activation = _activation(path, values, task)
    if task in _FIXED:
        kind, names, meaning = _FIXED[task]
        return Head(kind, task, names, meaning, tuple(each for each in tasks if each != task), activation)
    labels = _labels(path, values)
    problem = values.get("problem_type")
    if problem is not None and problem not in _PROBLEMS:
        raise ConversionError(f"{path}: problem_type is {problem!r}; known: {', '.join(_PROBLEMS)}")
    if task == "token_classification":
        return Head(task, task, labels)
    # As transformers does: one output is a number, more are one label of all.
    named = _PROBLEMS[problem] if problem else "regression" if len(labels) == 1 else "single_label"
    return Head(task, task, labels, named, activation=activation)


def _activation(path: Path, values: dict[str, Any], task: str) -> str:
    """What config.json names as the activation of a head of texts, or "". Raises ConversionError for a head of a form that is not known."""
    kind = ARCHITECTURES.get(str(values.get("model_type")))
    if kind is None:
        return ""
    if task == "multiple_choice":
        for key, known in kind.chosen_settings.items():
            if values.get(key, known) != known:
                raise ConversionError(f"{path}: {key} is {values[key]!r}; with a head for multiple choice, only {known!r} is supported")
    if task not in ("sequence_classification", "multiple_choice") or kind.pooled_activation not in values:
        return ""
    name = values[kind.pooled_activation]
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ConversionError(f"{path}: {kind.pooled_activation} is {name!r}; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


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
    if task == "sentence_order":
        return *architecture.pooled[:2], "sop_classifier.classifier"
    if task in ("multiple_choice", "next_sentence"):
        dense, activation, output = architecture.chosen or architecture.pooled
        return dense, activation, "cls.seq_relationship" if task == "next_sentence" else output
    if task == "replaced_token":
        return "discriminator_predictions.dense", "gelu", "discriminator_predictions.dense_prediction"
    return "", "none", "classifier" if task == "token_classification" else "qa_outputs"


def _masked_head(weights: Weights, architecture: Architecture) -> MaskedHead:
    """Where the weights of a head that predicts masked tokens are in a checkpoint, if it has one."""
    own = architecture.own_masked
    return own if own is not None and f"{own.dense}.weight" in weights.unread else architecture.masked


def drop_missing_head(head: Head | None, weights: Weights, architecture: Architecture) -> tuple[Head | None, list[str]]:
    """The head, or None where it predicts masked tokens and the checkpoint has nothing of it, and notes about that.

    Directories of sentence vectors keep the class name of the model that they were made of, without its head.
    """
    if head is None:
        return None, []
    if head.kind == "masked_token" and f"{_masked_head(weights, architecture).dense}.weight" not in weights.unread:
        return None, [f"{weights.path.name}: no weights of the head for masked_token that config.json names: left out"]
    return head, [f"the head for {head.task} was taken; --head names another one: {', '.join(head.others)}"] if head.others else []


def head_tensors(
    head: Head | None, encoder: EncoderConfig, weights: Weights, vocab_size: int, int8: bool
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The tensors of a `.tbrt` file for a head, and its config fields.

    They are float32, but for the table of a head whose decoder is not the embedding table: `int8` like that. Called before the encoder's
    tensors are taken.
    """
    fields = dict.fromkeys(_FIELDS, 0)
    if head is None:
        return {}, fields
    fields["head"] = layout.HEADS[head.kind]
    if head.kind == "masked_token":
        made, more = _masked_tensors(encoder, weights, vocab_size, int8)
        return made, fields | more
    hidden_size = encoder.hidden_size
    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, source: str, outputs: int) -> None:
        matrix = weights.take(f"{source}.weight", outputs, hidden_size)
        bias = weights.take(f"{source}.bias", outputs)
        tensors.update(blocks.linear_tensors(name, [matrix], [bias], False)[0])

    dense, activation, output = head_layers(head.task, encoder.architecture)
    if dense:
        linear("head.dense", dense, hidden_size)
    linear("head.output", output, len(head.labels))
    texts = [label.encode() for label in head.labels]
    joined = b"".join(texts)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.uint32)
    tensors["head.labels"] = blocks.pad_vector(np.frombuffer(joined, np.uint8), layout.ALIGNMENT)
    tensors["head.label_offsets"] = blocks.pad_vector(offsets, layout.LANES)
    return tensors, fields | {
        "labels": len(head.labels),
        "head_activation": layout.HEAD_ACTIVATIONS[head.activation or activation],
        "problem": layout.PROBLEMS[head.problem],
        "labels_bytes": len(joined),
    }


def _masked_tensors(encoder: EncoderConfig, weights: Weights, vocab_size: int, int8: bool) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    source = _masked_head(weights, encoder.architecture)
    size = encoder.embedding_size or encoder.hidden_size
    matrix = weights.take(f"{source.dense}.weight", size, encoder.hidden_size)
    tensors = blocks.linear_tensors("head.transform", [matrix], [weights.take(f"{source.dense}.bias", size)], False)[0]
    for part in ("weight", "bias"):
        tensors[f"head.norm.{part}"] = blocks.pad_vector(weights.take(f"{source.norm}.{part}", size), layout.COLUMN_MULTIPLE)
    words, decoder = (weights.unread.get(f"{name}.weight") for name in ("embeddings.word_embeddings", source.decoder))
    own = decoder is not None or not encoder.tied
    if own:
        table = weights.take(f"{source.decoder}.weight", encoder.vocab_size, size)
        own = words is None or not np.array_equal(table, words)
        if own:
            tensors.update(blocks.table_tensors("head.decoder", table[:vocab_size], int8)[0])
    # Tied decoders have the bias under the first name, or under both; of others, the second one counts.
    order = (f"{source.decoder}.bias", source.bias) if own else (source.bias, f"{source.decoder}.bias")
    names = [name for name in order if name in weights.unread] or [f"{source.decoder}.bias"]
    biases = [weights.take(name, encoder.vocab_size) for name in names]
    tensors["head.decoder.bias"] = blocks.pad_vector(biases[0][:vocab_size], layout.LANES)
    activation = source.activation or encoder.activation
    return tensors, {"transform_activation": layout.TRANSFORM_ACTIVATIONS[activation], "own_decoder": int(own)}
