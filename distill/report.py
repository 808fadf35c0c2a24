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


def finish(out: Path, model: Any, tokenizer: Any, task: Task | None, settings: Any, outcome: Outcome, place: Place) -> dict[str, Any]:
    """Write `model/`, `model.tbrt`, `report.json` and `report.md` of a model that was trained for a task.

    A masked language model has no task: it is reported with the losses at its end.

    Returns the report. Raises DistillError.
    """
    model.to("cpu").eval()
    tokenizer.model_max_length = min(tokenizer.model_max_length, models.longest(model))
    pooled = task is not None and task.pooled
    limit = settings.data.max_tokens if pooled else None
    folder = models.write_checkpoint(out / "model", model, tokenizer, pooling=pooled, max_tokens=limit)
    file = models.export(folder, out / "model.tbrt", dtype=settings.dtype, name=out.name, drop_unused_rows=True)
    last = next(line for line in reversed(read_log(outcome.log)) if "loss" in line)
    if task is None:
        scores = {"PyTorch, while training": {name: last[name] for name in ("loss", "masked", "soft", "cosine") if name in last}}
    else:
        scores = _scores(task, model, tokenizer, folder, file, settings.dtype)
    report = {
        "name": out.name,
        "kind": task.data.kind if task else "masked tokens",
        "dev": task.data.dev if task else "texts of the training",
        "examples": len(task.dev) if task else 0,
        "scores": scores,
        "parameters": sum(each.numel() for each in model.parameters()),
        "bytes": file.stat().st_size,
        "steps": outcome.steps,
        "finished": outcome.finished,
        "seconds": round(last["seconds"], 1),
        "hardware": hardware(place),
        "settings": as_json(settings),
    }
    write(out, report, markdown(report))
    return report


def write(out: Path, report: dict[str, Any], summary: str) -> None:
    """Write report.json and report.md, whose text is in report["summary"] too."""
    report["summary"] = summary
    for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("report.md", report["summary"] + "\n")):
        temporary = out / f".{name}.{os.getpid()}"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(out / name)
        except OSError as error:
            raise DistillError(f"{out / name}: cannot be written: {error.strerror}") from None


def _scores(task: Task, model: Any, tokenizer: Any, folder: Path, file: Path, dtype: str) -> dict[str, dict[str, float]]:
    """What the model reaches in PyTorch, in the runtime in float32, and in the file that was made."""
    exact = models.export(folder, folder.parent / ".f32.tbrt", dtype="f32", drop_unused_rows=True)
    try:
        return {
            "PyTorch, float32": evaluate(task, model, tokenizer, task.dev, torch.device("cpu")),
            "runtime, f32": runtime.evaluate(task, exact, task.dev, tokenizer),
            f"runtime, {dtype}": runtime.evaluate(task, file, task.dev, tokenizer),
        }
    finally:
        exact.unlink()


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
