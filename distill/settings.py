"""Settings of a run: one TOML file, checked against dataclasses before anything is loaded.

A recipe is read into frozen dataclasses. A key that no dataclass has, a value of another type and a missing key are errors that name the
table and the nearest known key. `--set training.steps=100` replaces single values from the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


class DistillError(Exception):
    """A run cannot begin or go on: what is wrong, where, and what to do."""


class SettingsError(DistillError):
    """The settings are wrong: file, table and key."""


def read_settings(path: str | Path, kind: type[T], replaced: Iterable[str] = (), table: str = "") -> T:
    """The settings in a TOML file.

    Args:
        path: the file.
        kind: a frozen dataclass; fields that are dataclasses are tables, tuples of dataclasses are arrays of tables.
        replaced: "table.key=value" each, the value as in TOML; a value that is no TOML is taken as text.
        table: read this table alone.

    Raises SettingsError.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None
    for each in replaced:
        _replace(values, each)
    if table and table not in values:
        raise SettingsError(f"{path}: the table [{table}] is missing")
    return _build(values[table] if table else values, kind, str(path), table)


def as_json(settings: Any) -> dict[str, Any]:
    """The settings as JSON has them, for logs and checkpoints."""
    made: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return made


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Where two settings (as JSON) differ: "training.steps: 100, now 200" each."""
    if isinstance(old, dict) and isinstance(new, dict):
        prefix = f"{where}." if where else ""
        return [line for key in sorted(old.keys() | new.keys()) for line in differences(old.get(key), new.get(key), f"{prefix}{key}")]
    return [] if old == new else [f"{where}: {old!r}, now {new!r}"]


def _replace(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise SettingsError(f"--set {text}: write table.key=value")
    try:
        parsed = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        parsed = value
    *tables, name = key.split(".")
    for table in tables:
        inner: Any = values[int(table)] if isinstance(values, list) and table.isdigit() and int(table) < len(values) else None
        if isinstance(values, dict):
            inner = values.setdefault(table, {})
        if not isinstance(inner, dict | list):
            raise SettingsError(f"--set {text}: {table!r} is no table")
        values = inner  # type: ignore[assignment]
    if not isinstance(values, dict):
        raise SettingsError(f"--set {text}: {key.rpartition('.')[0]!r} is a list: say which, as in stages.0.{name}")
    values[name] = parsed


def _build(values: Any, kind: type[T], path: str, table: str) -> T:
    where = f"{path}: [{table}]" if table else path
    if not isinstance(values, dict):
        raise SettingsError(f"{where}: must be a table, not {_name(values)}")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
            raise SettingsError(f"{where}: unknown key {key!r}; {hint}")
    made = {}
    for name, field in fields.items():
        if name in values:
            made[name] = _convert(values[name], hints[name], path, f"{table}.{name}" if table else name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}: the key {name!r} is missing")
    try:
        return kind(**made)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None


def _convert(value: Any, hint: Any, path: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [each for each in arguments if each is not type(None)]
        if len(kinds) == 1:
            return _convert(value, kinds[0], path, where)
        if not any(_fits(value, each) for each in kinds):
            raise SettingsError(f"{path}: {where} is {value!r}; it must be {' or '.join(each.__name__ for each in kinds)}")
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build(value, hint, path, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{path}: {where} must be a list, not {_name(value)}")
        return tuple(_convert(each, arguments[0], path, f"{where}.{index}") for index, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{path}: {where} must be a table, not {_name(value)}")
        return {key: _convert(each, arguments[1], path, f"{where}.{key}") for key, each in value.items()}
    if origin is typing.Literal:
        if value not in arguments:
            raise SettingsError(f"{path}: {where} is {value!r}; known: {', '.join(map(repr, arguments))}")
        return value
    if not _fits(value, hint):
        raise SettingsError(f"{path}: {where} is {value!r}; it must be {_name_of(hint)}")
    return float(value) if hint is float else value


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _name_of(kind: Any) -> str:
    return {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}.get(kind, str(kind))


def _name(value: Any) -> str:
    return {dict: "a table", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}.get(
        type(value), "that"
    )
