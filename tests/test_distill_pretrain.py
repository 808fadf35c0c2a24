"""Pretraining: every objective with every architecture, packed rows against single examples, and the command from text to `.tbrt`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from pretraining import WORDS, recipe, tokenizer, tokens, write_texts  # noqa: E402

import tinybert_rt as tb  # noqa: E402
from distill import pretrain  # noqa: E402
from distill.devices import stated_peak  # noqa: E402
from distill.encoders import ARCHITECTURES, Shape, begin_with_sinusoids, hidden_states, make_config, masked_logits  # noqa: E402
from distill.masking import IGNORED  # noqa: E402
from distill.objectives import MaskedObjective, ReplacedTokenObjective, make_model, masked_loss, sample  # noqa: E402
from distill.packing import PackedBatches  # noqa: E402
from distill.pretrain_report import unigram_entropy  # noqa: E402
from distill.settings import SettingsError  # noqa: E402
from distill.training import Batch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
KINDS = [name for name in ARCHITECTURES if name != "tinybert"]
OBJECTIVES = [
    *((name, "mlm") for name in ARCHITECTURES),
    ("bert", "mlm+nsp"),
    ("albert", "mlm+sop"),
    ("electra", "rtd"),
    ("deberta", "rtd"),
    ("deberta-v2", "rtd"),
]
PAIRS: dict[str, Any] = {"mlm+nsp": "next", "mlm+sop": "order"}


def shape(architecture: str, **changed: Any) -> Shape:
    values = {"architecture": architecture, "hidden_size": 32, "layers": 2, "heads": 2, "max_positions": 48, "dropout": 0.0}
    return Shape(**values | changed)


def make(architecture: str, kind: str = "mlm", **changed: Any) -> tuple[Any, Batch]:
    """An objective with random weights, and a batch."""
    size = shape(architecture, **changed)
    text, vocabulary = tokens(size.kind)
    torch.manual_seed(0)
    model = make_model(kind, make_config(size, len(tokenizer(size.kind)), vocabulary))
    objective = ReplacedTokenObjective(model, 0.5) if kind == "rtd" else MaskedObjective(model)
    batches = PackedBatches(text, vocabulary, width=32, batch_size=8, rate=0.15, pairs=PAIRS.get(kind, "none"), always_mask=kind == "rtd")
    found = (batches.at(step, 0, 1) for step in range(batches.per_epoch()))
    return objective, max(found, key=lambda batch: int(batch["segments"].max(1).values.sum()))  # with the most examples in its rows


@pytest.mark.parametrize("architecture", [name for name in KINDS if not name.startswith("deberta")])
def test_positions_that_begin_as_sinusoids_differ_by_rotations(architecture: str) -> None:
    """The dot product of two positions depends on their distance alone; the table is as large as a random one."""
    objective, _ = make(architecture)
    (table,) = (each.weight for name, each in objective.named_modules() if name.endswith("position_embeddings"))
    spread = table.std()
    begin_with_sinusoids(objective.model)
    products = table @ table.T
    for distance in range(5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-6)
    assert products.diagonal(0)[0] > products.diagonal(1)[0] > products.diagonal(3)[0]
    torch.testing.assert_close(table.std(), spread, rtol=1e-4, atol=0)


def test_an_architecture_without_positions_has_no_sinusoids() -> None:
    with pytest.raises(SettingsError, match="no table of positions"):
        begin_with_sinusoids(make("deberta")[0].model)
    with pytest.raises(ValueError, match="leave out positions"):
        Shape(init="x", positions="sinusoidal")


def test_unigram_entropy_is_that_of_the_frequencies() -> None:
    assert unigram_entropy(np.array([1, 1, 2, 3], np.uint16)) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4))


@pytest.mark.parametrize(("architecture", "kind"), OBJECTIVES)
def test_the_loss_falls_and_every_parameter_gets_a_gradient(architecture: str, kind: str) -> None:
    objective, batch = make(architecture, kind)
    optimizer = torch.optim.AdamW(objective.parameters(), 2e-3)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)
        values = objective(batch)
        values["loss"].backward()
        missing = [name for name, each in objective.named_parameters() if each.grad is None or not each.grad.isfinite().all()]
        assert missing == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append(values["loss"].item())
    assert losses[2] < losses[0]
    assert values["padding"].item() == pytest.approx(1 - batch["tokens"] / batch["input_ids"].numel())


@pytest.mark.parametrize("architecture", KINDS)
def test_a_packed_row_has_the_hidden_states_of_its_examples_alone(architecture: str) -> None:
    objective, batch = make(architecture)
    encoder = objective.model.base_model.eval()
    seen = 0
    with torch.no_grad():
        packed = hidden_states(encoder, batch["input_ids"], batch)
        for row, segments in enumerate(batch["segments"]):
            for segment in range(1, int(segments.max()) + 1):
                places = segments == segment
                ids = batch["input_ids"][row][places][None]
                alone = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
                torch.testing.assert_close(packed[row][places], alone, atol=2e-5, rtol=1e-4)
                seen += 1
    assert seen > len(batch["segments"])


@pytest.mark.parametrize("architecture", KINDS)
def test_the_loss_is_that_of_transformers(architecture: str) -> None:
    objective, batch = make(architecture)
    model = objective.model.eval()
    total, count = 0.0, 0
    labels = torch.full_like(batch["original_ids"], IGNORED).flatten()
    labels[batch["places"]] = batch["labels"]
    labels = labels.view_as(batch["original_ids"])
    with torch.no_grad():
        for row, segments in enumerate(batch["segments"]):
            for segment in range(1, int(segments.max()) + 1):
                places = segments == segment
                own = labels[row][places]
                if (own != IGNORED).any():
                    ids = batch["input_ids"][row][places][None]
                    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=own[None]).loss.item()
                    total, count = total + loss * int((own != IGNORED).sum()), count + int((own != IGNORED).sum())
        assert objective(batch)["loss"].item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(("architecture", "kind"), [("bert", "mlm+nsp"), ("albert", "mlm+sop")])
def test_pairs_are_judged_by_the_first_token_of_each_example(architecture: str, kind: str) -> None:
    objective, batch = make(architecture, kind)
    model = objective.model.eval()
    logits, labels = [], []
    with torch.no_grad():
        for place, label in zip(batch["first"].tolist(), batch["pair_labels"].tolist(), strict=True):
            if label != IGNORED:
                row, column = divmod(place, 32)
                places = batch["segments"][row] == batch["segments"][row, column]
                given = {name: batch[name][row][places][None] for name in ("input_ids", "token_type_ids")}
                found = model(**given)
                logits.append(found.seq_relationship_logits[0] if kind == "mlm+nsp" else found.sop_logits[0])
                labels.append(label)
        expected = torch.nn.functional.cross_entropy(torch.stack(logits), torch.tensor(labels))
        assert len(labels) > 8
        assert objective(batch)["pair_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_no_label_is_no_loss() -> None:
    assert masked_loss(torch.randn(3, 5), torch.full((3,), IGNORED)).item() == 0


def test_samples_follow_the_softmax() -> None:
    torch.manual_seed(0)
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    counts = torch.bincount(sample(chances.log().expand(20_000, 4)), minlength=4) / 20_000
    assert (counts - chances).abs().max() < 4 * 0.5 / 20_000**0.5


@pytest.mark.parametrize("architecture", ["deberta", "deberta-v2"])
def test_the_discriminator_shares_the_generators_embeddings_and_does_not_move_them(architecture: str) -> None:
    objective, batch = make(architecture, "rtd")
    shared = objective.generator.base_model.embeddings.word_embeddings.weight
    own = objective.discriminator.embeddings.word_embeddings
    assert torch.equal(own(batch["input_ids"]), torch.nn.functional.embedding(batch["input_ids"], shared))
    objective(batch)["rtd_loss"].backward()
    assert shared.grad is None
    assert own.delta.grad.abs().sum() > 0
    with torch.no_grad():
        own.delta.normal_()
    exported = objective.exported()
    assert torch.equal(exported.embeddings.word_embeddings.weight, shared + own.delta)
    assert objective.discriminator.embeddings.word_embeddings is own


def test_electras_generator_is_small_and_shares_its_embeddings() -> None:
    objective, batch = make("electra", "rtd")
    generator, discriminator = objective.generator, objective.discriminator
    assert generator.electra.embeddings is discriminator.electra.embeddings
    assert generator.generator_lm_head.weight is discriminator.electra.embeddings.word_embeddings.weight
    assert (generator.config.hidden_size, generator.config.num_attention_heads) == (16, 1)
    objective(batch)["rtd_loss"].backward()
    assert all(each.grad is None for name, each in generator.named_parameters() if "embeddings." not in name and "lm_head" not in name)


def test_a_replaced_token_is_one_that_differs_from_the_original() -> None:
    objective, batch = make("electra", "rtd")
    kept = batch["labels"][batch["labels"] != IGNORED]
    with torch.no_grad():
        # A generator that is sure of one piece replaces all other pieces.
        objective.generator.generator_lm_head.bias[kept[0]] = 1e4
        values = objective(batch)
    assert values["replaced"].item() == pytest.approx(int((kept != kept[0]).sum()) / batch["tokens"])


def test_what_an_architecture_cannot_do_is_refused() -> None:
    for architecture, kind, says in [
        ("roberta", "mlm+nsp", "'mlm\\+nsp', which is of bert alone; of roberta, take 'mlm'"),
        ("bert", "mlm+sop", "of albert alone"),
        ("bert", "rtd", "known for electra, deberta, deberta-v2"),
    ]:
        with pytest.raises(SettingsError, match=says):
            make(architecture, kind)
    with pytest.raises(SettingsError, match=r"model\.config: bert has no key 'hiden_act'"):
        make("bert", config={"hiden_act": "relu"})
    for values in ({}, {"size": "tiny", "init": "x"}, {"hidden_size": 30, "layers": 1, "heads": 4}):
        with pytest.raises(ValueError, match=r"say 'size'|with 'init'|not a multiple"):
            Shape(**values)


def write_recipe(folder: Path, *arguments: Any, **training: Any) -> Path:
    write_texts(folder)
    path = folder / "recipe.toml"
    path.write_text(recipe(folder / "out", *arguments, **training), encoding="utf-8")
    return path


def losses(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line.get("evaluation") or (line["step"], line["loss"], line["padding"]) for line in lines if "peak_flops" not in line]


@contextlib.contextmanager
def one_thread() -> Any:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(path: Path, *arguments: str) -> int:
    with one_thread():
        return pretrain.main([str(path), "--data", str(path.parent), *arguments])


def test_the_command_makes_a_model_that_fills_masks_as_transformers_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    path, out = write_recipe(tmp_path), tmp_path / "out"
    assert run(path) == 0
    assert "held-out text" in capsys.readouterr().out
    assert {each.name for each in out.iterdir()} >= {
        "model",
        "model.tbrt",
        "report.md",
        "report.json",
        "loss.png",
        "log.jsonl",
        "tokenizer",
    }
    report = json.loads((out / "report.json").read_text())
    assert report["steps"] == 6
    assert report["validation"]["loss"] == losses(out)[-1]["loss"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    made, model = AutoTokenizer.from_pretrained(out / "model"), AutoModelForMaskedLM.from_pretrained(out / "model").eval()
    text = f"The {WORDS[2]} brown [MASK] jumps over."
    ids = made(text, return_tensors="pt")
    with torch.no_grad():
        chances = model(**ids).logits[0][ids["input_ids"][0] == made.mask_token_id].softmax(-1)[0]
    best = chances.topk(5)
    found = tb.load(out / "model.tbrt").fill_mask(text, top=5)
    flat = found[0] if isinstance(found[0], list) else found
    assert [each.id for each in flat] == best.indices.tolist()
    np.testing.assert_allclose([each.score for each in flat], best.values.numpy(), rtol=1e-3)


def test_a_killed_command_goes_on_with_the_same_log(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    assert run(path) == 0
    expected = losses(tmp_path / "out")
    code = (
        "import os, signal, sys; from distill import checkpoints, pretrain; save = checkpoints.save\n"
        "def killed(folder, step, state):\n    save(folder, step, state)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "checkpoints.save = killed; pretrain.main(sys.argv[1:])"
    )
    again = tmp_path / "again"
    same = ["--set", f"out={again}", "--set", f"tokenizer.path={tmp_path / 'out' / 'tokenizer'}"]
    arguments = [str(path), "--data", str(tmp_path), *same]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment(), capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (again / "checkpoints" / "step-00000002.pt").exists()
    assert run(path, *same) == 0
    assert losses(again) == expected


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_train_as_one_does_in_two_parts(tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    without = ["--set", "model.dropout=0.0"]
    assert run(path, *without, "--set", "training.accumulation=2") == 0
    two = tmp_path / "two"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "distill.pretrain"]
    same = ["--set", f"out={two}", "--set", f"tokenizer.path={tmp_path / 'out' / 'tokenizer'}"]
    command = [sys.executable, *launcher, str(path), "--data", str(tmp_path), *without, *same]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (two / "model.tbrt").exists()
    for first, second in zip(losses(tmp_path / "out")[:-1], losses(two)[:-1], strict=True):
        assert second == pytest.approx(first, rel=1e-4)


@pytest.mark.parametrize(("architecture", "kind"), [("electra", "rtd"), ("deberta-v2", "rtd"), ("albert", "mlm+sop")])
def test_other_objectives_make_a_model_file(architecture: str, kind: str, tmp_path: Path) -> None:
    path, out = write_recipe(tmp_path, architecture, kind, steps=2), tmp_path / "out"
    assert run(path) == 0
    model = tb.load(out / "model.tbrt")
    if architecture == "deberta-v2":
        assert model.encode(["the quick fox"]).shape == (1, 32)
    else:
        assert model.info()["head"] == {"electra": "token_classification", "albert": "masked_token"}[architecture]


def test_a_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, steps=2)
    assert run(path) == 0
    more = tmp_path / "more.toml"
    text = path.read_text().replace(f'out = "{tmp_path / "out"}"', f'out = "{tmp_path / "more"}"')
    head, tail = text.split("[model]")[0], text[text.index("[text]") :]
    more.write_text(f'{head}[model]\ninit = "{tmp_path / "out" / "model"}"\n{tail}')
    assert run(more) == 0
    assert losses(tmp_path / "more")[0][1] < losses(tmp_path / "out")[0][1]
    assert not (tmp_path / "more" / "tokenizer").exists()


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(path, "--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "parameters are trained" in said
    assert "6 steps of 256 tokens" in said
    assert "FLOP; nothing was written" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["text.train=['nothing*.txt']"], "nothing*.txt: there is no such file of text"),
        (["text.train=['empty.txt']"], "empty.txt: there is no text in it"),
        (["text.train=['broken.txt']"], "broken.txt: behind line 0: not UTF-8"),
        (["text.train=['broken.xz']"], "broken.xz: behind line 0: cannot be read"),
        (["text.valid=['empty.txt']"], "empty.txt: there is no text in it"),
        (["objective.max_tokens=64"], "objective.max_tokens is 64; the model has 48 positions"),
        (["model.hiden_size=3"], "[model]: unknown key 'hiden_size'; did you mean 'hidden_size'?"),
        (["objective.kind='nsp'"], "objective.kind is 'nsp'; known: 'mlm'"),
        (["training.batch_size=4000"], "training.batch_size is 4000"),
        (["tokenizer.vocab_size=10"], "vocab_size is 10; it must be 300 or more"),
        (["tokenizer.path='/nowhere/at/all'"], "there is no such directory of a model"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "broken.txt").write_bytes(b"good\n\xff\xfe\n")
    (tmp_path / "broken.xz").write_bytes(b"no xz")
    assert run(path, *(part for each in arguments for part in ("--set", each))) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("python -m distill.pretrain: error: ")
    assert says in said[0]


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective, _ = make("albert")
    small = tmp_path / "small"
    objective.model.save_pretrained(small)
    tokenizer("albert").save_pretrained(small)
    tokenizer("roberta").save_pretrained(tmp_path / "large")
    path = write_recipe(tmp_path)
    text = path.read_text()
    path.write_text(f'{text.split("[model]")[0]}[model]\ninit = "{small}"\n{text[text.index("[text]") :]}')
    assert run(path, "--set", f"tokenizer.path={tmp_path / 'large'}") == 2
    assert "they do not fit" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path, steps=2)
    assert run(path) == 0
    before = sorted((each, each.stat().st_size) for each in (tmp_path / "out").rglob("*"))
    with (tmp_path / "train.txt").open("a") as file:
        file.write("\n\nMore text.\n")
    assert run(path) == 2
    assert "the run was begun with other text or another tokenizer: name another 'out', or remove it" in capsys.readouterr().err
    assert sorted((each, each.stat().st_size) for each in (tmp_path / "out").rglob("*")) == before


def test_flops_are_those_that_pytorch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    objective, batch = make("bert")
    rows, width = batch["input_ids"].shape
    objective.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        objective(batch)["loss"].backward()
    rate = len(batch["places"]) / (rows * width)
    assert objective.flops_per_token(width, rate) * rows * width == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_share_of_the_peak_is_that_of_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.training.peak_flops", lambda place, precision: (1e8, f"a made-up peak in {precision}"))
    assert run(write_recipe(tmp_path, steps=2, precision="float32")) == 0
    first, *lines = map(json.loads, (tmp_path / "out" / "log.jsonl").read_text().splitlines())
    assert first["peak_source"] == "a made-up peak in float32"
    for line in lines:
        if "mfu" in line:
            assert line["mfu"] == pytest.approx(line["tokens_per_second"] * first["flops_per_token"] / 1e8, rel=1e-3)


def test_a_gpu_has_the_peak_of_its_own_name() -> None:
    assert stated_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert stated_peak("NVIDIA A10") == 125e12
    assert [stated_peak(name) for name in ("NVIDIA A10G", "NVIDIA L40", "NVIDIA GH200 480GB")] == [None] * 3


def test_logits_are_those_of_the_whole_head() -> None:
    objective, batch = make("distilbert")
    model = objective.model.eval()
    with torch.no_grad():
        ids = batch["input_ids"][:2]
        whole = model(input_ids=ids).logits
        states = model.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(masked_logits(model, states.flatten(0, 1)), whole.flatten(0, 1))
