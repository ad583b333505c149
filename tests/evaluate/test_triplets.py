"""Odd-one-out choices against brute force, ties by expectation, and agreement with people."""

import numpy as np
import pytest

from jaxprune.evaluate import triplets

RNG = np.random.default_rng


def drawn(seed: int, n: int = 9, m: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    return rng.standard_normal((n, 4)), np.stack([rng.choice(n, 3, replace=False) for _ in range(m)])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_odd_one_out_is_what_remains_beside_the_most_similar_pair(similarity, monkeypatch):
    features, rows = drawn(0)
    scaled = features / np.linalg.norm(features, axis=1, keepdims=True) if similarity == "cosine" else features
    gram = scaled @ scaled.T
    expected = [max(range(3), key=lambda position: gram[tuple(np.delete(row, position))]) for row in rows]
    assert len(set(expected)) == 3
    got = triplets.odd_one_out(features, rows, similarity=similarity)
    assert got.tolist() == expected
    np.testing.assert_array_equal(triplets.choice_shares(features, rows, similarity=similarity), np.eye(3)[expected])
    monkeypatch.setattr(triplets, "_CHUNK", 1)
    assert triplets.odd_one_out(features, rows, similarity=similarity).tolist() == expected


def test_odd_one_out_does_not_depend_on_the_order_within_a_triplet():
    features, rows = drawn(1)
    items = rows[np.arange(len(rows)), triplets.odd_one_out(features, rows)]
    for order in ([1, 2, 0], [2, 1, 0]):
        turned = rows[:, order]
        np.testing.assert_array_equal(turned[np.arange(len(rows)), triplets.odd_one_out(features, turned)], items)


def test_odd_one_out_by_cosine_ignores_length_and_by_dot_does_not():
    features = np.array([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.0, 30.0]])
    rows = np.array([[0, 1, 3]])
    assert triplets.odd_one_out(features, rows).tolist() == [2]
    assert triplets.odd_one_out(features, rows, similarity="dot").tolist() == [0]


@pytest.mark.parametrize("value", [0.0, 2.0])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_choice_shares_of_features_all_the_same_are_chance(similarity, value):
    _, rows = drawn(2)
    shares = triplets.choice_shares(np.full((9, 4), value), rows, similarity=similarity)
    np.testing.assert_array_equal(shares, 1 / 3)
    assert triplets.agreement(shares, RNG(0).integers(3, size=len(rows))) == pytest.approx(triplets.CHANCE, abs=1e-15)


def test_choice_shares_are_equal_of_two_that_are_tied():
    features = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(triplets.choice_shares(features, [[0, 1, 2]], similarity="dot"), [[0.5, 0.5, 0]])


def test_agreement_is_the_share_on_the_human_choice():
    human = np.array([0, 1, 2, 2])
    assert triplets.agreement(human, human) == 1.0
    assert triplets.agreement((human + 1) % 3, human) == 0.0
    assert triplets.agreement(np.array([0, 1, 2, 0]), human) == 0.75
    shares = np.array([[0.5, 0.5, 0], [0, 1, 0], [1 / 3] * 3, [1, 0, 0]])
    assert triplets.agreement(shares, human) == pytest.approx((0.5 + 1 + 1 / 3) / 4, abs=1e-15)


def test_noise_ceiling_compares_every_answer_with_the_others():
    answers = RNG(3).integers(3, size=(40, 5))
    expected = []
    for row in answers:
        for place, answer in enumerate(row):
            votes = np.bincount(np.delete(row, place), minlength=3)
            most = np.flatnonzero(votes == votes.max())
            expected.append((answer in most) / len(most))
    counts = np.stack([np.bincount(row, minlength=3) for row in answers])
    assert triplets.noise_ceiling(counts) == pytest.approx(np.mean(expected), abs=1e-12)
    assert triplets.noise_ceiling([[4, 0, 0], [0, 0, 2]]) == 1.0
    assert triplets.noise_ceiling([[1, 1, 0]]) == 0.0


def test_noise_ceiling_of_two_answers_by_chance_is_that_of_chance():
    pairs = [np.bincount([a, b], minlength=3) for a in range(3) for b in range(3)]
    assert triplets.noise_ceiling(np.stack(pairs)) == pytest.approx(1 / 3, abs=1e-15)


FEATURES = np.eye(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: triplets.odd_one_out(FEATURES[0], [[0, 1, 2]]), r"features: expected \[n, d\].*the shape \(4,\)"),
        (lambda: triplets.odd_one_out(FEATURES * np.nan, [[0, 1, 2]]), r"features: expected finite numbers"),
        (lambda: triplets.odd_one_out(FEATURES, [[0, 1, 4]]), r"triplets: expected labels in \[0, 4\), but found 4"),
        (lambda: triplets.odd_one_out(FEATURES, [[0, 1]]), r"triplets: expected indices \[m, 3\].*the shape \(1, 2\)"),
        (
            lambda: triplets.odd_one_out(FEATURES, [[0, 1, 2], [3, 1, 3]]),
            r"triplets: expected three different images, but row 1 is \[3, 1, 3\] \(1 such\)",
        ),
        (lambda: triplets.odd_one_out(FEATURES, [[0, 1, 2]], similarity="cos"), r"similarity: unknown value 'cos'"),
        (lambda: triplets.agreement([0, 3], [0, 1]), r"choices: expected labels in \[0, 3\), but found 3"),
        (lambda: triplets.agreement([0, 1], [0, 1, 2]), r"choices, human: expected positions \[m\] or shares.*\(2,\)"),
        (lambda: triplets.noise_ceiling([[1, 0]]), r"counts: expected whole numbers \[m, 3\], but got int64 of shape"),
        (lambda: triplets.noise_ceiling([[2, 0, 0], [1, 0, 0]]), r"counts: expected two or more answers.*row 1"),
    ],
)
def test_triplets_name_bad_input_with_its_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_of_classes_draws_two_of_a_class_and_one_of_another():
    labels = RNG(0).integers(5, size=50)
    rows = triplets.of_classes(labels, 400, seed=0)
    first, second, third = labels[rows].T
    assert rows.shape == (400, 3)
    assert np.all(first == second)
    assert np.all(rows[:, 0] != rows[:, 1])
    assert np.all(first != third)
    assert not np.array_equal(rows, triplets.of_classes(labels, 400, seed=1))


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [], [[0, 0, 1]]])
def test_of_classes_refuses_labels_of_which_no_triplet_can_be_made(labels):
    with pytest.raises(ValueError, match="labels: expected"):
        triplets.of_classes(labels, 5, seed=0)
