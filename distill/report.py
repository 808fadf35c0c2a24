"""The end of a run: checkpoint, `.tbrt` file, and a report of what both of them reach, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import models, runtime
from .devices import Place
from .settings import DistillError, as_json
from .tasks import Task, evaluate
from .training import Outcome, read_log


def finish(
    out: Path, model: Any, tokenizer: Any, task: Task, settings: Any, outcome: Outcome, place: Place, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write `model/`, `model.tbrt`, `report.json` and `report.md` of a model that was trained for a task.

    Returns the report. Raises DistillError.
    """
    model.to("cpu").eval()
    tokenizer.model_max_length = min(tokenizer.model_max_length, models.longest(model))
    folder = models.write_checkpoint(
        out / "model", model, tokenizer, pooling=task.pooled, max_tokens=settings.data.max_tokens if task.pooled else None
    )
    file = models.export(folder, out / "model.tbrt", dtype=settings.dtype, name=out.name)
    exact = models.export(folder, out / ".f32.tbrt", dtype="f32", name=out.name)
    try:
        scores = {
            "PyTorch, float32": evaluate(task, model, tokenizer, task.dev, torch.device("cpu")),
            "runtime, f32": runtime.evaluate(task, exact, task.dev, tokenizer),
            f"runtime, {settings.dtype}": runtime.evaluate(task, file, task.dev, tokenizer),
        }
    finally:
        exact.unlink()
    report = {
        "name": out.name,
        "kind": task.data.kind,
        "dev": task.data.dev,
        "examples": len(task.dev),
        "scores": scores,
        "parameters": sum(each.numel() for each in model.parameters()),
        "bytes": file.stat().st_size,
        "steps": outcome.steps,
        "finished": outcome.finished,
        "seconds": round(read_log(outcome.log)[-1].get("seconds", last_seconds(outcome.log)), 1),
        "hardware": hardware(place),
        "settings": as_json(settings),
        **(more or {}),
    }
    write(out, report)
    return report


def write(out: Path, report: dict[str, Any]) -> None:
    """Write report.json and report.md; puts the text into report["summary"]."""
    write_with(out, report, markdown(report))


def write_with(out: Path, report: dict[str, Any], summary: str) -> None:
    """The same with a text that is given."""
    report["summary"] = summary
    for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("report.md", report["summary"] + "\n")):
        temporary = out / f".{name}.{os.getpid()}"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(out / name)
        except OSError as error:
            raise DistillError(f"{out / name}: cannot be written: {error.strerror}") from None


def last_seconds(log: Path) -> float:
    """The seconds of training that a log tells of."""
    return float(max((line.get("seconds", 0.0) for line in read_log(log)), default=0.0))


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: a table of the numbers of each form of the model, and what it took."""
    scores: dict[str, dict[str, float]] = report["scores"]
    names = [name for name in next(iter(scores.values())) if name != "score"]
    table = [["", *names], *([form, *(f"{numbers[name]:.4f}" for name in names)] for form, numbers in scores.items())]
    lines = [f"# {report['name']}", "", f"{report['dev']} ({report['kind']}, {report['examples']:,} examples):", "", *rows(table), ""]
    lines.append(
        f"{report['parameters']:,} parameters, the file {report['bytes'] / 1e6:.1f} MB; {report['steps']:,} steps"
        f"{'' if report['finished'] else ' (the budget was over)'}, {report['seconds'] / 60:.1f} minutes on {report['hardware']}."
    )
    return "\n".join(lines)


def rows(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its head."""
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = ["| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in table]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def hardware(place: Place) -> str:
    """What a run was computed on."""
    if place.device.type == "cuda":
        return f"{place.processes} × {torch.cuda.get_device_name(place.device)}, PyTorch {torch.__version__}"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def cpu_name() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
