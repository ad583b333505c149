"""Procrustes, SVCCA, rank correlations and nearest neighbours against SciPy, NumPy and loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes as disparity_of
from scipy.stats import spearmanr

from jaxprune import similarity
from jaxprune.similarity import features
from tests import cases


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(("n", "p"), [(20, 4), (7, 15)])
def test_procrustes_is_that_of_scipy_but_for_its_scale(n, p):
    x, y = normal(0, n, p), normal(1, n, p) + 3
    # SciPy scales y, too, for the least residual: 1 - |X'Y|_*^2, and |X'Y|_* = 1 - d^2 / 2.
    _, _, disparity = disparity_of(x, y)
    distance = similarity.procrustes(x, y)
    assert 1 - (1 - distance**2 / 2) ** 2 == pytest.approx(disparity, abs=1e-12)
    assert np.cos(similarity.angular(x, y)) == pytest.approx(1 - distance**2 / 2, abs=1e-12)


@pytest.mark.parametrize(("n", "p", "q"), [(20, 3, 8), (6, 30, 3), (6, 9, 30)])
def test_procrustes_pads_narrower_features_with_zeros(n, p, q):
    x, y = normal(0, n, p), normal(1, n, q)
    padded = [np.pad(side, ((0, 0), (0, max(p, q) - side.shape[1]))) for side in (x, y)]
    assert similarity.procrustes(x, y) == pytest.approx(similarity.procrustes(*padded), abs=1e-12)
    centred = [side - side.mean(0) for side in (x, y)]
    a, b = (side / np.linalg.norm(side) for side in centred)
    nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
    assert similarity.procrustes(x, y) == pytest.approx(np.sqrt(2 - 2 * nuclear), abs=1e-12)
    assert similarity.angular(x, y) == pytest.approx(np.arccos(nuclear), abs=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_procrustes_and_angular_are_metrics(seed):
    n, widths = 8, (3, 5, 5)  # every other shape would compile
    sides = [normal(seed + number, n, width) for number, width in enumerate(widths)]
    # A third shape near the first two makes the inequality tight.
    width = max(widths)
    a, b = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in sides[:2])
    for middle in (sides[2], a + b):
        for metric in (similarity.procrustes, similarity.angular):
            direct = metric(sides[0], sides[1])
            assert direct <= metric(sides[0], middle) + metric(middle, sides[1]) + 1e-12
            assert direct == pytest.approx(metric(sides[1], sides[0]), abs=1e-12)
    turn = np.linalg.qr(normal(seed + 3, widths[0], widths[0]))[0]
    assert similarity.procrustes(sides[0], 4 * sides[0] @ turn - 1) == pytest.approx(0, abs=1e-12)


def test_procrustes_keeps_the_digits_of_small_distances():
    x, change = normal(0, 30, 5), normal(1, 30, 5)
    small, tiny = (similarity.procrustes(x, x + size * change) for size in (1e-6, 1e-9))
    assert small / tiny == pytest.approx(1000, rel=1e-5)  # 2 - 2 |X'Y|_* would have none left
    assert similarity.angular(x, x + 1e-9 * change) == pytest.approx(tiny, rel=1e-9)


def cca_by_qr(x: np.ndarray, y: np.ndarray, variance: float) -> float:
    """SVCCA as it is described: truncate by SVD, orthonormalise by QR, mean singular value."""
    reduced = []
    for side in (x, y):
        u, values, _ = np.linalg.svd(side - side.mean(0), full_matrices=False)
        kept = np.searchsorted(np.cumsum(values**2), variance * np.sum(values**2)) + 1
        reduced.append(np.linalg.qr(u[:, :kept] * values[:kept])[0])
    return np.linalg.svd(reduced[0].T @ reduced[1], compute_uv=False).mean()


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(("p", "q"), [(4, 9), (70, 5)])
def test_svcca_is_that_of_numpy(p, q, variance):
    common = normal(0, 60, 3)
    x = (normal(1, 60, p) + np.pad(common, ((0, 0), (0, p - 3)))) * np.logspace(0, -2, p) + 2
    y = normal(2, 60, q) + common @ normal(3, 3, q)
    assert similarity.svcca(x, y, variance=variance) == pytest.approx(cca_by_qr(x, y, variance), abs=1e-12)


def test_svcca_does_not_see_an_invertible_map_of_what_it_keeps():
    x = normal(0, 60, 5)
    mapped = x @ (normal(1, 5, 5) + 3 * np.eye(5)) + 1
    assert similarity.svcca(x, mapped, variance=1.0) == pytest.approx(1, abs=1e-12)
    # Columns that repeat others are no further directions.
    assert similarity.svcca(x, np.concatenate([x, x], axis=1), variance=1.0) == pytest.approx(1, abs=1e-12)


def correlations(x: np.ndarray) -> np.ndarray:
    return np.corrcoef(x)[np.tril_indices(len(x), -1)]


@pytest.mark.parametrize(("n", "p", "q"), [(3, 5, 4), (25, 4, 3)])
def test_rsa_is_the_rank_correlation_of_scipy(n, p, q):
    x, y = normal(0, n, p), normal(1, n, q)
    y[:, :3] += x[:, :3]
    expected = spearmanr(correlations(x), correlations(y)).statistic
    assert similarity.rsa(x, y) == pytest.approx(expected, abs=1e-12)
    rows = np.random.default_rng(2).uniform(0.1, 10, (n, 1))  # each example may have a scale and an offset of its own
    assert similarity.rsa(rows * x + rows, y) == pytest.approx(expected, abs=1e-12)


def test_rsa_gives_ties_their_mean_rank():
    rng = np.random.default_rng(0)
    x, y = np.eye(4)[rng.integers(0, 4, 25)], np.eye(3)[rng.integers(0, 3, 25)]
    y[x[:, 0] == 1] = np.eye(3)[0]
    # NumPy's correlations differ in the last place where they should be equal.
    expected = spearmanr(correlations(x).round(10), correlations(y).round(10)).statistic
    assert abs(expected) > 0.1
    assert similarity.rsa(x, y) == pytest.approx(expected, abs=1e-12)
    # Two features, each there twice: every correlation is 1 or -1.
    two = np.repeat(normal(1, 25, 2), 2, axis=1)
    expected = spearmanr(correlations(two).round(10), correlations(y).round(10)).statistic
    assert similarity.rsa(two, y) == pytest.approx(expected, abs=1e-12)


def neighbours_by_loop(x: np.ndarray, count: int) -> list[set[int]]:
    """Of the most similar others, the first; cosines rounded far above rounding and far below what differs."""
    cosines = np.round([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in x] for a in x], 10)
    near = []
    for i, row in enumerate(cosines):
        order = sorted((j for j in range(len(x)) if j != i), key=lambda j: (-row[j], j))
        near.append(set(order[:count]))
    return near


@pytest.mark.parametrize("count", [1, 4])
def test_mutual_neighbours_are_those_of_a_loop(count):
    x, tied = normal(0, 20, 4), np.random.default_rng(1).integers(1, 3, (20, 4)).astype(float)
    near = x + 0.5 * normal(2, 20, 4) + 0.3
    for y in (near, tied):
        pairs = list(zip(neighbours_by_loop(x, count), neighbours_by_loop(y, count), strict=True))
        overlap = np.mean([len(a & b) / count for a, b in pairs])
        jaccard = np.mean([len(a & b) / len(a | b) for a, b in pairs])
        assert similarity.mutual_neighbours(x, y, neighbours=count) == pytest.approx(overlap, abs=1e-12)
        got = similarity.mutual_neighbours(x, y, neighbours=count, measure="jaccard")
        assert got == pytest.approx(jaccard, abs=1e-12)


def test_mutual_neighbours_of_independent_features_agree_by_chance():
    found = [similarity.mutual_neighbours(normal(seed, 60, 8), normal(seed + 99, 60, 8)) for seed in range(20)]
    assert abs(np.mean(found) - 10 / 59) < 4 * np.std(found) / np.sqrt(20)


def test_features_are_read_from_memory_of_their_own():
    """Nothing is waited for: a caller may fill the same array again before the number is there."""
    filled = cases.aligned(64, np.float64)
    held = features._array(filled)
    filled[:] = 0
    np.testing.assert_array_equal(held, np.ones(64))
