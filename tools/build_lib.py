"""Build the C library: `python -m tools.build_lib --target x86_64-linux-gnu --out build/lib`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tinybert_rt.aot.library import build_library
from tinybert_rt.aot.targets import TARGETS, target_by_name, this_machine
from tinybert_rt.errors import TinyBertError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools.build_lib", description=__doc__)
    parser.add_argument("--target", help=f"platform: {', '.join(target.name for target in TARGETS)}; this machine's if left out")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets lib/ and include/")
    parser.add_argument(
        "--objects-only", action="store_true", help="emit the kernels' object files beside the C files, and neither compile nor link C"
    )
    options = parser.parse_args(arguments)
    try:
        target = target_by_name(options.target) if options.target else this_machine()
        if target is None:
            parser.error("this machine is none of the targets: choose one with --target")
        made = build_library(target, options.out, objects_only=options.objects_only, say=lambda line: print(line, file=sys.stderr))
    except (TinyBertError, OSError) as error:
        print(f"tools.build_lib: {error}", file=sys.stderr)
        return 2
    for path in made:
        print(f"{path}  {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
