"""Where a run computes: device, precision, processes, and how fast the device could be."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from .settings import SettingsError

T = TypeVar("T")

# Dense bfloat16 peaks in FLOP/s as the makers state them; other devices are measured.
_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}


@dataclass(frozen=True)
class Place:
    """The device of this process and its place among the others of one `torchrun`."""

    device: torch.device
    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0


def find_place(device: str = "auto") -> Place:
    """The place of this process; joins the others that `torchrun` started. Raises SettingsError for a device that is not there."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise SettingsError(f"device is {device!r}; known: 'auto', 'cpu', 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device is 'cuda', but PyTorch finds none here")
    where = torch.device(device)
    if device == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    if processes > 1 and not torch.distributed.is_initialized():
        # The others wait while the first one tokenizes a corpus, or evaluates.
        torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(hours=12))
    return Place(where, rank, processes)


def first_alone(work: Callable[[], T], place: Place) -> T:
    """Let the first process do some work, then the others, which find it done."""
    if place.processes == 1:
        return work()
    if place.first:
        made = work()
    torch.distributed.barrier()
    if not place.first:
        made = work()
    return made


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """The rows of all processes, whose gradient is the sum of what all of them have for one's own."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        found = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def of_all_processes(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The rows of all processes, as many of each, in their order, and where one's own begin; with a gradient for each."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows, 0
    return _Gather.apply(rows), len(rows) * torch.distributed.get_rank()


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device; what is no tensor stays."""
    return {name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def dtype_of(place: Place, precision: str) -> torch.dtype:
    """Of products: bfloat16 where `precision` says so, or "auto" on a GPU that has it; else float32."""
    if precision == "auto":
        precision = "bfloat16" if place.device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(place: Place, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context of forward passes, see `dtype_of`."""
    dtype = dtype_of(place, precision)
    return torch.autocast(place.device.type, dtype) if dtype == torch.bfloat16 else contextlib.nullcontext()


def stated_peak(name: str) -> float | None:
    """FLOP/s in bfloat16 that the maker of a GPU states; None for a name that is not known."""
    return next((peak for known, peak in _PEAKS.items() if re.search(rf"\b{known}\b", name)), None)


def peak_flops(place: Place, precision: str) -> tuple[float, str]:
    """FLOP/s of the device's dense matrix product in a precision, and where the number is from: the maker or a measurement here."""
    dtype = dtype_of(place, precision)
    if place.device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(place.device)
        if (peak := stated_peak(name)) is not None:
            return peak, f"{name}, bfloat16, as its maker states"
    size, best = (4096 if place.device.type == "cuda" else 768), float("inf")
    a = torch.ones(size, size, device=place.device, dtype=dtype)
    for _ in range(5):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best, f"measured with a product of {size}×{size} matrices in {str(dtype).removeprefix('torch.')}"
