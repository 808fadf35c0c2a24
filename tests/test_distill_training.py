"""The training loop: schedule, exact resume, many processes, and every way in which a run ends early."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import linear_run  # noqa: E402
from linear_run import losses, run  # noqa: E402

from distill import checkpoints  # noqa: E402
from distill.checkpoints import CheckpointError  # noqa: E402
from distill.devices import find_place  # noqa: E402
from distill.settings import SettingsError  # noqa: E402
from distill.training import Training, TrainingError, load_best, read_log, train  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """linear_run.py in a process of its own."""
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(ROOT / "tests" / "linear_run.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_the_learning_rate_rises_and_falls_as_by_hand() -> None:
    linear = Training(learning_rate=1.0, steps=10, warmup=0.2)
    assert [linear.rate(step, 10) for step in range(10)] == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    cosine = Training(learning_rate=2.0, steps=4, warmup=0.0, schedule="cosine")
    assert [cosine.rate(step, 4) for step in range(4)] == pytest.approx([2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5)])
    constant = Training(learning_rate=3.0, steps=4, warmup=0.5, schedule="constant")
    assert [constant.rate(step, 4) for step in range(4)] == [1.5, 3, 3, 3]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 0}, "steps is 0; it must be above 0"),
        ({"epochs": -1.0}, "epochs is -1.0; it must be above 0"),
        ({"steps": 1, "evaluate_every": 0}, "evaluate_every is 0; it must be above 0"),
        ({"steps": 1, "epsilon": 0.0}, "epsilon is 0.0; it must be above 0"),
        ({"steps": 1, "weight_decay": -0.1}, "weight_decay is -0.1; it must not be below 0"),
        ({"steps": 1, "budget_minutes": -1.0}, "budget_minutes is -1.0; it must not be below 0"),
        ({"steps": 1, "beta2": 1.0}, "beta2 is 1.0; it must be from 0 to below 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Training(learning_rate=1.0, **values)


def test_the_log_has_every_step_and_the_loss_falls(tmp_path: Path) -> None:
    outcome = run(tmp_path, dropout=0.0, steps=40)
    found = losses(tmp_path)
    assert (outcome.steps, outcome.finished) == (40, True)
    assert [step for step, _, _ in found] == list(range(1, 41))
    assert found[-1][1] < found[0][1] / 4
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["tokens"] for line in lines] == [48 * step for step in range(1, 41)]
    assert lines[-1]["learning_rate"] == pytest.approx(linear_run.settings(steps=40).rate(39, 40))


def test_a_line_of_several_steps_has_their_mean(tmp_path: Path) -> None:
    run(tmp_path / "each")
    run(tmp_path / "third", log_every=3, checkpoint_every=12)
    each, third = losses(tmp_path / "each"), losses(tmp_path / "third")
    assert [step for step, _, _ in third] == [3, 6, 9, 12]
    for index, (_, loss, norm) in enumerate(third):
        group = each[3 * index : 3 * index + 3]
        assert loss == pytest.approx(sum(line[1] for line in group) / 3, abs=2e-6)
        assert norm == pytest.approx(sum(line[2] for line in group) / 3, abs=2e-6)


def test_a_killed_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    run(tmp_path / "undisturbed")
    killed = start(str(tmp_path / "killed"), "kill_at=10")
    assert killed.returncode == -signal.SIGKILL
    assert checkpoints.newest(tmp_path / "killed" / "checkpoints") == tmp_path / "killed" / "checkpoints" / "step-00000008.pt"
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')  # as a process that is killed while it writes leaves it
    run(tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    assert run(tmp_path).finished
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"up to step 7: gradient_norm is nan, loss is nan.*step-00000004\.pt, is intact: lower learning_rate"
    ):
        run(tmp_path, nan_from=6)
    saved = checkpoints.load(tmp_path / "checkpoints" / "step-00000004.pt")
    assert all(value.isfinite().all() for value in saved["objective"].values())
    assert [step for step, _, _ in losses(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "undisturbed", log_every=4)
    folder = tmp_path / "full"
    run(folder, log_every=4, budget_minutes=0)
    size = (folder / "checkpoints" / "step-00000004.pt").stat().st_size
    ended = start(str(folder), f"file_limit={size - 100}", "log_every=4")
    assert ended.returncode == 2
    assert "step-00000008.pt: cannot be written" in ended.stderr
    assert "step-00000004.pt, is intact: make room and give the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000004.pt"]
    run(folder, log_every=4)
    assert losses(folder) == losses(tmp_path / "undisturbed")


def test_a_log_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"file.log\.jsonl: cannot be written: .*there is no checkpoint yet"):
        run(tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, log_every=4, budget_minutes=0)
    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *how, **kind: opened(Path("/dev/full") if "a" in how else self, *how, **kind))
    with pytest.raises(TrainingError, match=r"log\.jsonl: cannot be written: No space left.*step-00000004\.pt, is intact"):
        run(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, 1, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt: cannot be written: .*No space left.*step-00000001\.pt, is intact"):
        checkpoints.save(tmp_path, 2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    path = tmp_path / "checkpoints" / "step-00000004.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"step-00000004\.pt: not a checkpoint that can be read .*remove it"):
        run(tmp_path, steps=4)


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000008.pt", "step-00000012.pt"]


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    before = sorted((path.name, path.stat().st_size) for path in tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match=r"begun with other settings \(learning_rate: 0\.05, now 0\.1\): name another folder"):
        run(tmp_path, steps=4, learning_rate=0.1)
    assert sorted((path.name, path.stat().st_size) for path in tmp_path.rglob("*")) == before


def test_a_budget_stops_the_run_which_then_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "undisturbed", log_every=2)
    stopped = run(tmp_path / "short", log_every=2, budget_minutes=0)
    assert (stopped.steps, stopped.finished) == (2, False)
    assert run(tmp_path / "short", log_every=2, budget_minutes=60).finished
    assert losses(tmp_path / "short") == losses(tmp_path / "undisturbed")


def test_two_processes_compute_what_one_does_in_two_parts(tmp_path: Path) -> None:
    run(tmp_path / "one", dropout=0.0, accumulation=2)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    ended = start(str(tmp_path / "two"), "dropout=0.0", launcher=launcher)
    assert ended.returncode == 0, ended.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 12
    for first, second in zip(one, two, strict=True):
        # The norm of one process's log is that of the mean gradient too; both have six decimals.
        assert second == pytest.approx(first, rel=1e-5, abs=2e-6)


def test_a_batch_that_cannot_be_made_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise SettingsError("no such batch")

    monkeypatch.setattr(linear_run.Numbers, "at", refuse)
    with pytest.raises(SettingsError, match="no such batch"):
        run(tmp_path)


def evaluated(folder: Path, scores: list[float], nan_from: int | None = None, **changed: Any) -> tuple[Any, Any, list[Any]]:
    """A run whose evaluations give these scores: its outcome, its objective, and the weights at each evaluation."""
    objective, training = linear_run.Objective(0.0), linear_run.settings(**{"evaluate_every": 3} | changed)
    given, seen = iter(scores), []

    def evaluate() -> dict[str, float]:
        seen.append(objective.layers[0].weight.detach().clone())
        return {"score": next(given)}

    numbers = linear_run.Numbers(8, nan_from)
    return train(objective, numbers, training, folder, training, find_place("cpu"), evaluate=evaluate), objective, seen


@pytest.mark.parametrize("first", [0.1, math.nan])
def test_the_best_evaluation_is_kept(first: float, tmp_path: Path) -> None:
    outcome, objective, seen = evaluated(tmp_path, [first, 0.9, 0.5, math.nan])
    assert outcome.best == {"step": 6, "score": 0.9}
    load_best(tmp_path, objective)
    assert torch.equal(objective.layers[0].weight, seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_a_model_that_is_no_number_is_not_evaluated(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="up to step 6: gradient_norm is nan"):
        evaluated(tmp_path, [0.1, 0.9], nan_from=4, log_every=50, checkpoint_every=50)
    assert checkpoints.load(tmp_path / "best.pt")["objective"]["layers.0.weight"].isfinite().all()


def test_a_run_is_evaluated_where_its_budget_ends(tmp_path: Path) -> None:
    outcome, _, _ = evaluated(tmp_path, [0.7], evaluate_every=10, log_every=2, budget_minutes=0)
    assert outcome.best == {"step": 2, "score": 0.7}


def test_what_a_run_without_a_checkpoint_left_is_not_loaded(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "best.pt", {"objective": {}})
    run(tmp_path, steps=4)
    objective = linear_run.Objective(0.0)
    load_best(tmp_path, objective)
    assert torch.equal(objective.layers[0].weight, linear_run.Objective(0.0).layers[0].weight)
