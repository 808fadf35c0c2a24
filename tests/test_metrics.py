"""Measures against values worked out by hand from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tools.metrics import classification_metrics, regression_metrics, tagging_metrics


def test_two_labels_have_the_f1_of_the_second() -> None:
    # of label 1: 2 right, 1 missed, 1 wrongly found; of label 0: 1 right
    found = classification_metrics([1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_the_order_of_labels_says_which_is_the_second() -> None:
    predicted, expected = ["yes", "yes", "no"], ["yes", "no", "no"]
    assert classification_metrics(predicted, expected, ["no", "yes"])["f1"] == pytest.approx(2 / 3)
    assert classification_metrics(predicted, expected, ["yes", "no"])["f1"] == pytest.approx(2 / 3)
    assert classification_metrics(["yes", "yes"], ["yes", "no"], ["yes", "no"])["f1"] == 0


def test_more_labels_have_the_mean_of_their_f1() -> None:
    found = classification_metrics(["a", "b", "c", "a"], ["a", "b", "b", "b"], ["a", "b", "c", "never"])
    assert found["f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)


def test_one_label_alone_is_measured() -> None:
    assert classification_metrics(["a", "a"], ["a", "a"]) == {"accuracy": 1, "f1": 1, "matthews": 0}


def test_correlations_follow_their_definitions() -> None:
    found = regression_metrics([1, 2, 3, 4], np.array([1.0, 3.0, 2.0, 2.0]))
    assert found["pearson"] == pytest.approx(1 / math.sqrt(5 * 2))
    # ranks 1 2 3 4 and 1 4 2.5 2.5
    assert found["spearman"] == pytest.approx(1.5 / math.sqrt(5 * 4.5))


def test_correlation_with_a_constant_is_undefined() -> None:
    assert all(math.isnan(value) for value in regression_metrics([1.0, 1.0], [1.0, 2.0]).values())


def test_entities_count_whole() -> None:
    expected = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"]]
    predicted = [["B-A", "I-A", "O", "B-A"], ["B-A", "I-A"]]
    found = tagging_metrics(predicted, expected)
    assert found == pytest.approx({"accuracy": 3 / 6, "f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3})


def test_words_without_entities_have_accuracy_alone() -> None:
    assert tagging_metrics([["NOUN", "VERB"]], [["NOUN", "NOUN"]]) == {"accuracy": 0.5}
    assert tagging_metrics([["B-A", "O"]], [["O", "O"]]) == {"accuracy": 0.5, "f1": 0, "precision": 0, "recall": 0}


def test_predictions_and_references_belong_together() -> None:
    for call in (
        lambda: classification_metrics([1], [1, 2]),
        lambda: regression_metrics([], []),
        lambda: tagging_metrics([["O"]], [["O", "O"]]),
    ):
        with pytest.raises(ValueError, match=r"references|nothing"):
            call()
