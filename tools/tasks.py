"""Tasks that a model file is measured on: data from files, predictions by the runtime, measures by `metrics`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.errors import MissingHeadError
from tinybert_rt.reading import token_outputs

from . import rows, squad, vector_tasks
from .metrics import classification_metrics, regression_metrics, tagging_metrics
from .rows import DataError
from .vector_tasks import Encode

if TYPE_CHECKING:
    from tinybert_rt.engine.texts import Text
    from tinybert_rt.model import Model


@dataclass(frozen=True)
class Task:
    """What is measured on which data.

    Attributes:
        name: one of TASKS.
        data: the file; the folder of stsb and scifact.
        text, pair, label, choices: columns of a table; pair may be None.
        token_column, tag_column: of a file of tagged sentences.
    """

    name: str
    data: Path
    text: str | None = None
    pair: str | None = None
    label: str = "label"
    choices: str = "choices"
    token_column: int = 0
    tag_column: int = -1


def add_options(command: argparse.ArgumentParser, required: bool) -> None:
    """The options that say a Task."""
    command.add_argument("--task", choices=tuple(TASKS), required=required, help="what is measured")
    command.add_argument("--data", type=Path, required=required, metavar="PATH", help="the file; of stsb and scifact the folder of data")
    command.add_argument("--text", metavar="COLUMN", help="the column of the text, the first text, or the prompt")
    command.add_argument("--pair", metavar="COLUMN", help="the column of the second text")
    command.add_argument("--label", default="label", metavar="COLUMN", help="the column of the label or score (default: label)")
    command.add_argument("--choices", default="choices", metavar="COLUMN", help="the column of a list of texts (default: choices)")
    command.add_argument("--token-column", type=int, default=0, metavar="N", help="of a file of tagged tokens (default: 0, the first)")
    command.add_argument("--tag-column", type=int, default=-1, metavar="N", help="of a file of tagged tokens (default: -1, the last)")


def task_of(options: argparse.Namespace) -> Task:
    """The Task of these options."""
    return Task(
        options.task,
        options.data,
        options.text,
        options.pair,
        options.label,
        options.choices,
        options.token_column,
        options.tag_column,
    )


def match_labels(path: Path, wanted: Sequence[str], labels: Sequence[str]) -> list[int]:
    """The numbers of a column of labels: their places in the model's labels, by name, or if no name fits, as numbers from 0 on.

    Raises DataError for a label that the model has not.
    """
    by_name = {label: index for index, label in enumerate(labels)}
    by_number = {str(index): index for index in range(len(labels))}
    known = by_name if any(each in by_name for each in wanted) else by_number
    for number, each in enumerate(wanted, 1):
        if each not in known:
            shown = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
            raise DataError(
                f"{path}: row {number}: {each!r} is no label of the model; it has {shown} (or 0 to {len(labels) - 1} for all rows)"
            )
    return [known[each] for each in wanted]


def _texts(task: Task, table: list[dict[str, str]]) -> list[Text]:
    if task.text is None:
        raise DataError(f"{task.data}: which column holds the text? There are {', '.join(table[0])}: say --text")
    first = rows.column(task.data, table, task.text)
    return list(first) if task.pair is None else list(zip(first, rows.column(task.data, table, task.pair), strict=True))


def _scores(model: Model, texts: list[Text]) -> tuple[np.ndarray, int]:
    """float32 (n, labels) of the head for texts, and how many texts were truncated."""
    groups = list(model.stream_scores(texts))
    return np.concatenate([each.vectors for each in groups]), sum(int(each.truncated.sum()) for each in groups)


def _classification(model: Model, task: Task) -> dict[str, Any]:
    table = rows.read_table(task.data)
    texts = _texts(task, table)
    if len(model.labels) < 2:
        raise MissingHeadError(f"{model.path}: the model's head has not several labels for a text, which classification needs")
    expected = match_labels(task.data, rows.column(task.data, table, task.label), model.labels)
    scores, truncated = _scores(model, texts)
    found = classification_metrics(scores.argmax(axis=1).tolist(), expected, range(len(model.labels)))
    return {"rows": len(table), **found, "truncated_texts": truncated}


def _regression(model: Model, task: Task) -> dict[str, Any]:
    table = rows.read_table(task.data)
    texts = _texts(task, table)
    if len(model.labels) != 1:
        raise MissingHeadError(f"{model.path}: the model has no head with one number for a text, which regression needs")
    expected = vector_tasks.numbers(task.data, rows.column(task.data, table, task.label))
    scores, truncated = _scores(model, texts)
    return {"rows": len(table), **regression_metrics(scores[:, 0], expected), "truncated_texts": truncated}


def _counting(model: Model) -> tuple[Encode, list[int]]:
    """Vectors by the model, and a list to which each call adds how many of its texts were truncated."""
    truncated: list[int] = []

    def encode(texts: list[str]) -> np.ndarray:
        encoded = model.encode_detailed(texts, truncation="truncate")
        truncated.append(int(encoded.truncated.sum()))
        return encoded.vectors

    return encode, truncated


def _pairs(model: Model, task: Task) -> dict[str, Any]:
    table = rows.read_table(task.data)
    if task.text is None or task.pair is None:
        raise DataError(f"{task.data}: which columns hold the two texts? There are {', '.join(table[0])}: say --text and --pair")
    first, second, scores = (rows.column(task.data, table, name) for name in (task.text, task.pair, task.label))
    encode, truncated = _counting(model)
    result = vector_tasks.similarity(encode, first, second, vector_tasks.numbers(task.data, scores))
    return {**result, "truncated_texts": sum(truncated)}


def predict_tags(model: Model, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    """A label for each token of sentences: that of the first of its pieces; of a token without any, "O".

    The tokens go through the model with a space between them; a sentence longer than the model takes, in windows.
    """
    texts = [" ".join(tokens) for tokens in sentences]
    found = []
    for tokens, (spans, outputs) in zip(sentences, token_outputs(model, [model.tokenize(text, spans=True) for text in texts]), strict=True):
        ends = np.cumsum([len(token) + 1 for token in tokens]) - 1
        begins = ends - [len(token) for token in tokens]
        first = np.searchsorted(spans[:, 1], begins, side="right")  # the first piece that ends inside or behind the token
        best = outputs.argmax(axis=1)
        inside = [at < len(spans) and spans[at, 0] < end for at, end in zip(first, ends, strict=True)]
        found.append([model.labels[best[at]] if here else "O" for at, here in zip(first, inside, strict=True)])
    return found


def _tagging(model: Model, task: Task) -> dict[str, Any]:
    sentences = rows.read_conll(task.data, task.token_column, task.tag_column)
    if model.info()["head"] != "token_classification":
        raise MissingHeadError(f"{model.path}: the model has no head that tags tokens")
    expected = [rows.iob1_to_iob2(tags) for _, tags in sentences]
    unknown = sorted({tag for tags in expected for tag in tags} - set(model.labels))
    if unknown:
        raise DataError(f"{task.data}: the model has no label {', '.join(unknown)}; it has {', '.join(model.labels)}: is it --tag-column?")
    predicted = predict_tags(model, [tokens for tokens, _ in sentences])
    return {"sentences": len(sentences), "tokens": sum(map(len, expected)), **tagging_metrics(predicted, expected)}


def _squad(model: Model, task: Task) -> dict[str, Any]:
    questions = squad.read_questions(task.data)
    if not questions:
        raise DataError(f"{task.data}: has no questions")
    if model.info()["head"] != "question_answering":
        raise MissingHeadError(f"{model.path}: the model has no head that answers questions")
    answers = squad.predict(model, questions, no_answer=any(not each.golds for each in questions))
    return {**squad.evaluate(questions, {name: each.text for name, each in answers})}


def _choice(model: Model, task: Task) -> dict[str, Any]:
    table = rows.read_table(task.data)
    prompts = [str(text) for text in _texts(task, table)]
    lists = rows.column(task.data, table, task.choices)
    expected = rows.column(task.data, table, task.label)
    right = 0
    for number, (prompt, choices, label) in enumerate(zip(prompts, map(_json_list, lists), expected, strict=True), 1):
        if choices is None:
            raise DataError(f"{task.data}: row {number}: {task.choices} holds no list of texts")
        right += model.choose(prompt, choices).index == match_labels(task.data, [label], choices)[0]
    return {"rows": len(table), "accuracy": right / len(table)}


def _json_list(text: str) -> list[str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and value and all(isinstance(each, str) for each in value) else None


def _stsb(model: Model, task: Task, reference: Encode | None = None) -> dict[str, Any]:
    encode, truncated = _counting(model)
    return {**vector_tasks.stsb(encode, task.data, reference), "truncated_texts": sum(truncated)}


def _scifact(model: Model, task: Task) -> dict[str, Any]:
    encode, truncated = _counting(model)
    return {**vector_tasks.scifact(encode, task.data), "truncated_texts": sum(truncated)}


@dataclass(frozen=True)
class _Kind:
    run: Callable[[Model, Task], dict[str, Any]]
    headline: tuple[str, ...]
    """The measure that stands for the task: the first of these that it has."""

    whole: float = 1.0
    """What a perfect model has."""


TASKS = {
    "stsb": _Kind(_stsb, ("spearman",)),
    "scifact": _Kind(_scifact, ("ndcg_at_10",)),
    "classification": _Kind(_classification, ("accuracy",)),
    "regression": _Kind(_regression, ("spearman",)),
    "pairs": _Kind(_pairs, ("spearman",)),
    "tagging": _Kind(_tagging, ("f1", "accuracy")),
    "choice": _Kind(_choice, ("accuracy",)),
    "squad": _Kind(_squad, ("f1",), 100.0),
}
"""What can be measured, by name."""


def measure(model: Model, task: Task, reference: Encode | None = None) -> dict[str, Any]:
    """The measures of a model by name, beside counts of what was measured and the seconds that it took.

    With a reference, also how close vectors are to those that it makes (stsb alone).

    Raises DataError for data that cannot be used, MissingHeadError and other TinyBertErrors, and ConversionError of a SQuAD file.
    """
    if task.name not in TASKS:
        raise DataError(f"task is {task.name!r}; known: {', '.join(TASKS)}")
    if reference is not None and task.name != "stsb":
        raise DataError("vectors are compared with those of a reference on stsb only")
    started = time.perf_counter()
    result = TASKS[task.name].run(model, task) if reference is None else _stsb(model, task, reference)
    return {"task": task.name, **result, "seconds": result.get("seconds", time.perf_counter() - started)}


def headline(result: dict[str, Any], metric: str | None = None) -> tuple[str, float]:
    """The measure that stands for a result of `measure`, or the one named, on a scale to 100. Raises DataError if it has none such."""
    kind = TASKS[result["task"]]
    names = kind.headline if metric is None else (metric,)
    for name in names:
        if isinstance(result.get(name), float):
            return name, 100 / kind.whole * float(result[name])
    raise DataError(f"{result['task']} has no measure {names[0]!r}; it has {', '.join(result)}")
