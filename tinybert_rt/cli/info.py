"""`tinybert-rt info`: what is in a model file, and what runs it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .common import UsageError, load, runs


def add(commands: Any) -> None:
    """Its arguments."""
    info = commands.add_parser("info", help="what is in a model file, and what runs it")
    info.add_argument("model", nargs="?", help="a .tbrt file; default: the bundled all-MiniLM-L6-v2")
    info.add_argument("--model", dest="also", metavar="MODEL", help="the same")
    info.add_argument("--json", action="store_true", help="one JSON object")
    runs(info, _info)


def _info(options: argparse.Namespace) -> None:
    from tinybert_rt.isa.levels import available_levels

    if options.model and options.also:
        raise UsageError("name one model: as FILE or as --model FILE")
    model = load(options.model or options.also, options)
    facts = model.info()
    facts["available_isa"] = [level.name for level in available_levels()]
    if options.json:
        print(json.dumps({**facts, "metadata": model.metadata}, ensure_ascii=False))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {' '.join(value) if isinstance(value, list) else value}")
    for name in ("source", "license"):
        if name in model.metadata:
            print(f"{name:<{width}}  {model.metadata[name]}")
