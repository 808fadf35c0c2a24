"""Rows of packed examples: every token once, no padding to speak of, pairs as they should be."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from pretraining import tokens

from distill.corpus import Corpus
from distill.masking import IGNORED
from distill.packing import PackedBatches, pack, paired_examples, ranges, runs
from distill.settings import SettingsError


def test_ranges() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_runs_are_whole_sentences_that_cover_every_document() -> None:
    rng = np.random.default_rng(0)
    sentences = np.concatenate([[0], np.cumsum(rng.integers(1, 20, 400))])
    documents = np.concatenate([[0], np.sort(rng.choice(sentences[1:-1], 30, replace=False)), sentences[-1:]])
    begins, ends = runs(sentences, documents, 40, rng.integers(10, 41, 31))
    order = np.argsort(begins)
    assert (begins[order][1:] == ends[order][:-1]).all()
    assert (begins[order][0], ends[order][-1]) == (0, sentences[-1])
    assert set(documents) <= {*begins, sentences[-1]}
    assert set(begins) <= set(sentences)
    assert (ends - begins).max() <= 40


def test_a_run_takes_as_many_sentences_as_fit() -> None:
    begins, ends = runs(np.array([0, 3, 6, 9, 30]), np.array([0, 30]), 8, np.array([3]))
    # A sentence of 21 tokens is cut.
    assert list(zip(begins.tolist(), ends.tolist(), strict=True)) == [(0, 3), (3, 9), (9, 17), (17, 25), (25, 30)]


@pytest.mark.parametrize(("width", "filled"), [(8, 0.9), (31, 0.98), (128, 0.98)])
def test_packing_puts_every_example_into_one_row_and_fills_rows(width: int, filled: float) -> None:
    rng = np.random.default_rng(width)
    lengths = np.minimum(rng.geometric(3 / width, 5000) + 2, width)
    order, begins = pack(lengths, width)
    assert sorted(order) == list(range(5000))
    sums = np.add.reduceat(lengths[order], begins[:-1])
    assert sums.max() <= width
    assert lengths.sum() / (len(sums) * width) > filled


@pytest.mark.parametrize("lengths", [[5], [8], [3, 3, 3, 3, 3], [1] * 17])
def test_packing_of_few_examples(lengths: list[int]) -> None:
    order, begins = pack(np.array(lengths), 8)
    assert sorted(order) == list(range(len(lengths)))
    assert np.add.reduceat(np.array(lengths)[order], begins[:-1]).max() <= 8
    assert len(begins) - 1 == -(-len(lengths) // (8 // lengths[0]))


def batches(architecture: str = "bert", **options: object) -> PackedBatches:
    text, vocabulary = tokens(architecture)
    return PackedBatches(text, vocabulary, **{"width": 32, "batch_size": 8, "rate": 0.15, **options})  # type: ignore[arg-type]


def test_rows_hold_whole_examples_with_positions_of_their_own() -> None:
    text, vocabulary = tokens("bert")
    batch = batches().at(1, 0, 1)
    flat = " ".join(map(str, text.ids.tolist()))
    seen = 0
    for ids, positions, segments in zip(
        batch["original_ids"].numpy(), batch["position_ids"].numpy(), batch["segments"].numpy(), strict=True
    ):
        for segment in range(1, segments.max() + 1):
            example = ids[segments == segment]
            assert positions[segments == segment].tolist() == list(range(len(example)))
            assert (example[0], example[-1]) == (vocabulary.cls, vocabulary.sep)
            assert " ".join(map(str, example[1:-1].tolist())) in flat
            seen += 1
        assert (ids[segments == 0] == vocabulary.pad).all()
    assert seen > len(batch["input_ids"])
    assert batch["tokens"] == int((batch["segments"] > 0).sum())


def test_an_epoch_has_every_token_once() -> None:
    text, vocabulary = tokens("bert")
    made = batches(batch_size=1)
    ids = np.concatenate([made.at(step, 0, 1)["original_ids"].numpy().ravel() for step in range(made.per_epoch())])
    assert sorted(ids[~vocabulary.special[ids]]) == sorted(text.ids[~vocabulary.special[text.ids]])


def test_batches_are_a_function_of_the_step_and_shares_add_up() -> None:
    made, again = batches(), batches()
    late = made.per_epoch() * 2 + 1
    expected = made.at(late, 0, 1)
    again.at(0, 0, 1)
    for part in range(2):
        share = again.at(late, part, 2)
        assert (share["input_ids"] == expected["input_ids"][part::2]).all()
    assert (made.at(0, 0, 1)["original_ids"] != made.at(made.per_epoch(), 0, 1)["original_ids"]).any()
    assert {name: value.shape for name, value in expected.items() if name != "tokens"} == {
        name: value.shape for name, value in made.at(3, 0, 1).items() if name != "tokens"
    }


def test_packing_saves_padding() -> None:
    def padding(made: PackedBatches) -> float:
        return float(np.mean([(made.at(step, 0, 1)["segments"] == 0).float().mean() for step in range(made.per_epoch())]))

    assert padding(batches()) < 0.12
    assert padding(batches(packed=False)) > 2 * padding(batches())


def test_an_unpacked_row_holds_one_example() -> None:
    assert int(batches(packed=False).at(0, 0, 1)["segments"].max()) == 1


@pytest.mark.parametrize(("kind", "architecture"), [("next", "bert"), ("order", "albert")])
def test_pairs_follow_each_other_or_do_not(kind: str, architecture: str) -> None:
    text, vocabulary = tokens(architecture)
    made = batches(architecture, pairs=kind)
    flat = text.ids.tolist()
    seen = {0: 0, 1: 0}
    for step in range(made.per_epoch()):
        batch = made.at(step, 0, 1)
        ids, types = batch["original_ids"].flatten().tolist(), batch["token_type_ids"].flatten().tolist()
        for place, label in zip(batch["first"].tolist(), batch["pair_labels"].tolist(), strict=True):
            if label == IGNORED:
                continue
            assert ids[place] == vocabulary.cls
            first_end = ids.index(vocabulary.sep, place)
            second_end = ids.index(vocabulary.sep, first_end + 1)
            a, b = ids[place + 1 : first_end], ids[first_end + 1 : second_end]
            assert types[place : second_end + 1] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
            text_order = b + a if kind == "order" and label == 1 else a + b
            follows = any(flat[index : index + len(text_order)] == text_order for index in range(len(flat) - len(text_order) + 1))
            assert follows == (kind == "order" or label == 0)
            seen[label] += 1
    total = sum(seen.values())
    assert total > 60
    assert abs(seen[1] / total - 0.5) < 4 * 0.5 / total**0.5


def test_another_b_is_of_another_document() -> None:
    text = Corpus(np.arange(80), np.arange(0, 81, 4), np.array([0, 40, 60, 80]), "")
    begins, ends = runs(text.sentences, text.documents, 12, np.full(3, 12))
    found = paired_examples(begins, ends, text, "next", 12, np.random.default_rng(1))
    own, other = (np.searchsorted(text.documents, each, "right") for each in (found.a, found.b))
    assert ((own != other) == (found.labels == 1)).all()
    assert found.labels.any()
    assert (found.lengths() <= 15).all()


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"the corpus fills \d+ rows of 32 tokens, training\.batch_size is 5000"):
        batches(batch_size=5000)
    with pytest.raises(SettingsError, match="batch_size is 8; it must be a multiple of accumulation × processes, 3"):
        batches().at(0, 0, 3)
    one = Corpus(np.arange(40), np.arange(0, 41, 4), np.array([0, 40]), "")
    vocabulary = tokens("bert")[1]
    with pytest.raises(SettingsError, match="needs more than one document"):
        PackedBatches(one, vocabulary, width=16, batch_size=1, rate=0.15, pairs="next")
    single = Corpus(np.arange(40), np.arange(0, 41, 20), np.array([0, 20, 40]), "")
    with pytest.raises(SettingsError, match="no two sentences follow each other"):
        PackedBatches(single, vocabulary, width=32, batch_size=1, rate=0.15, pairs="order")
