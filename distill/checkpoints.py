"""Checkpoints of a run: written whole or not at all, the last ones kept, found again after any end of the process."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from .settings import DistillError

KEPT = 2


class CheckpointError(DistillError):
    """A checkpoint cannot be written or read."""


def _files(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of every checkpoint in a folder, oldest first."""
    found = [(re.fullmatch(r"step-(\d+)\.pt", path.name), path) for path in folder.glob("step-*.pt")]
    return sorted((int(match[1]), path) for match, path in found if match)


def newest(folder: str | Path) -> Path | None:
    """The last checkpoint of a folder."""
    files = _files(Path(folder))
    return files[-1][1] if files else None


def write(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state atomically. Raises CheckpointError when it cannot be written (a full disk); what was there is as it was."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}")  # of one name, so that what a killed run left is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch turns a failed write into a RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        last = newest(path.parent) or newest(path.parent / "checkpoints")
        left = f"the last checkpoint, {last}, is intact" if last else "there is none before it"
        raise CheckpointError(f"{path}: cannot be written: {error}; {left}: make room and give the same command again") from None


def save(folder: str | Path, step: int, state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step, then remove all but the last KEPT. Raises CheckpointError."""
    folder = Path(folder)
    path = folder / f"step-{step:08d}.pt"
    write(path, state)
    for _, old in _files(folder)[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def load(path: str | Path) -> dict[str, Any]:
    """The state in a checkpoint, tensors on the CPU. Raises CheckpointError."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a checkpoint that can be read ({error}): remove it to go on from the one before") from None
    return state
