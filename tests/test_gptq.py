"""Rounding by GPTQ against the least-squares problem that each of its steps solves."""

from __future__ import annotations

import numpy as np
import pytest

from tinybert_rt.format.layout import MAX_PAIR_SUM
from tinybert_rt.format.writer import pair_sums
from tools.blocks import LARGEST, quantize_columns
from tools.gptq import DAMPING, rounded

SHAPES = [(1, 1), (1, 2), (3, 7), (8, 63), (5, 64), (7, 65), (16, 130)]


def layer(outputs: int, inputs: int, tokens: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A weight, and inputs that go together: float32 (outputs, inputs) and float64 (tokens, inputs)."""
    rng = np.random.default_rng([outputs, inputs])
    mixing = rng.standard_normal((max(inputs // 4, 1), inputs))
    x = rng.standard_normal((tokens, len(mixing))) @ mixing + 0.2 * rng.standard_normal((tokens, inputs)) + rng.standard_normal(inputs)
    return rng.standard_normal((outputs, inputs)).astype(np.float32), x


def gram(x: np.ndarray) -> np.ndarray:
    return (x.T @ x / len(x)).astype(np.float32)


def by_least_squares(weight: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """int (outputs, inputs): each weight in turn rounded from where it makes up best, with all behind it, for the errors before it."""
    nearest, scale = quantize_columns(weight)
    nearest = nearest.astype(np.float64)
    damped = moments.astype(np.float64) + DAMPING * np.diag(moments).mean() * np.eye(len(moments))
    found = np.zeros(weight.shape)
    for row, values in enumerate(weight / scale.astype(np.float64)[:, None]):
        pinned = np.abs(nearest[row]) == LARGEST
        for i in range(len(values)):
            j = i ^ 1
            if j < len(values) and nearest[row, i] * nearest[row, j] > 0 and abs(nearest[row, i] + nearest[row, j]) == MAX_PAIR_SUM:
                pinned[i] = True
        for i in range(len(values)):
            before, rest = slice(0, i), slice(i, None)
            made_up = np.linalg.solve(damped[rest, rest], damped[rest, before] @ (values[before] - found[row, before]))
            wanted = np.clip(np.rint(values[i] + made_up[0]), -LARGEST, LARGEST)
            other = found[row, i - 1] if i % 2 else nearest[row, i + 1] * pinned[i + 1] if i + 1 < len(values) else 0
            if wanted * other > 0:
                wanted = np.sign(wanted) * min(abs(wanted), MAX_PAIR_SUM - abs(other))
            found[row, i] = nearest[row, i] if pinned[i] else wanted
    return found


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_each_step_makes_up_for_those_before(outputs: int, inputs: int) -> None:
    weight, x = layer(outputs, inputs)
    q, scale = quantize_columns(rounded(weight, gram(x)))
    expected = by_least_squares(weight, gram(x))
    assert (q == expected).all()
    np.testing.assert_allclose(scale, quantize_columns(weight)[1], rtol=1e-6)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_what_is_on_the_grid_stays_there(outputs: int, inputs: int) -> None:
    weight, x = layer(outputs, inputs)
    weight[0] = 0
    made = rounded(weight, gram(x))
    q, scale = quantize_columns(made)
    np.testing.assert_allclose(q * scale[:, None].astype(np.float64), made, rtol=1e-6)
    assert not made[0].any()


def test_outputs_are_nearer_for_other_inputs_too() -> None:
    weight, x = layer(64, 192, 4000)
    made = rounded(weight, gram(x[:2000]))
    exact = x[2000:] @ weight.T

    def lost(values: np.ndarray) -> float:
        q, scale = quantize_columns(values)
        return float(np.square(x[2000:] @ (q * scale[:, None].astype(np.float64)).T - exact).mean())

    assert lost(made) < 0.5 * lost(weight)


@pytest.mark.parametrize("moments", [np.zeros((6, 6)), np.ones((6, 6)), np.diag([1.0, 0, 2, 0, 3, 0])])
def test_inputs_that_say_little_do_no_harm(moments: np.ndarray) -> None:
    weight = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    made = rounded(weight, moments)
    step = quantize_columns(weight)[1][:, None]
    assert np.isfinite(made).all()
    if not moments[0, 1]:  # inputs that have nothing to do with each other: nothing to make up for
        assert (np.abs(made - weight) <= 0.501 * step).all()


ODD = np.arange(33) % 2 == 1
RANDOM = np.random.default_rng(0)
FULL = {
    "pairs near their bound": RANDOM.uniform(0.9, 1, (64, 33)),
    "the first of a pair at its bound": np.where(ODD, RANDOM.uniform(0, 0.02, (64, 33)), RANDOM.uniform(0.95, 1, (64, 33))),
    "the second of a pair at its bound": np.where(ODD, RANDOM.uniform(0.999, 1, (64, 33)), RANDOM.uniform(0, 0.008, (64, 33))),
    "one weight makes the scale": np.where(np.arange(33) == 32, 1, RANDOM.uniform(-0.4, 0, (64, 33))),
}


@pytest.mark.parametrize("span", [0, 11])
@pytest.mark.parametrize("name", FULL)
def test_the_pair_rule_and_the_scale_hold_before_anything_is_quantized_again(name: str, span: int) -> None:
    weight = FULL[name].astype(np.float32)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 33)) + 0.05 * rng.standard_normal((400, 33))
    x[:, -1] *= 0.2  # that weight has to move far to make up for what is before it
    scale = quantize_columns(weight, span)[1].astype(np.float64)[:, None]
    made = rounded(weight, gram(x), span)
    steps = np.rint(made / scale)
    np.testing.assert_allclose(steps * scale, made, rtol=1e-6)
    heads = np.pad(steps.reshape(64, -1, span or 33), ((0, 0), (0, 0), (0, 1)))
    assert max(pair_sums(heads).max(), pair_sums(-heads).max()) <= MAX_PAIR_SUM
    np.testing.assert_allclose(quantize_columns(made, span)[1], scale[:, 0], rtol=1e-6)
