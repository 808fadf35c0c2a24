"""Rows of tokens without padding: documents are cut into examples, and several examples share a row.

An example is `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`. Its tokens see each other and no others of the row, and its positions begin at 0.
What an epoch holds is a function of seed and epoch; what a step holds, of its number.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from .corpus import Corpus
from .masking import IGNORED, Vocabulary, mask
from .settings import SettingsError
from .training import Batch

Pairs = Literal["none", "next", "order"]
"""What the two segments of an example are: there is one; B follows A or is of another document; A and B in order or swapped."""


@dataclass(frozen=True)
class Examples:
    """Tokens of a corpus: begin and end of both segments, int64 (examples,) each; the second is empty where there is one only."""

    a: np.ndarray
    a_end: np.ndarray
    b: np.ndarray
    b_end: np.ndarray
    labels: np.ndarray
    """int64 (examples,): 0: B follows A; 1: it is of another document, or comes before it (as `transformers` counts them)"""

    def lengths(self) -> np.ndarray:
        """int64 (examples,): tokens, the special ones included."""
        second = self.b_end - self.b
        lengths: np.ndarray = self.a_end - self.a + 2 + second + (second > 0)
        return lengths


def runs(sentences: np.ndarray, documents: np.ndarray, longest: int, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut every document into runs of whole sentences of at most `longest` tokens; only a sentence that is longer is cut itself.

    Args:
        sentences, documents: int64: where each begins, in tokens, and the end of the last.
        first: int64 (documents,): the most tokens of a document's first run, so that the cuts differ between epochs.

    Returns begins and ends, int64 (runs,) each.
    """
    here, stop, limit = documents[:-1], documents[1:], np.asarray(first)
    begins, ends = [], []
    while len(here):
        end = sentences[np.searchsorted(sentences, here + limit, "right") - 1]
        whole = sentences[np.searchsorted(sentences, here, "right")]
        end = np.minimum(np.where(end > here, end, np.minimum(whole, here + longest)), stop)
        begins.append(here)
        ends.append(end)
        left = end < stop
        here, stop, limit = end[left], stop[left], np.full(int(left.sum()), longest)
    return np.concatenate(begins), np.concatenate(ends)


def single_examples(begins: np.ndarray, ends: np.ndarray) -> Examples:
    """Every run is an example."""
    none = np.zeros_like(begins)
    return Examples(begins, ends, none, none, none)


def paired_examples(begins: np.ndarray, ends: np.ndarray, corpus: Corpus, kind: Pairs, longest: int, rng: np.random.Generator) -> Examples:
    """Every run of two sentences and more is cut into A and B at a sentence's begin; half of the examples then get another B (Devlin et
    al. 2019, section 3.1, "next") or are swapped (Lan et al. 2020, section 3.1, "order").

    Args:
        longest: the most tokens of A and B together; another B is cut at its end.

    Raises SettingsError if there are none, or no second document.
    """
    first = np.searchsorted(corpus.sentences, begins, "right")
    last = np.searchsorted(corpus.sentences, ends, "left")
    usable = last > first
    begins, ends, first, last = begins[usable], ends[usable], first[usable], last[usable]
    if not len(begins):
        raise SettingsError("no two sentences follow each other within objective.max_tokens: pairs cannot be made")
    middle = corpus.sentences[rng.integers(first, last)]
    labels = np.zeros_like(begins)
    other = np.flatnonzero(rng.random(len(begins)) < 0.5)
    if kind == "order":
        labels[other] = 1
        a, b = np.where(labels == 1, middle, begins), np.where(labels == 1, begins, middle)
        return Examples(a, np.where(labels == 1, ends, middle), b, np.where(labels == 1, middle, ends), labels)
    document = np.searchsorted(corpus.documents, begins, "right")
    order = other[np.argsort(document[other], kind="stable")]
    source = np.roll(order, len(order) // 2)
    foreign = document[order] != document[source]
    if len(corpus.documents) < 3:
        raise SettingsError("next-sentence prediction needs more than one document: a blank line ends a document")
    order, source = order[foreign], source[foreign]
    labels[order] = 1
    b, b_end = middle.copy(), ends.copy()
    b[order] = middle[source]
    b_end[order] = np.minimum(ends[source], middle[source] + longest - (middle[order] - begins[order]))
    return Examples(begins, middle, b, b_end, labels)


def pack(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Put examples of 1 … width tokens together in rows.

    Longest-pack-first histogram packing (Krell et al. 2021, section 3.2): examples of a length are all alike, so that the work grows with
    the number of lengths and not of examples. The longest come first, each into the fullest row that it fits.

    Returns (places in `lengths` row by row, int64 (examples,); where each row begins among them, int64 (rows + 1,)).
    """
    counts = np.bincount(lengths, minlength=width + 1)
    by_space: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
    for length in range(width, 0, -1):
        left = int(counts[length])
        while left:
            space = next((each for each in range(length, width) if by_space[each]), width)
            many, content = by_space[space].pop() if space < width else (left, ())
            each = max(1, space // length)
            used = min(many, left // each)
            if not used:
                each, used = left, 1
            if used < many and space < width:
                by_space[space].append((many - used, content))
            by_space[space - each * length].append((used, content + (length,) * each))
            left -= used * each
    order = np.argsort(lengths, kind="stable")
    taken = np.concatenate([[0], np.cumsum(counts)])
    rows, sizes = [], []
    for space in sorted(by_space):
        for many, content in by_space[space]:
            columns = []
            for length in content:
                columns.append(order[taken[length] : taken[length] + many])
                taken[length] += many
            rows.append(np.stack(columns, 1).reshape(-1))
            sizes.append(np.full(many, len(content)))
    return np.concatenate(rows), np.concatenate([[0], np.cumsum(np.concatenate(sizes))])


def ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 (sum of lengths,): begin, begin + 1, … of each range, one behind the other."""
    offsets = np.cumsum(lengths) - lengths
    return np.repeat(begins - offsets, lengths) + np.arange(int(lengths.sum()))


@dataclass(frozen=True)
class _Epoch:
    examples: Examples
    order: np.ndarray
    begins: np.ndarray
    """int64 (rows + 1,): where each row begins in `order`"""
    rows: np.ndarray
    """int64 (rows,): the rows in their order in this epoch"""


class PackedBatches:
    """Batches of masked rows of a corpus (`training.Batches`).

    A batch has tensors on the CPU, of the same shapes at every step of a run:
        input_ids, original_ids, token_type_ids, position_ids: int64 (rows, width); original_ids are those before masking.
        segments: int32 (rows, width): 1, 2, … for the examples of a row, 0 for padding.
        places, labels: int64 (rows × capacity,): see `masking.mask`.
        first, pair_labels: int64 (rows × most examples of a row,): with pairs, the place of each [CLS] in the batch, and the example's
            label; IGNORED where there is none.
    """

    def __init__(
        self,
        corpus: Corpus,
        vocabulary: Vocabulary,
        *,
        width: int,
        batch_size: int,
        rate: float,
        pairs: Pairs = "none",
        packed: bool = True,
        whole_words: bool = False,
        always_mask: bool = False,
        seed: int = 0,
    ) -> None:
        self._corpus, self._vocabulary = corpus, vocabulary
        self._width, self._size, self._rate = width, batch_size, rate
        self._pairs, self._packed = pairs, packed
        self._whole_words, self._always, self._seed = whole_words, always_mask, seed
        self._number, self._epoch = 0, self._make(0)
        self._steps = len(self._epoch.rows) // batch_size
        if not self._steps:
            raise SettingsError(
                f"the corpus fills {len(self._epoch.rows)} rows of {width} tokens, training.batch_size is {batch_size}: "
                "lower it, or give more text"
            )
        # The shortest pair has five tokens.
        self._most = width // 5 if pairs != "none" else 0

    def per_epoch(self) -> int:
        """Steps of an epoch: those of the first. Others may have a few rows more or less, which are left out or repeated."""
        return self._steps

    def rows(self) -> int:
        """Rows of the first epoch."""
        return len(self._epoch.rows)

    def tokens_per_step(self) -> float:
        """Tokens of a step without padding, on average."""
        return float(self._epoch.examples.lengths().sum()) / len(self._epoch.rows) * self._size

    def at(self, step: int, part: int, parts: int) -> Batch:
        """The `part`-th of `parts` shares of a step's rows."""
        if self._size % parts:
            raise SettingsError(f"batch_size is {self._size}; it must be a multiple of accumulation × processes, {parts}")
        number, index = divmod(step, self._steps)
        if number != self._number:
            self._number, self._epoch = number, self._make(number)
        places = np.arange(part, self._size, parts)
        rows = self._epoch.rows[(index * self._size + places) % len(self._epoch.rows)]
        batch = self._assemble(rows)
        ids = batch["original_ids"]
        masked, flat, labels = mask(
            ids,
            places,
            self._vocabulary,
            self._rate,
            seed=self._seed,
            step=step,
            whole_words=self._whole_words,
            always=self._always,
        )
        batch |= {"input_ids": masked, "places": flat, "labels": labels}
        tokens = int((batch["segments"] > 0).sum())
        return {"tokens": tokens, **{name: torch.from_numpy(value) for name, value in batch.items()}}

    def _make(self, number: int) -> _Epoch:
        rng = np.random.default_rng((self._seed, number))
        longest = self._width - (2 if self._pairs == "none" else 3)
        documents = len(self._corpus.documents) - 1
        first = rng.integers(max(1, longest // 4), longest + 1, documents)
        begins, ends = runs(self._corpus.sentences, self._corpus.documents, longest, first)
        if self._pairs == "none":
            examples = single_examples(begins, ends)
        else:
            examples = paired_examples(begins, ends, self._corpus, self._pairs, longest, rng)
        lengths = examples.lengths()
        shuffled = rng.permutation(len(lengths))
        if self._packed:
            order, offsets = pack(lengths[shuffled], self._width)
        else:
            order, offsets = np.arange(len(lengths)), np.arange(len(lengths) + 1)
        return _Epoch(examples, shuffled[order], offsets, rng.permutation(len(offsets) - 1))

    def _assemble(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        epoch, width, vocabulary = self._epoch, self._width, self._vocabulary
        counts = epoch.begins[rows + 1] - epoch.begins[rows]
        which = epoch.order[ranges(epoch.begins[rows], counts)]
        a, a_end = epoch.examples.a[which], epoch.examples.a_end[which]
        b, b_end = epoch.examples.b[which], epoch.examples.b_end[which]
        paired = (b_end > b).astype(np.int64)
        lengths = a_end - a + 2 + b_end - b + paired
        row = np.repeat(np.arange(len(rows)), counts)
        before = np.cumsum(lengths) - lengths
        of_row = np.concatenate([[0], np.cumsum(counts)])[:-1]
        begin = row * width + before - np.repeat(before[of_row], counts)
        shape = (len(rows), width)
        ids = np.full(shape[0] * width, vocabulary.pad, np.int64)
        types, positions, segments = np.zeros_like(ids), np.zeros_like(ids), np.zeros(len(ids), np.int32)
        ids[begin], ids[begin + a_end - a + 1] = vocabulary.cls, vocabulary.sep
        ids[ranges(begin + 1, a_end - a)] = self._corpus.ids[ranges(a, a_end - a)]
        second = begin + a_end - a + 2
        inside = ranges(second, b_end - b)
        ids[inside] = self._corpus.ids[ranges(b, b_end - b)]
        types[ranges(second, b_end - b + paired)] = 1
        ids[(second + b_end - b)[paired == 1]] = vocabulary.sep
        everywhere = ranges(begin, lengths)
        positions[everywhere] = ranges(np.zeros_like(lengths), lengths)
        segments[everywhere] = np.repeat(ranges(np.ones_like(counts), counts), lengths)
        flat: dict[str, np.ndarray] = {"original_ids": ids, "token_type_ids": types, "position_ids": positions, "segments": segments}
        made: dict[str, np.ndarray] = {name: value.reshape(shape) for name, value in flat.items()}
        if self._most:
            places = row * self._most + ranges(np.zeros_like(counts), counts)
            first, labels = np.zeros(len(rows) * self._most, np.int64), np.full(len(rows) * self._most, IGNORED, np.int64)
            first[places], labels[places] = begin, epoch.examples.labels[which]
            made |= {"first": first, "pair_labels": labels}
        return made
