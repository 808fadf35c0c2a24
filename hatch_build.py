"""Wheels carry the compiled C library of the platform that they are built on; without a C compiler or Numba, none."""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _platform_tag(target: Any) -> str:
    if target.system == "macos":  # Python may be built for two architectures, the library is for one
        return f"macosx_11_0_{'arm64' if target.architecture == 'aarch64' else target.architecture}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


class LibraryHook(BuildHookInterface[Any]):
    """Builds the library and cffi's declarations into `tinybert_rt/lib` of the wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What emitting kernels needs, where a wheel is built in isolation."""
        return ["numba>=0.61", "cffi>=1.16", "numpy>=1.24"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the wheel is put together. An editable install has no library: its kernels follow the sources."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        try:
            from tinybert_rt.aot.compiler import find_compiler
            from tinybert_rt.aot.library import build_library
            from tinybert_rt.aot.targets import this_machine
            from tinybert_rt.engine.declarations import write_compiled
            from tinybert_rt.errors import TinyBertError

            target = this_machine()
            if target is None:
                self.app.display_warning("no compiled library for this platform: kernels will be compiled where they run")
                return
            self._work = tempfile.TemporaryDirectory()
            out = Path(self._work.name)
            try:
                find_compiler(target)
            except TinyBertError as error:
                self.app.display_warning(f"no compiled library, kernels will be compiled where they run: {error}")
                return
            # With a compiler, a failure is one: a wheel that lacks its library would only be noticed where it is used.
            shared, *_ = build_library(target, out, say=self.app.display_info)
            write_compiled(out / "_declarations.py")
            (out / "__init__.py").write_text('"""The compiled library of this platform."""\n', encoding="utf-8")
            for path in (shared, out / "_declarations.py", out / "__init__.py"):
                build_data["force_include"][str(path)] = f"tinybert_rt/lib/{path.name}"
            build_data["force_include"][str(out / "include" / "tinybert_rt.h")] = "tinybert_rt/c/tinybert_rt.h"
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{_platform_tag(target)}"
        finally:
            sys.path.remove(self.root)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was built once it is in the wheel."""
        if hasattr(self, "_work"):
            self._work.cleanup()
