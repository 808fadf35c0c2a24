"""Heads of tokens read as answers: entities in a text, the place in a context that answers a question. Long texts go through in windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tinybert_rt.engine.arguments import integer, yes_or_no
from tinybert_rt.engine.texts import Text, text_iterator, utf8
from tinybert_rt.errors import InvalidArgumentError, MissingHeadError, TextTooLongError
from tinybert_rt.opened import warn_of_truncation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.tasks import Tasks
    from tinybert_rt.vectors import Tokens

_REPLACED = ["replaced"]
"""The labels of a discriminator."""


class Entity(NamedTuple):
    """Consecutive words with one label.

    Attributes:
        label: without "B-" or "I-".
        score: the mean of its words' probabilities of their labels.
        start, end: the characters text[start:end].
        text: these.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


class Replaced(NamedTuple):
    """A word, and whether it seems to have taken the place of another.

    Attributes:
        score: the probability of that, the largest of its tokens'.
        start, end: the characters text[start:end].
        text: these.
    """

    score: float
    start: int
    end: int
    text: str


class Answer(NamedTuple):
    """A place in a context; start = end = 0 and an empty text: there is no answer.

    Attributes:
        text: context[start:end], whole words.
        score: the product of the probabilities of its first and of its last token, within their window.
        start, end: characters of the context.
    """

    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Choice:
    """The choice that fits best.

    Attributes:
        index: its number. score: its probability. scores: those of all choices.
    """

    index: int
    score: float
    scores: list[float]


def choose(model: Tasks, prompt: str, choices: Sequence[str]) -> Choice:
    """See `Model.choose`."""
    if len(model.labels) != 1:
        raise MissingHeadError(f"{model.path}: the model's head has {len(model.labels)} labels, one number for each choice is needed")
    utf8(prompt, "the prompt")
    pairs: list[Text] = []
    for number, choice in enumerate(text_iterator(choices)):
        utf8(choice, number)
        pairs.append((prompt, str(choice)))
    try:
        found = model._collected(model.stream_scores(pairs, truncation="only_first"), pairs, "only_first", None, None)
    except TextTooLongError:
        sizes = [model.tokenize(pair[1]).ids.size for pair in pairs]
        longest = int(np.argmax(sizes))
        raise TextTooLongError(
            f"choice {longest} has {sizes[longest]} tokens and leaves no room for the prompt, the limit is {model.max_tokens}: shorten it"
        ) from None
    if cut := int(found.truncated.sum()):
        warn_of_truncation(
            f"the prompt was truncated for {cut} of {len(pairs)} choices: with them it has more than {model.max_tokens} tokens"
        )
    scores = softmax(found.vectors[:, 0]).tolist()
    best = int(np.argmax(scores))
    return Choice(best, scores[best], scores)


def tag(model: Tasks, texts: Iterable[str]) -> list[list[Entity]]:
    """See `Model.tag`."""
    if model.labels == _REPLACED:  # one output a token: softmax over it is 1 everywhere
        raise MissingHeadError(f"{model.path}: the model is a discriminator (ELECTRA), which has no entities: use detect_replaced")
    given = []
    for number, text in enumerate(text_iterator(texts)):
        utf8(text, number)
        given.append(str(text))
    if not given:
        raise InvalidArgumentError("texts is empty: pass at least one text")
    found = []
    for spans, outputs in token_outputs(model, [model.tokenize(text, spans=True) for text in given]):
        first = word_starts(spans)
        found.append((spans[first], softmax(outputs[first])))
    return [entities(text, *words, model.labels) for text, words in zip(given, found, strict=True)]


def detect_replaced(model: Tasks, text: str) -> list[Replaced]:
    """See `Model.detect_replaced`."""
    if model.labels != _REPLACED:
        raise MissingHeadError(f"{model.path}: the model's head has other labels than 'replaced': a discriminator (ELECTRA) is needed")
    utf8(text, "the text")
    ((spans, outputs),) = token_outputs(model, [model.tokenize(text, spans=True)])
    if not len(spans):
        return []
    first = word_starts(spans)
    with np.errstate(over="ignore"):
        scores = 1 / (1 + np.exp(-np.maximum.reduceat(outputs[:, 0], first)))
    words = zip(scores.tolist(), spans[first].tolist(), strict=True)
    return [Replaced(score, start, end, text[start:end]) for score, (start, end) in words]


def answer(model: Tasks, question: str, context: str, top: int, max_answer_tokens: int, stride: int, no_answer: bool) -> list[Answer]:
    """See `Model.answer`."""
    for name, value, smallest in (("top", top, 1), ("max_answer_tokens", max_answer_tokens, 1), ("stride", stride, 0)):
        if integer(name, value) < smallest:
            raise InvalidArgumentError(f"{name} must be at least {smallest}, not {value}")
    no_answer = yes_or_no("no_answer", no_answer)
    utf8(question, "the question")
    utf8(context, "the context")
    found, nothing = best_answers(model, question, context, top=top, longest=max_answer_tokens, stride=stride)
    return in_order([*found, nothing])[:top] if no_answer else found


def in_order(answers: Iterable[Answer]) -> list[Answer]:
    """Best first."""
    return sorted(answers, key=lambda answer: (-answer.score, answer.start, answer.end))


def windows(count: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Windows of at most `size` of `count` tokens, each `stride` < size tokens into the one before; together they hold every token.

    Raises InvalidArgumentError where the model takes so few tokens that nothing is left for the text.
    """
    if size < 1:
        raise InvalidArgumentError("the model takes too few tokens for this: convert it with a larger --max-tokens")
    found = [(0, min(size, count))]
    while found[-1][1] < count:
        begin = found[-1][1] - stride
        found.append((begin, min(begin + size, count)))
    return found


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return result


def word_starts(spans: NDArray[np.int32]) -> NDArray[np.int64]:
    """Numbers of the tokens that begin a word, from the characters (tokens, 2) of each token's word."""
    first = np.ones(len(spans), np.bool_)
    first[1:] = (spans[1:] != spans[:-1]).any(axis=1)
    return np.flatnonzero(first)


def token_outputs(model: Tasks, texts: Sequence[Tokens]) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Of each text the characters (tokens, 2) of the words of its tokens, special ones left out, and the head's outputs (tokens, labels).

    A token of several windows takes its outputs from the one in which it is farthest from a border.
    """
    size = model.max_tokens - 2
    parts = [[(*window, tokens) for window in windows(tokens.ids.size - 2, size, size // 4)] for tokens in texts]
    pieces = [np.concatenate([tokens.ids[:1], tokens.ids[1 + a : 1 + b], tokens.ids[-1:]]) for part in parts for a, b, tokens in part]
    offsets = np.cumsum([0, *(piece.size for piece in pieces)])
    logits = model.logits(np.concatenate(pieces), offsets)
    found = []
    number = 0
    for tokens, part in zip(texts, parts, strict=True):
        count = tokens.ids.size - 2
        outputs = np.zeros((count, logits.shape[1]), np.float32)
        depth = np.full(count, -1)
        for a, b, _ in part:
            inside = logits[offsets[number] + 1 : offsets[number + 1] - 1]
            number += 1
            place = np.arange(a, b)
            # A border of the text itself is none.
            distance = np.minimum(place - a if a else place + count, b - 1 - place if b < count else 2 * count - place)
            better = distance > depth[a:b]
            outputs[a:b][better] = inside[better]
            depth[a:b][better] = distance[better]
        assert tokens.spans is not None
        found.append((tokens.spans[1:-1], outputs))
    return found


def entities(text: str, words: NDArray[np.int32], probabilities: NDArray[np.float32], labels: Sequence[str]) -> list[Entity]:
    """Words of one text, merged by their labels: "B-X" begins an entity, "I-X" goes on with it, "O" is none; labels without
    a prefix (parts of speech) stand for each word alone."""
    found: list[Entity] = []
    open_label: str | None = None
    scores: list[float] = []
    best = probabilities.argmax(axis=1).tolist()
    for (start, end), index, row in zip(words.tolist(), best, probabilities, strict=True):
        name = labels[index]
        if name == "O":
            open_label = None
            continue
        prefix, _, rest = name.partition("-")
        marked = prefix in ("B", "I") and rest != ""
        label = rest if marked else name
        if marked and prefix == "I" and label == open_label:
            scores.append(float(row[index]))
            before = found.pop()
            found.append(Entity(label, sum(scores) / len(scores), before.start, end, text[before.start : end]))
        else:
            scores = [float(row[index])]
            found.append(Entity(label, scores[0], start, end, text[start:end]))
        open_label = label if marked else None
    return found


def best_answers(model: Tasks, question: str, context: str, *, top: int, longest: int, stride: int) -> tuple[list[Answer], Answer]:
    """The `top` places of a context that answer a question (Devlin et al. 2019, section 4.2), and the answer that there is none (4.3).

    Args:
        longest: tokens of an answer. stride: tokens that consecutive windows share.
    """
    frame = model.tokenize("", "")  # the special tokens and types of a pair
    tokens = model.tokenize(question), model.tokenize(context, spans=True)
    asked = tokens[0].ids[1:-1]
    if asked.size > (most := max(model.max_tokens // 2 - 2, 0)):
        warn_of_truncation(f"the question has {asked.size} tokens, of which the first {most} were used: half of what the model takes")
        asked = asked[:most]
    room = model.max_tokens - asked.size - frame.ids.size
    start = np.concatenate([frame.ids[:1], asked, frame.ids[1:-1]])
    body = tokens[1].ids[1:-1]
    cuts = windows(body.size, room, min(stride, room // 2))
    pieces = [np.concatenate([start, body[a:b], frame.ids[-1:]]) for a, b in cuts]
    types = [(np.arange(piece.size) >= asked.size + 2).astype(np.uint8) * frame.types[-1] for piece in pieces]
    offsets = np.cumsum([0, *(piece.size for piece in pieces)])
    typed = model._model.type_vocab_size > 1  # a model with one token type gives it to both
    logits = model.logits(np.concatenate(pieces), offsets, np.concatenate(types) if typed else None)
    assert tokens[1].spans is not None
    spans = tokens[1].spans[1:-1]
    found: dict[tuple[int, int], float] = {}
    nothing = 1.0
    for number, (a, b) in enumerate(cuts):
        rows = logits[offsets[number] : offsets[number + 1]]
        # Of the first token, which stands for no answer, and those of the context.
        first, last = softmax(np.concatenate([rows[:1], rows[start.size : -1]]).T)
        nothing = min(nothing, float(first[0] * last[0]))
        if b == a:
            continue
        scores = np.tril(np.triu(np.outer(first[1:], last[1:])), longest - 1)
        words = word_starts(spans[a:b])  # answers of the same words are one
        flat = np.maximum.reduceat(np.maximum.reduceat(scores, words, axis=0), words, axis=1).ravel()
        for place in np.argpartition(-flat, min(top, flat.size) - 1)[:top]:
            begin, end = divmod(int(place), words.size)
            if flat[place] > 0:
                key = int(spans[a + words[begin]][0]), int(spans[a + words[end]][1])
                found[key] = max(found.get(key, 0.0), float(flat[place]))
    answers = [Answer(context[start:end], score, start, end) for (start, end), score in found.items()]
    return in_order(answers)[:top], Answer("", nothing, 0, 0)
