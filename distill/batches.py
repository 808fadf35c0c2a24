"""Batches of tokenized examples: a function of settings and step alone, examples of like length together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .settings import SettingsError
from .training import Batch

Feature = dict[str, Any]
"""input_ids: list[int], perhaps token_type_ids: list[int]; what else the task needs. Of multiple choice, input_ids is a list a choice."""

Collate = Callable[[Sequence[Feature]], Batch]
"""Features as one batch of tensors."""

# Batches are cut out of this many at a time, sorted by length.
_SORTED_TOGETHER = 50
_IGNORED = -100


def pad(rows: Sequence[Sequence[int]], value: int, width: int | None = None) -> torch.Tensor:
    """int64 (rows, longest), the shorter ones filled up with a value."""
    width = width or max(map(len, rows))
    padded = np.full((len(rows), width), value, np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def collate(features: Sequence[Feature], pad_id: int) -> Batch:
    """Features as tensors: ids, mask, types, and "labels" per example (scalars) or per token (lists; padding is −100)."""
    ids = [each["input_ids"] for each in features]
    lengths = torch.tensor([len(row) for row in ids])
    width = int(lengths.max())
    mask = (torch.arange(width)[None, :] < lengths[:, None]).long()
    batch: Batch = {"input_ids": pad(ids, pad_id, width), "attention_mask": mask, "tokens": int(lengths.sum())}
    if "token_type_ids" in features[0]:
        batch["token_type_ids"] = pad([each["token_type_ids"] for each in features], 0, width)
    for name in features[0].keys() - {"input_ids", "token_type_ids", "tokens"}:
        values = [each[name] for each in features]
        if name == "labels" and isinstance(values[0], list) and isinstance(values[0][0], int):
            batch[name] = pad(values, _IGNORED, width)
        elif isinstance(values[0], np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        elif isinstance(values[0], int | float | list):
            batch[name] = torch.tensor(values)
    return batch


def lengths_of(features: Sequence[Feature]) -> np.ndarray:
    """int64 (features,): the tokens of each."""
    return np.array([max(map(len, ids)) if isinstance((ids := each["input_ids"])[0], list) else len(ids) for each in features])


class ShuffledBatches:
    """Training batches of a list of features, in a new order in each epoch.

    The examples of an epoch are shuffled, sorted by length within groups of many batches, cut into batches, and these shuffled again
    (as in fairseq and `transformers`' group_by_length): little padding, and every batch of another kind.
    """

    def __init__(self, features: Sequence[Feature], batch_size: int, collate: Collate, seed: int) -> None:
        if len(features) < batch_size:
            raise SettingsError(f"batch_size is {batch_size}, but there are only {len(features)} examples")
        self._features, self._collate, self._seed = features, collate, seed
        self._size = batch_size
        self._lengths = lengths_of(features)
        self._epoch, self._order = -1, np.empty((0, 0), np.int64)

    def per_epoch(self) -> int:
        """Whole batches in the data; what is left over is in another epoch."""
        return len(self._features) // self._size

    def indices(self, step: int) -> np.ndarray:
        """int64 (batch_size,): the examples of a step."""
        epoch, index = divmod(step, self.per_epoch())
        if epoch != self._epoch:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(len(self._features))[: self.per_epoch() * self._size]
            together = self._size * _SORTED_TOGETHER
            groups = [order[begin : begin + together] for begin in range(0, len(order), together)]
            ordered = np.concatenate([group[np.argsort(self._lengths[group], kind="stable")] for group in groups])
            self._epoch, self._order = epoch, rng.permutation(ordered.reshape(-1, self._size), axis=0)
        chosen: np.ndarray = self._order[index]
        return chosen

    def at(self, step: int, part: int, parts: int) -> Batch:
        """The `part`-th of `parts` shares of a batch."""
        if self._size % parts:
            raise SettingsError(f"batch_size is {self._size}; it must be a multiple of accumulation × processes, {parts}")
        return self._collate([self._features[index] for index in self.indices(step)[part::parts]])


def in_order(features: Sequence[Feature], batch_size: int, collate: Collate) -> list[tuple[np.ndarray, Batch]]:
    """Batches for prediction, longest first: (places in the list, batch) each."""
    order = np.argsort(-lengths_of(features), kind="stable")
    parts = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    return [(part, collate([features[index] for index in part])) for part in parts]
