"""The results of the recipes in the project's README.md, written from reports.

Usage:
    python -m distill.results runs/sst2-minilm runs/sst2-4x312    (takes their report.json into distill/results, rewrites the table)
    python -m distill.results --check                             (exit status 1 if the table is not what distill/results gives)

Nothing between the two markers in README.md is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert_rt.cli import OneLineParser

from . import command, report
from .settings import DistillError

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- distill:begin -->", "<!-- distill:end -->"
GOALS = {"sst2-minilm": 0.91, "sst2-4x312": 0.885, "sst2-2x128": 0.845, "sst2-2x128-qat": 0.845, "pretrain-tiny": 6.0}
"""what a recipe is meant to reach: a score at least, or a loss of masked tokens below it, in nats"""
_PYTORCH, _INT8 = "PyTorch, float32", "runtime, int8"


def taken(run: Path) -> dict[str, Any]:
    """The report of a run as the results have it. Raises DistillError."""
    try:
        found: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
        found.pop("summary", None)
        found["settings"] = _without_places(found["settings"])
        _line(found)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DistillError(f"{run}: has no report that can be read: {error}") from None
    return found


def _without_places(value: Any) -> Any:
    """Settings with the last two parts of absolute paths: where things lay on one machine says nothing to others."""
    if isinstance(value, dict):
        return {key: _without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_places(each) for each in value]
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and value.startswith("/") else value


def section(folder: Path) -> str:
    """The tables of all reports in a folder, by name."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    if not reports:
        return "There are no results yet."
    pretrained, measured = ([_line(each) for each in reports if ("objective" in each) is kind] for kind in (True, False))
    lines: list[str] = []
    if measured:
        head = ["recipe", "parameters", "file", "measured on", "metric", "float32", "int8", "goal", "trained"]
        lines += [*report.rows([head, *measured]), ""]
    if pretrained:
        head = ["pretraining", "parameters", "pieces", "loss", "of frequencies alone", "goal", "tokens", "tokens/s", "trained"]
        lines += [*report.rows([head, *pretrained]), ""]
    hardware = sorted({each["hardware"] for each in reports})
    return "\n".join([*lines, f"Trained on: {'; '.join(hardware)}. Times are of a machine that did other work beside."])


def _line(found: Mapping[str, Any]) -> list[str]:
    """What stands in the table of pretraining, or of the other recipes."""
    return _pretraining_row(found) if "objective" in found else _row(found)


def _row(found: Mapping[str, Any]) -> list[str]:
    exact = found["scores"][_PYTORCH]
    metric = next(name for name, value in exact.items() if name != "score" and value == exact["score"])
    goal = GOALS.get(found["name"])
    return [
        found["name"],
        f"{found['parameters']:,}",
        f"{found['bytes'] / 1e6:.1f} MB",
        found["dev"],
        metric,
        f"{exact['score']:.4f}",
        f"{found['scores'][_INT8]['score']:.4f}" if _INT8 in found["scores"] else "",
        "" if goal is None else f"{goal}{'' if exact['score'] >= goal else ', not reached'}",
        _minutes(found),
    ]


def _pretraining_row(found: Mapping[str, Any]) -> list[str]:
    loss = (found["validation"] or found["training"])["loss"]
    goal = GOALS.get(found["name"])
    return [
        found["name"],
        f"{found['parameters']:,}",
        f"{found['settings']['tokenizer']['vocab_size']:,}",
        f"{loss:.3f}",
        f"{found['corpus']['unigram_entropy']:.3f}",
        "" if goal is None else f"below {goal}{'' if loss < goal else ', not reached'}",
        f"{found['tokens']:,}",
        f"{found['tokens_per_second']:,}",
        _minutes(found),
    ]


def _minutes(found: Mapping[str, Any]) -> str:
    return f"{found['seconds'] / 60:.0f} min" + ("" if found["finished"] else ", stopped by its budget")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status."""
    prog = "python -m distill.results"
    parser = OneLineParser(prog=prog, description="Write the recipes' results into README.md.")
    parser.add_argument("runs", type=Path, nargs="*", help="folders of finished runs, whose reports are taken")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if something would change")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the file with the two markers")
    parser.add_argument("--results", type=Path, default=ROOT / "distill" / "results", help="folder of reports")
    options = parser.parse_args(arguments)
    stale = False

    def work() -> None:
        nonlocal stale
        reports = [taken(run) for run in options.runs]
        try:
            before = options.readme.read_text(encoding="utf-8")
        except OSError as error:
            raise DistillError(f"{options.readme}: cannot be read: {error.strerror}") from None
        if before.count(BEGIN) != 1 or before.count(END) != 1:
            raise DistillError(f"{options.readme}: must have the lines {BEGIN} and {END}, once each")
        options.results.mkdir(exist_ok=True)
        for found in reports:
            (options.results / f"{found['name']}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        head, rest = before.split(BEGIN)
        after = f"{head}{BEGIN}\n{section(options.results)}\n{END}{rest.split(END)[1]}"
        stale = after != before
        if stale and not options.check:
            options.readme.write_text(after, encoding="utf-8")

    status = command.guarded(prog, work)
    if options.check and stale:
        print(f"{options.readme} is not what {options.results} gives: run {prog}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    raise SystemExit(main())
