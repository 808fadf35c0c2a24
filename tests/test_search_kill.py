"""An indexer that is killed at random moments, again and again, ends with what an undisturbed one has."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT
from models import small_model_file
from test_search_index import content

# Small groups, so that there are many transactions to be killed in; the first line says that the work begins.
CODE = """
import sys
from tinybert_rt.search import Index, update
update.GROUP = 24
with Index(sys.argv[1], model=sys.argv[2], threads=1) as index:
    index.model
    print("begin", flush=True)
    report = index.update([sys.argv[3]])
    print(report.added, report.changed, report.unchanged, report.removed, len(report.problems), flush=True)
"""
FILES, PARAGRAPHS = 150, 40


def start(database: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, str(database), str(small_model_file()), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def write(folder: Path, number: int, rng: random.Random) -> None:
    words = ["cat", "dog", "mat", "model", "text", "vector", "small", "fast"]
    paragraphs = (" ".join(rng.choices(words, k=rng.randint(3, 60))) + "." for _ in range(PARAGRAPHS))
    (folder / f"{number:03}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")


def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(FILES):
        write(folder, number, rng)
    database = tmp_path / "killed.db"
    killed = 0
    while killed < 50:
        # What was there changes while it is being indexed.
        write(folder, rng.randrange(FILES), rng)
        (folder / f"{rng.randrange(FILES):03}.txt").unlink(missing_ok=True)
        process = start(database, folder)
        assert process.stdout is not None
        with process:
            if rng.random() < 0.9:
                process.stdout.readline()
            time.sleep(rng.random() * 0.3)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                killed += process.wait() == -signal.SIGKILL
            else:
                # It was done: begin anew with other texts, so that every kill meets work.
                for number in range(FILES):
                    write(folder, number, rng)
    with start(database, folder) as process:
        assert process.wait() == 0
    fresh = tmp_path / "fresh.db"
    with start(fresh, folder) as process:
        assert process.wait() == 0
    assert content(database) == content(fresh)
