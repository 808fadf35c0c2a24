"""Run texts through a checkpoint in `transformers` (float32), and keep what quantization may use: how large the inputs of its layers are.

Usage:
    python -m tools.calibrate CHECKPOINT_DIR --texts lines.txt --out calibration.npz
    python -m tools.calibrate CHECKPOINT_DIR --texts train.tsv.gz --column sentence --samples 256 --out calibration.npz

calibration.npz has, for each linear layer of the encoder ("layers.3.ffn.out"), NAME/gram, the mean of x xᵀ over tokens (its lower triangle,
row by row), NAME/largest, the largest |x| of each input channel, and NAME/percentiles, the percentiles PERCENTILES of |x| in a token's row,
as a mean over tokens (how far the largest value of a row, which sets its scale in int8, is from the others); for each encoder layer
NAME/attention, the largest |q|, |k| and |v| of each channel; texts that were kept apart to measure on; and the checkpoint's digest. Layers
that share weights share their entry. The file is large, 34 MB for MiniLM-L6 and 270 MB for Base. Needs the packages torch and transformers.
"""

from __future__ import annotations

import json
import random
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_rt.cli import OneLineParser
from tinybert_rt.errors import OutputFileError
from tinybert_rt.output import whole_file

from .fold import LinearInput, Statistics, linear_sources
from .hf import ConversionError, Embedding, file_digest, read_config, read_embedding, read_weights
from .rows import DataError, read_texts

PERCENTILES = (50, 90, 99, 99.9, 100)
SAMPLES = 512
HELD_OUT = 128
_BATCH = 16


@dataclass(frozen=True)
class Calibration:
    """What calibration.npz holds.

    Attributes:
        statistics: what goes into the layers. percentiles: by linear layer, float64 (5,), see PERCENTILES.
        held_out: texts that are not in the statistics. texts, tokens: how many are.
        sha256: of the file of the checkpoint's weights.
    """

    statistics: Statistics
    percentiles: dict[str, np.ndarray]
    held_out: list[str]
    texts: int
    tokens: int
    sha256: str


def split(texts: Sequence[str], samples: int) -> tuple[list[str], list[str]]:
    """Up to `samples` texts to calibrate on and up to HELD_OUT others to measure on, drawn with a fixed seed; of few texts, a fifth.

    Raises DataError for fewer than two different texts.
    """
    unique = list(dict.fromkeys(texts))
    if len(unique) < 2:
        raise DataError(f"there is {len(unique)} text; calibration needs at least 2 that differ, one of them to measure on")
    random.Random(0).shuffle(unique)
    apart = min(HELD_OUT, max(len(unique) // 5, 1))
    return unique[apart : apart + samples], unique[:apart]


class _Collector:
    """Hooks on the linear layers of a torch encoder, and what they saw."""

    def __init__(self, model: Any, sources: dict[str, list[str]]) -> None:
        import torch

        self.mask: Any = None  # bool (batch, tokens): what is no padding in the batch that runs
        self.tokens: dict[str, int] = {}
        self.grams: dict[str, Any] = {}
        self.largest: dict[str, Any] = {}
        self.percentiles: dict[str, Any] = {}
        self.attention: dict[str, list[Any]] = {}
        self._quantiles = torch.tensor(PERCENTILES, dtype=torch.float32) / 100
        modules = dict(model.named_modules())
        for name, linears in sources.items():
            missing = [linear for linear in linears if linear not in modules]
            if missing:
                raise ConversionError(f"transformers has no module {missing[0]!r} in this checkpoint's encoder")
            # Relative positions may go through queries and keys too, but never through values, the last one.
            modules[linears[-1]].register_forward_hook(self._input_hook(name))
            if len(linears) == 3:
                layer = name.rsplit(".", 2)[0]
                self.attention[layer] = [0.0, 0.0, 0.0]
                for index, linear in enumerate(linears):
                    modules[linear].register_forward_hook(self._output_hook(layer, index))

    def _rows(self, values: Any) -> Any:
        return values[self.mask]

    def _input_hook(self, name: str) -> Callable[..., None]:
        import torch

        def hook(module: Any, given: tuple[Any, ...], output: Any) -> None:
            rows = self._rows(given[0])
            sizes = rows.abs()
            self.tokens[name] = self.tokens.get(name, 0) + len(rows)
            self.grams[name] = self.grams.get(name, 0) + rows.T @ rows
            self.largest[name] = torch.maximum(sizes.amax(0), self.largest.get(name, torch.zeros(())))
            self.percentiles[name] = self.percentiles.get(name, 0) + torch.quantile(sizes, self._quantiles, dim=1).double().sum(1)

        return hook

    def _output_hook(self, layer: str, index: int) -> Callable[..., None]:
        import torch

        def hook(module: Any, given: tuple[Any, ...], output: Any) -> None:
            if output.shape[:2] != self.mask.shape:  # relative positions
                return
            found = self._rows(output).abs().amax(0)
            self.attention[layer][index] = torch.maximum(found, torch.as_tensor(self.attention[layer][index]))

        return hook


def load_encoder(embedding: Embedding) -> tuple[Any, Any]:
    """The tokenizer and the bare encoder of `transformers`, float32. Raises ConversionError."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConversionError(f"calibration needs transformers and torch: {error}") from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # a head that is left out is no news
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(embedding.transformer)
        model = transformers.AutoModel.from_pretrained(embedding.transformer, dtype=torch.float32).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConversionError(f"{embedding.transformer}: transformers cannot load it: {' '.join(str(error).split())[:300]}") from None
    return tokenizer, model


def calibrate(directory: Path, texts: Sequence[str], samples: int = SAMPLES) -> Calibration:
    """Run a sample of the texts through the checkpoint in `directory`; a progress bar shows on a terminal.

    Raises ConversionError for a checkpoint that cannot be used, DataError for too few texts.
    """
    used, held_out = split(texts, samples)
    if not directory.is_dir():
        raise ConversionError(f"{directory}: there is no such directory")
    embedding = read_embedding(directory)
    encoder = read_config(embedding.transformer)
    digest = file_digest(read_weights(embedding.transformer, encoder.architecture).path)
    tokenizer, model = load_encoder(embedding)
    import torch
    from tqdm import tqdm

    limit = embedding.max_tokens or encoder.max_positions
    collector = _Collector(model, linear_sources(encoder))
    used = sorted(used, key=len)
    tokens = 0
    with tqdm(total=len(used), unit="text", desc="calibrate", disable=None, leave=False) as bar, torch.inference_mode():
        for start in range(0, len(used), _BATCH):
            batch = used[start : start + _BATCH]
            given = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            collector.mask = given["attention_mask"].bool()
            tokens += int(collector.mask.sum())
            model(**given)
            bar.update(len(batch))
    inputs = {}
    for name, count in collector.tokens.items():
        inputs[name] = LinearInput((collector.grams.pop(name) / count).numpy(), collector.largest[name].double().numpy())
        if not np.isfinite(inputs[name].gram).all():
            raise ConversionError(f"{directory}: the inputs of {name} are not finite: its weights are damaged")
    attention = {layer: torch.stack(each).double().numpy() for layer, each in collector.attention.items()}
    percentiles = {name: (each / collector.tokens[name]).numpy() for name, each in collector.percentiles.items()}
    return Calibration(Statistics(inputs, attention), percentiles, held_out, len(used), tokens, digest)


def save(calibration: Calibration, path: Path) -> None:
    """Write calibration.npz, whole or not at all. Raises OutputFileError, OSError."""
    arrays: dict[str, np.ndarray] = {}
    for name, each in calibration.statistics.inputs.items():
        arrays[f"{name}/gram"], arrays[f"{name}/largest"] = each.gram[np.tril_indices(len(each.gram))], each.largest
        arrays[f"{name}/percentiles"] = calibration.percentiles[name]
    arrays |= {f"{layer}/attention": each for layer, each in calibration.statistics.attention.items()}
    about = {name: getattr(calibration, name) for name in ("held_out", "texts", "tokens", "sha256")}
    with whole_file(path) as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Calibration:
    """Read calibration.npz. Raises DataError for what is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            found = {key.removesuffix("/largest"): file[key] for key in file.files if key.endswith("/largest")}
            inputs = {name: LinearInput(_symmetric(file[f"{name}/gram"], len(largest)), largest) for name, largest in found.items()}
            percentiles = {name: file[f"{name}/percentiles"] for name in found}
            attention = {key.removesuffix("/attention"): file[key] for key in file.files if key.endswith("/attention")}
            for name, each in inputs.items():
                if not (np.isfinite(each.gram).all() and np.isfinite(each.largest).all()):
                    raise DataError(f"{path}: is damaged: what it says of {name} is not finite")
            return Calibration(Statistics(inputs, attention), percentiles, **about)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise DataError(f"{path}: is no calibration that this version of tools.calibrate wrote: run it again") from None


def _symmetric(lower: np.ndarray, size: int) -> np.ndarray:
    """The matrix (size, size) whose lower triangle, row by row, this is. Raises ValueError for another size."""
    matrix = np.zeros((size, size), lower.dtype)
    matrix[np.tril_indices(size)] = lower
    return np.asarray(matrix + np.tril(matrix, -1).T)


def format_summary(calibration: Calibration) -> str:
    """A line a linear layer: how far the largest value of a token's row is from its median, which int8 has to span."""
    lines = [f"{'':28}{'largest |x|':>12}" + "".join(f"{f'p{each:g}':>10}" for each in PERCENTILES)]
    for name, found in calibration.statistics.inputs.items():
        numbers = "".join(f"{value:10.3f}" for value in calibration.percentiles[name])
        lines.append(f"{name:28}{found.largest.max():12.3f}{numbers}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.calibrate") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    command = OneLineParser(prog=prog, description="Keep how large the inputs of a checkpoint's linear layers are.")
    command.add_argument("directory", type=Path, help="Hugging Face or sentence-transformers directory")
    command.add_argument(
        "--texts", type=Path, required=True, metavar="FILE", help="lines of text, or a table: .tsv, .csv, .jsonl (.gz, .xz)"
    )
    command.add_argument("--column", "--field", metavar="NAME", help="the column of a table that holds the texts")
    command.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"texts that run (default: {SAMPLES})")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz file to write")
    options = command.parse_args(arguments)
    try:
        if options.samples < 1:
            raise DataError(f"--samples must be at least 1, not {options.samples}")
        if not options.out.parent.is_dir():
            raise DataError(f"{options.out.parent}: there is no such directory to write to")
        calibration = calibrate(options.directory, read_texts(options.texts, options.column), options.samples)
        save(calibration, options.out)
    except (ConversionError, DataError, OutputFileError, OSError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{prog}: error: needs the package {error.name!r}: pip install 'tinybert-rt[quantize]'", file=sys.stderr)
        return 2
    print(format_summary(calibration))
    print(
        f"{options.out}: {calibration.texts} texts, {calibration.tokens} tokens; {len(calibration.held_out)} texts are kept to measure on"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
