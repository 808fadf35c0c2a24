"""Measures of predictions against references: numbers of scikit-learn, scipy and seqeval under the names that papers give them.

All are fractions (1 is perfect), not percent. A measure that is not defined for its input is NaN (correlation with a constant) or 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def classification_metrics(predicted: Sequence[object], expected: Sequence[object], labels: Sequence[object] = ()) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation of n predicted labels.

    Args:
        predicted, expected: n labels, all of one type that can be sorted.
        labels: all labels there are, in the model's order; default: those that occur, sorted.

    Returns accuracy, f1 (of the second label where there are two, as GLUE has it; else the mean of that of each label that occurs) and
    matthews. Raises ValueError where there are none, or not as many of both.
    """
    from sklearn import metrics

    _same_length(predicted, expected)
    names = list(labels) or sorted({*predicted, *expected})  # type: ignore[type-var]
    pair = len(names) == 2
    f1 = metrics.f1_score(expected, predicted, average="binary" if pair else "macro", pos_label=names[1] if pair else 1, zero_division=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A single label", UserWarning)
        matthews = metrics.matthews_corrcoef(expected, predicted)
    return {"accuracy": float(metrics.accuracy_score(expected, predicted)), "f1": float(f1), "matthews": float(matthews)}


def regression_metrics(predicted: Sequence[float] | np.ndarray, expected: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Pearson's correlation and Spearman's (ties share the mean of their ranks) of n ≥ 2 numbers: pearson, spearman.

    Raises ValueError where there are fewer, or not as many of both.
    """
    from scipy import stats

    _same_length(predicted, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)  # NaN says it
        return {
            "pearson": float(stats.pearsonr(predicted, expected).statistic),
            "spearman": float(stats.spearmanr(predicted, expected).statistic),
        }


def tagging_metrics(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Measures of the tags of n sentences, a tag a token.

    Returns accuracy (of tokens), and where the expected tags are IOB ("O", "B-X", "I-X") f1, precision and recall of entities as
    `conlleval` counts them (Tjong Kim Sang and De Meulder 2003, section 2): right only with all tokens and the type right.

    Raises ValueError where there are none, or not as many of both.
    """
    from seqeval import metrics

    _same_length(predicted, expected)
    for ours, theirs in zip(predicted, expected, strict=True):
        _same_length(ours, theirs)
    found, gold = [list(tags) for tags in predicted], [list(tags) for tags in expected]
    result = {"accuracy": float(metrics.accuracy_score(gold, found))}
    kinds = {tag for tags in gold for tag in tags}
    if all(tag == "O" or tag[:2] in ("B-", "I-") for tag in kinds):
        for name, score in (("f1", metrics.f1_score), ("precision", metrics.precision_score), ("recall", metrics.recall_score)):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "invalid value|divide by zero", RuntimeWarning)
                result[name] = float(score(gold, found, zero_division=0))
    return result


def _same_length(predicted: Sequence[object] | np.ndarray, expected: Sequence[object] | np.ndarray) -> None:
    if len(predicted) != len(expected):
        raise ValueError(f"{len(predicted)} predictions for {len(expected)} references")
    if len(expected) == 0:
        raise ValueError("there is nothing to measure")
