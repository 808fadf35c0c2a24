"""The tasks that a checkpoint is fine-tuned for and measured on: what their data look like, their heads and losses, their metrics.

A `Task` turns rows of a file into tokenized features, says which class of `transformers` has the head, and turns the head's outputs into
predictions and numbers. `loss` is the usual one of that head: cross entropy, squared error, or of sentence vectors.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch.nn import functional

from tools import metrics
from tools.rows import DataError, column, iob1_to_iob2, read_conll, read_table
from tools.vector_tasks import numbers

from .batches import Collate, Feature, collate, in_order
from .devices import moved, of_all_processes
from .settings import DistillError, SettingsError
from .training import Batch

Kind = Literal["classification", "regression", "tagging", "answers", "choice", "similarity", "pairs"]


@dataclass(frozen=True)
class Data:
    """Files of a task, and where in them things stand."""

    kind: Kind
    """classification and regression of texts or pairs; tagging of words; answers to questions (SQuAD); choice among texts; similarity of
    the vectors of two texts (a score each); pairs of texts that belong together (contrastive)"""
    train: tuple[str, ...]
    dev: str
    text: str = "text"
    """column of the text; of a choice: of what stands before"""
    pair: str | None = None
    """column of the second text; of a choice: of a JSON list of texts"""
    label: str = "label"
    """column of the label, the number, or of a choice the place of the right one"""
    token_column: int = 0
    tag_column: int = -1
    max_tokens: int = 128
    stride: int = 128
    """tokens that two windows of a long context share (answers)"""

    def __post_init__(self) -> None:
        if self.kind in ("similarity", "pairs", "choice") and self.pair is None:
            raise ValueError(f"kind {self.kind!r} needs 'pair', the column of the second text")
        if self.max_tokens < 8:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 8")


class Task(ABC):
    """One kind of task, with its data read."""

    auto: Any
    """the class of `transformers` that has the head"""
    main_metric: str
    pooled = False
    """whether the task is about sentence vectors"""

    def __init__(self, data: Data, root: Path) -> None:
        self.data = data
        try:
            self.train = [row for path in data.train for row in self.read(root / path)]
            self.dev = self.read(root / data.dev)
            self.labels = self.find_labels()
        except DataError as error:
            raise DistillError(str(error)) from None

    @abstractmethod
    def read(self, path: Path) -> list[Any]:
        """The rows of a file. Raises DataError."""

    def find_labels(self) -> list[str]:
        """The labels, in the order of their ids; empty where there are none."""
        return []

    @abstractmethod
    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        """Rows as tokenized features."""

    @abstractmethod
    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        """Numbers by name from the head's outputs, one for each feature."""

    def head_config(self) -> dict[str, Any]:
        """What `config.json` says of the head."""
        names = {"id2label": dict(enumerate(self.labels)), "label2id": {name: index for index, name in enumerate(self.labels)}}
        return {"num_labels": len(self.labels), **names} if self.labels else {}

    def collate(self, tokenizer: Any) -> Collate:
        """How features become a batch."""
        return partial(collate, pad_id=tokenizer.pad_token_id)

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of a batch, a scalar."""
        result: torch.Tensor = model(**inputs(batch), labels=batch["labels"]).loss
        return result

    def outputs(self, model: torch.nn.Module, batch: Batch) -> list[Any]:
        """The head's output for each feature of a batch, as float32 arrays without padding."""
        logits = model(**inputs(batch)).logits.float().cpu().numpy()
        return list(logits)


def inputs(batch: Batch) -> Batch:
    """What a model takes of a batch."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}


def make_task(data: Data, root: str | Path) -> Task:
    """The task of some data, read. Raises DistillError for data that are missing or malformed."""
    from .reading import Answers

    kinds: dict[str, type[Task]] = {
        "classification": Classification,
        "regression": Regression,
        "tagging": Tagging,
        "answers": Answers,
        "choice": Choice,
        "similarity": Similarity,
        "pairs": Pairs,
    }
    return kinds[data.kind](data, Path(root))


def evaluate(
    task: Task, model: torch.nn.Module, tokenizer: Any, rows: Sequence[Any], device: torch.device, size: int = 64
) -> dict[str, Any]:
    """The task's numbers for a model; "score" is the main one, as a fraction or a correlation."""
    features = task.features(rows, tokenizer)
    found: list[Any] = [None] * len(features)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for places, batch in in_order(features, size, task.collate(tokenizer)):
            for place, output in zip(places, task.outputs(model, moved(batch, device)), strict=True):
                found[place] = output
    model.train(was_training)
    numbers = task.measure(found, rows, features)
    return {**numbers, "score": numbers[task.main_metric]}


class _Texts(Task):
    """Tasks over a table with a text or two in each row."""

    def read(self, path: Path) -> list[dict[str, str]]:
        rows = read_table(path)
        for name in (self.data.text, self.data.pair, self.data.label if self.needs_label() else None):
            if name is not None:
                column(path, rows, name)
        self.check(path, rows)
        return rows

    def check(self, path: Path, rows: Sequence[Mapping[str, str]]) -> None:
        """Raise DataError for a row that the task cannot use."""

    def needs_label(self) -> bool:
        """Whether a row must have a label."""
        return True

    def texts(self, rows: Sequence[Mapping[str, str]]) -> tuple[list[str], list[str] | None]:
        """First and second texts."""
        pair = self.data.pair
        return [row[self.data.text] for row in rows], [row[pair] for row in rows] if pair else None

    def tokenize(self, tokenizer: Any, first: list[str], second: list[str] | None = None) -> list[Feature]:
        """Texts or pairs as features, cut at the data's max_tokens."""
        encoded = tokenizer(first, second, truncation=True, max_length=self.data.max_tokens, return_attention_mask=False)
        names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
        return [dict(zip(names, values, strict=True)) for values in zip(*(encoded[name] for name in names), strict=True)]

    def numbers(self, rows: Sequence[Mapping[str, str]]) -> list[float]:
        """The label column as numbers."""
        return [float(row[self.data.label]) for row in rows]


class Classification(_Texts):
    """A label for each text or pair."""

    auto = transformers.AutoModelForSequenceClassification
    main_metric = "accuracy"

    def check(self, path: Path, rows: Sequence[Mapping[str, str]]) -> None:
        for number, row in enumerate(rows, 1):
            if not row[self.data.label].strip():
                raise DataError(f"{path}: row {number}: the column {self.data.label!r} is empty")

    def find_labels(self) -> list[str]:
        names = {row[self.data.label] for row in self.train}
        if len(names) < 2:
            found = f"the label {next(iter(names))!r} alone" if names else "no labels"
            raise DataError(f"data.train has {found}: there is nothing to tell apart")
        missing = sorted({row[self.data.label] for row in self.dev} - names)
        if missing:
            raise DataError(f"{self.data.dev}: label {missing[0]!r} does not occur in the training data")
        return sorted(names, key=lambda name: (int(name), "") if name.isdigit() else (0, name))

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        made = self.tokenize(tokenizer, *self.texts(rows))
        ids = {name: index for index, name in enumerate(self.labels)}
        return [{**feature, "labels": ids[row[self.data.label]]} for feature, row in zip(made, rows, strict=True)]

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        predicted = [self.labels[int(np.argmax(each))] for each in logits]
        return metrics.classification_metrics(predicted, [row[self.data.label] for row in rows], self.labels)


class Regression(_Texts):
    """A number for each text or pair."""

    auto = transformers.AutoModelForSequenceClassification
    main_metric = "spearman"

    def head_config(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def check(self, path: Path, rows: Sequence[Mapping[str, str]]) -> None:
        numbers(path, [row[self.data.label] for row in rows])

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        made = self.tokenize(tokenizer, *self.texts(rows))
        return [{**feature, "labels": number} for feature, number in zip(made, self.numbers(rows), strict=True)]

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        return metrics.regression_metrics([float(each[0]) for each in logits], self.numbers(rows))


class Tagging(Task):
    """A tag for each word: the first token of a word carries it."""

    auto = transformers.AutoModelForTokenClassification
    main_metric = "score"

    def read(self, path: Path) -> list[tuple[list[str], list[str]]]:
        return [(words, iob1_to_iob2(tags)) for words, tags in read_conll(path, self.data.token_column, self.data.tag_column)]

    def find_labels(self) -> list[str]:
        names = {tag for _, tags in self.train for tag in tags}
        inside = {f"I-{name[2:]}" for name in names if name.startswith("B-")}
        return sorted(names | inside, key=lambda name: (name != "O", name[2:] if name[1:2] == "-" else name, name))

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        ids = {name: index for index, name in enumerate(self.labels)}
        words = [row[0] for row in rows]
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.data.max_tokens)
        made = []
        for index, (_, tags) in enumerate(rows):
            places = encoded.word_ids(index)
            first = [place is not None and place != before for place, before in zip(places, [None, *places], strict=False)]
            labels = [ids.get(tags[place], 0) if begins else -100 for place, begins in zip(places, first, strict=True)]
            feature = {name: encoded[name][index] for name in ("input_ids", "token_type_ids") if name in encoded}
            tagged = tuple(place for place, begins in zip(places, first, strict=True) if begins)
            made.append({**feature, "labels": labels, "words": tagged})
        return made

    def outputs(self, model: torch.nn.Module, batch: Batch) -> list[Any]:
        found = model(**inputs(batch)).logits.argmax(-1).cpu().numpy()
        labels = batch["labels"].cpu().numpy()
        return [row[kept != -100] for row, kept in zip(found, labels, strict=True)]

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        predicted = []
        for found, feature, (words, _) in zip(logits, features, rows, strict=True):
            tags = [self.labels[0]] * len(words)  # of words that were cut off or have no token
            for place, index in zip(feature["words"], found, strict=True):
                tags[place] = self.labels[index]
            predicted.append(tags)
        numbers = metrics.tagging_metrics(predicted, [tags for _, tags in rows])
        return {**numbers, "score": numbers.get("f1", numbers["accuracy"])}


class Choice(_Texts):
    """Which of several texts goes on best."""

    auto = transformers.AutoModelForMultipleChoice
    main_metric = "accuracy"

    def check(self, path: Path, rows: Sequence[Mapping[str, str]]) -> None:
        for number, row in enumerate(rows, 1):
            try:
                choices, right = json.loads(row[self.data.pair or ""]), int(row[self.data.label])
                good = isinstance(choices, list) and all(isinstance(each, str) for each in choices) and 0 <= right < len(choices)
            except ValueError:
                good = False
            if not good:
                raise DataError(
                    f"{path}: row {number}: {self.data.pair!r} must be a JSON list of texts, {self.data.label!r} the place of one, from 0"
                )

    def find_labels(self) -> list[str]:
        for where, rows in (("data.train", self.train), (self.data.dev, self.dev)):
            counts = {len(json.loads(row[self.data.pair or ""])) for row in rows}
            if len(counts) > 1:
                raise DataError(f"{where}: rows have {' and '.join(map(str, sorted(counts)))} choices: every row must have the same number")
        return []

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        made = []
        for row in rows:
            choices, right = json.loads(row[self.data.pair or ""]), int(row[self.data.label])
            tokenized = self.tokenize(tokenizer, [row[self.data.text]] * len(choices), choices)
            made.append({"input_ids": [each["input_ids"] for each in tokenized], "choices": tokenized, "labels": right})
        return made

    def collate(self, tokenizer: Any) -> Collate:
        def together(features: Sequence[Feature]) -> Batch:
            batch = collate([choice for each in features for choice in each["choices"]], tokenizer.pad_token_id)
            made = {name: value.view(len(features), -1, value.shape[-1]) for name, value in batch.items() if name != "tokens"}
            return {**made, "tokens": batch["tokens"], "labels": torch.tensor([each["labels"] for each in features])}

        return together

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        right = [each["labels"] for each in features]
        return {"accuracy": float(np.mean([int(np.argmax(each)) == place for each, place in zip(logits, right, strict=True)]))}


def mean_vectors(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Sentence vectors, float32 (texts, hidden): the mean of the last hidden states of a text's tokens, divided by its length."""
    states = model(**inputs(batch)).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
    return functional.normalize(((states * mask).sum(1) / mask.sum(1)).float(), dim=-1)


class Pairs(_Texts):
    """Sentence vectors from pairs of texts that belong together: each text must find its own among the second texts of the batch."""

    auto = transformers.AutoModel
    main_metric = "accuracy"
    pooled = True
    temperature = 0.05

    def needs_label(self) -> bool:
        return False

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        first, second = self.texts(rows)
        both = zip(self.tokenize(tokenizer, first), self.tokenize(tokenizer, second or []), strict=True)
        return [{"input_ids": max(a["input_ids"], b["input_ids"], key=len), "texts": (a, b)} for a, b in both]

    def collate(self, tokenizer: Any) -> Collate:
        def together(features: Sequence[Feature]) -> Batch:
            both = [each["texts"][side] for side in (0, 1) for each in features]
            batch = collate(both, tokenizer.pad_token_id)
            if "score" in features[0]:
                batch["score"] = torch.tensor([each["score"] for each in features])
            return batch

        return together

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Cross entropy of the right text among those of the batch in all processes, cosine / 0.05 (Henderson et al. 2017, section 4).

        Each accumulated part of a batch is one of its own.
        """
        first, second = mean_vectors(model, batch).chunk(2)
        every, begin = of_all_processes(second)
        right = torch.arange(begin, begin + len(first), device=first.device)
        return functional.cross_entropy(first @ every.T / self.temperature, right)

    def outputs(self, model: torch.nn.Module, batch: Batch) -> list[Any]:
        first, second = mean_vectors(model, batch).cpu().numpy().reshape(2, len(batch["input_ids"]) // 2, -1)
        return list(np.stack([first, second], 1))

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        first, second = np.stack(logits, 1)
        return {"accuracy": float(np.mean((first @ second.T).argmax(1) == np.arange(len(first))))}


class Similarity(Pairs):
    """Sentence vectors from scores: the cosine of two texts is to be their score, scaled to 0…1."""

    main_metric = "spearman"

    def needs_label(self) -> bool:
        return True

    def check(self, path: Path, rows: Sequence[Mapping[str, str]]) -> None:
        numbers(path, [row[self.data.label] for row in rows])

    def find_labels(self) -> list[str]:
        self._largest = max(self.numbers(self.train or self.dev))
        if self._largest <= 0:
            raise DataError(f"column {self.data.label!r}: no score is above 0")
        return []

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        made = super().features(rows, tokenizer)
        return [{**each, "score": number / self._largest} for each, number in zip(made, self.numbers(rows), strict=True)]

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Squared error of the cosine (Reimers and Gurevych 2019, section 3: regression objective)."""
        first, second = mean_vectors(model, batch).chunk(2)
        return functional.mse_loss((first * second).sum(-1), batch["score"])

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        cosines = [float(first @ second) for first, second in logits]
        return metrics.regression_metrics(cosines, self.numbers(rows))

    def head_config(self) -> dict[str, Any]:
        return {}


def check_kind(task: Task, what: str) -> None:
    """Raise SettingsError for a task that has no logits of texts, where these are needed."""
    if not isinstance(task, Classification | Regression):
        raise SettingsError(f"{what} needs data of kind 'classification' or 'regression', not {task.data.kind!r}")
