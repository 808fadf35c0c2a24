"""What the commands share: arguments, one line for an error, what a dry run says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from tinybert_rt.cli import OneLineParser

from .batches import Feature, lengths_of
from .devices import Place, find_place
from .settings import DistillError, read_settings
from .training import Batches

S = TypeVar("S", contravariant=True)


class Run(Protocol[S]):
    """What a command does with its settings: returns its report, or None."""

    def __call__(self, settings: S, root: Path, place: Place, *, dry: bool = False) -> dict[str, Any] | None: ...


def main(prog: str, description: str, kind: type[Any], run: Run[Any], arguments: Sequence[str] | None) -> int:
    """A command with one settings file. Returns 0; 2 after one line that says what is wrong; 130 after Ctrl-C."""
    command = OneLineParser(prog=f"python -m {prog}", description=description)
    command.add_argument("settings", type=Path, help="a TOML file")
    command.add_argument("--data", type=Path, default=Path(), metavar="DIR", help="where the files of the settings lie (default: here)")
    command.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="replaces a value of the settings")
    command.add_argument("--dry-run", action="store_true", help="check settings, data and model, say what would be done, and end")
    options = command.parse_args(arguments)

    def work() -> None:
        settings = read_settings(options.settings, kind, options.set)
        if settings.training_of_all()[0].threads:
            torch.set_num_threads(settings.training_of_all()[0].threads)
        place = find_place(settings.training_of_all()[0].device)
        found = run(settings, options.data, place, dry=options.dry_run)
        if found is not None:
            print(found["summary"])

    return guarded(f"python -m {prog}", work)


def guarded(prog: str, work: Callable[[], None]) -> int:
    """Do some work; an error that the user can mend is one line on standard error."""
    try:
        work()
    except DistillError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def describe(title: str, model: torch.nn.Module, features: Sequence[Feature], batches: Batches, steps: int) -> None:
    """What a dry run prints of one training."""
    parameters = sum(each.numel() for each in model.parameters())
    lengths = lengths_of(features)
    print(f"{title}: {parameters:,} parameters, {len(features):,} examples, {lengths.sum():,} tokens, the longest {lengths.max()}")
    print(f"{title}: {batches.per_epoch():,} steps an epoch, {steps:,} in all; nothing was written")
