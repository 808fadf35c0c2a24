"""Make an int8 model file of a checkpoint that keeps its accuracy, and prove it.

Usage:
    python -m tools.quantize CHECKPOINT_DIR --out model.tbrt --texts lines.txt --report report/
    python -m tools.quantize CHECKPOINT_DIR --out model.tbrt --calibration calibration.npz \\
        --task pairs --data dev.tsv.gz --text sentence1 --pair sentence2 --label score --max-drop 0.2

Six ways are tried: weights as they are, clipped, and rounded by GPTQ, each with and without migration (see `fold`). Each is compared with
the float model by the runtime itself, on texts that the calibration has not seen, and on a task (see `evaluate`) where one is named. Taken
is the one whose hidden states are nearest to the float model's, but weights as they are unless another one has an error that is smaller by
MARGIN. The task has no say in that: scores of near files differ by chance, and the best of several would look better on these data than
it is. If the file is more than --max-drop points (of 100) below the float model, the linear layers are ranked by the error that each causes
alone, all others being float, and the worst are kept in float: as few of them as will do. (All others float: errors of layers are small
and about independent, so they add up, and each is seen best on its own. Of all int8 but one float, the difference is lost in the errors of
the others. attention.qkv stands for the products of attention too, which are int8 where it is.) Without a task nothing is kept in float.

With --report DIR: report.json has every number, report.md and report.png show them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_rt.cli import OneLineParser
from tinybert_rt.errors import OutputFileError, TinyBertError
from tinybert_rt.output import whole_file

from . import calibrate, fidelity, quantize_report, tasks
from .convert import MODEL_OPTIONS, add_model_options, convert
from .fold import Recipe, check_clip, linear_sources, preparation, weight_errors
from .hf import ConversionError, file_digest, read_config, read_embedding, read_weights
from .rows import DataError, read_texts

if TYPE_CHECKING:
    from tinybert_rt.model import Model

MAX_DROP = 0.2
MARGIN = 0.05
"""The share of the error of token states, 1 − mean cosine, that a change of weights must take away to be made."""

FEW = 16
"""Fewer texts to measure on than this are worth a note."""


@dataclass(frozen=True)
class Goal:
    """What a file is judged by: a task, which of its measures (None: the usual one), and how many points it may lose."""

    task: tasks.Task
    metric: str | None = None
    max_drop: float = MAX_DROP


class Search:
    """Makes files of one checkpoint in a folder, and measures them against the float one.

    Attributes:
        results: by the name of each file that was measured: recipe, float_layers, bytes, pooled, tokens, and with a goal score, drop
            (points) and task.
    """

    def __init__(
        self,
        directory: Path,
        work: Path,
        calibration: calibrate.Calibration,
        goal: Goal | None,
        threads: int | None,
        settings: dict[str, Any],
    ) -> None:
        self.calibration = calibration
        self.goal = goal
        self.results: dict[str, dict[str, Any]] = {}
        self._directory, self._work, self._threads, self._settings = directory, work, threads, settings
        transformer = read_embedding(directory).transformer
        encoder = read_config(transformer)
        if file_digest(read_weights(transformer, encoder.architecture).path) != calibration.sha256:
            raise DataError(f"the calibration is of other weights than those in {transformer}: run tools.calibrate again")
        self.layers = list(linear_sources(encoder))
        convert(directory, self.path("float"), dtype="f32", **settings)
        self.float_model = self.load("float")
        self.fidelity = fidelity.Fidelity(self.float_model, calibration.held_out)
        self._measure("float", Recipe(), self.layers)

    def path(self, name: str) -> Path:
        """Where the file `name` is."""
        return self._work / f"{name}.tbrt"

    def load(self, name: str) -> Model:
        """The model of the file `name`."""
        import tinybert_rt as tb

        return tb.load(self.path(name), threads=self._threads)

    def make(self, name: str, recipe: Recipe, keep_float: Sequence[str] = ()) -> None:
        """The int8 file `name`, with some linear layers in float."""
        prepare = preparation(recipe, self.calibration.statistics, keep_float)
        convert(self._directory, self.path(name), prepare=prepare, keep_float=keep_float, **self._settings)

    def attempt(self, name: str, recipe: Recipe, keep_float: Sequence[str] = ()) -> dict[str, Any]:
        """Make a file and measure it."""
        self.make(name, recipe, keep_float)
        return self._measure(name, recipe, keep_float)

    def _measure(self, name: str, recipe: Recipe, keep_float: Sequence[str]) -> dict[str, Any]:
        model = self.float_model if name == "float" else self.load(name)
        found: dict[str, Any] = {"recipe": str(recipe), "float_layers": list(keep_float), "bytes": self.path(name).stat().st_size}
        found |= self.fidelity.of(model)
        if self.goal is not None:
            task = tasks.measure(model, self.goal.task)
            metric, score = tasks.headline(task, self.goal.metric)
            reference = self.results["float"]["score"] if self.results else score
            found |= {"metric": metric, "score": score, "drop": reference - score, "task": task}
        self.results[name] = found
        return found

    def error(self, name: str) -> float:
        """What is compared between files: 1 − the mean cosine of token states."""
        return 1 - float(self.results[name]["tokens"]["mean_cosine"])

    def sensitivity(self, recipe: Recipe) -> dict[str, float]:
        """The relative RMS error of the last hidden states with one linear layer in int8 and all others in float, largest first."""
        from tqdm import tqdm

        errors = {}
        for layer in tqdm(self.layers, unit="layer", desc="sensitivity", disable=None, leave=False):
            self.make("one", recipe, [each for each in self.layers if each != layer])
            errors[layer] = self.fidelity.of(self.load("one"))["tokens"]["relative_rms"]
        self.path("one").unlink()
        return dict(sorted(errors.items(), key=lambda item: -item[1]))


def fewest(count: int, enough: Callable[[int], bool]) -> int | None:
    """The smallest n from 1 to `count` that is enough, found by bisection: whatever is more than enough is enough too. None: not even
    `count` is."""
    if not enough(count):
        return None
    low, high = 1, count
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def choose(search: Search, clip: str) -> tuple[str, Recipe, dict[str, float]]:
    """Try what there is to try; returns the name of the file to take, its recipe, and the sensitivity of layers, where that was asked.

    Raises ConversionError if the goal is not met with every linear layer in float.
    """
    from tqdm import tqdm

    recipes = {
        "plain": Recipe(),
        "clip": Recipe(clip),
        "gptq": Recipe(gptq=True),
        "migrate": Recipe(migrate=True),
        "migrate+clip": Recipe(clip, migrate=True),
        "migrate+gptq": Recipe(migrate=True, gptq=True),
    }
    for name, recipe in tqdm(recipes.items(), unit="file", desc="quantize", disable=None, leave=False):
        search.attempt(name, recipe)
    best = min(recipes, key=search.error)
    if search.error(best) > (1 - MARGIN) * search.error("plain"):
        best = "plain"
    goal = search.goal
    if goal is None or search.results[best]["drop"] <= goal.max_drop:
        return best, recipes[best], {}
    errors = search.sensitivity(recipes[best])
    ranked = list(errors)

    def enough(count: int) -> bool:
        return bool(search.attempt(f"float {count}", recipes[best], ranked[:count])["drop"] <= goal.max_drop)

    count = fewest(len(ranked), enough)
    if count is None:
        lost = search.results[f"float {len(ranked)}"]["drop"]
        raise ConversionError(
            f"--max-drop {goal.max_drop:g} is not met: with every linear layer in float, {lost:.2f} points are lost, by the embeddings"
            " in int8; allow more"
        )
    return f"float {count}", recipes[best], errors


def quantize(
    directory: Path,
    out: Path,
    calibration: calibrate.Calibration,
    *,
    goal: Goal | None = None,
    clip: str = "mse",
    report: Path | None = None,
    threads: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write the best int8 file of the checkpoint in `directory` to `out`.

    Args:
        calibration: of this checkpoint, by `calibrate.calibrate`.
        goal: what the file is judged by; None: by nearness to the float model alone.
        clip: how weights are clipped where they are, see `fold.Recipe`.
        report: a folder for report.md, report.json and report.png.
        settings: `convert.MODEL_OPTIONS`.

    Returns what report.json holds. Raises ConversionError, DataError, OutputFileError, TinyBertError.
    """
    check_clip(clip)
    if report is not None and report.exists() and not report.is_dir():
        raise DataError(f"{report}: is no directory")
    with tempfile.TemporaryDirectory(prefix="tinybert_rt-quantize-") as folder:
        search = Search(directory, Path(folder), calibration, goal, threads, settings)
        chosen, recipe, sensitivity = choose(search, clip)
        model = search.load(chosen)
        transformer = read_embedding(directory).transformer
        encoder = read_config(transformer)
        weights = weight_errors(read_weights(transformer, encoder.architecture), encoder, recipe, calibration.statistics)
        kept = search.results[chosen]["float_layers"]
        result = {
            "checkpoint": directory.resolve().name,
            "source_sha256": calibration.sha256,
            "file": out.name,
            "chosen": chosen,
            "recipe": str(recipe),
            "float_layers": kept,
            "max_drop": None if goal is None else goal.max_drop,
            "data": None if goal is None else goal.task.data.name,
            "calibration": {"texts": calibration.texts, "tokens": calibration.tokens, "held_out": len(calibration.held_out)},
            "files": search.results,
            "sensitivity": sensitivity,
            "weights": {
                name: dict(zip(("relative_rms", "output"), each, strict=True)) for name, each in weights.items() if name not in kept
            },
            "layers": search.fidelity.by_layer(model, search.float_model),
            "speed": fidelity.speed({"float": search.float_model, "int8": model}, calibration.held_out),
            "machine": fidelity.machine(model),
        }
        with whole_file(out) as file, search.path(chosen).open("rb") as made:
            shutil.copyfileobj(made, file)
    if report is not None:
        quantize_report.write(result, report)
    return result


def _options(prog: str) -> argparse.ArgumentParser:
    command = OneLineParser(prog=prog, description="Make an int8 .tbrt file that keeps its accuracy, and prove it.")
    command.add_argument("directory", type=Path, help="Hugging Face or sentence-transformers directory")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .tbrt file to write")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--calibration", type=Path, metavar="FILE", help="what tools.calibrate wrote")
    source.add_argument("--texts", type=Path, metavar="FILE", help="texts to calibrate with: lines, or a table")
    command.add_argument("--column", "--field", metavar="NAME", help="the column of a table that holds the texts")
    command.add_argument("--samples", type=int, default=calibrate.SAMPLES, metavar="N", help="texts to calibrate with")
    command.add_argument("--clip", default="mse", metavar="HOW", help="mse, or a percentile of each row's |w| (default: mse)")
    command.add_argument("--max-drop", type=float, default=MAX_DROP, metavar="POINTS", help=f"of the task's measure (default: {MAX_DROP})")
    command.add_argument("--metric", metavar="NAME", help="another measure of the task, such as matthews")
    command.add_argument("--report", type=Path, metavar="DIR", help="write report.md, report.json and report.png")
    command.add_argument("--threads", type=int, metavar="N", help="default: all CPUs this process may use")
    tasks.add_options(command, required=False)
    add_model_options(command)
    return command


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.quantize") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    options = _options(prog).parse_args(arguments)
    try:
        if (options.task is None) != (options.data is None):
            raise DataError("--task and --data go together")
        if options.samples < 1:
            raise DataError(f"--samples must be at least 1, not {options.samples}")
        check_clip(options.clip)
        if not options.out.parent.is_dir():
            raise DataError(f"{options.out.parent}: there is no such directory to write to")
        goal = Goal(tasks.task_of(options), options.metric, options.max_drop) if options.task else None
        if options.calibration:
            calibration = calibrate.load(options.calibration)
        else:
            calibration = calibrate.calibrate(options.directory, read_texts(options.texts, options.column), options.samples)
        settings = {name: getattr(options, name) for name in MODEL_OPTIONS}
        if len(calibration.held_out) < FEW:
            texts = "text is" if len(calibration.held_out) == 1 else "texts are"
            print(f"{prog}: note: only {len(calibration.held_out)} {texts} there to measure on: give more", file=sys.stderr)
        result = quantize(
            options.directory,
            options.out,
            calibration,
            goal=goal,
            clip=options.clip,
            report=options.report,
            threads=options.threads,
            **settings,
        )
    except (ConversionError, DataError, OutputFileError, TinyBertError, OSError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{prog}: error: needs the package {error.name!r}: pip install 'tinybert-rt[quantize]'", file=sys.stderr)
        return 2
    print(quantize_report.summary(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
