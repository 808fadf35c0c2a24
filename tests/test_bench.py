"""The benchmarks' own code: options, batches for the peers, the peak's loop, and the README section. Nothing here is timed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

import tinybert_rt
from bench import compare, peers, readme, stages, texts
from bench.shape import Cell, load_shape, macs, stage_macs
from bench.text_runners import encode_padded
from bench.texts import choosing_sample
from tinybert_rt.encoder.structs import STAGES
from tinybert_rt.isa.levels import level_by_name, machine_architecture

RESULTS = ROOT / "bench" / "results"

# Instruction of the dot product, and how many of them one accumulator of 16 lanes takes.
DOT_INSTRUCTIONS = {"portable": ("pmaddwd", 8), "avx2": ("vpmaddubsw", 2), "avxvnni": ("vpdpbusd", 2), "avx512vnni": ("vpdpbusd", 1)}


def test_threads_are_lists_without_repeats() -> None:
    for module in (peers, stages, texts):
        assert module.parse(["--threads", "2,1,2"]).threads == [2, 1]
    assert peers.parse([]).threads == [1]
    assert texts.parse([]).threads == stages.parse([]).threads == [1, 2]


def test_peers_options() -> None:
    options = peers.parse(["--models", "tiny,base", "--cells", "1x16,32x128", "--peers", "ours,ort-int8", "--peak", "98.5"])
    assert options.models == ["tiny", "base"]
    assert options.cells == (Cell(1, 16), Cell(32, 128))
    assert options.peers == ["ours", "ort-int8"]
    assert options.peak == 98.5


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (peers, ["--threads", "0"]),
        (peers, ["--threads", ","]),
        (peers, ["--models", "huge"]),
        (peers, ["--cells", "16"]),
        (peers, ["--peers", "nobody"]),
        (stages, ["--tokens", "x"]),
        (texts, ["--datasets", "stsb,novels"]),
        (texts, ["--peers", "ours"]),
    ],
)
def test_bad_options_are_refused(module: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        module.parse(arguments)
    assert arguments[1] in capsys.readouterr().err


def test_the_products_of_the_stages_are_those_of_the_encoder() -> None:
    shape = load_shape("tiny")
    by_stage = stage_macs(shape, 2, 16)
    assert by_stage.keys() <= set(STAGES)
    assert sum(by_stage.values()) == macs(shape, 2, 16).total
    assert macs(shape, 1, 16).linear == 2 * 16 * 12 * 128 * 128  # two layers of 12·hidden², since the inner size is 4·hidden


@pytest.mark.parametrize("threads", [1, 2])
def test_a_trace_counts_the_stages_of_every_worker_and_is_taken_off(threads: int) -> None:
    model = tinybert_rt.load(threads=threads)
    ids, offsets = np.full(32, 1037, np.int32), np.array([0, 32])
    model.encode_ids(ids, offsets)
    trace = stages.Trace(model)
    with trace:
        model.encode_ids(ids, offsets)
    counted = trace.ticks.copy()
    assert counted.shape == (threads, len(STAGES))
    assert (counted[:, [STAGES.index(stage) for stage in ("qkv", "attention", "ffn in", "ffn out")]] > 0).all()
    model.encode_ids(ids, offsets)
    assert (trace.ticks == counted).all()


def test_the_int8_limit_is_that_of_all_cores() -> None:
    cell = {"threads": 2, "macs_linear": 90_000_000, "macs_attention": 10_000_000, "systems": {"ours": {"ms": {"median": 1.0}}}}
    assert compare.limit(cell | {"peak_gmacs": 100.0}) == {"int8_limit_ms": 0.5, "of_int8_limit": 0.5}
    assert compare.limit(cell | {"peak_gmacs": None}) == {}


@pytest.mark.skipif(machine_architecture() != "x86_64", reason="reads x86 assembly")
@pytest.mark.parametrize("level", DOT_INSTRUCTIONS)
def test_the_loop_of_the_peak_holds_every_dot_product_and_load(level: str) -> None:
    command = [sys.executable, "-m", "tinybert_rt.engine.emit", level, "bench.peak_exports", "--assembly"]
    assembly = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loop = re.search(r"^(\.LBB\d+_\d+):\n((?:(?!^\.L).*\n)*?)\tj\w+\t\1\n", assembly, re.MULTILINE)
    assert loop is not None
    lines = loop[2].splitlines()
    rows, columns = level_by_name(level).tile_int8
    instruction, count = DOT_INSTRUCTIONS[level]
    assert sum(instruction in line for line in lines) == rows * columns * count
    pointers = {match[1] for line in lines if (match := re.match(r"\tmovq\t%r\w+, (%r\w+)$", line))}
    places = {match[0] for line in lines if (match := re.search(r"\d*\((%r\w+)\)", line)) and match[1] in pointers}
    vectors = columns * 512 // level_by_name(level).vector_bits
    assert len(places) == rows + vectors


def fake_states(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A model without attention; padding gives large values, which must not get into a mean."""
    states = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)[ids]
    return np.where(mask[:, :, None] == 1, states, np.float32(1e6))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64])
def test_sorted_and_padded_batches_give_the_vectors_of_single_texts(batch_size: int) -> None:
    rng = np.random.default_rng(1)
    token_ids = [rng.integers(1, 100, size=count).tolist() for count in (5, 1, 9, 9, 2, 13, 3)]
    shapes: list[tuple[int, ...]] = []

    def hidden_states(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        shapes.append(ids.shape)
        assert (mask.sum(axis=1) > 0).all()
        assert mask[0].all()  # padded to the longest of the batch only
        return fake_states(ids, mask)

    vectors = encode_padded(token_ids, batch_size, hidden_states)
    single = [fake_states(np.array([ids]), np.ones((1, len(ids)), np.int64))[0].mean(axis=0) for ids in token_ids]
    np.testing.assert_allclose(vectors, compare.unit(np.array(single)), atol=1e-6)
    assert len(shapes) == -(-len(token_ids) // batch_size)
    assert [tokens for _, tokens in shapes] == sorted((tokens for _, tokens in shapes), reverse=True)


def test_batch_sizes_are_chosen_on_neighbours_in_length() -> None:
    counts = np.random.default_rng(2).permutation(100).tolist()
    assert [counts[index] for index in choosing_sample(counts, 10)] == [*range(20, 30), *range(70, 80)]
    assert sorted(choosing_sample(counts, 50)) == list(range(100))


def made_up_results() -> dict[str, Any]:
    head = {
        "date": "2024-02-29T00:00:00+00:00",
        "machine": {"cpu": "Some CPU", "cpus": 2, "cpu_flags": ["avx2"]},
        "versions": {"onnxruntime": "1.0"},
        "settings": {"threads": 1},
    }

    def cell(threads: int, ours: float, ort: float, ov: float) -> dict[str, Any]:
        systems: dict[str, Any] = {
            name: {"ms": {"median": ms}, "info": {}} for name, ms in (("ours", ours), ("ort-int8", ort), ("ov-int8", ov))
        }
        best = min(("ort-int8", "ov-int8"), key=lambda name: systems[name]["ms"]["median"])
        entry = {"model": "tiny", "batch": 1, "tokens": 16, "threads": threads, "systems": systems, "best_peer": best}
        ratios = {"best_peer_over_ours": systems[best]["ms"]["median"] / ours, "ort_int8_over_ours": ort / ours, "of_int8_limit": 0.625}
        return entry | ratios

    text_systems = {"ours": {"texts_per_s": 200.0}, "ort-int8": {"texts_per_s": 100.0}}
    text_cell = {"dataset": "stsb", "texts": 10, "tokens": 150, "threads": 1, "systems": text_systems, "best_peer_over_ours": 2.0}
    startup = {"ours": {"total_s": {"median": 0.19}, "memory_kb": {"VmRSS": {"median": 61440}}}}
    sizes = {"beyond_file_kb": 6656, "file_resident_kb": 13312, "file_shared_kb": 13107}
    embedded = {"threads": 1, "tokens": 512, "first_vector_ms": {"median": 4.0}, **sizes}
    sentence = {"case": "sentence", "texts": 1, "tokens": 21, "us": {"ours": {"median": 2.5}}, "theirs_over_ours": {"median": 10.0}}
    return {
        "peers": head | {"peak_gmacs": 98.5, "cells": [cell(1, 0.1, 0.2, 0.15), cell(2, 0.08, 0.07, 0.1)]},
        "texts": head | {"cells": [text_cell]},
        "stages": head,
        "tokenize": head | {"cases": [sentence]},
        "startup": head | {"contestants": startup},
        "embedded": head | {"cells": [embedded]},
        "search": head | made_up_search(),
        "engines": head | {"cells": [{"native_over_jit": {"median": ratio}} for ratio in (1.02, 0.98)], "geometric_mean": 1.0},
    }


def made_up_search() -> dict[str, Any]:
    ratios = {name: {"median": value} for name, value in (("share_of_encoder", 0.9), ("plain_over_ours", 2.5), ("careful_over_ours", 2.0))}
    times = {"p50_ms": 30.0, "p99_ms": 40.0, "first_ms": 300.0, "recall10": 0.99}
    quality = {"vectors": 0.64, "words": 0.66, "hybrid": 0.7, "transformers float32": 0.65}
    scores = {"ndcg10": quality, "standard_error": 0.004, "ndcg10_whole": {"vectors": 0.61, "transformers float32": 0.62}}
    return {
        "scifact": {"documents": 10, "passages": 20, "queries": 5, "max_tokens": 200, **scores},
        "indexing": {"passages": 3000, "passages_per_s": {"index": 100.0}, **ratios},
        "scan": {"vectors": 100, "queries": 7, "threads": 2, "int8, 100": times},
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A README with markers, and made-up results of one level."""
    (tmp_path / "README.md").write_text(f"# Name\nBefore.\n\n{readme.BEGIN}\nformer text\n{readme.END}\n\nAfter.\n", encoding="utf-8")
    folder = tmp_path / "results" / "avx2"
    folder.mkdir(parents=True)
    for name, content in made_up_results().items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def rewrite(project: Path, *options: str) -> int:
    return readme.main([*options, "--readme", str(project / "README.md"), "--results", str(project / "results")])


def test_the_readme_section_is_written_once_and_stays(project: Path) -> None:
    pytest.importorskip("matplotlib")
    assert rewrite(project, "--check") == 1
    assert rewrite(project) == 0
    assert rewrite(project, "--check") == 0
    assert (project / "results" / "avx2" / "speed.png").read_bytes().startswith(b"\x89PNG")
    text = (project / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Name\nBefore.\n\n{readme.BEGIN}\n")
    assert text.endswith(f"\n{readme.END}\n\nAfter.\n")
    assert "former text" not in text


def test_the_readme_section_has_one_row_per_cell_and_all_numbers_of_threads(project: Path) -> None:
    text = readme.section(readme.read_results(project / "results"), "results")
    rows = [[column.strip() for column in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| tiny 1×16")]
    one_thread, two_threads = ["**0.100**", "0.200", "0.150", "1.50", "62 %"], ["0.0800", "**0.0700**", "0.100", "0.875", "62 %"]
    assert rows == [["tiny 1×16", *one_thread, *two_threads]]
    assert "1 thread: best peer / ours 1.50, ORT int8 / ours 2.00, 62 % of the int8 limit; 2 threads:" in text
    assert "(results/avx2/speed.png)" in text
    assert "a sentence of 21 tokens in 2.50 µs (10.0 times less)" in text
    assert "tinybert_rt 0.190 s and 60 MB" in text
    assert "4.00 ms and 6.50 MB with 1 thread. Two of them share 12.8 of the 13.0 MB" in " ".join(text.split())
    assert "are 0.0100 below those of `transformers`, with a standard error of 0.0040. Of whole" in " ".join(text.split())
    assert "cut at 200 tokens, ours have 0.6100 and those of `transformers` 0.6200." in " ".join(text.split())
    assert "100 passages a second, 90 % of the encoder's speed alone" in " ".join(text.split())
    assert "| int8, 100 |   30.0 |   40.0 |      300 |                0.990 |" in text
    assert "in 2 cells: 0.980 to 1.02, geometric mean 1.00" in " ".join(text.split())


def test_results_that_are_missing_leave_no_trace(project: Path) -> None:
    for name in ("texts", "stages", "tokenize", "startup", "embedded", "engines"):
        (project / "results" / "avx2" / f"{name}.json").unlink()
    text = readme.section(readme.read_results(project / "results"), "results")
    assert "tiny 1×16" in text
    assert not re.search(r"raw text|stage|tokenizer|process|C program|library", text)


@pytest.mark.parametrize("text", ["", readme.BEGIN, f"{readme.END}\n{readme.BEGIN}", f"{readme.BEGIN}\n{readme.BEGIN}\n{readme.END}"])
def test_a_readme_without_its_markers_is_left_alone(project: Path, text: str) -> None:
    (project / "README.md").write_text(text, encoding="utf-8")
    assert rewrite(project) == 2
    assert (project / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.skipif(not RESULTS.is_dir(), reason="there are no results in bench/results")
def test_the_readme_is_what_the_results_give() -> None:
    assert readme.main(["--check"]) == 0
