"""Which tokens of a batch are hidden, and what stands in their place (Devlin et al. 2019, section 3.1).

Everything is drawn anew at each step (Liu et al. 2019, section 4.1) from numbers that depend on seed, step and row alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .settings import SettingsError

IGNORED = -100
"""The label of a position that does not count."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_RANDOM, _KEPT = 0.1, 0.1


@dataclass(frozen=True)
class Vocabulary:
    """What masking and packing know of a tokenizer."""

    cls: int
    sep: int
    pad: int
    mask: int
    special: np.ndarray
    """bool (vocab_size,): tokens that are never masked"""
    starts: np.ndarray
    """bool (vocab_size,): pieces that begin a word"""
    ordinary: np.ndarray
    """int64: ids of the pieces that are not special"""


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The tables of a fast tokenizer. Raises SettingsError where it lacks a token that pretraining needs."""
    kinds = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    missing = [name for name, index in kinds.items() if index is None]
    if missing:
        raise SettingsError(f"the tokenizer has no {' and no '.join(missing)} token: pretraining needs cls, sep, pad and mask")
    size = len(tokenizer)
    special = np.zeros(size, bool)
    special[[*tokenizer.all_special_ids, *kinds.values()]] = True
    starts = word_starts(tokenizer.convert_ids_to_tokens(list(range(size))))
    return Vocabulary(**kinds, special=special, starts=starts, ordinary=np.flatnonzero(~special))


def word_starts(pieces: Iterable[str]) -> np.ndarray:
    """bool (pieces,): which begin a word. Byte-level BPE marks these with "Ġ", SentencePiece with "▁"; WordPiece marks the others, "##"."""
    pieces = list(pieces)
    for mark in ("Ġ", "▁"):
        marked = np.array([piece.startswith(mark) for piece in pieces])
        if marked.any() and not any(piece.startswith("##") and len(piece) > 2 for piece in pieces):
            return marked
    return np.array([not piece.startswith("##") or len(piece) == 2 for piece in pieces])


def uniform(seed: int, stream: int, step: int, rows: np.ndarray, width: int) -> np.ndarray:
    """float64 (rows, width) in [0, 1): a function of its arguments, each row's numbers of that row alone.

    SplitMix64 (Steele, Lea and Flood 2014, figure 17), seeded by itself.
    """
    state = np.zeros(len(rows), np.uint64)
    for part in (seed, stream, step, rows):
        state = _mix(state + np.atleast_1d(part).astype(np.uint64) * _GOLDEN + _GOLDEN)
    mixed = _mix(state[:, None] + (np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN)[None, :])
    draws: np.ndarray = (mixed >> np.uint64(11)) * 2.0**-53
    return draws


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def capacity(width: int, rate: float) -> int:
    """Places for the masked tokens of a row."""
    return max(1, round(width * rate))


def words_of(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """int64 (rows, width): the place where each token's word begins. Special tokens are words, and what follows one begins a word."""
    special = vocabulary.special[ids]
    begins = vocabulary.starts[ids] | special
    begins[:, 0] = True
    begins[:, 1:] |= special[:, :-1]
    return np.maximum.accumulate(np.where(begins, np.arange(ids.shape[1])[None, :], 0), axis=1)


def choose(maskable: np.ndarray, draws: np.ndarray, rate: float, words: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Choose a share of the tokens of each row.

    Args:
        maskable: bool (rows, width).
        draws: float (rows, width) in [0, 1); the smallest are chosen.
        words: as `words_of` gives them: whole words are chosen, and one that would exceed the share is not, so a little less is.

    Returns columns int64 (rows, capacity), and bool (rows, capacity): which of them count, max(1, rate × maskable) of a row.
    """
    width = maskable.shape[1]
    if words is not None:
        draws = np.take_along_axis(draws, words, axis=1)
    order = np.argsort(np.where(maskable, draws, 2.0), axis=1, kind="stable")
    places = capacity(width, rate)
    available = maskable.sum(axis=1)
    wanted = np.minimum(np.maximum(1, np.rint(available * rate)), available).astype(np.int64)
    columns = order[:, :places]
    counts = np.arange(places)[None, :] < wanted[:, None]
    if words is not None:
        next_one = np.take_along_axis(order, np.minimum(wanted, width - 1)[:, None], axis=1)
        cut = np.take_along_axis(words, next_one, axis=1)
        cut = np.where((wanted < available)[:, None], cut, -1)
        counts &= np.take_along_axis(words, columns, axis=1) != cut
    return columns, counts


def mask(
    ids: np.ndarray,
    rows: np.ndarray,
    vocabulary: Vocabulary,
    rate: float,
    *,
    seed: int,
    step: int,
    whole_words: bool = False,
    always: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hide tokens of a batch: of those chosen 80 % become the mask token, 10 % a random piece, 10 % stay.

    Args:
        ids: int64 (rows, width).
        rows: int64 (rows,): their numbers in the step's batch, which with seed and step decide what is drawn.
        always: all chosen tokens become the mask token, as the input of ELECTRA's generator (Clark et al. 2020, section 2).

    Returns the changed ids; the chosen places, int64 (rows × capacity,), counted through the batch; and what stood there, int64 (the
    same), IGNORED at places that are left over.
    """
    width = ids.shape[1]
    words = words_of(ids, vocabulary) if whole_words else None
    columns, counts = choose(~vocabulary.special[ids], uniform(seed, 0, step, rows, width), rate, words)
    originals = np.take_along_axis(ids, columns, axis=1)
    places = columns.shape[1]
    new = np.full_like(originals, vocabulary.mask)
    if not always:
        kind = uniform(seed, 1, step, rows, places)
        pieces = vocabulary.ordinary[(uniform(seed, 2, step, rows, places) * len(vocabulary.ordinary)).astype(np.int64)]
        new = np.where(kind < _RANDOM, pieces, np.where(kind < _RANDOM + _KEPT, originals, new))
    changed = ids.copy()
    np.put_along_axis(changed, columns, np.where(counts, new, originals), axis=1)
    flat = (np.arange(len(ids))[:, None] * width + columns).reshape(-1)
    return changed, flat, np.where(counts, originals, IGNORED).reshape(-1)
