"""The losses of distillation beside examples that were worked out by hand, and beside plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from distill import losses


def close(value: torch.Tensor, expected: float) -> None:
    assert float(value) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_soft_targets_are_the_cross_entropy_under_the_teacher() -> None:
    # The teacher says (3/4, 1/4), the student (1/2, 1/2): −¾ ln ½ − ¼ ln ½ = ln 2.
    close(losses.soft_targets(torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])), math.log(2))


def test_soft_targets_at_a_temperature_are_scaled_by_its_square() -> None:
    # Logits (2 ln 3, 0) at temperature 2 are (ln 3, 0): 2² · ln 2.
    close(losses.soft_targets(torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]]), 2.0), 4 * math.log(2))


def test_soft_targets_of_tokens_leave_out_those_that_do_not_count() -> None:
    student = torch.tensor([[[0.0, 0.0], [9.0, -9.0]]])
    teacher = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]])
    close(losses.soft_targets(student, teacher, 1.0, torch.tensor([[True, False]])), math.log(2))


def test_hidden_mse_is_a_mean_over_tokens_that_count() -> None:
    # Differences (1, 3) and, of a token that does not count, (100, 100): (1 + 9) / 2.
    student = torch.tensor([[[1.0, 3.0], [100.0, 100.0]]])
    close(losses.hidden_mse(student, torch.zeros(1, 2, 2), torch.tensor([[True, False]])), 5.0)


def test_attention_mse_is_a_mean_over_pairs_that_count() -> None:
    # One head, 3 tokens of which 2 count: differences 1, 2, 3, 4 within them, 50 elsewhere: (1 + 4 + 9 + 16) / 4.
    student = torch.full((1, 1, 3, 3), 50.0)
    student[0, 0, :2, :2] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    close(losses.attention_mse(student, torch.zeros(1, 1, 3, 3), torch.tensor([[True, True, False]])), 7.5)


def test_cosine_is_one_minus_the_cosine() -> None:
    # (1, 0) and (1, 1): 1 − 1/√2; (1, 0) and (0, 1): 1.
    student = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    teacher = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])
    close(losses.cosine(student, teacher, torch.tensor([[True, True]])), (1 - 1 / math.sqrt(2) + 1) / 2)


def test_attention_kl_of_a_hand_made_distribution() -> None:
    # Row 0: teacher (¾, ¼), student (½, ½): ¾ ln 1.5 + ¼ ln 0.5. Row 1: the same in both: 0. The third key does not count.
    teacher = torch.tensor([[[[math.log(3), 0.0, 8.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]]])
    student = torch.zeros(1, 1, 3, 3)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    close(losses.attention_kl(student, teacher, torch.tensor([[True, True, False]])), expected)


def test_relations_are_scaled_products_within_heads() -> None:
    # Two heads of 2 elements: head 0 of tokens (1, 2) and (3, 4): (1·3 + 2·4) / √2.
    vectors = torch.tensor([[[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]])
    found = losses.relations(vectors, 2)
    assert found.shape == (1, 2, 2, 2)
    close(found[0, 0, 0, 1], 11 / math.sqrt(2))
    close(found[0, 1, 0, 1], (5 * 7 + 6 * 8) / math.sqrt(2))


def test_relation_kl_is_that_of_a_plain_loop_and_takes_other_widths() -> None:
    student, teacher, heads, lengths = random(2, 4, 6), random(2, 4, 12), 3, [4, 2]
    mask = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    total, count = 0.0, 0
    for text, length in enumerate(lengths):
        for head in range(heads):
            for row in range(length):
                sides = []
                for vectors, width in ((student, 2), (teacher, 4)):
                    part = vectors[text, :length, head * width : (head + 1) * width].tolist()
                    scores = [sum(a * b for a, b in zip(part[row], other, strict=True)) / math.sqrt(width) for other in part]
                    weights = [math.exp(score) for score in scores]
                    sides.append([weight / sum(weights) for weight in weights])
                total += sum(p * math.log(p / q) for q, p in zip(*sides, strict=True))
                count += 1
    close(losses.relation_kl(student, teacher, heads, mask), total / count)


def test_patient_is_the_squared_distance_of_normalized_states() -> None:
    # (2, 0) and (0, 5) become (1, 0) and (0, 1): squared distance 2; (3, 4) and (6, 8) become the same.
    student = torch.tensor([[[2.0, 0.0], [3.0, 4.0]]])
    teacher = torch.tensor([[[0.0, 5.0], [6.0, 8.0]]])
    close(losses.patient(student, teacher), 1.0)


def test_vector_cosine_of_two_texts() -> None:
    close(losses.vector_cosine(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]])), 0.5)


def test_similarity_mse_compares_cosines_of_pairs_of_other_widths() -> None:
    # The student's two texts have the cosine 0, the teacher's 0.6: 0.36.
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    close(losses.similarity_mse(student, teacher), 0.36)


@pytest.mark.parametrize("name", ["hidden_mse", "cosine", "attention_mse", "attention_kl", "relation_kl"])
def test_a_loss_is_nothing_where_student_and_teacher_agree_and_does_not_see_padding(name: str) -> None:
    mask = torch.tensor([[True, True, True, False]])
    pairs = name.startswith("attention")
    values = random(1, 2, 4, 4) if pairs else random(1, 4, 6)
    other = values.clone()
    if pairs:
        other[:, :, 3] = other[:, :, :, 3] = 7.0
    else:
        other[:, 3] = 7.0
    arguments = (3, mask) if name == "relation_kl" else (mask,)
    close(getattr(losses, name)(values, other, *arguments), 0.0)
    other[..., 0, 1] += 0.5
    assert getattr(losses, name)(values, other, *arguments) > 1e-4
