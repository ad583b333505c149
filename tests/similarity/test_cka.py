"""Centred kernel alignment against NumPy written out, between its routes, and on numbers known from elsewhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import similarity


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def related(seed: int, n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with something in common, an offset and unequal directions."""
    common, x, y = normal(seed, n, 3), normal(seed + 1, n, p), normal(seed + 2, n, q)
    x[:, :3] += 2 * common[:, : min(3, p)]
    return x * np.linspace(1, 3, p) + 5, y + common @ normal(seed + 3, 3, q) - 2


def song(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The unbiased HSIC, as Song et al. (2012) print it."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    last = 2 / (n - 2) * (one @ k @ l @ one)
    return (np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2)) - last) / (n * (n - 3))


def plain(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The biased HSIC, by the centring matrix."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return np.trace(k @ h @ l @ h) / (n - 1) ** 2


def alignment(hsic, k, l) -> float:  # noqa: E741
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def gaussian(x: np.ndarray, bandwidth: float) -> np.ndarray:
    squares = np.sum((x[:, None] - x[None]) ** 2, axis=-1)
    return np.exp(-squares / (2 * bandwidth**2 * np.median(squares[np.triu_indices(len(x), 1)])))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 5, 7), (12, 30, 8)])
@pytest.mark.parametrize("debiased", [True, False])
def test_linear_cka_agrees_in_three_forms(n, p, q, debiased):
    x, y = related(0, n, p, q)
    expected = alignment(song if debiased else plain, x @ x.T, y @ y.T)
    for route in ("features", "gram", None):
        assert similarity.linear_cka(x, y, debiased=debiased, route=route) == pytest.approx(expected, abs=1e-12)
    assert similarity.gram_cka(x @ x.T, y @ y.T, debiased=debiased) == pytest.approx(expected, abs=1e-12)


def test_linear_cka_that_is_biased_is_that_of_centred_features():
    x, y = related(0, 40, 5, 7)
    x, y = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(expected, abs=1e-13)


def test_gram_cka_takes_matrices_of_any_size_offset_and_diagonal():
    x, y = related(0, 40, 5, 7)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    expected = similarity.gram_cka(k, l)
    assert similarity.gram_cka(1e200 * k, 1e-200 * l) == pytest.approx(expected, abs=1e-12)
    assert similarity.gram_cka(k + 1e3, l - 1e3) == pytest.approx(expected, abs=1e-10)
    assert similarity.gram_cka(k + 1e30 * np.eye(40), l) == pytest.approx(expected, abs=1e-12)


def test_linear_cka_of_wide_features_in_float32_takes_grams_and_keeps_digits():
    common = normal(0, 24, 3)
    x, y = (0.1 * common @ normal(seed, 3, 5000) + normal(seed + 9, 24, 5000) for seed in (1, 2))
    expected = similarity.linear_cka(x, y)
    assert 0.1 < expected < 0.99
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert similarity.linear_cka(x, y) == pytest.approx(expected, abs=2e-6)
    assert similarity.linear_cka(x, y) == similarity.linear_cka(x, y, route="gram")
    # What the choice is for: the features' own form has lost digits here (measured: 2e-5).
    assert similarity.linear_cka(x, y, route="features") == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("n", [9, 10])  # 36 and 45 pairs: an even and an odd number of them
@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 2.5])
def test_rbf_cka_agrees_with_numpy(n, bandwidth):
    x, y = related(3, n, 4, 6)
    k, l = gaussian(x, bandwidth), gaussian(y, bandwidth)  # noqa: E741
    for debiased, hsic in ((True, song), (False, plain)):
        got = similarity.rbf_cka(x, y, bandwidth=bandwidth, debiased=debiased)
        assert got == pytest.approx(alignment(hsic, k, l), abs=1e-11)


def test_rbf_cka_takes_repeated_examples_at_distance_zero():
    x, y = (np.concatenate([side, side[:5]]) for side in related(3, 35, 5, 7))
    expected = alignment(song, gaussian(x, 1), gaussian(y, 1))
    assert similarity.rbf_cka(x, y) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("debiased", [True, False])
def test_rbf_cka_tends_to_linear_cka(debiased):
    x, y = related(5, 40, 5, 7)
    limit = similarity.linear_cka(x, y, debiased=debiased)
    errors = [abs(similarity.rbf_cka(x, y, bandwidth=t, debiased=debiased) - limit) for t in (10, 100, 1e3, 1e4)]
    # The next term of the kernel is 1 / t^2 smaller; at 1e4 the kernel itself would have lost half its digits.
    assert errors[0] > 90 * errors[1] > 8100 * errors[2] > 0
    assert errors[3] < 2e-9


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_cka_does_not_depend_on_rotation_scale_and_translation(seed, scale, shift):
    n, p = 40, 7  # one shape: every other would compile
    x, y = normal(seed, n, p), normal(seed + 1, n, p)
    turn = np.linalg.qr(normal(seed + 2, p, p))[0]
    moved = scale * x @ turn + shift
    # Offsets of up to 5e4 times the features cost as many digits.
    for function in (similarity.linear_cka, similarity.rbf_cka):
        assert function(x, moved, debiased=False) == pytest.approx(1, abs=1e-9)
        assert function(moved, y, debiased=False) == pytest.approx(function(x, y, debiased=False), abs=1e-9)
    assert similarity.linear_cka(x, moved) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("sizes", [[40], [20, 20], [1, 20, 19]])
def test_streaming_cka_is_that_of_all_examples(debiased, sizes):
    x, y = related(7, 40, 5, 7)
    x += np.repeat(np.arange(4), 10)[:, None]  # batches differ in their means
    ends = np.cumsum(sizes)[:-1]
    pairs = zip(np.split(x, ends), np.split(y, ends), strict=True)
    expected = similarity.linear_cka(x, y, debiased=debiased)
    assert similarity.streaming_cka(pairs, debiased=debiased) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("order", [1, -1])
def test_streaming_cka_takes_batches_of_very_different_size_and_offset(order):
    x, y = related(7, 60, 5, 7)
    x, y = x.astype(np.float32), y.astype(np.float32)
    x[:20] *= 1e18
    y[20:40] *= 1e-18
    y[40:] += 100
    batches = list(zip(np.split(x, 3), np.split(y, 3), strict=True))[::order]
    # float64 on all examples at once is the oracle of float32 in batches.
    expected = similarity.linear_cka(x.astype(np.float64), y.astype(np.float64))
    assert similarity.streaming_cka(batches) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("n", "p"), [(40, 5), (12, 30)])
def test_minibatch_cka_of_one_batch_is_the_debiased_alignment(n, p):
    x, y = related(9, n, p, 7 if p == 5 else 8)
    assert similarity.minibatch_cka([(x, y)]) == pytest.approx(similarity.linear_cka(x, y), abs=1e-13)


def test_minibatch_cka_averages_hsic_and_not_alignments():
    x, y = related(9, 40, 5, 7)
    x[:20] *= 100  # batches are scaled before their products, each by its own size
    pairs = list(zip(np.split(x, [20]), np.split(y, [20]), strict=True))
    grams = [(a @ a.T, b @ b.T) for a, b in pairs]
    cross = sum(song(k, l) for k, l in grams)  # noqa: E741
    own_x, own_y = (sum(song(gram[side], gram[side]) for gram in grams) for side in (0, 1))
    assert similarity.minibatch_cka(pairs) == pytest.approx(cross / np.sqrt(own_x * own_y), abs=1e-12)


# The numbers below were measured elsewhere, each on one draw whose set-up and seed are not known beyond a sentence.


@pytest.mark.parametrize(
    ("n", "p", "listed", "spread"),
    [(100, 64, 0.386, 0.010), (1000, 64, 0.061, 0.0016), (256, 2048, 0.889, 0.0009), (64, 2048, 0.970, 0.0004)],
)
def test_linear_cka_finds_independent_features_alike_only_when_biased(n, p, listed, spread):
    # spread: the standard deviation over seeds of the biased value; the listed ones are rounded to 0.0005.
    x, y = normal(0, 2, n, p)
    biased = similarity.linear_cka(x, y, debiased=False)
    assert abs(biased - listed) < 4 * np.sqrt(2) * spread + 5e-4
    assert abs(biased - p / (n + p)) < 4 * spread + 1e-3
    # Independent, HSIC_1 is 0 on average; the ratio has a standard deviation of about sqrt(2) / n for wide features.
    assert abs(similarity.linear_cka(x, y)) < 4 * np.sqrt(2) / n


def test_linear_cka_of_many_examples_is_safe_without_debiasing():
    x, y = normal(0, 2, 10_000, 64)
    assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(0.0064, abs=6e-4)  # spread 0.00014
    assert similarity.linear_cka(x, y) == pytest.approx(0, abs=6e-4)


def test_minibatch_cka_is_near_the_whole_and_the_mean_of_alignments_is_not():
    x = normal(0, 4096, 64)
    y = 0.5 * x + normal(1, 4096, 64)  # alignment 0.25 / 1.25 = 0.2 of the population
    # Spreads over seeds: 0.001 of the whole, 0.005, 0.0015 and 0.001 of the minibatches, 0.001 of the mean alignments.
    assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(0.2140, abs=0.006)
    whole = similarity.linear_cka(x, y)
    assert whole == pytest.approx(0.2017, abs=0.006)
    listed = {32: (0.2098, 0.737, 0.03), 128: (0.2018, 0.468, 0.01), 512: (0.2023, 0.291, 0.006)}
    for size, (minibatch, naive, tolerance) in listed.items():
        pairs = [(x[start : start + size], y[start : start + size]) for start in range(0, 4096, size)]
        got = similarity.minibatch_cka(pairs)
        mean = np.mean([similarity.linear_cka(*pair, debiased=False) for pair in pairs])
        assert got == pytest.approx(whole, abs=tolerance)
        assert got == pytest.approx(minibatch, abs=tolerance)
        assert mean == pytest.approx(naive, abs=0.006)
        assert mean > whole + 0.08


def test_linear_cka_changes_by_one_outlier_or_a_shifted_tenth():
    x = normal(0, 5000, 64)
    # Spreads over seeds 0.0001, 0.0015, 0.0005; for the debiased 0.002; for the shift 0.002.
    for size, listed, tolerance in ((20, 0.9987, 0.0006), (100, 0.944, 0.008), (1000, 0.041, 0.003)):
        y = x.copy()
        y[0, 0] += size
        assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(listed, abs=tolerance)
    assert similarity.linear_cka(x, y) == pytest.approx(0.372, abs=0.012)
    y = x.copy()
    y[:500, 0] += 10
    assert similarity.linear_cka(x, y, debiased=False) == pytest.approx(0.625, abs=0.012)


def test_linear_cka_does_not_see_directions_of_low_variance():
    x = normal(0, 2000, 64) * np.logspace(0, -2, 64)
    x -= x.mean(0)
    directions = np.linalg.svd(x, full_matrices=False)[2]
    # Spreads over seeds: 0.006, 0.0006, less than 1e-5.
    for kept, listed, tolerance in ((2, 0.676, 0.034), (10, 0.974, 0.004), (32, 1.000, 5e-4)):
        got = similarity.linear_cka(x, x @ directions[:kept].T, debiased=False)
        assert got == pytest.approx(listed, abs=tolerance)


EVERY = {
    "features": similarity.linear_cka,
    "gram": lambda x, y: similarity.linear_cka(x, y, route="gram"),
    "biased": lambda x, y: similarity.linear_cka(x, y, debiased=False),
    "rbf": similarity.rbf_cka,
    "minibatch": lambda x, y: similarity.minibatch_cka([(x, y), (x[::-1], y)]),
    "streaming": lambda x, y: similarity.streaming_cka([(x, y), (x[::-1], y)]),
    "procrustes": similarity.procrustes,
    "svcca": similarity.svcca,
    "rsa": similarity.rsa,
    "neighbours": similarity.mutual_neighbours,
}


@pytest.mark.parametrize("name", EVERY)
def test_similarity_takes_extreme_sizes_in_float32(name):
    x, y = (side.astype(np.float32) for side in related(0, 40, 5, 7))
    expected = EVERY[name](x, y)
    for size in (1e20, 1e-20, 1e37, 1e-30):
        assert EVERY[name](np.float32(size) * x, y) == pytest.approx(expected, abs=3e-6)


def test_linear_cka_loses_no_digits_to_a_large_common_offset():
    x, y = related(0, 40, 5, 7)
    x = (x + 1e4).astype(np.float32)  # what is lost is lost here
    expected = similarity.linear_cka(x.astype(np.float64), y.astype(np.float32).astype(np.float64))
    assert similarity.linear_cka(x, y.astype(np.float32)) == pytest.approx(expected, abs=1e-6)


def test_linear_cka_flattens_images_and_converts_integers():
    x, y = related(0, 40, 5, 7)
    assert similarity.linear_cka(x.reshape(40, 1, 5, 1), y) == similarity.linear_cka(x, y)
    counts = np.random.default_rng(0).integers(0, 9, (40, 5))
    assert similarity.linear_cka(counts, y) == pytest.approx(similarity.linear_cka(counts.astype(float), y), abs=1e-6)
