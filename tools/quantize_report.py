"""The report of `quantize`: Markdown, JSON and a picture, all made of the same numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinybert_rt.errors import OutputFileError
from tinybert_rt.output import whole_file

INT8, FLOAT = "#2f6fb0", "#9a9a9a"


def write(result: dict[str, Any], folder: Path) -> None:
    """report.md, report.json and report.png in the folder, which is made. Raises OutputFileError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"{folder}: cannot be made: {error.strerror or error}") from None
    contents = {
        "report.json": (json.dumps(result, indent=2, ensure_ascii=False) + "\n").encode(),
        "report.md": (markdown(result) + "\n").encode(),
        "report.png": picture(result),
    }
    for name, content in contents.items():
        with whole_file(folder / name) as file:
            file.write(content)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(each)} |" for each in (header, *rows)]
    return [lines[0], "|" + " --- |" + " ---: |" * (len(header) - 1), *lines[1:]]


def _files(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the table of files."""
    scored = "score" in result["files"]["float"]
    metric = result["files"]["float"].get("metric", "")
    header = ["file", "weights", *([f"{metric} ×100", "drop"] if scored else [])]
    header += ["pooled cosine, mean", "min", "tokens' cosine, mean", "min", "MB"]
    rows = []
    for name, each in result["files"].items():
        row = [f"**{name}**" if name == result["chosen"] else name, "float32" if name == "float" else each["recipe"]]
        row += [f"{each['score']:.2f}", f"{each['drop']:+.2f}"] if scored else []
        row += [f"{each[kind][which]:.6f}" for kind in ("pooled", "tokens") for which in ("mean_cosine", "min_cosine")]
        rows.append([*row, f"{each['bytes'] / 1e6:.1f}"])
    return header, rows


def markdown(result: dict[str, Any]) -> str:
    """report.md."""
    files, speed, machine = result["files"], result["speed"], result["machine"]
    chosen = files[result["chosen"]]
    given = result["calibration"]
    lines = [f"# {result['checkpoint']} in int8", ""]
    lines.append(
        f"`{result['file']}` is *{result['chosen']}* below ({result['recipe']}): {chosen['bytes']:,} bytes, {files['float']['bytes']:,} in"
        " float32."
    )
    if "drop" in chosen:
        lines.append(
            f"On {result['data']} ({chosen['task']['task']}), {chosen['metric']} is {chosen['score']:.2f}, in float32"
            f" {files['float']['score']:.2f}; up to {result['max_drop']:g} points may be lost."
        )
    if result["float_layers"]:
        lines.append(f"Kept in float: {', '.join(result['float_layers'])}.")
    lines += ["", "## Accuracy", ""]
    lines.append(
        f"Cosines are to the float model's results on {given['held_out']} texts that are not among the {given['texts']} ({given['tokens']}"
        " tokens) of the calibration."
    )
    lines += ["", *_table(*_files(result)), "", "## Speed", ""]
    names = list(next(iter(speed.values())))
    rows = [[kind, *(f"{numbers[name]:.3g}" for name in names)] for kind, numbers in speed.items()]
    lines += _table(["", *(name.replace("_", " ") for name in names)], rows)
    lines += ["", "## Hidden states by layer", ""]
    rows = [
        [str(index) if index else "embeddings", *(f"{each[name]:.3e}" for name in ("relative_rms", "max_abs")), f"{each['min_cosine']:.6f}"]
        for index, each in enumerate(result["layers"])
    ]
    lines += _table(["behind layer", "relative RMS error", "largest error", "min cosine"], rows)
    lines += ["", "## Weights", "", "The relative RMS error of the weights, and of the output over the inputs of the calibration.", ""]
    rows = [[name, f"{each['relative_rms']:.3e}", f"{each['output']:.3e}"] for name, each in result["weights"].items()]
    lines += _table(["linear layer", "weights", "output"], rows)
    if result["sensitivity"]:
        lines += ["", "## Sensitivity", "", "The relative RMS error of the last hidden states with this layer alone in int8.", ""]
        lines += _table(["linear layer", "error"], [[name, f"{each:.3e}"] for name, each in result["sensitivity"].items()])
    lines += ["", "## Measured on", "", *_table(["", ""], [[name, str(value)] for name, value in machine.items()])]
    return "\n".join([*lines, "", f"Weights of the checkpoint: SHA-256 {result['source_sha256']}."])


def summary(result: dict[str, Any]) -> str:
    """What the command prints: the table of files in columns, and what was taken."""
    header, rows = _files(result)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    kept = f", in float: {', '.join(result['float_layers'])}" if result["float_layers"] else ""
    return "\n".join([*lines, f"{result['file']}: {result['chosen']} ({result['recipe']}{kept})"])


def picture(result: dict[str, Any]) -> bytes:
    """report.png: the cosines of each file, errors by layer, and speed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    near, states, weights, fast = figure.subplots(2, 2).flat
    files = {name: each for name, each in result["files"].items() if name != "float"}
    colours = [INT8 if name == result["chosen"] else FLOAT for name in files]
    near.barh(list(files), [1 - each["tokens"]["mean_cosine"] for each in files.values()], color=colours)
    near.invert_yaxis()
    near.set_title("1 − mean cosine of token states to float")
    states.plot([each["relative_rms"] for each in result["layers"]], color=INT8, marker="o")
    states.set_title("Relative RMS error of hidden states")
    states.set_xlabel("behind layer (0: embeddings)")
    states.set_ylim(bottom=0)
    weights.bar(list(result["weights"]), [each["output"] for each in result["weights"].values()], color=INT8)
    weights.tick_params(axis="x", rotation=90, labelsize=6)
    weights.set_title("Relative RMS error of each layer's output, by its int8 weights")
    speed = result["speed"]
    names = list(speed["float"])
    ratios = [
        speed["int8"][name] / speed["float"][name] if name == "sentences_per_second" else speed["float"][name] / speed["int8"][name]
        for name in names
    ]
    bars = fast.barh([name.replace("_", " ") for name in names], ratios, color=INT8)
    fast.bar_label(bars, [f"{ratio:.2f}×" for ratio in ratios])
    fast.margins(x=0.15)
    fast.axvline(1, color=FLOAT)
    fast.set_title("Speed of int8, float32 = 1")
    shown = result["files"][result["chosen"]]
    score = f", {shown['metric']} {result['files']['float']['score']:.2f} → {shown['score']:.2f}" if "score" in shown else ""
    figure.suptitle(f"{result['checkpoint']}: {result['chosen']} ({result['recipe']}){score}; {result['machine']['cpu']}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
