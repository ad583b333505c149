import numpy as np
import pytest
from scipy import special

from jaxprune.stats import Interval, above, at_least, bootstrap, simultaneous, sweet_spot


def bernoulli(seed: int, *shape: int, share: float = 0.7) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.float64)


def test_bootstrap_of_one_seed_with_many_examples_is_the_normal_interval():
    hits = bernoulli(0, 20_000)
    got = bootstrap([hits], seed=1, resamples=20_000)
    half = 1.959964 * hits.std() / np.sqrt(len(hits))
    # The 2.5 % point of 20,000 resamples has a standard error of 0.01 half widths.
    np.testing.assert_allclose([got.mean - got.low, got.high - got.mean], half, rtol=0.05)
    assert got.mean == hits.mean()


def test_bootstrap_of_many_seeds_adds_the_variance_between_them_to_that_within():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60, 1))[:, [0] * 80] + rng.standard_normal((60, 80))
    got = bootstrap(list(values), seed=1, resamples=4000)
    variance = values.mean(axis=1).var() / 60 + values.var(axis=1).mean() / (60 * 80)
    np.testing.assert_allclose((got.high - got.low) / 2, 1.959964 * np.sqrt(variance), rtol=0.07)
    np.testing.assert_allclose(got.mean, values.mean(), atol=1e-12)


def test_bootstrap_of_one_seed_covers_the_truth_as_often_as_it_says():
    samples = bernoulli(3, 600, 200)
    intervals = [bootstrap([hits], seed=number, resamples=600) for number, hits in enumerate(samples)]
    covered = np.mean([low <= 0.7 <= high for _, low, high in intervals])
    # 600 studies: a standard error of 0.009; the percentile interval itself loses about 0.005 at n = 200.
    assert 0.915 <= covered <= 0.975


def test_bootstrap_weighs_seeds_of_unequal_size_the_same():
    got = bootstrap([np.ones(1), np.zeros(1000)], seed=0)
    assert got == Interval(0.5, 0.0, 1.0)


def test_bootstrap_of_pairs_beats_two_unpaired_intervals():
    first = bernoulli(0, 500)
    second = np.where(bernoulli(1, 500, share=0.05) > 0, 1 - first, first)
    paired = bootstrap([first - second], seed=0)
    separate = [bootstrap([hits], seed=0) for hits in (first, second)]
    unpaired = np.hypot(*[one.high - one.low for one in separate])
    assert paired.high - paired.low < unpaired / 2


def test_bootstrap_of_a_wider_confidence_contains_a_narrower_one():
    hits = [bernoulli(seed, 100) for seed in range(3)]
    narrow, wide = (bootstrap(hits, seed=0, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_bootstrap_is_a_function_of_the_seed():
    values = list(np.random.default_rng(0).standard_normal((3, 50)))
    assert bootstrap(values, seed=4) == bootstrap(values, seed=4)
    assert bootstrap(values, seed=4) != bootstrap(values, seed=5)


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
def test_bootstrap_takes_hits_of_any_type(kind):
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
def test_bootstrap_refuses_empty_values(values):
    with pytest.raises(ValueError, match="values: expected one or more seeds with one or more examples each"):
        bootstrap(values, seed=0)


def test_bootstrap_refuses_no_resamples():
    with pytest.raises(ValueError, match="resamples: expected a finite number above 0, but got 0"):
        bootstrap([np.ones(3)], seed=0, resamples=0)


def test_simultaneous_of_independent_columns_is_as_wide_as_the_normal_maximum_says():
    values = np.random.default_rng(0).standard_normal((4000, 5))
    found = simultaneous([values], seed=1, resamples=8000)
    # The 95 % quantile of the largest of five independent |normal| deviations.
    reach = special.ndtri((1 + 0.95 ** (1 / 5)) / 2) * values.std(axis=0) / np.sqrt(len(values))
    np.testing.assert_allclose([one.high - one.mean for one in found], reach, rtol=0.05)
    np.testing.assert_allclose([one.mean for one in found], values.mean(axis=0), atol=1e-12)


def test_simultaneous_costs_nothing_for_columns_that_move_together():
    column = np.random.default_rng(0).standard_normal((2000, 1))
    alone, together = (simultaneous([np.repeat(column, k, axis=1)], seed=1) for k in (1, 6))
    np.testing.assert_allclose(alone[0], together[5], rtol=0, atol=1e-12)


def test_simultaneous_intervals_hold_at_once_as_often_as_they_say():
    rng = np.random.default_rng(2)
    covered = np.mean(
        [
            all(one.low <= 0 <= one.high for one in simultaneous([rng.standard_normal((60, 6))], seed=n, resamples=400))
            for n in range(400)
        ]
    )
    # 400 studies: a standard error of 0.011; with 60 examples the bootstrap itself loses about 0.01.
    assert 0.91 <= covered <= 0.98


def test_simultaneous_gives_room_to_three_seeds_that_differ():
    rng = np.random.default_rng(5)

    def held(number: int) -> bool:
        seeds = [rng.normal(0, 0.12, (32, 7)) + rng.normal(0, 0.03, 7) for _ in range(3)]
        return all(one.low <= 0 <= one.high for one in simultaneous(seeds, seed=number, resamples=300))

    # About 0.9; without the correction for few seeds about 0.75.
    assert np.mean([held(number) for number in range(200)]) >= 0.84


def test_simultaneous_intervals_take_any_statistic_of_means():
    values = np.random.default_rng(0).random((500, 2)) + 1
    (found,) = simultaneous([values], seed=0, statistic=lambda means: (means[..., 0] / means[..., 1])[..., None])
    ratio = values[:, 0].mean() / values[:, 1].mean()
    # The delta method.
    std = np.std(values[:, 0] - ratio * values[:, 1]) / values[:, 1].mean() / np.sqrt(500)
    np.testing.assert_allclose([found.mean, found.high - found.low], [ratio, 2 * 1.96 * std], rtol=0.05)


def test_simultaneous_intervals_are_widened_by_seeds_that_differ():
    rng = np.random.default_rng(0)
    same = [rng.standard_normal((50, 3)) for _ in range(5)]
    apart = [entry + shift for entry, shift in zip(same, rng.standard_normal((5, 1, 3)), strict=True)]
    assert all(
        far.high - far.low > 2 * (near.high - near.low)
        for far, near in zip(simultaneous(apart, seed=0), simultaneous(same, seed=0), strict=True)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "values: expected one or more seeds"),
        ([np.ones(3)], "values: expected one or more seeds"),
        ([np.ones((2, 3)), np.ones((2, 4))], "values: expected equal columns"),
        ([np.full((2, 2), np.nan)], "values: expected finite"),
    ],
)
def test_simultaneous_refuses_what_has_no_interval(values, message):
    with pytest.raises(ValueError, match=message):
        simultaneous(values, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 95}, "confidence: expected a share between 0 and 1"),
        ({"resamples": 1}, "resamples: expected 100 or more"),
        ({"statistic": lambda means: means * np.nan}, "statistic"),
    ],
)
def test_simultaneous_refuses_options_without_sense(options, message):
    with pytest.raises(ValueError, match=message):
        simultaneous([np.random.default_rng(0).random((5, 2))], seed=0, **options)


def test_sweet_spot_needs_a_whole_interval_above_the_margin():
    gains = [Interval(0.0, -0.01, 0.01), Interval(0.05, 0.03, 0.07), Interval(-0.2, -0.3, -0.1)]
    assert [sweet_spot(gains, margin) for margin in (0.0, 0.04, 0.07)] == ["found", "undecided", "not found"]
    with pytest.raises(ValueError, match="gains: expected an interval"):
        sweet_spot([])
    with pytest.raises(ValueError, match="margin: expected 0 or more"):
        sweet_spot(gains, -1.0)
    with pytest.raises(ValueError, match="gains"):
        sweet_spot([Interval(np.nan, np.nan, np.nan)])
