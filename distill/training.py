"""The loop that all runs share: accumulation, mixed precision, schedule, many processes, log, checkpoints, exact resume.

What a step computes depends only on the settings and the step's number: batches are functions of the step, and random numbers (dropout,
masks) are seeded anew by seed, step and process. A run that was killed goes on from its last checkpoint and gives the same losses.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from tqdm import tqdm

from . import checkpoints
from .devices import Place, autocast, moved, peak_flops
from .settings import DistillError, SettingsError, as_json, differences


class TrainingError(DistillError):
    """Training cannot go on: the loss is not a number, or the log cannot be written."""


Batch = dict[str, Any]


class Batches(Protocol):
    """The examples of a run. `at` is a function of its arguments alone; a thread calls it ahead of the step that computes with it."""

    def per_epoch(self) -> int:
        """Steps of one pass over the data."""

    def at(self, step: int, part: int, parts: int) -> Batch:
        """The `part`-th of `parts` equal shares of a step's batch; "tokens" counts what is no padding."""


_ABOVE_ZERO = (
    "learning_rate",
    "steps",
    "epochs",
    "batch_size",
    "accumulation",
    "epsilon",
    "clip_norm",
    "log_every",
    "checkpoint_every",
    "evaluate_every",
    "threads",
)


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    learning_rate: float
    steps: int | None = None
    """optimizer steps; this or `epochs`"""
    epochs: float | None = None
    batch_size: int = 32
    """examples of one step, those of all processes and accumulated ones together"""
    accumulation: int = 1
    """parts that a process's share of a batch is computed in"""
    warmup: float = 0.06
    """share of the steps in which the learning rate rises"""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.01
    """of AdamW (Loshchilov and Hutter 2019), not of biases and normalizations"""
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """of products; auto: bfloat16 on a GPU, float32 on a CPU"""
    compile: bool = False
    """torch.compile of the forward pass"""
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500
    evaluate_every: int | None = None
    """steps; default: at the end of each epoch of a fine-tuning, and at the end"""
    budget_minutes: float | None = None
    """the run stops there with a checkpoint, and goes on when it gets more"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say either 'steps' or 'epochs'")
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        for name in ("weight_decay", "seed", "budget_minutes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; it must not be below 0")
        for name in ("warmup", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to below 1")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step from 0: linear warm-up, then down as `schedule` says, to 0 behind the last step."""
        rising = int(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        left = (steps - step) / max(1, steps - rising)
        factor = {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[self.schedule]
        return self.learning_rate * factor

    def total(self, batches: Batches) -> int:
        """Steps in all."""
        return self.steps if self.steps is not None else math.ceil((self.epochs or 0) * batches.per_epoch())


# Settings that may change between the parts of one run.
_FREE = ("budget_minutes", "log_every", "checkpoint_every", "evaluate_every", "device", "threads", "compile")


@dataclass
class Outcome:
    """How a run, or a part of it, ended."""

    steps: int
    finished: bool
    """False: the budget was over"""
    best: dict[str, Any] | None
    """the best evaluation"""
    log: Path


@dataclass
class _State:
    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: dict[str, Any] | None = None
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counted: int = 0


def train(
    objective: torch.nn.Module,
    batches: Batches,
    training: Training,
    folder: str | Path,
    settings: Any,
    place: Place,
    *,
    evaluate: Callable[[], Mapping[str, Any]] | None = None,
    flops_per_token: float = 0.0,
    title: str = "",
) -> Outcome:
    """Train an objective; go on where the folder's last checkpoint stands.

    Args:
        objective: a module whose forward takes a batch (on the device) and returns scalars by name, "loss" among them; its parameters
            are trained. An attribute `leaves_parts_out` says that some of them are not in every loss.
        folder: gets `log.jsonl`, `checkpoints/` and, with `evaluate`, the best parameters in `best.pt`.
        settings: the run's dataclass, to refuse a folder that was begun with other ones.
        evaluate: measures the objective, returns numbers with a "score" (more is better); called where the budget ends, too.
        flops_per_token: of forward and backward pass, for the share of the device's peak (MFU).

    Raises TrainingError when the loss is no number, SettingsError for a folder of another run, CheckpointError.
    """
    folder = Path(folder)
    steps = training.total(batches)
    every = training.evaluate_every or (batches.per_epoch() if training.epochs is not None else steps)
    if training.threads:
        torch.set_num_threads(training.threads)
    objective.to(place.device)
    optimizer = _optimizer(objective, training)
    own = as_json(settings)
    state = _resume(folder, objective, optimizer, own)
    with ExitStack() as stack:
        log = stack.enter_context(closing(_Log(folder / "log.jsonl", state.step, place)))
        if state.best is None and place.first:
            (folder / "best.pt").unlink(missing_ok=True)  # of a run that ended before its first checkpoint
        module: Any = objective
        if place.processes > 1:
            devices = [place.device.index] if place.device.type == "cuda" else None
            unused = getattr(objective, "leaves_parts_out", False)
            module = torch.nn.parallel.DistributedDataParallel(objective, device_ids=devices, find_unused_parameters=unused)
        if training.compile:
            module = torch.compile(module)
        peak, peak_source = peak_flops(place, training.precision) if flops_per_token and place.first else (0.0, "")
        if peak and not state.step:
            log.write({"peak_flops": peak, "peak_source": peak_source, "flops_per_token": flops_per_token, "device": _device_name(place)})
        trained = [each for each in objective.parameters() if each.requires_grad]
        before, began = state.seconds, time.perf_counter()
        since, tokens_since = began, state.tokens
        bar = stack.enter_context(
            tqdm(total=steps, initial=state.step, desc=title, unit="step", file=sys.stderr, disable=None if place.first else True)
        )
        over = False
        ahead = stack.enter_context(closing(_ahead(batches, training, place, state.step, steps)))
        while state.step < steps and not over:
            objective.train()
            seed = (training.seed * 1_000_003 + state.step) * 1_009 + place.rank
            torch.manual_seed(seed % (1 << 63))
            for group in optimizer.param_groups:
                group["lr"] = training.rate(state.step, steps)
            for micro in range(training.accumulation):
                batch = moved(next(ahead), place.device)
                last = micro == training.accumulation - 1
                with module.no_sync() if place.processes > 1 and not last else nullcontext():
                    with autocast(place, training.precision):
                        values = module(batch)
                    (values["loss"] / training.accumulation).backward()
                for name, value in values.items():
                    state.sums[name] = state.sums.get(name, torch.zeros((), device=place.device)) + value.detach().float()
                state.counted += 1
                state.tokens += int(batch["tokens"]) * place.processes
            norm = torch.nn.utils.clip_grad_norm_(trained, training.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            state.sums["gradient_norm"] = (
                state.sums.get("gradient_norm", torch.zeros((), device=place.device)) + norm * training.accumulation
            )
            state.step += 1
            bar.update()
            ends = state.step == steps
            measures = evaluate is not None and (ends or state.step % every == 0)
            if ends or measures or state.step % training.log_every == 0 or state.step % training.checkpoint_every == 0:
                means = _means(state, place)
                now = time.perf_counter()
                state.seconds = before + now - began
                if not all(math.isfinite(value) for value in means.values()):
                    raise TrainingError(_not_finite(folder, state.step, means))
                speed = (state.tokens - tokens_since) / max(now - since, 1e-9)
                since, tokens_since = now, state.tokens
                line: dict[str, Any] = {"step": state.step, **means, "learning_rate": training.rate(state.step - 1, steps)}
                line |= {"tokens": state.tokens, "seconds": round(state.seconds, 2), "tokens_per_second": round(speed)}
                if peak:
                    line["mfu"] = round(speed * flops_per_token / (peak * place.processes), 4)
                log.write(line)
                bar.set_postfix_str(f"loss {means['loss']:.4g}, {speed:,.0f} tokens/s" + (f", MFU {line['mfu']:.1%}" if peak else ""))
                over = _agreed(training.budget_minutes is not None and state.seconds >= 60 * training.budget_minutes, place)
            if evaluate is not None and (measures or over) and place.first:
                objective.eval()
                paused = time.perf_counter()
                measured = {"step": state.step, **evaluate()}
                log.write({"evaluation": measured})
                # A score may be NaN, as the correlation with a constant is; any other is better.
                if state.best is None or measured["score"] > state.best["score"] or math.isnan(state.best["score"]):
                    state.best = dict(measured)
                    checkpoints.write(folder / "best.pt", {"objective": objective.state_dict()})
                since += time.perf_counter() - paused
            if place.first and (ends or over or state.step % training.checkpoint_every == 0):
                _save(folder, state, objective, optimizer, own)
        if place.processes > 1:
            torch.distributed.barrier()
    return Outcome(state.step, state.step >= steps, state.best, folder / "log.jsonl")


def _ahead(batches: Batches, training: Training, place: Place, first: int, steps: int) -> Generator[Batch, None, None]:
    """The batches of this process from a step on, the next two made while one is computed with."""
    begin, parts = place.rank * training.accumulation, training.accumulation * place.processes
    wanted = ((step, begin + micro, parts) for step in range(first, steps) for micro in range(training.accumulation))

    def make(step: int, part: int, parts: int) -> Batch:
        batch = batches.at(step, part, parts)
        if place.device.type != "cuda":
            return batch
        # A copy to the GPU waits for it unless the memory is pinned.
        return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make, *each) for each in islice(wanted, 2))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make, *each) for each in islice(wanted, 1))
            yield batch


def load_best(folder: str | Path, objective: torch.nn.Module) -> None:
    """Give the objective the parameters of the best evaluation, if there was one."""
    path = Path(folder) / "best.pt"
    if path.exists():
        objective.load_state_dict(checkpoints.load(path)["objective"])


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


class _Log:
    """`log.jsonl`: a line of JSON for each group of steps. Lines behind the checkpoint that a run goes on from are written anew."""

    def __init__(self, path: Path, step: int, place: Place) -> None:
        self._file, self._path = None, path
        if not place.first:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".new")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in _lines_up_to(path, step)), encoding="utf-8")
            temporary.replace(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._failed(error) from None

    def write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written was said
                self._file.close()

    def _failed(self, error: OSError) -> TrainingError:
        last = checkpoints.newest(self._path.parent / "checkpoints")
        left = f"the last checkpoint, {last}, is intact" if last else "there is no checkpoint yet"
        return TrainingError(
            f"{self._path}: cannot be written: {error.strerror or error}; {left}: make room and give the same command again"
        )


def _lines_up_to(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of a log up to a step; one that the end of a process cut off is none."""
    kept: list[dict[str, Any]] = []
    if not step or not path.exists():
        return kept
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if line.get("step", line.get("evaluation", line).get("step", 0)) <= step:
            kept.append(line)
    return kept


def _optimizer(objective: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    trained = [each for each in objective.parameters() if each.requires_grad]
    if not trained:
        raise SettingsError("nothing is left to train: every parameter is frozen")
    groups = [
        {"params": [each for each in trained if each.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, training.beta2), eps=training.epsilon, fused=True)


def _resume(folder: Path, objective: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> _State:
    path = checkpoints.newest(folder / "checkpoints")
    if path is None:
        return _State()
    saved = checkpoints.load(path)
    changed = differences(_without_free(json.loads(saved["settings"])), _without_free(settings))
    if changed:
        raise SettingsError(f"{folder}: was begun with other settings ({'; '.join(changed[:3])}): name another folder, or remove it")
    objective.load_state_dict(saved["objective"])
    optimizer.load_state_dict(saved["optimizer"])
    return _State(saved["step"], saved["seconds"], saved["tokens"], json.loads(saved["best"]))


def _without_free(settings: Any) -> Any:
    if isinstance(settings, dict):
        return {key: _without_free(value) for key, value in settings.items() if key not in _FREE}
    return [_without_free(each) for each in settings] if isinstance(settings, list) else settings


def _save(folder: Path, state: _State, objective: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> None:
    content = {
        "step": state.step,
        "seconds": state.seconds,
        "tokens": state.tokens,
        "best": json.dumps(state.best),
        "settings": json.dumps(settings),
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    checkpoints.save(folder / "checkpoints", state.step, content)


def _means(state: _State, place: Place) -> dict[str, float]:
    """Means of the scalars since the last call, over all processes."""
    names = sorted(state.sums)
    sums = torch.stack([state.sums[name] for name in names]) / state.counted
    if place.processes > 1:
        torch.distributed.all_reduce(sums)
        sums /= place.processes
    state.sums, state.counted = {}, 0
    return dict(zip(names, (round(value, 6) for value in sums.tolist()), strict=True))


def _agreed(over: bool, place: Place) -> bool:
    """What the first process says."""
    if place.processes == 1:
        return over
    flag = torch.tensor([int(over)], device=place.device)
    torch.distributed.broadcast(flag, 0)
    return bool(flag.item())


def _not_finite(folder: Path, step: int, means: dict[str, float]) -> str:
    what = ", ".join(f"{name} is {value}" for name, value in means.items() if not math.isfinite(value))
    last = checkpoints.newest(folder / "checkpoints")
    left = f"the last checkpoint, {last}, is intact" if last else "there is no checkpoint yet"
    return f"up to step {step}: {what}; {left}: lower learning_rate, raise warmup, or look at the data"


def _device_name(place: Place) -> str:
    if place.device.type == "cuda":
        return str(torch.cuda.get_device_name(place.device))
    return f"CPU, {torch.get_num_threads()} threads"
