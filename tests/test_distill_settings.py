"""Settings of a run: TOML into dataclasses, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from distill.settings import SettingsError, as_json, differences, read_settings


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 10
    name: str = "x"
    on: bool = False
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be 1 or more")


@dataclass(frozen=True)
class Outer:
    files: tuple[str, ...]
    inner: Inner
    stages: tuple[Inner, ...] = ()
    maybe: int | None = None
    words: dict[str, int] | None = None


GOOD = 'files = ["a"]\n[inner]\nrate = 1\n'


def read(tmp_path: Path, text: str, *replaced: str) -> Outer:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    return read_settings(path, Outer, replaced)


def test_tables_lists_and_defaults_become_dataclasses(tmp_path: Path) -> None:
    text = 'files = ["a", "b"]\nmaybe = 3\nwords = {x = 1}\n[inner]\nrate = 1\nkind = "b"\n[[stages]]\nrate = 0.5\non = true\n'
    assert read(tmp_path, text) == Outer(("a", "b"), Inner(1.0, kind="b"), (Inner(0.5, on=True),), 3, {"x": 1})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "step = 3\n", r"\[inner\]: unknown key 'step'; did you mean 'steps'\?"),
        (GOOD + "zzz = 3\n", r"\[inner\]: unknown key 'zzz'; known: rate, steps, name, on, kind"),
        ('file = ["a"]\n[inner]\nrate = 1\n', "unknown key 'file'; did you mean 'files'"),
        ('files = ["a"]\n[inner]\n', r"\[inner\]: the key 'rate' is missing"),
        ('files = ["a"]\n', "the key 'inner' is missing"),
        ('files = ["a"]\ninner = 3\n', r"\[inner\]: must be a table, not a number"),
        ('files = "a"\n[inner]\nrate = 1\n', "files must be a list, not text"),
        ("files = [1]\n[inner]\nrate = 1\n", r"files\.0 is 1; it must be text"),
        (GOOD + 'steps = "3"\n', r"inner\.steps is '3'; it must be a whole number"),
        (GOOD + "steps = 1.5\n", r"inner\.steps is 1\.5; it must be a whole number"),
        (GOOD + "steps = true\n", r"inner\.steps is True; it must be a whole number"),
        (GOOD + "on = 1\n", r"inner\.on is 1; it must be true or false"),
        (GOOD + 'kind = "c"\n', r"inner\.kind is 'c'; known: 'a', 'b'"),
        ('files = ["a"]\n[inner]\nrate = nan\n', r"inner\.rate is nan; it must be a finite number"),
        ('files = ["a"]\n[inner]\nrate = inf\n', r"inner\.rate is inf; it must be a finite number"),
        (GOOD + "steps = 0\n", r"\[inner\]: steps must be 1 or more"),
        ('maybe = "1"\n' + GOOD, "maybe is '1'; it must be a whole number"),
        ('words = {x = "y"}\n' + GOOD, r"words\.x is 'y'; it must be a whole number"),
        ("files = [", "not TOML"),
    ],
)
def test_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml: cannot be read: No such file"):
        read_settings(tmp_path / "nothing.toml", Outer)


def test_values_are_replaced_from_the_command_line(tmp_path: Path) -> None:
    text = GOOD + "[[stages]]\nrate = 1\n"
    found = read(tmp_path, text, "inner.steps=7", "inner.name=plain text", "stages.0.rate=2", "maybe=1", 'files=["z"]')
    assert found == Outer(("z",), Inner(1.0, 7, "plain text"), (Inner(2.0),), 1)


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ("inner.steps", r"write table\.key=value"),
        ("=3", r"write table\.key=value"),
        ("inner..steps=3", r"write table\.key=value"),
        ("inner.stps=3", "unknown key 'stps'; did you mean 'steps'"),
        ("inner.rate.x=3", "'rate' is no table"),
        ("stages.rate=3", "is a list: say which, as in stages.0.rate"),
        ("stages.4.rate=3", "'4' is no table"),
        ("inner.steps=many", "is 'many'; it must be a whole number"),
    ],
)
def test_a_replacement_is_refused(tmp_path: Path, replaced: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read(tmp_path, GOOD + "[[stages]]\nrate = 1\n", replaced)


def test_differences_name_the_key_and_both_values() -> None:
    old, new = (as_json(Outer(("a",), Inner(rate, steps))) for rate, steps in ((1.0, 10), (2.0, 10)))
    assert differences(old, new) == ["inner.rate: 1.0, now 2.0"]
    assert differences(old, old) == []
