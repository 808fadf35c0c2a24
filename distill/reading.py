"""Answers to questions out of contexts: SQuAD's files as windows of tokens, and their scores as answers (Devlin et al. 2019, 4)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from tools import squad
from tools.hf import ConversionError
from tools.rows import DataError

from .batches import Feature
from .tasks import Data, Task, inputs
from .training import Batch

_LONGEST_ANSWER = 30
_BEST = 20
_SPECIAL = 4
"""The most special tokens of a window: RoBERTa's."""


class Question(NamedTuple):
    """A question of a SQuAD file; answers are (first character, text), none where there is no answer."""

    id: str
    text: str
    context: str
    answers: list[tuple[int, str]]


class Answers(Task):
    """The place of the answer in a context, or that there is none. A feature is a window of a context."""

    auto = transformers.AutoModelForQuestionAnswering
    main_metric = "f1"

    def __init__(self, data: Data, root: Path) -> None:
        super().__init__(data, root)
        self.unanswerable = any(not each.answers for each in self.dev)

    def read(self, path: Path) -> list[Question]:
        """Raises DataError for a file that is none of SQuAD."""
        try:
            known = squad.read_questions(path)
            with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
                starts = {
                    str(each["id"]): [int(answer["answer_start"]) for answer in each["answers"]]
                    for article in json.load(file)["data"]
                    for paragraph in article["paragraphs"]
                    for each in paragraph["qas"]
                }
        except ConversionError as error:
            raise DataError(str(error)) from None
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is no SQuAD file with the places of answers: {error!r}") from None
        questions = [Question(each.id, each.text, each.context, list(zip(starts[each.id], each.golds, strict=True))) for each in known]
        for each in questions:
            for start, text in each.answers:
                if each.context[start : start + len(text)] != text:
                    raise DataError(f"{path}: question {each.id}: {text!r} does not stand at character {start} of its context")
        return questions

    def features(self, rows: Sequence[Any], tokenizer: Any) -> list[Feature]:
        """Windows; those without the (whole) answer have [CLS] as start and end (Devlin et al. 2019, section 4.3).

        A question has at most a quarter of a window.
        """
        encoded = tokenizer(
            _first_tokens([each.text.strip() for each in rows], tokenizer, self.data.max_tokens // 4),
            [each.context for each in rows],
            truncation="only_second",
            max_length=self.data.max_tokens,
            stride=min(self.data.stride, self.data.max_tokens // 2 - _SPECIAL),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        made = []
        for index, row in enumerate(encoded["overflow_to_sample_mapping"]):
            of_context = np.array([each == 1 for each in encoded.sequence_ids(index)])
            offsets = np.where(of_context[:, None], np.array(encoded["offset_mapping"][index]), -1)
            start = end = 0
            if rows[row].answers:
                begin, text = rows[row].answers[0]
                inside = of_context & (offsets[:, 0] < begin + len(text)) & (offsets[:, 1] > begin)
                places = np.flatnonzero(inside)
                if len(places) and offsets[places[0], 0] <= begin and offsets[places[-1], 1] >= begin + len(text):
                    start, end = int(places[0]), int(places[-1])
            feature = {name: encoded[name][index] for name in ("input_ids", "token_type_ids") if name in encoded}
            made.append({**feature, "start": start, "end": end, "question": row, "offsets": _Offsets(offsets)})
        return made

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        result: torch.Tensor = model(**inputs(batch), start_positions=batch["start"], end_positions=batch["end"]).loss
        return result

    def outputs(self, model: torch.nn.Module, batch: Batch) -> list[Any]:
        """float32 (tokens, 2) of each window: scores of being the start and the end."""
        found = model(**inputs(batch))
        scores = torch.stack([found.start_logits, found.end_logits], -1).float().cpu().numpy()
        return [row[:length] for row, length in zip(scores, batch["attention_mask"].sum(1).tolist(), strict=True)]

    def predictions(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, str]:
        """{question id: text}: the span of the largest sum of scores over all windows; "" where [CLS] has a larger one and there are
        questions without an answer (Devlin et al. 2019, sections 4.2 and 4.3)."""
        best: dict[int, tuple[float, str]] = {}
        nothing: dict[int, float] = {}
        for scores, feature in zip(logits, features, strict=True):
            row, offsets = feature["question"], feature["offsets"].values
            nothing[row] = min(nothing.get(row, np.inf), float(scores[0].sum()))
            inside = np.flatnonzero(offsets[:, 0] >= 0)
            starts = inside[np.argsort(-scores[inside, 0], kind="stable")[:_BEST]]
            ends = inside[np.argsort(-scores[inside, 1], kind="stable")[:_BEST]]
            sums = scores[starts, 0][:, None] + scores[ends, 1][None, :]
            lengths = ends[None, :] - starts[:, None] + 1
            sums[(lengths < 1) | (lengths > _LONGEST_ANSWER)] = -np.inf
            if not sums.size or sums.max() == -np.inf:
                continue
            a, b = np.unravel_index(sums.argmax(), sums.shape)
            if sums[a, b] > best.get(row, (-np.inf, ""))[0]:
                best[row] = (float(sums[a, b]), rows[row].context[offsets[starts[a], 0] : offsets[ends[b], 1]])
        chosen = {}
        for row, question in enumerate(rows):
            score, text = best.get(row, (-np.inf, ""))
            chosen[question.id] = "" if self.unanswerable and nothing.get(row, 0.0) > score else text
        return chosen

    def measure(self, logits: Sequence[Any], rows: Sequence[Any], features: Sequence[Feature]) -> dict[str, float]:
        """The official metric, as fractions."""
        questions = [squad.Question(each.id, each.text, each.context, [text for _, text in each.answers]) for each in rows]
        found = squad.evaluate(questions, self.predictions(logits, rows, features))
        return {name: value / 100 for name, value in found.items() if not name.endswith("total")}


def _first_tokens(texts: list[str], tokenizer: Any, most: int) -> list[str]:
    """The beginning of each text, cut behind its `most`-th token."""
    spans = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [text if len(each) <= most else text[: each[most - 1][1]] for text, each in zip(texts, spans, strict=True)]


class _Offsets(NamedTuple):
    """int (tokens, 2): the characters of the context that a token covers; −1 for the others. Wrapped, so that it stays out of batches."""

    values: np.ndarray
