import numpy as np
import pytest

from jaxprune.stats import Interval, above, at_least, bootstrap


def bernoulli(seed: int, *shape: int, share: float = 0.7) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.float64)


def test_one_seed_with_many_examples_gives_the_normal_interval():
    hits = bernoulli(0, 20_000)
    got = bootstrap([hits], seed=1, resamples=20_000)
    half = 1.959964 * hits.std() / np.sqrt(len(hits))
    # The 2.5 % point of 20,000 resamples has a standard error of 0.01 half widths.
    np.testing.assert_allclose([got.mean - got.low, got.high - got.mean], half, rtol=0.05)
    assert got.mean == hits.mean()


def test_many_seeds_add_the_variance_between_them_to_the_variance_within():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60, 1))[:, [0] * 80] + rng.standard_normal((60, 80))
    got = bootstrap(list(values), seed=1, resamples=4000)
    variance = values.mean(axis=1).var() / 60 + values.var(axis=1).mean() / (60 * 80)
    np.testing.assert_allclose((got.high - got.low) / 2, 1.959964 * np.sqrt(variance), rtol=0.07)
    np.testing.assert_allclose(got.mean, values.mean(), atol=1e-12)


def test_one_seed_covers_the_truth_as_often_as_it_says():
    samples = bernoulli(3, 600, 200)
    intervals = [bootstrap([hits], seed=number, resamples=600) for number, hits in enumerate(samples)]
    covered = np.mean([low <= 0.7 <= high for _, low, high in intervals])
    # 600 studies: a standard error of 0.009; the percentile interval itself loses about 0.005 at n = 200.
    assert 0.915 <= covered <= 0.975


def test_seeds_of_unequal_size_weigh_the_same():
    got = bootstrap([np.ones(1), np.zeros(1000)], seed=0)
    assert got == Interval(0.5, 0.0, 1.0)


def test_pairing_beats_two_unpaired_intervals():
    first = bernoulli(0, 500)
    second = np.where(bernoulli(1, 500, share=0.05) > 0, 1 - first, first)
    paired = bootstrap([first - second], seed=0)
    separate = [bootstrap([hits], seed=0) for hits in (first, second)]
    unpaired = np.hypot(*[one.high - one.low for one in separate])
    assert paired.high - paired.low < unpaired / 2


def test_a_wider_confidence_contains_a_narrower_one():
    hits = [bernoulli(seed, 100) for seed in range(3)]
    narrow, wide = (bootstrap(hits, seed=0, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_interval_is_a_function_of_the_seed():
    values = list(np.random.default_rng(0).standard_normal((3, 50)))
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
def test_hits_may_be_of_any_type(kind):
    hits = bernoulli(0, 50)
    assert bootstrap([hits.astype(kind)], seed=0) == bootstrap([hits], seed=0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.05, 0.1, "holds"),
        (-0.0500001, 0.1, "undecided"),
        (-0.1, -0.05, "undecided"),
        (-0.1, -0.0500001, "does not hold"),
    ],
)
def test_at_least_includes_its_bound(low, high, verdict):
    assert at_least(Interval(0.0, low, high), -0.05) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1e-9, 0.1, "holds"),
        (0.0, 0.1, "undecided"),
        (0.0, 0.0, "undecided"),
        (-0.1, 0.0, "undecided"),
        (-0.1, -1e-9, "does not hold"),
    ],
)
def test_above_excludes_its_bound(low, high, verdict):
    assert above(Interval(0.0, low, high), 0.0) == verdict


@pytest.mark.parametrize("values", [[], [np.ones(3), np.ones(0)]])
def test_empty_values_are_an_error(values):
    with pytest.raises(ValueError, match="values: expected one or more seeds with one or more examples each"):
        bootstrap(values, seed=0)


def test_no_resamples_are_an_error():
    with pytest.raises(ValueError, match="resamples: expected a finite number above 0, but got 0"):
        bootstrap([np.ones(3)], seed=0, resamples=0)
