"""Masking: how often, what stands there, whole words, and what it may never touch."""

from __future__ import annotations

import numpy as np
import pytest

from distill.masking import IGNORED, Vocabulary, capacity, choose, mask, uniform, word_starts, words_of

VOCABULARY = Vocabulary(
    cls=0,
    sep=1,
    pad=2,
    mask=3,
    special=np.arange(200) < 5,
    starts=np.arange(200) % 3 != 0,  # every third piece continues a word
    ordinary=np.arange(5, 200),
)
WIDTH = 64


def batch(rows: int = 256) -> np.ndarray:
    """Rows of ordinary pieces between special tokens, the last places padding."""
    ids = np.random.default_rng(0).integers(5, 200, (rows, WIDTH))
    ids[:, 0], ids[:, 30], ids[:, 31], ids[:, 58], ids[:, 59:] = 0, 1, 0, 1, 2
    return ids


def masked(step: int = 0, **options: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A batch, the changed one, the places that count, and what stood there."""
    ids = batch()
    changed, places, labels = mask(ids, np.arange(len(ids)), VOCABULARY, 0.15, seed=3, step=step, **options)
    counts = labels != IGNORED
    return ids, changed, places[counts], labels[counts]


def test_a_share_of_the_ordinary_tokens_of_each_row_is_chosen() -> None:
    ids, changed, places, labels = masked()
    per_row = np.bincount(places // WIDTH, minlength=len(ids))
    assert set(per_row) == {round(0.15 * 55)}
    assert len(np.unique(places)) == len(places)
    assert (ids.flat[places] == labels).all()
    others = np.ones(ids.size, bool)
    others[places] = False
    assert (ids.flat[others] == changed.flat[others]).all()


def test_eight_of_ten_become_the_mask_one_another_piece_one_stays() -> None:
    new, old = [], []
    for step in range(20):
        _, changed, places, labels = masked(step)
        new.append(changed.flat[places])
        old.append(labels)
    now, before = np.concatenate(new), np.concatenate(old)
    deviation = 4 * (0.8 * 0.2 / len(now)) ** 0.5
    assert abs((now == VOCABULARY.mask).mean() - 0.8) < deviation
    assert abs((now == before).mean() - 0.1 - 0.1 / len(VOCABULARY.ordinary)) < deviation
    random = now[(now != VOCABULARY.mask) & (now != before)]
    assert set(random) == set(VOCABULARY.ordinary)


def test_every_place_is_chosen_equally_often() -> None:
    counts = np.zeros(WIDTH)
    for step in range(60):
        places = masked(step)[2]
        counts += np.bincount(places % WIDTH, minlength=WIDTH)
    ordinary = ~VOCABULARY.special[batch(1)[0]]
    expected = counts.sum() / ordinary.sum()
    assert (abs(counts[ordinary] - expected) < 5 * expected**0.5).all()


def test_special_tokens_are_never_masked_nor_put_in() -> None:
    for whole_words in (False, True):
        ids, changed, places, labels = masked(whole_words=whole_words)
        assert not VOCABULARY.special[labels].any()
        assert (changed[VOCABULARY.special[ids]] == ids[VOCABULARY.special[ids]]).all()
        assert set(np.unique(changed.flat[places])) & set(range(5)) == {VOCABULARY.mask}


def test_whole_words_are_masked_together() -> None:
    ids, _, places, _ = masked(whole_words=True)
    chosen = np.zeros(ids.size, bool)
    chosen[places] = True
    chosen = chosen.reshape(ids.shape)
    words = words_of(ids, VOCABULARY)
    for row in range(len(ids)):
        for word in np.unique(words[row]):
            assert len(set(chosen[row, words[row] == word])) == 1
    per_row = chosen.sum(1)
    assert per_row.max() <= round(0.15 * 55)
    assert 0.12 < per_row.mean() / 55 <= 0.15


def test_a_word_longer_than_the_share_is_left_out_whole() -> None:
    maskable = np.ones((1, 20), bool)
    words = np.array([[0] * 19 + [19]])
    for seed in range(20):
        draws = uniform(seed, 0, 0, np.arange(1), 20)
        columns, counts = choose(maskable, draws, 0.15, words)
        assert set(columns[counts]) <= {19}


def test_rows_of_special_tokens_alone_are_left_as_they_are() -> None:
    ids = np.full((2, 8), VOCABULARY.pad)
    changed, _, labels = mask(ids, np.arange(2), VOCABULARY, 0.15, seed=0, step=0)
    assert (changed == ids).all()
    assert (labels == IGNORED).all()


def test_a_generator_sees_the_mask_token_alone() -> None:
    _, changed, places, _ = masked(always=True)
    assert set(changed.flat[places]) == {VOCABULARY.mask}


def test_draws_depend_on_seed_step_and_row_alone() -> None:
    ids = batch(8)
    rows = np.arange(8)
    whole = mask(ids, rows, VOCABULARY, 0.15, seed=1, step=5)
    places = capacity(WIDTH, 0.15)
    for part in range(2):
        share = mask(ids[part::2], rows[part::2], VOCABULARY, 0.15, seed=1, step=5)
        assert (share[0] == whole[0][part::2]).all()
        assert (share[2].reshape(-1, places) == whole[2].reshape(-1, places)[part::2]).all()
    for changed in ({"seed": 2, "step": 5}, {"seed": 1, "step": 6}):
        assert (mask(ids, rows, VOCABULARY, 0.15, **changed)[0] != whole[0]).any()


def test_draws_are_uniform() -> None:
    draws = uniform(0, 0, 0, np.arange(400), 500)
    assert (draws >= 0).all()
    assert (draws < 1).all()
    counts = np.histogram(draws, 50, (0, 1))[0]
    assert (abs(counts - 4000) < 5 * 4000**0.5).all()
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize(
    ("pieces", "begin"),
    [
        (["[CLS]", "play", "##ing", "##", "."], [True, True, False, True, True]),
        (["<s>", "Ġplay", "ing", "."], [False, True, False, False]),
        (["[CLS]", "▁play", "ing", "▁"], [False, True, False, True]),
    ],
)
def test_word_starts_of_each_kind_of_tokenizer(pieces: list[str], begin: list[bool]) -> None:
    assert word_starts(pieces).tolist() == begin
