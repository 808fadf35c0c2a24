"""The work of `embed_ray`: a Ray Data pipeline of units, from files to files."""

from __future__ import annotations

import fcntl
import functools
import glob
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

import tinybert_rt as tb
from tinybert_rt.cli.common import progress
from tinybert_rt.engine.cpus import check_threads
from tinybert_rt.model import BUNDLED
from tinybert_rt.output import whole_file

from .rows import DataError
from .units import UNIT_BYTES, Survey, Unit, Wanted, file_sha256, read_unit, survey

NEW_COLUMNS = ("vector", "truncated", "tokens")
TRIES = 4
"""Ray Data does a unit again, in a new worker, as often as its worker dies. A unit that has killed so many ends the run."""

_OBJECT_STORE_BYTES = 128 << 20  # of a local Ray: only units and outcomes pass through it


class JobError(Exception):
    """The run cannot go on: why."""


@dataclass(frozen=True)
class Job:
    """What every worker knows: where outputs go, what they are made of (as in _settings.json), the model file (None: the default one)."""

    out: str
    settings: dict[str, Any]
    model: str | None
    threads: int
    batch_rows: int
    skip_bad: bool

    @property
    def wanted(self) -> Wanted:
        """The columns with the text and the id."""
        return Wanted(self.settings["text"], self.settings["id"])


@dataclass(frozen=True)
class Result:
    """Output files (units), rows and bad rows of all inputs; files and rows that were embedded by this run, and truncated texts in them."""

    units: int
    rows: int
    bad: int
    embedded_units: int
    embedded: int
    truncated: int


def embed(
    inputs: Iterable[str],
    out: str,
    text: str,
    *,
    id_column: str | None = None,
    model: str | None = None,
    workers: int | None = None,
    threads_per_worker: int = 1,
    batch_rows: int = 1024,
    dtype: str = "float32",
    skip_bad: bool = False,
    unit_bytes: int = UNIT_BYTES,
) -> Result:
    """Embed files, see `embed_ray` and its options; in the Ray that this process is connected to, if it is.

    Raises DataError, JobError, TinyBertError, OSError.
    """
    for name, value in (("workers", workers), ("threads per worker", threads_per_worker), ("batch rows", batch_rows)):
        if value is not None and value < 1:
            raise JobError(f"{name} must be at least 1, not {value}")
    opened = tb.load(model, threads=1)
    settings = {
        "model_sha256": file_sha256(opened.path),
        "dim": opened.dim,
        "dtype": dtype,
        "text": text,
        "id": id_column,
        "unit_bytes": unit_bytes,
    }
    path = model if model is None or model in BUNDLED else os.path.abspath(model)
    job = Job(os.path.abspath(out), settings, path, threads_per_worker, batch_rows, skip_bad)
    paths = list(dict.fromkeys(map(os.path.abspath, inputs)))
    with _alone_in(job.out):
        _begin(job)
        with _ray(workers and workers * threads_per_worker) as cpus:
            workers = workers or max(1, cpus // threads_per_worker)
            if workers * threads_per_worker > cpus:
                raise JobError(f"{workers} workers with {threads_per_worker} threads each are too many for {cpus} CPUs")
            surveys = _surveys(paths, job)
            units = [unit for each in surveys for unit in each.units]
            missing = [unit for unit in units if not os.path.exists(os.path.join(job.out, unit.name))]
            outcomes = list(_embedded(missing, job, workers)) if missing else []
        _finish(job, surveys)
    return Result(
        units=len(units),
        rows=sum(each.rows for each in surveys),
        bad=sum(each.bad for each in surveys),
        embedded_units=len(outcomes),
        embedded=sum(each["rows"] for each in outcomes),
        truncated=sum(each["truncated"] for each in outcomes),
    )


# ---------------------------------------------------------------- on the workers


class Embedder:
    """A worker: has loaded the model, and embeds units."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: tb.Model | None = None
        try:
            model = tb.load(job.model, threads=job.threads)
            if file_sha256(model.path) != job.settings["model_sha256"]:
                raise JobError(f"{model.path}: is another model on {os.uname().nodename} than where the run began")
            self._model = model
        except (JobError, tb.TinyBertError, OSError) as error:
            self._error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Units to outcomes, both as JSON: the rows and the truncated rows of a unit, or an error."""
        return {"outcome": [json.dumps(self._outcome(Unit.from_json(unit))) for unit in batch["unit"]]}

    def _outcome(self, unit: Unit) -> dict[str, Any]:
        if self._model is None:
            return {"error": self._error}
        try:
            return embed_unit(self._model, unit, self._job)
        except (DataError, JobError, tb.TinyBertError, OSError) as error:
            return {"error": str(error)}


def embed_unit(model: tb.Model, unit: Unit, job: Job) -> dict[str, int]:
    """Write a unit's output. Returns its rows, and how many of their texts were truncated."""
    if len(_unfinished(job.out, unit.name)) >= TRIES:
        raise JobError(f"{unit.path}: {TRIES} workers have died at its part from row {unit.first} on; is there too little memory?")
    dim, dtype = job.settings["dim"], job.settings["dtype"]
    kinds = (pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), dim), pa.bool_(), pa.int32())
    rows, truncated = 0, 0
    batches = read_unit(unit, job.wanted, job.batch_rows, job.skip_bad)
    schema = next(batches)[0].schema
    for name, kind in zip(NEW_COLUMNS, kinds, strict=True):
        schema = schema.append(pa.field(name, kind))
    # No dictionaries: nearly every text and every vector is there once.
    with (
        whole_file(os.path.join(job.out, unit.name)) as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for table, texts in batches:
            encoded = model.encode_detailed(texts, dtype=dtype, truncation="truncate")
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(encoded.vectors.ravel()), dim)
            new = (vectors, pa.array(encoded.truncated), pa.array(encoded.token_counts))
            writer.write_table(pa.Table.from_arrays([*table.columns, *new], schema=schema))
            rows, truncated = rows + len(texts), truncated + int(encoded.truncated.sum())
    return {"rows": rows, "truncated": truncated}


def _surveyed(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """A path to what is in the file, as JSON, or an error."""
    try:
        return {**row, "survey": survey(row["path"], job.wanted, job.settings["unit_bytes"]).to_json(), "error": ""}
    except DataError as error:
        return {**row, "survey": "", "error": str(error)}


# ---------------------------------------------------------------- where the run began


@contextmanager
def _ray(cpus: int | None) -> Iterator[int]:
    """The number of CPUs of Ray: of what is connected already, of RAY_ADDRESS, or of one that is started here, with `cpus` if said."""
    started = not ray.is_initialized()
    if started and os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    elif started:
        ray.init(
            "local",
            num_cpus=cpus or check_threads(None),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield int(ray.cluster_resources().get("CPU", 0))
    except ray.exceptions.RayError as error:
        raise JobError(f"Ray: {error}") from error
    finally:
        context.enable_progress_bars = bars
        if started:
            ray.shutdown()


def _surveys(paths: Sequence[str], job: Job) -> list[Survey]:
    """What is in the files, in their order. Raises DataError for the first that cannot be used."""
    rows = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=len(paths))
    found = {row["path"]: row for row in rows.map(functools.partial(_surveyed, job=job)).iter_rows()}
    surveys = []
    for path in paths:
        if found[path]["error"]:
            raise DataError(found[path]["error"])
        each = Survey.from_json(found[path]["survey"])
        if each.bad and not job.skip_bad:
            raise DataError(f"{path}: {each.why}; {each.bad} of its rows are bad, --skip-bad leaves such rows out")
        for name in set(NEW_COLUMNS) & set(each.columns):
            raise DataError(f"{path}: has a column {name!r} already")
        surveys.append(each)
    if not any(each.rows for each in surveys):
        raise DataError(f"{paths[0]}{' and the other files' if len(paths) > 1 else ''}: no rows to embed")
    by_name: dict[str, str] = {}
    for unit in (unit for each in surveys for unit in each.units):
        if by_name.setdefault(unit.name, unit.path) != unit.path:
            raise DataError(f"{unit.path}: has the name and the content of {by_name[unit.name]}: leave one of them out")
    return surveys


def _embedded(units: Sequence[Unit], job: Job, workers: int) -> Iterator[dict[str, int]]:
    """The outcomes of units, as they are done. Raises JobError for the first that failed."""
    rows = ray.data.from_items([{"unit": unit.to_json()} for unit in units], override_num_blocks=len(units))
    outcomes = rows.map_batches(
        Embedder,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(units)), max_tasks_in_flight_per_actor=1),
        num_cpus=job.threads,
    )
    done = 0
    with progress() as show:
        for row in outcomes.iter_rows():
            outcome = json.loads(row["outcome"])
            if "error" in outcome:
                raise JobError(outcome["error"])
            done += outcome["rows"]
            show(done)
            yield outcome


# ---------------------------------------------------------------- the folder


@contextmanager
def _alone_in(out: str) -> Iterator[None]:
    """Make the folder, and keep other runs out of it."""
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "_lock"), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(f"{out}: another run writes there") from None
        yield


def _begin(job: Job) -> None:
    """Write the folder's settings, or compare with those that are there. Raises JobError where they differ."""
    _remove_unfinished(job.out)
    path = os.path.join(job.out, "_settings.json")
    if not os.path.exists(path):
        _write_json(path, job.settings)
        return
    with open(path, encoding="utf-8") as file:
        try:
            found = dict(json.load(file))
        except (ValueError, TypeError) as error:
            raise JobError(f"{path}: is not what a run writes: {error}") from None
    for name, value in job.settings.items():
        if found.get(name) != value:
            raise JobError(f"{job.out}: was begun with {name} {found.get(name)!r}, this run has {value!r}: choose another folder")


def _finish(job: Job, surveys: Sequence[Survey]) -> None:
    """Remove what dead workers left, and write the index."""
    _remove_unfinished(job.out)
    units = [unit for each in surveys for unit in each.units]
    files = [{"file": unit.name, "input": unit.path, "rows": pq.read_metadata(os.path.join(job.out, unit.name)).num_rows} for unit in units]
    columns = dict.fromkeys([name for each in surveys for name in each.columns] + list(NEW_COLUMNS))
    rows = sum(each.rows for each in surveys)
    _write_json(os.path.join(job.out, "_index.json"), {**job.settings, "columns": list(columns), "rows": rows, "files": files})


def _unfinished(out: str, name: str = "") -> list[str]:
    """What `whole_file` left where a worker died: of one output, or of all."""
    return glob.glob(os.path.join(glob.escape(out), f".{glob.escape(name) or '*.parquet'}.*.part"))


def _remove_unfinished(out: str) -> None:
    for path in _unfinished(out):
        os.unlink(path)


def _write_json(path: str, value: dict[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n")
