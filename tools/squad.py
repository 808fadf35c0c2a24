"""Answer the questions of a SQuAD file with a question answering model, and measure the answers.

Usage:
    python -m tools.squad MODEL.tbrt DATA.json --out predictions.json
    python -m tools.squad MODEL.tbrt dev-v2.0.json.gz --out predictions.json --nbest nbest.json --null-odds odds.json

DATA has the official layout of SQuAD 1.1 or 2.0 (.json or .json.gz). predictions.json is {question id: text}, as the official
evaluation reads it; nbest.json has the best answers of each question with their scores and characters, odds.json how much likelier
no answer is than the best one, as a difference of logits. If some questions of DATA have no answer, "" is given where these odds are
above --null-threshold. Printed are exact match and F1, in percent.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinybert_rt.cli import OneLineParser
from tinybert_rt.cli.common import progress
from tinybert_rt.errors import TinyBertError
from tinybert_rt.model import Model, load
from tinybert_rt.reading import Answer, best_answers

from .hf import ConversionError

_SMALLEST = 1e-38
"""A score of 0 in a logarithm."""


class Question(NamedTuple):
    """A question about a context; golds is empty where it has no answer."""

    id: str
    text: str
    context: str
    golds: list[str]


class Prediction(NamedTuple):
    """What a model answers: text, the best places, and the logarithm of how much likelier no answer is than the best of them."""

    text: str
    best: list[Answer]
    null_odds: float


def read_questions(path: Path) -> list[Question]:
    """The questions of a SQuAD file. Raises ConversionError for what is none."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            value = json.load(file)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, RecursionError) as error:
        raise ConversionError(f"{path}: is no SQuAD file: not readable as JSON: {error}") from None
    found = []
    for i, article in enumerate(_part(path, value, "", "data", list)):
        for j, paragraph in enumerate(_part(path, article, f"data[{i}].", "paragraphs", list)):
            place = f"data[{i}].paragraphs[{j}]."
            context = _part(path, paragraph, place, "context", str)
            for k, each in enumerate(_part(path, paragraph, place, "qas", list)):
                name, question, answers = (
                    _part(path, each, f"{place}qas[{k}].", *part) for part in (("id", object), ("question", str), ("answers", list))
                )
                golds = [_part(path, answer, f"{place}qas[{k}].answers[{n}].", "text", str) for n, answer in enumerate(answers)]
                found.append(Question(str(name), question, context, golds))
    return found


def _part(path: Path, value: Any, place: str, name: str, kind: type) -> Any:
    """A member of a JSON object that is at `place`; raises ConversionError where it is missing or of another kind."""
    if not isinstance(value, dict) or name not in value:
        raise ConversionError(f"{path}: is no SQuAD file: {place}{name} is missing")
    if not isinstance(value[name], kind):
        raise ConversionError(f"{path}: is no SQuAD file: {place}{name} is no {'list' if kind is list else 'string'}")
    return value[name]


def predict(
    model: Model,
    questions: Iterable[Question],
    *,
    no_answer: bool,
    top: int = 20,
    max_answer_tokens: int = 30,
    stride: int = 128,
    null_threshold: float = 0.0,
) -> Iterator[tuple[str, Prediction]]:
    """Question ids with the model's answers, see `Model.answer`; with no_answer, "" where its odds are above null_threshold."""
    for each in questions:
        best, nothing = best_answers(model, each.text, each.context, top=top, longest=max_answer_tokens, stride=stride)
        odds = math.log(max(nothing.score, _SMALLEST)) - math.log(max(best[0].score if best else 0.0, _SMALLEST))
        text = best[0].text if best and not (no_answer and odds > null_threshold) else ""
        yield each.id, Prediction(text, best, odds)


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space: what the official metric compares."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(gold: str, answer: str) -> float:
    """1 if two answers are the same when normalized, else 0."""
    return float(normalized(gold) == normalized(answer))


def f1(gold: str, answer: str) -> float:
    """The harmonic mean of precision and recall of the words of two normalized answers; of empty ones, whether both are."""
    expected, found = normalized(gold).split(), normalized(answer).split()
    if not expected or not found:
        return float(expected == found)
    same = sum((Counter(expected) & Counter(found)).values())
    return 2 * same / (len(expected) + len(found))


def evaluate(questions: Sequence[Question], predictions: dict[str, str]) -> dict[str, float]:
    """The official metric (Rajpurkar et al. 2016, section 6.1; 2018, section 4): means over the questions of the best match with any of
    the answers that people gave, in percent; a question without a prediction counts as 0."""

    def mean(score: Callable[[str, str], float], chosen: Sequence[Question]) -> float:
        found = [max(score(gold, predictions[each.id]) for gold in each.golds or [""]) for each in chosen if each.id in predictions]
        return 100 * sum(found) / len(chosen)

    results = {"exact": mean(exact_match, questions), "f1": mean(f1, questions), "total": float(len(questions))}
    with_answer = [each for each in questions if each.golds]
    for name, chosen in (("HasAns", with_answer), ("NoAns", [each for each in questions if not each.golds])):
        if chosen and len(with_answer) < len(questions):
            results |= {f"{name}_exact": mean(exact_match, chosen), f"{name}_f1": mean(f1, chosen), f"{name}_total": float(len(chosen))}
    return results


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line."""
    command = OneLineParser(prog=prog, description="Answer the questions of a SQuAD file, and measure the answers.")
    command.add_argument("model", type=Path, help="a .tbrt file that was converted from a question answering model")
    command.add_argument("data", type=Path, help="SQuAD 1.1 or 2.0, .json or .json.gz")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="predictions: {question id: text}")
    command.add_argument("--nbest", type=Path, metavar="FILE", help="the best answers of each question, with scores")
    command.add_argument("--null-odds", type=Path, metavar="FILE", help="how much likelier no answer is than the best one")
    command.add_argument("--null-threshold", type=float, default=0.0, help="of these odds, above which there is no answer (default: 0)")
    command.add_argument("--top", type=int, default=20, help="answers in --nbest (default: 20)")
    command.add_argument("--max-answer-tokens", type=int, default=30, help="of an answer (default: 30)")
    command.add_argument("--stride", type=int, default=128, help="tokens that windows of a long context share (default: 128)")
    command.add_argument("--threads", type=int, help="workers; default: the CPUs that this process may use")
    return command


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.squad") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    options = parser(prog).parse_args(arguments)
    try:
        for name, value, smallest in (
            ("top", options.top, 1),
            ("max-answer-tokens", options.max_answer_tokens, 1),
            ("stride", options.stride, 0),
        ):
            if value < smallest:
                raise ConversionError(f"--{name} must be at least {smallest}, not {value}")
        questions = read_questions(options.data)
        if not questions:
            raise ConversionError(f"{options.data}: has no questions")
        model = load(options.model, threads=options.threads)
        if model.info()["head"] != "question_answering":
            raise ConversionError(f"{options.model}: the model has no head that answers questions")
        found: dict[str, Prediction] = {}
        with progress() as show:
            for name, prediction in predict(
                model,
                questions,
                no_answer=any(not each.golds for each in questions),
                top=options.top,
                max_answer_tokens=options.max_answer_tokens,
                stride=options.stride,
                null_threshold=options.null_threshold,
            ):
                found[name] = prediction
                show(len(found))
        predictions = {name: each.text for name, each in found.items()}
        _write(options.out, predictions)
        _write(options.nbest, {name: [answer._asdict() for answer in each.best] for name, each in found.items()})
        _write(options.null_odds, {name: each.null_odds for name, each in found.items()})
    except (ConversionError, TinyBertError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(evaluate(questions, predictions), indent=2))
    return 0


def _write(path: Path | None, value: object) -> None:
    if path is not None:
        try:
            path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConversionError(f"{path}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(main())
