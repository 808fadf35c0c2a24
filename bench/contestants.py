"""The systems of a run: which are installed, made from a checkpoint, and loaded in a worker process each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.common import RunError
from bench.process import Worker, isolated
from bench.systems import SYSTEMS


class Build(NamedTuple):
    """One variant of one system, made from a checkpoint."""

    system: str
    variant: str
    path: Path

    @property
    def key(self) -> str:
        return f"{self.system}/{self.variant}"


@dataclass
class Contestant:
    """A build, loaded in its worker; `info` is what the worker's object says of itself."""

    build: Build
    worker: Worker
    info: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def system(self) -> str:
        return self.build.system

    @property
    def variant(self) -> str:
        return self.build.variant

    @property
    def key(self) -> str:
        return self.build.key

    def call(self, method: str, *args: Any) -> Any:
        """The worker's method; a failure is kept in `problems` and raised again."""
        try:
            return self.worker.call(method, *args)
        except RunError as error:
            self.problems.append(str(error))
            raise

    def succeeds(self, method: str, *args: Any) -> bool:
        """Call a method for its effect; false if it fails or something failed before."""
        if self.problems:
            return False
        try:
            self.call(method, *args)
        except RunError:
            return False
        return True


def available(wanted: Sequence[str], skipped: dict[str, str]) -> list[str]:
    """The systems whose packages are installed; the others are named in `skipped`."""
    names = []
    for name in wanted:
        missing = SYSTEMS[name].missing()
        if missing is None:
            names.append(name)
        else:
            skipped[name] = f"{missing} is not installed"
            say(f"{name}: skipped, {skipped[name]}")
    return names


def make_builds(names: Sequence[str], model: str, checkpoint: Path, work: Path, failed: dict[str, str]) -> list[Build]:
    """Convert for every system; those that fail are named in `failed`."""
    builds = []
    for name in names:
        say(f"{model}: {SYSTEMS[name].label}")
        try:
            variants = isolated(SYSTEMS[name].build, checkpoint, work, log=work / "log.txt")
            builds += [Build(name, variant, path) for variant, path in variants.items()]
        except RunError as error:
            failed[f"{model} {name}"] = str(error)
            say(f"{name}: failed, {error}")
    return builds


@contextmanager
def loaded(
    builds: Sequence[Build],
    factory: Callable[[Build], tuple[Any, ...]],
    *,
    title: str,
    log: Path,
    threads: int,
    environment: Mapping[str, str],
    failed: dict[str, str],
) -> Iterator[list[Contestant]]:
    """Load every build in a worker of its own; those that fail are named in `failed`, after the `title`.

    `factory(build)` gives what the worker makes: something to call and its arguments. Workers with several threads are stopped while idle.
    """
    environment = {"OMP_NUM_THREADS": str(threads), **environment}
    with ExitStack() as stack:
        contestants = []
        for build in builds:
            try:
                worker = stack.enter_context(Worker(*factory(build), log=log, environment=environment, stop_when_idle=threads > 1))
                contestants.append(Contestant(build, worker, worker.call("info")))
            except RunError as error:
                failed[f"{title} {build.key}"] = str(error)
                say(f"{build.key}: failed, {error}")
        yield contestants


def report_problems(contestants: Sequence[Contestant], title: str, failed: dict[str, str]) -> None:
    """Move what went wrong into `failed`, after the `title`."""
    for contestant in contestants:
        for problem in contestant.problems:
            failed[f"{title} {contestant.key}"] = problem
        contestant.problems.clear()


def say(line: str) -> None:
    """One line about the progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
