"""`tinybert-rt classify | tag | answer | fill-mask | detect-replaced`: what a model's head says of texts."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .common import (
    LINES_AT_ONCE,
    UsageError,
    lines_of,
    load,
    name_of,
    note_truncation,
    on_one_line,
    open_input,
    runs,
    text_of,
    warnings_as_notes,
)

if TYPE_CHECKING:
    from tinybert_rt.model import Model
    from tinybert_rt.reading import Entity, Replaced


def add(commands: Any) -> None:
    """Their arguments."""
    classify = commands.add_parser("classify", help="the label of each line of a file, by a model with a classification head")
    classify.add_argument("file", nargs="?", default="-", help="a text a line; '-' is standard input")
    classify.add_argument("--model", required=True, help="a .tbrt file that was converted from a classifier")
    classify.add_argument("--json", action="store_true", help="one JSON object a line, with the score of every label")
    runs(classify, _classify)

    tag = commands.add_parser("tag", help="the entities of each line of a file, by a token classification model")
    tag.add_argument("file", nargs="?", default="-", help="a text a line; '-' is standard input")
    tag.add_argument("--model", required=True, help="a .tbrt file that was converted from a token classifier")
    tag.add_argument("--json", action="store_true", help="one JSON object an entity")
    runs(tag, _tag)

    answer = commands.add_parser("answer", help="the places of a text that answer a question, by a question answering model")
    answer.add_argument("question")
    answer.add_argument(
        "file", help="the text; '-' is standard input; start and end count its characters, without a byte order mark at its begin"
    )
    answer.add_argument("--model", required=True, help="a .tbrt file that was converted from a question answering model")
    answer.add_argument("--top", type=int, default=1, help="answers to print (default: 1)")
    answer.add_argument("--no-answer", action="store_true", help="an empty answer is one (for models of SQuAD 2.0)")
    answer.add_argument("--json", action="store_true", help="one JSON object an answer")
    runs(answer, _answer)

    fill = commands.add_parser("fill-mask", help="what fits in the places of a text's mask tokens, by a model that predicts them")
    fill.add_argument("text", help="with the model's mask token, [MASK] or <mask>, where something is to be filled in")
    fill.add_argument("--model", required=True, help="a .tbrt file that was converted from a masked language model")
    fill.add_argument("--top", type=int, default=5, help="pieces for each mask token (default: 5)")
    fill.add_argument("--json", action="store_true", help="one JSON object a piece")
    runs(fill, _fill_mask)

    detect = commands.add_parser(
        "detect-replaced", help="the words of each line that do not seem to belong there, by a discriminator (ELECTRA)"
    )
    detect.add_argument("file", nargs="?", default="-", help="a text a line; '-' is standard input")
    detect.add_argument("--model", required=True, help="a .tbrt file that was converted from an ELECTRA discriminator")
    detect.add_argument("--threshold", type=float, default=0.5, help="the least probability of words to print (default: 0.5)")
    detect.add_argument("--json", action="store_true", help="one JSON object a word")
    runs(detect, _detect_replaced)


def _texts(options: argparse.Namespace) -> Iterator[tuple[Model, int, list[str]]]:
    """The lines of a file, some at a time, with the model and how many lines came before. Raises UsageError where there is none."""
    name = name_of(options.file)
    with open_input(options.file) as file:
        model = load(options.model, options)
        lines = lines_of(file, name)
        count = 0
        while texts := list(itertools.islice(lines, LINES_AT_ONCE)):
            yield model, count, texts
            count += len(texts)
        if count == 0:
            raise UsageError(f"{name}: no texts")


def _classify(options: argparse.Namespace) -> None:
    from tinybert_rt.vectors import classified, collect

    truncated = count = 0
    for model, before, texts in _texts(options):
        count = before + len(texts)
        encoded = collect(model.stream_scores(texts), len(texts), None)
        truncated += int(encoded.truncated.sum())
        for text, found in zip(texts, classified(encoded.vectors, model.labels), strict=True):
            if options.json:
                scores = {label: round(score, 6) for label, score in found.scores.items()}
                print(json.dumps({"label": found.label, "score": round(found.score, 6), "scores": scores}, ensure_ascii=False))
            else:
                print(f"{found.score:.4f}  {found.label}  {text}")
    note_truncation(truncated, count, model)


def _of_lines(options: argparse.Namespace, read: Callable[[Model, list[str]], Sequence[Sequence[Entity | Replaced]]]) -> None:
    """What `read` finds in each line of a file, with the line's number."""
    for model, before, texts in _texts(options):
        for number, found in enumerate(read(model, texts), before + 1):
            for each in found:
                if options.json:
                    print(json.dumps({"line": number, **each._asdict(), "score": round(each.score, 6)}, ensure_ascii=False))
                else:
                    label = f"{each._asdict()['label']}  " if "label" in each._fields else ""
                    print(f"{number:>6}  {each.score:.4f}  {label}{each.text}")


def _tag(options: argparse.Namespace) -> None:
    _of_lines(options, lambda model, texts: model.tag(texts))


def _detect_replaced(options: argparse.Namespace) -> None:
    if not 0 <= options.threshold <= 1:
        raise UsageError(f"--threshold must be between 0 and 1, not {options.threshold:g}")

    def read(model: Model, texts: list[str]) -> list[list[Replaced]]:
        return [[word for word in model.detect_replaced(text) if word.score >= options.threshold] for text in texts]

    _of_lines(options, read)


def _fill_mask(options: argparse.Namespace) -> None:
    model = load(options.model, options)
    for number, found in enumerate(model.fill_mask(options.text, top=options.top), 1):
        for each in found:
            if options.json:
                print(json.dumps({"mask": number, **each._asdict(), "score": round(each.score, 6)}, ensure_ascii=False))
            else:
                print(f"{number:>6}  {each.score:.4f}  {on_one_line(each.token)}  {on_one_line(each.text)}")


def _answer(options: argparse.Namespace) -> None:
    name = name_of(options.file)
    if options.top < 1:
        raise UsageError(f"--top must be at least 1, not {options.top}")
    with open_input(options.file) as file:
        model = load(options.model, options)
        context = text_of(file, name)
    if not context.strip():
        raise UsageError(f"{name}: no text")
    with warnings_as_notes():
        answers = model.answer(options.question, context, top=options.top, no_answer=options.no_answer)
    for each in answers:
        if options.json:
            print(json.dumps({**each._asdict(), "score": round(each.score, 6)}, ensure_ascii=False))
        else:
            print(f"{each.score:.4f}  {each.start:>6}  {' '.join(each.text.split())}")
