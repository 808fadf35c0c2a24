"""Requests to a session: texts or token ids in, vectors, hidden states or a head's scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_rt.encoder.structs import GROUP_TEXTS
from tinybert_rt.engine.arguments import integers
from tinybert_rt.engine.declarations import ffi
from tinybert_rt.engine.session import Session, SessionPool, address
from tinybert_rt.engine.texts import encode_error
from tinybert_rt.errors import InvalidArgumentError, MissingHeadError, TokenIdError
from tinybert_rt.format.layout import HEADS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OF_TEXTS = HEADS["sequence_classification"]


def run_texts(
    pool: SessionPool,
    data: bytes,
    offsets: NDArray[np.int64],
    pairs: int,
    count: int,
    width: int,
    truncation: int,
    limit: int,
    first: int,
    scores: bool,
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    """Encode the first texts of a batch, as many as make a group.

    Args:
        data, offsets, pairs: as `texts.batches` gives them. count: texts or pairs in it.
        width: elements of a vector, or labels. truncation, limit: of a text.
        first: number of the first text, for errors. scores: probabilities of the head's labels instead of vectors.

    Returns the results of the texts that are done, (done, width), their tokens and whether they were truncated.
    """
    count = min(count, GROUP_TEXTS)
    results = np.empty((count, width), np.float32)
    token_counts = np.empty(count, np.int32)
    truncated = np.empty(count, np.bool_)
    with pool.taken() as session:
        request = session.request
        request.texts = int(ffi.cast("intptr_t", ffi.from_buffer(data)))
        request.text_starts = address(offsets)
        request.text_ends = request.text_starts + 8
        request.pairs = pairs
        request.n_texts = count
        request.truncation = truncation
        request.max_tokens = limit
        request.ids = 0
        request.types = 0
        request.out = 0 if scores else address(results)
        request.scores = address(results) if scores else 0
        request.probabilities = 1
        request.dim = width
        request.hidden = 0
        request.token_counts = address(token_counts)
        request.truncated = address(truncated)
        status = session.run()
        done = int(request.done)
        item = int(request.item)
    if status != 0:
        raise encode_error(status, first + item, int(token_counts[item]) if 0 <= item < count else 0, limit, truncation, pairs != 0)
    return results[:done], token_counts[:done], truncated[:done]


def checked_ids(ids: Any, offsets: Any, types: Any) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.uint8] | None]:
    """The arguments of `Model.encode_ids` as contiguous arrays of their dtypes. Raises InvalidArgumentError."""
    ids = integers("ids", ids, np.int32)
    offsets = integers("offsets", offsets, np.int64)
    if ids.ndim != 1 or offsets.ndim != 1 or offsets.size < 2:
        raise InvalidArgumentError("ids and offsets must be one-dimensional, and offsets have at least 2 elements")
    if offsets[0] != 0 or offsets[-1] != ids.size:
        raise InvalidArgumentError(f"offsets must rise from 0 to the number of ids, {ids.size}")
    if types is not None:
        types = integers("types", types, np.uint8)
        if types.shape != ids.shape:
            raise InvalidArgumentError(f"types has the shape {types.shape}, ids {ids.shape}")
    return ids, offsets, types


def require_head(model: Any, path: str, kind: str | None = None) -> None:
    """Raise MissingHeadError where the opened model has no head, or one of another kind of `layout.HEADS`."""
    found = next(name for name, number in HEADS.items() if number == int(model.head))
    if found == "none" or kind not in (None, found):
        has = "no head" if found == "none" else f"a head for {_called(found)}"
        wanted = f"a head for {_called(kind)}" if kind else "a head"
        raise MissingHeadError(f"{path}: the model has {has}, {wanted} is needed")


def _called(head: str) -> str:
    """What a head of `layout.HEADS` is for, in words."""
    return "masked tokens" if head == "masked_token" else head.replace("_", " ")


def _request_of(ids: NDArray[np.int32], types: NDArray[np.uint8] | None) -> Any:
    """A request about token ids, which must outlive it, that asks for nothing yet."""
    request = ffi.new("kernel_request *")
    request.ids = address(ids)
    request.n_ids = ids.size
    request.types = 0 if types is None else address(types)
    return request


def run_masked(
    pool: SessionPool,
    model: Any,
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    types: NDArray[np.uint8] | None,
    top: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Predictions for the mask tokens of texts that are tokenized already, in their order.

    Returns the ids of the `top` likeliest pieces, int32 (mask tokens, top), and their probabilities; with top = 0 no ids, and the
    logits of the whole vocabulary, float32 (mask tokens, vocab_size).
    """
    count = offsets.size - 1
    rows = int((ids == model.tokenizer.mask_id).sum())
    best = np.zeros((rows, top), np.int32)
    scores = np.zeros((rows, top or int(model.vocab_size)), np.float32)
    request = _request_of(ids, types)
    request.top = top
    done = found = 0
    with pool.taken() as session:
        while done < count:
            request.masked_room = rows - found
            request.top_ids = address(best) + 4 * top * found
            place = address(scores) + 4 * scores.shape[1] * found
            request.top_scores, request.masked_logits = (place, 0) if top else (0, place)
            done += _run_group(session, request, model, offsets, done)
            found += int(request.masked)
    return best, scores


def run_ids(
    pool: SessionPool,
    model: Any,
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    types: NDArray[np.uint8] | None,
    wanted: str,
) -> NDArray[np.float32]:
    """Encode texts that are tokenized already: `wanted` is "vectors", "hidden" for hidden states, or "scores" for a head's logits.

    Returns float32 (n, hidden_size), (total tokens, hidden_size), or (n or total tokens, labels).
    """
    count = offsets.size - 1
    width = int(model.labels if wanted == "scores" else model.hidden_size)
    of_tokens = wanted == "hidden" or (wanted == "scores" and model.head != _OF_TEXTS)
    results = np.empty((ids.size if of_tokens else count, width), np.float32)
    request = _request_of(ids, types)
    request.dim = int(model.hidden_size)
    done = 0
    with pool.taken() as session:
        while done < count:
            # Results of tokens lie where the ids do; those of texts are counted from the first of the request on.
            place = address(results) + (0 if of_tokens else 4 * done * width)
            request.out = place if wanted == "vectors" else 0
            request.hidden = place if wanted == "hidden" else 0
            request.scores = place if wanted == "scores" else 0
            done += _run_group(session, request, model, offsets, done)
    return results


def _run_group(session: Session, request: Any, model: Any, offsets: NDArray[np.int64], first: int) -> int:
    """Run the texts of given ids from number `first` on; returns how many are done. Raises what is wrong with one of them."""
    request.id_offsets = address(offsets) + 8 * first
    request.n_texts = offsets.size - 1 - first
    status = session.run(request)
    if status != 0:
        item = first + int(request.item)
        falls = np.flatnonzero(offsets[1:] < offsets[:-1])
        if falls.size:
            raise InvalidArgumentError(f"offsets do not rise at text {falls[0]}: from {offsets[falls[0]]} to {offsets[falls[0] + 1]}")
        if status == TokenIdError.code:
            raise TokenIdError(f"text {item} has {_outside(request, model, slice(offsets[item], offsets[item + 1]))}")
        raise encode_error(status, item, int(offsets[item + 1] - offsets[item]), int(model.max_positions))
    return int(request.done)


def _outside(request: Any, model: Any, text: slice) -> str:
    """What of a text's token ids and types is outside the model's tables, in words."""
    ids = np.frombuffer(ffi.buffer(ffi.cast("int32_t *", request.ids), 4 * request.n_ids), np.int32)[text]
    wrong = ids[(ids < 0) | (ids >= model.vocab_size)]
    if wrong.size:
        return f"the token id {wrong[0]}: the vocabulary has the ids 0 to {model.vocab_size - 1}"
    types = np.frombuffer(ffi.buffer(ffi.cast("uint8_t *", request.types), request.n_ids), np.uint8)[text]
    return f"the token type {types.max()}: the model has the types 0 to {model.type_vocab_size - 1}"


def run_inside(
    pool: SessionPool,
    model: Any,
    ids: NDArray[np.int32],
    offsets: NDArray[np.int64],
    types: NDArray[np.uint8] | None,
    *,
    layers: bool,
    attentions: bool,
) -> tuple[NDArray[np.float32] | None, list[NDArray[np.float32]] | None]:
    """The inside of texts that are tokenized already: hidden states and attention probabilities, or None where not asked for.

    Returns float32 (num_layers + 1, total tokens, hidden_size), and of each text float32 (num_layers, num_heads, tokens, tokens).
    """
    count = offsets.size - 1
    maps = int(model.num_layers) * int(model.num_heads)
    lengths = np.diff(offsets).tolist()
    # A text that is longer than the model takes, or none, is an error below: it needs no room.
    valid = all(0 < length <= model.max_positions for length in lengths)
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + (maps * length * length if valid else 0))
    states = np.empty((int(model.num_layers) + 1, ids.size if valid else 0, int(model.hidden_size)), np.float32) if layers else None
    probabilities = np.empty(starts[-1], np.float32) if attentions else None
    request = _request_of(ids, types)
    done = 0
    with pool.taken() as session:
        while done < count:
            # What is wrong with the texts is found by a run that writes nothing.
            if states is not None and valid:
                request.layers = address(states)
            if probabilities is not None and valid:
                request.attentions = address(probabilities) + 4 * starts[done]
            done += _run_group(session, request, model, offsets, done)
    if probabilities is None:
        return states, None
    shape = int(model.num_layers), int(model.num_heads)
    return states, [probabilities[a:b].reshape(*shape, n, n) for a, b, n in zip(starts, starts[1:], lengths, strict=False)]
