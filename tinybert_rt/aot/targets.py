"""The platforms that the C library is built for."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from tinybert_rt.errors import InvalidArgumentError
from tinybert_rt.isa.levels import LEVELS, IsaLevel, machine_architecture


@dataclass(frozen=True)
class Target:
    """One platform.

    Attributes:
        name: what `tools.build_lib --target` calls it.
        architecture: `x86_64` or `aarch64`.
        llvm: LLVM's triple; libraries for Linux share their kernels, whatever the C library.
        system: "linux", "windows", "macos", or, where no headers come with a cross compiler, "android" or "ios".
        zig: what `zig cc -target` calls it, or "" where it has no headers for it.
    """

    name: str
    architecture: str
    llvm: str
    system: str
    zig: str

    @property
    def levels(self) -> list[IsaLevel]:
        """Its instruction-set levels, slowest first."""
        return [level for level in LEVELS if level.architecture == self.architecture]

    @property
    def shared_name(self) -> str:
        """File name of the shared library."""
        return {"windows": "tinybert_rt.dll", "macos": "libtinybert_rt.dylib"}.get(self.system, "libtinybert_rt.so")


TARGETS: tuple[Target, ...] = (
    Target("x86_64-linux-gnu", "x86_64", "x86_64-unknown-linux-gnu", "linux", "x86_64-linux-gnu.2.17"),
    Target("x86_64-linux-musl", "x86_64", "x86_64-unknown-linux-gnu", "linux", "x86_64-linux-musl"),
    Target("aarch64-linux-gnu", "aarch64", "aarch64-unknown-linux-gnu", "linux", "aarch64-linux-gnu.2.17"),
    Target("aarch64-linux-musl", "aarch64", "aarch64-unknown-linux-gnu", "linux", "aarch64-linux-musl"),
    Target("x86_64-windows-gnu", "x86_64", "x86_64-w64-windows-gnu", "windows", "x86_64-windows-gnu"),
    Target("x86_64-macos", "x86_64", "x86_64-apple-macosx11.0.0", "macos", "x86_64-macos.11.0"),
    Target("aarch64-macos", "aarch64", "arm64-apple-macosx11.0.0", "macos", "aarch64-macos.11.0"),
    Target("aarch64-android", "aarch64", "aarch64-unknown-linux-android24", "android", ""),
    Target("aarch64-ios", "aarch64", "arm64-apple-ios13.0", "ios", ""),
)


def target_by_name(name: str) -> Target:
    """The target called `name`. Raises InvalidArgumentError."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise InvalidArgumentError(f"unknown target {name!r}; known: {', '.join(target.name for target in TARGETS)}")


def this_machine() -> Target | None:
    """The target that this Python runs on, or None."""
    if sys.platform == "linux":
        system = "linux-gnu" if platform.libc_ver()[0] == "glibc" else "linux-musl"
    else:
        system = {"darwin": "macos", "win32": "windows-gnu"}.get(sys.platform, "")
    name = f"{machine_architecture()}-{system}"
    return next((target for target in TARGETS if target.name == name), None)
