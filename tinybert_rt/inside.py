"""The inside of a model: hidden states of every layer and attention probabilities. Apart from `tasks`, for a quicker start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinybert_rt.engine.calls import run_inside
from tinybert_rt.engine.texts import Text, encode_error, text_iterator, utf8
from tinybert_rt.errors import InvalidArgumentError, InvalidTextError, TextTooLongError
from tinybert_rt.opened import warn_of_truncated_texts
from tinybert_rt.text.limits import TRUNCATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinybert_rt.tasks import Tasks
    from tinybert_rt.vectors import Tokens


class Inside(NamedTuple):
    """What happens to one text, or pair, in a model.

    Attributes:
        tokens: the pieces of the vocabulary, special tokens included.
        ids: (tokens,) int32, their ids.
        types: (tokens,) uint8, 0 for the first text of a pair and 1 for the second; all 0 where the model has only one.
        spans: (tokens, 2) int32, the characters [begin, end) of the word that each token belongs to; -1 for special tokens.
        hidden_states: (layers + 1, tokens, dim) float32: what the layers start from (the embeddings; projected where the model projects
            them), and the output of each layer. Layers that share weights count as often as they run.
        attentions: (layers, heads, tokens, tokens) float32: how much each token (third axis) takes from each (fourth axis); every row
            adds up to 1. From the layer's queries and keys in float32; an int8 model rounds them when it uses them.
        total: tokens before truncation.
    """

    tokens: list[str]
    ids: NDArray[np.int32]
    types: NDArray[np.uint8]
    spans: NDArray[np.int32]
    hidden_states: NDArray[np.float32]
    attentions: NDArray[np.float32]
    total: int


def inspect(model: Tasks, text: str, pair: str | None, truncation: str | None, max_tokens: int | None) -> Inside:
    """See `Model.inspect`."""
    tokens = _tokenized(model, [text if pair is None else (text, pair)], truncation, max_tokens)
    found = tokens[0]
    states, attentions = _run(model, tokens, layers=True, attentions=True)
    pieces = model._pieces
    assert found.spans is not None
    return Inside([pieces[token] for token in found.ids], found.ids, found.types, found.spans, states, attentions[0], found.total)


def hidden_states(model: Tasks, texts: Text | Iterable[Text], truncation: str | None, max_tokens: int | None) -> Any:
    """See `Model.hidden_states`."""
    given, alone = _texts(texts)
    tokens = _tokenized(model, given, truncation, max_tokens)
    states, _ = _run(model, tokens, layers=True)
    if alone:
        return states
    ends = np.cumsum([each.ids.size for each in tokens])
    return [np.ascontiguousarray(part) for part in np.split(states, ends[:-1], axis=1)]


def attentions(model: Tasks, texts: Text | Iterable[Text], truncation: str | None, max_tokens: int | None) -> Any:
    """See `Model.attentions`."""
    given, alone = _texts(texts)
    _, found = _run(model, _tokenized(model, given, truncation, max_tokens), attentions=True)
    return found[0] if alone else found


def _texts(texts: Text | Iterable[Text]) -> tuple[list[Text], bool]:
    """The texts as a list, and whether there was one alone: a str, or a pair as a tuple."""
    if isinstance(texts, (str, tuple)):
        return [texts], True
    given = list(text_iterator(texts))
    if not given:
        raise InvalidArgumentError("texts is empty: pass at least one text")
    return given, False


def _tokenized(model: Tasks, texts: list[Text], truncation: str | None, max_tokens: int | None) -> list[Tokens]:
    policy = "truncate" if truncation is None else truncation
    _, limit = model._limits(policy, max_tokens)
    found = []
    for number, text in enumerate(texts):
        if isinstance(text, (tuple, list)) and len(text) != 2:
            raise InvalidTextError(f"text {number} is a tuple of {len(text)} items: a pair has 2")
        parts: tuple[str, ...] = tuple(text) if isinstance(text, (tuple, list)) else (text,)
        for part in parts:
            utf8(part, number)
        try:
            found.append(model.tokenize(*parts, max_tokens=limit, truncation=policy, spans=True))
        except TextTooLongError:
            total = model.tokenize(*parts).total
            raise encode_error(TextTooLongError.code, number, total, limit, TRUNCATIONS[policy], len(parts) == 2) from None
    cut = sum(each.truncated for each in found)
    if cut and truncation is None:
        warn_of_truncated_texts(cut, len(found), limit)
    return found


def _run(model: Tasks, tokens: list[Tokens], **wanted: bool) -> tuple[Any, Any]:
    offsets = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([each.ids.size for each in tokens], out=offsets[1:])
    ids = np.concatenate([each.ids for each in tokens])
    # A model with one token type gives it to both texts of a pair.
    types = np.concatenate([each.types for each in tokens]) if model._model.type_vocab_size > 1 else None
    return run_inside(model._pool, model._model, ids, offsets, types, **{"layers": False, "attentions": False, **wanted})
