"""Embedding many files with Ray: the same vectors as one process, whatever happens to workers and runs."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from models import convert, small_model_file, write_checkpoint

pytest.importorskip("ray.data", reason="ray[data] is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

import pyarrow as pa  # noqa: E402
import ray  # noqa: E402

import tinybert_rt as tb  # noqa: E402
from tools import embed_ray  # noqa: E402
from tools.ray_job import TRIES, Job, JobError, Result, embed, embed_unit  # noqa: E402
from tools.rows import DataError  # noqa: E402
from tools.units import Wanted, survey  # noqa: E402

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.")  # Ray's own settings, which it sets itself


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def rows(count: int, words: int = 3) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "text": f"passage {i} " + "cat sat on the mat " * (i % words)} for i in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run(inputs: list[str], out: Path, **settings: Any) -> Result:
    defaults = {"model": str(small_model_file()), "workers": 2, "id_column": "id", "batch_rows": 64}
    return embed(inputs, str(out), "text", **(defaults | settings))


def outputs(out: Path) -> list[Any]:
    """A table per input, in the order of the index."""
    files = json.loads((out / "_index.json").read_text())["files"]
    inputs = dict.fromkeys(file["input"] for file in files)
    return [pa.concat_tables(pq.read_table(out / file["file"]) for file in files if file["input"] == name) for name in inputs]


def check(table: Any, rows: list[dict[str, Any]], dtype: str = "float32") -> None:
    """The rows in order, with the bytes of the vectors that a single process computes."""
    expected = tb.load(small_model_file(), threads=1).encode_detailed([row["text"] for row in rows], dtype=dtype, truncation="truncate")
    assert table.select(list(rows[0])).to_pylist() == rows
    vectors = table.column("vector").combine_chunks()
    assert vectors.type.list_size == expected.vectors.shape[1]
    assert vectors.flatten().to_numpy().tobytes() == expected.vectors.tobytes()
    assert table.column("tokens").to_pylist() == expected.token_counts.tolist()
    assert table.column("truncated").to_pylist() == expected.truncated.tolist()


def test_two_workers_give_the_vectors_of_one_process_and_a_second_run_does_only_what_is_new(two_cpus: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    inputs = [write(tmp_path / "a.jsonl", [*rows(150, 40), {"id": "bad"}]), write(tmp_path / "b.parquet", rows(70))]
    result = run(inputs, out, unit_bytes=20_000, skip_bad=True)
    assert (result.rows, result.embedded, result.bad) == (220, 220, 1)
    assert result.units == result.embedded_units > 2
    for table, expected in zip(outputs(out), (rows(150, 40), rows(70)), strict=True):
        check(table, expected)
    assert result.truncated == sum(outputs(out)[0].column("truncated").to_pylist()) > 0

    lost = sorted(out.glob("*.parquet"))[0]
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet") if path != lost}
    lost.unlink()
    inputs.append(write(tmp_path / "c.jsonl", rows(5)))
    again = run(inputs, out, unit_bytes=20_000, skip_bad=True, workers=1)
    assert (again.rows, again.embedded_units) == (225, 2)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for table, expected in zip(outputs(out), (rows(150, 40), rows(70), rows(5)), strict=True):
        check(table, expected)


def kill_the_writer(out: Path, killed: list[int], done: threading.Event) -> None:
    """Kill the first worker that has written a part of its output: the process that has the unfinished file open."""
    while not killed and not done.wait(0.002):
        for part in out.glob(".*.parquet.*.part"):
            for link in glob.glob("/proc/[0-9]*/fd/*"):
                try:
                    pid = int(link.split("/")[2])
                    if pid != os.getpid() and part.stat().st_size > 0 and os.readlink(link) == str(part):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        return
                except OSError:
                    continue


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the worker is found through /proc")
def test_a_worker_killed_in_the_middle_costs_no_passage(two_cpus: None, tmp_path: Path) -> None:
    out, killed, done = tmp_path / "out", [], threading.Event()
    passages = rows(6000, 12)
    killer = threading.Thread(target=kill_the_writer, args=(out, killed, done))
    killer.start()
    try:
        result = run([write(tmp_path / "a.jsonl", passages)], out, dtype="int8")
    finally:
        done.set()
        killer.join()
    assert killed
    assert result.embedded == 6000
    check(outputs(out)[0], passages, "int8")
    assert not list(out.glob(".*.part"))


def test_bad_inputs_end_the_run_before_it_embeds(two_cpus: None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(3), {"id": "x", "text": None}, *rows(2)])
    with pytest.raises(DataError, match=r"a\.jsonl: line 4: no text in column 'text'; 1 of its rows are bad, --skip-bad"):
        run([path], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet"))
    (tmp_path / "copy").mkdir()
    copy = shutil.copy(path, tmp_path / "copy")
    with pytest.raises(DataError, match=r"copy/a\.jsonl: has the name and the content of"):
        run([path, str(copy)], tmp_path / "out", skip_bad=True)
    with pytest.raises(DataError, match="has a column 'vector' already"):
        run([write(tmp_path / "b.jsonl", [{"id": 1, "text": "a", "vector": 1}])], tmp_path / "out")


def test_a_folder_that_was_begun_with_another_model_is_refused(two_cpus: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        run([str(tmp_path / "none.jsonl")], tmp_path / "out")  # it has begun, and ended early
    write_checkpoint(tmp_path / "model", seed=1)
    path = write(tmp_path / "a.jsonl", rows(3))
    with pytest.raises(JobError, match=r"out: was begun with model_sha256 '.*', this run has '.*': choose another folder"):
        run([path], tmp_path / "out", model=str(convert(tmp_path / "model", "int8")))
    with pytest.raises(JobError, match="was begun with dtype 'float32'"):
        run([path], tmp_path / "out", dtype="int8")


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "_lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(JobError, match="another run writes there"):
            run([write(tmp_path / "a.jsonl", rows(3))], tmp_path)


def job(out: Path, **settings: Any) -> Job:
    chosen = {"dim": 64, "dtype": "float32", "text": "text", "id": None, **settings}
    return Job(str(out), chosen, None, threads=1, batch_rows=2, skip_bad=True)


def test_a_unit_without_bad_rows_is_written_in_row_groups(tmp_path: Path) -> None:
    (unit,) = survey(write(tmp_path / "a.jsonl", [*rows(3), {"id": "x", "text": ""}, *rows(2)]), Wanted("text")).units
    assert embed_unit(tb.load(small_model_file(), threads=1), unit, job(tmp_path)) == {"rows": 5, "truncated": 0}
    check(pq.read_table(tmp_path / unit.name), rows(3) + rows(2))
    assert pq.read_metadata(tmp_path / unit.name).num_row_groups == 3


def test_a_unit_that_killed_every_worker_is_given_up(tmp_path: Path) -> None:
    (unit,) = survey(write(tmp_path / "a.jsonl", rows(3)), Wanted("text")).units
    for i in range(TRIES):
        (tmp_path / f".{unit.name}.{i}.part").touch()
    with pytest.raises(JobError, match="workers have died at its part from row 1 on"):
        embed_unit(tb.load(small_model_file(), threads=1), unit, job(tmp_path))


def test_the_command_reports_what_it_did(two_cpus: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "a.jsonl", rows(3)), tmp_path / "out"
    assert embed_ray.main([path, "--out", str(out), "--text", "text", "--model", str(small_model_file()), "--workers", "1"]) == 0
    said = f"{out}: 3 rows in 1 files; embedded now: 3 rows in 1 files (0 texts truncated); bad rows left out: 0\n"
    assert capsys.readouterr().out == said
    check(outputs(out)[0], rows(3))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--text", "title"], "line 1: no text in column 'title'; 3 of its rows are bad"),
        (["--text", "text", "--model", "none.tbrt"], "none.tbrt"),
        (["--text", "text", "--workers", "0"], "workers must be at least 1, not 0"),
        (["--text", "text", "--workers", "3"], "3 workers with 1 threads each are too many for 2 CPUs"),
    ],
    ids=["column", "model", "no workers", "too many workers"],
)
def test_the_command_says_what_is_wrong_in_one_line(
    two_cpus: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    path = write(tmp_path / "a.jsonl", rows(3))
    assert embed_ray.main([path, "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m tools.embed_ray: error: ")
    assert why in error
    assert error.count("\n") == 1


def test_an_index_takes_over_the_vectors(two_cpus: None, tmp_path: Path) -> None:
    search = pytest.importorskip("tinybert_rt.search", reason="apsw is not installed")
    given = [{**row, "title": f"title {i}", "lang": "en"} for i, row in enumerate(rows(120))]
    for dtype in ("float32", "int8"):
        out = tmp_path / dtype
        run([write(tmp_path / "a.jsonl", given)], out, dtype=dtype)
        with search.Index(tmp_path / f"{dtype}.db", model=small_model_file()) as index:
            assert index.load(out) == (120, 0)
            assert index.load(out) == (0, 120)
            hit = index.search(given[7]["text"], method="vectors", top=1)[0]
            assert (hit.path, hit.title, hit.text, dict(hit.metadata)) == ("p7", "title 7", given[7]["text"], {"lang": "en"})
            assert hit.cosine == pytest.approx(1, abs=1e-3)
    write_checkpoint(tmp_path / "other", seed=3)
    with search.Index(tmp_path / "other.db", model=convert(tmp_path / "other", "int8")) as index:
        with pytest.raises(tb.errors.IndexModelError, match="another model"):
            index.load(tmp_path / "int8")
        with pytest.raises(tb.errors.InvalidArgumentError, match=r"_index\.json"):
            index.load(tmp_path)
