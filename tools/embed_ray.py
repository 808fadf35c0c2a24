"""Embed many files on a Ray cluster, or on the processes of one machine: jsonl or parquet in, parquet with vectors out.

Usage:
    python -m tools.embed_ray corpus/*.jsonl.gz --out vectors --text text --id _id --workers 16
    RAY_ADDRESS=auto python -m tools.embed_ray /mnt/corpus/*.parquet --out /mnt/vectors --text passage --dtype int8 --workers 512

With RAY_ADDRESS in the environment the work is done by that cluster, whose machines must all see the model, the inputs and DIR under the
same names, and have this package; else by this machine alone.

Each input is read once, to find bad rows before anything is embedded and to cut it into units (see `units`). A worker, an actor that has
loaded the model once, embeds a unit into one file of DIR, which appears whole or not at all. Its name has the input's name, the beginning
of the SHA-256 of the input's content, and the number of the unit. What is there already is not done again, so a run that ended early goes
on where it was. The unit of a worker that dies is done again.

An output has the columns and the order of its input, and
    vector      fixed_size_list<float or int8>[dim]
    truncated   bool: the text had more tokens than the model takes, and was cut
    tokens      int32: tokens of the whole text, special tokens included

DIR/_settings.json says from the beginning what the vectors are made of; a run with anything else is refused. DIR/_index.json appears when
all is done: the same settings, and the outputs of the run's inputs in their order. A text's vector has the same bytes on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tinybert_rt.cli import OneLineParser
from tinybert_rt.errors import TinyBertError

from .rows import DataError


def main(arguments: Sequence[str] | None = None, prog: str = "python -m tools.embed_ray") -> int:
    """Run the command. Returns the exit status: 0, or 2 after one line that says what is wrong."""
    command = OneLineParser(prog=prog, description="Embed .jsonl, .jsonl.gz or .parquet files with Ray.")
    command.add_argument("inputs", nargs="+", metavar="INPUT", help="a .jsonl, .jsonl.gz or .parquet file")
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the outputs; is made where there is none")
    command.add_argument("--text", required=True, metavar="COLUMN", help="the column to embed")
    command.add_argument("--id", metavar="COLUMN", help="a column that every row must have")
    command.add_argument("--model", metavar="FILE", help="a .tbrt file; default: the bundled model")
    command.add_argument("--workers", type=int, metavar="N", help="default: as many as there are CPUs for")
    command.add_argument("--threads-per-worker", type=int, default=1, metavar="K", help="default: 1")
    command.add_argument("--batch-rows", type=int, default=1024, metavar="N", help="rows of an output's row group (default: 1024)")
    command.add_argument("--dtype", default="float32", choices=("float32", "int8"), help="of the vectors")
    command.add_argument("--skip-bad", action="store_true", help="leave out and count rows without a text or an id")
    options = command.parse_args(arguments)
    try:
        from .ray_job import JobError, embed

        try:
            result = embed(
                options.inputs,
                options.out,
                options.text,
                id_column=options.id,
                model=options.model,
                workers=options.workers,
                threads_per_worker=options.threads_per_worker,
                batch_rows=options.batch_rows,
                dtype=options.dtype,
                skip_bad=options.skip_bad,
            )
        except (DataError, JobError, TinyBertError, OSError) as error:
            print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    except ModuleNotFoundError as error:
        print(f"{prog}: error: needs the package {error.name!r}: pip install 'tinybert-rt[ray]'", file=sys.stderr)
        return 2
    print(
        f"{options.out}: {result.rows} rows in {result.units} files; embedded now: {result.embedded} rows in {result.embedded_units} files"
        f" ({result.truncated} texts truncated); bad rows left out: {result.bad}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
