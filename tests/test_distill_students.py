"""Students made of teachers: copied layers compute the same, narrowed ones stay near, heads are narrowed in the best way."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import write_checkpoint

from distill import models, tasks
from distill.batches import collate
from distill.settings import SettingsError
from distill.students import Student, _narrow, make_student

VOCABULARY = 150


@pytest.fixture(scope="module")
def teacher() -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": VOCABULARY}
    model = transformers.BertModel(transformers.BertConfig(**shape, max_position_embeddings=40)).eval()
    with torch.no_grad():  # states in few directions, as trained models have them
        for name, parameter in model.named_parameters():
            if "embeddings.weight" in name or "output.dense.weight" in name:
                parameter.mul_(torch.linspace(3, 0.05, 48) if "embeddings" in name else torch.linspace(3, 0.05, 48)[:, None])
            elif "dense.weight" in name or "query" in name or "key" in name:
                parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    texts = [
        torch.randint(5, VOCABULARY, (int(n),), generator=generator).tolist() for n in torch.randint(4, 30, (60,), generator=generator)
    ]
    return [collate([{"input_ids": ids} for ids in texts[begin : begin + 20]], 0) for begin in (0, 20, 40)]


def states(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        found = model(**tasks.inputs(batch)).last_hidden_state[batch["attention_mask"].bool()]
    return torch.as_tensor(found)


make = partial(make_student, kind=transformers.AutoModel, head={})


def test_a_student_of_the_same_shape_computes_what_its_teacher_does(teacher: Any, samples: list[dict[str, Any]]) -> None:
    student = make(Student(layers=4, hidden=48, heads=4, intermediate=96), teacher, samples=samples)
    assert torch.allclose(states(student, samples[0]), states(teacher, samples[0]), atol=2e-3)


def test_copied_layers_are_those_of_the_teacher(teacher: Any, samples: list[dict[str, Any]]) -> None:
    student = make(Student(layers=2, hidden=48, heads=4, intermediate=96, copied=(2, 4)), teacher, samples=samples)
    for own, theirs in ((0, 1), (1, 3)):
        for name in ("attention.self.query", "attention.output.dense", "intermediate.dense"):
            ours = student.encoder.layer[own].get_submodule(name).weight
            assert torch.allclose(ours, teacher.encoder.layer[theirs].get_submodule(name).weight, atol=1e-6)


def explained(student: Any, teacher: Any, batch: dict[str, Any]) -> float:
    """The share of the teacher's states that a linear map of the student's explains."""
    ours, theirs = states(student, batch).double(), states(teacher, batch).double()
    theirs = theirs - theirs.mean(0)
    ours = torch.cat([ours, torch.ones(len(ours), 1)], 1)
    rest = theirs - ours @ torch.linalg.lstsq(ours, theirs).solution
    return 1 - float((rest**2).sum() / (theirs**2).sum())


@pytest.mark.parametrize("narrow", [{"hidden": 24}, {"hidden": 24, "heads": 2}, {"hidden": 48, "embedding": 16}])
def test_a_narrowed_student_knows_more_of_its_teacher_than_a_random_one(
    narrow: dict[str, Any], teacher: Any, samples: list[dict[str, Any]]
) -> None:
    shape = {"layers": 4, "heads": 4, "intermediate": 64, **narrow}
    begun = explained(make(Student(**shape), teacher, samples=samples), teacher, samples[1])
    torch.manual_seed(2)
    random = explained(make(Student(**shape, init="random"), teacher, samples=samples), teacher, samples[1])
    assert begun > 0.6
    assert begun > random + 0.1


def test_narrowed_products_are_the_best_of_their_rank() -> None:
    """In the weighted norm no product of that rank is nearer: compared with the error that Eckart and Young give."""
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(9, 6, generator=generator), torch.randn(7, 6, generator=generator)
    x, y = torch.randn(50, 9, generator=generator), torch.randn(50, 7, generator=generator)
    left, right = x.T @ x, y.T @ y
    small_a, small_b = _narrow(a, b, 3, left, right)
    assert small_a.shape == (9, 3)
    error = torch.linalg.norm(x @ (a @ b.T - small_a @ small_b.T) @ y.T)
    values = torch.linalg.svdvals(x @ a @ b.T @ y.T)
    assert float(error) == pytest.approx(float(values[3:].square().sum().sqrt()), rel=2e-2)


def test_products_that_are_narrow_enough_stay(teacher: Any) -> None:
    a, b = torch.randn(9, 4), torch.randn(7, 4)
    wide_a, wide_b = _narrow(a, b, 6, torch.eye(9), torch.eye(7))
    assert wide_a.shape == (9, 6)
    assert torch.allclose(wide_a @ wide_b.T, a @ b.T)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"hidden": 64, "heads": 4}, "at most its teacher's hidden and intermediate size"),
        ({"hidden": 48, "heads": 4, "intermediate": 128}, "at most its teacher's hidden and intermediate size"),
        ({"hidden": 48, "heads": 4, "copied": (1, 9)}, "the teacher has the layers 1 to 4"),
    ],
)
def test_students_that_cannot_be_made_are_refused(shape: dict[str, Any], message: str, teacher: Any, samples: list[dict[str, Any]]) -> None:
    with pytest.raises(SettingsError, match=message):
        make(Student(**{"layers": 2, "intermediate": 64} | shape), teacher, samples=samples)


def test_a_student_shape_must_be_whole() -> None:
    with pytest.raises(ValueError, match="heads do not divide"):
        Student(layers=2, hidden=30, heads=4, intermediate=64)
    with pytest.raises(ValueError, match="layers must be above 0, or say 'checkpoint'"):
        Student(hidden=32, heads=4, intermediate=64)


def test_the_checkpoint_of_a_student_with_a_narrow_table_is_converted(tmp_path: Path) -> None:
    """An ELECTRA encoder with an embedding projection, as sentence-transformers lay it out, gives the vectors that PyTorch gives."""
    import tinybert_rt as tb

    write_checkpoint(tmp_path / "teacher", hidden_size=64)
    tokenizer, source = models.load_tokenizer(str(tmp_path / "teacher")), models.load_model(str(tmp_path / "teacher"))
    texts = ["the small cat sat on a mat.", "fast text"]
    ids = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    batch = collate([{"input_ids": each} for each in ids], tokenizer.pad_token_id)
    student = make(Student(layers=1, hidden=64, heads=2, intermediate=96, embedding=16), source, samples=[batch])
    models.write_checkpoint(tmp_path / "student", student, tokenizer, pooling=True, max_tokens=32)
    path = models.export(tmp_path / "student", tmp_path / "student.tbrt", dtype="f32")
    with torch.inference_mode():
        expected = tasks.mean_vectors(student, batch).numpy()
    assert tb.load(path).encode(texts) == pytest.approx(expected, abs=1e-5)
