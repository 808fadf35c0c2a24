"""A small regression to train, for the tests of the training loop; as a program, one run of it.

Usage: python linear_run.py FOLDER [key=JSON …], the arguments of `run`, and file_limit: the most bytes of a file
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.command import guarded
from distill.devices import find_place
from distill.training import Batch, Outcome, Training, train

WIDTH = 6


class Objective(torch.nn.Module):
    """Least squares, with dropout or without."""

    def __init__(self, dropout: float, width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = torch.nn.Sequential(torch.nn.Linear(WIDTH, width), torch.nn.Dropout(dropout), torch.nn.Linear(width, 1))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        error = self.layers(batch["x"])[:, 0] - batch["y"]
        return {"loss": (error**2).mean(), "mean_error": error.mean()}


class Numbers:
    """Random rows, a function of the step; NaN from one step on."""

    def __init__(self, size: int, nan_from: int | None = None, kill_at: int | None = None) -> None:
        self._size, self._nan_from, self._kill_at = size, nan_from, kill_at

    def per_epoch(self) -> int:
        return 5

    def at(self, step: int, part: int, parts: int) -> Batch:
        if step == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        x = np.random.default_rng(step).standard_normal((self._size, WIDTH)).astype(np.float32)[part::parts]
        y = x.sum(1) + (np.nan if self._nan_from is not None and step >= self._nan_from else 0)
        return {"x": torch.from_numpy(x), "y": torch.from_numpy(y.astype(np.float32)), "tokens": x.size}


def settings(**changed: Any) -> Training:
    """Those of a run of 12 steps."""
    values = {"learning_rate": 0.05, "steps": 12, "batch_size": 8, "log_every": 1, "checkpoint_every": 4, "threads": 1}
    return Training(**values | changed)


def run(folder: Path, *, dropout: float = 0.3, nan_from: int | None = None, kill_at: int | None = None, **changed: Any) -> Outcome:
    """Train in a folder."""
    training = settings(**changed)
    numbers = Numbers(training.batch_size, nan_from, kill_at)
    return train(Objective(dropout), numbers, training, folder, training, find_place("cpu"))


def losses(folder: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of each line of the log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in lines if "loss" in line]


def main(arguments: list[str]) -> int:
    """One run."""
    folder, *given = arguments
    values = {key: json.loads(value) for key, _, value in (each.partition("=") for each in given)}
    if limit := values.pop("file_limit", None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return guarded("linear_run", lambda: run(Path(folder), **values) and None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
