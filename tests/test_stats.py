import importlib
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxprune.stats import Interval, above, at_least, interval, simultaneous, sweet_spot


def bernoulli(seed: int, *shape: int, share: float = 0.7) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.float64)


# ------------------------------------------------------------------------------------------------------ closed forms


def test_interval_of_one_number_for_each_seed_is_students():
    values = np.random.default_rng(0).standard_normal(4)
    found = interval([np.array([one]) for one in values])
    low, high = scipy_stats.t.interval(0.95, 3, values.mean(), scipy_stats.sem(values))
    np.testing.assert_allclose(found, [values.mean(), low, high], rtol=1e-12)


def test_interval_of_one_network_is_students_over_examples():
    values = np.random.default_rng(0).standard_normal(50)
    low, high = scipy_stats.t.interval(0.9, 49, values.mean(), scipy_stats.sem(values))
    np.testing.assert_allclose(interval([values], confidence=0.9), [values.mean(), low, high], rtol=1e-12)


@pytest.mark.parametrize("right", [0, 1, 40, 99, 100])
def test_interval_of_hits_of_one_network_is_exact(right):
    found = interval([np.arange(100) < right], bounds=(0, 1))
    exact = scipy_stats.binomtest(right, 100).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(found, [right / 100, exact.low, exact.high], atol=1e-12)


def test_interval_of_seeds_that_agree_about_shared_examples_is_that_of_the_examples():
    """Networks that are all alike say no more than one of them."""
    values = np.random.default_rng(0).standard_normal(400)
    several, one = interval([values] * 3, examples="shared"), interval([values])
    # The covariance of means has no correction for few examples.
    np.testing.assert_allclose(several.high - several.mean, (one.high - one.mean) * np.sqrt(399 / 400), rtol=1e-12)


def test_interval_of_shared_examples_is_wider_than_that_of_fresh_ones():
    common = np.random.default_rng(0).standard_normal(200)
    values = [common + 0.1 * np.random.default_rng(seed).standard_normal(200) for seed in range(5)]
    shared, fresh = (interval(values, examples=name) for name in ("shared", "fresh"))
    assert shared.high - shared.low > 2 * (fresh.high - fresh.low)


def test_interval_takes_identities_in_whatever_order():
    values = list(np.random.default_rng(0).standard_normal((3, 60)) + np.arange(60) / 20)
    orders = [np.random.default_rng(seed).permutation(60) for seed in range(3)]
    shuffled = [one[order] for one, order in zip(values, orders, strict=True)]
    for far in (1, 10**9):  # places in a data set, and names that are far from each other
        named = interval(shuffled, examples=[7 + far * order for order in orders])
        np.testing.assert_allclose(named, interval(values, examples="shared"), rtol=1e-12)
    apart = interval(values, examples=[np.arange(60) + 60 * number for number in range(3)])
    np.testing.assert_allclose(apart, interval(values, examples="fresh"), rtol=1e-12)


def test_interval_has_the_covariance_of_seeds():
    """Between two seeds, by hand: half of the examples are shared."""
    first, second = np.random.default_rng(0).standard_normal((2, 40))
    second[:20] += 3 * first[20:]
    second -= second.mean()
    first -= first.mean()
    found = interval([first, second], examples=[np.arange(40), np.arange(20, 60)])
    common = first[20:] @ second[:20] / 40**2
    assert common > 0
    # Both means are 0, so that nothing shows between seeds.
    np.testing.assert_allclose(found.high, scipy_stats.t.ppf(0.975, 59) * np.sqrt(common), rtol=1e-9)


def test_interval_weighs_seeds_of_unequal_size_the_same():
    assert interval([np.ones(1), np.zeros(1000)], examples="fresh").mean == 0.5


def test_interval_of_a_wider_confidence_contains_a_narrower_one():
    hits = [bernoulli(seed, 100) for seed in range(3)]
    narrow, wide = (interval(hits, examples="fresh", confidence=share) for share in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
def test_interval_takes_hits_of_any_type(kind):
    hits = bernoulli(0, 50)
    assert interval([hits.astype(kind)]) == interval([hits])


def test_interval_of_numbers_that_do_not_vary_has_no_ends():
    assert interval([np.full(5, 0.1)] * 3, examples="shared") == Interval(pytest.approx(0.1), -np.inf, np.inf)
    assert interval([np.array([2.0])]) == Interval(2.0, -np.inf, np.inf)
    nearly = interval([np.array([0.1 + 0.2]), np.array([0.3])])
    assert (nearly.low, nearly.high) == (-np.inf, np.inf)


def test_interval_of_differences_that_are_all_zero_has_the_width_of_so_many_examples():
    found = interval([np.zeros(100)] * 2, examples="shared", bounds=(-1, 1))
    assert found.high == -found.low == pytest.approx(1 - 0.025 ** (1 / 100))


def test_interval_of_a_difference_reaches_as_far_as_its_gains_and_losses():
    """Losses alone, 2 of 100: the interval of their share reaches further below than above."""
    found = interval([-(np.arange(100) < 2).astype(float)], bounds=(-1, 1))
    exact = scipy_stats.binomtest(2, 100).proportion_ci(0.95, method="exact")
    assert found.low == pytest.approx(-exact.high)
    assert 0 < found.high - found.mean < found.mean - found.low


def test_interval_of_means_of_several_hits_is_no_wider_than_they_are():
    """Each example under four conditions: its mean is no hit, and as good as up to four of them."""
    rng = np.random.default_rng(0)
    values = (rng.random((200, 4)) < 0.8).mean(axis=1)
    found = interval([values], bounds=(0, 1))
    low, high = scipy_stats.t.interval(0.95, 199, values.mean(), scipy_stats.sem(values))
    assert found.high - found.low == pytest.approx(high - low, rel=0.05)
    rare = np.r_[0.75, np.ones(199)]
    exact = scipy_stats.binomtest(799, 800).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(interval([rare], bounds=(0, 1))[1:], [exact.low, exact.high], rtol=1e-3)


def test_interval_takes_any_bounds():
    hits = [bernoulli(seed, 80) for seed in range(3)]
    shares = interval(hits, examples="fresh", bounds=(0, 1))
    points = interval([5 + 100 * one for one in hits], examples="fresh", bounds=(5, 105))
    np.testing.assert_allclose(points, 5 + 100 * np.array(shares), rtol=1e-12)


# ------------------------------------------------------------------------------------------------------ simultaneous


def test_simultaneous_are_intervals_at_the_confidence_that_holds_for_all():
    values = list(np.random.default_rng(0).standard_normal((3, 40, 5)))
    several = simultaneous(values, examples="shared")
    each = 0.95 ** (1 / 5)
    alone = [interval([one[:, place] for one in values], examples="shared", confidence=each) for place in range(5)]
    np.testing.assert_allclose(several, alone, rtol=1e-9)


def test_simultaneous_intervals_take_any_statistic_of_means():
    values = np.random.default_rng(0).random((500, 2)) + 1
    (found,) = simultaneous([values], statistic=lambda means: (means[..., 0] / means[..., 1])[..., None])
    ratio = values[:, 0].mean() / values[:, 1].mean()
    # The delta method.
    std = np.std(values[:, 0] - ratio * values[:, 1]) / values[:, 1].mean() / np.sqrt(500)
    np.testing.assert_allclose([found.mean, found.high - found.low], [ratio, 2 * 1.965 * std], rtol=0.01)


def test_simultaneous_of_a_statistic_that_is_a_mean_changes_nothing():
    values = list(np.random.default_rng(0).standard_normal((3, 30, 2)))
    same = simultaneous(values, examples="shared", statistic=lambda means: means)
    np.testing.assert_allclose(same, simultaneous(values, examples="shared"), rtol=1e-9)


# ---------------------------------------------------------------------------------------------------------- coverage


def test_interval_holds_as_often_as_it_says(monkeypatch, unchecked):
    """A few cells of ``scripts/coverage.py``: with as many draws the standard error is 0.007."""
    # Annotations are checked by the other tests, and not at every draw.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    coverage = importlib.import_module("coverage")
    for kind, images, seeds, spread in (
        ("mean", "shared", 3, 1),
        ("mean", "re-split", 10, 0),
        ("mean", "fresh", 2, 0),
        ("share 0.9", "shared", 3, 0.5),
        ("gained 0, lost 0.03", "re-split", 5, 0),
        ("7 means", "shared", 5, 3),
    ):
        cell = coverage.Cell(kind, images, seeds, 100, spread)
        rate = coverage.coverage(cell, 1000)
        assert 0.93 - 0.01 <= rate <= (0.99 + 0.005 if kind in coverage.CONTINUOUS else 1), (cell, rate)
    # As many draws of the words: 0.03 and two standard errors.
    for bound in (coverage.Bound("fresh", 3, 1, 1), coverage.Bound("shared", 3, 200, 0)):
        assert np.nanmax(coverage.wrong(bound, 700)) <= 0.03 + 0.013


# --------------------------------------------------------------------------------------------------------- bad input


EACH = [(interval, [np.ones(3)]), (simultaneous, [np.ones((3, 2))])]


@pytest.mark.parametrize(("function", "good"), EACH)
def test_interval_and_simultaneous_refuse_the_same_values_and_options(function, good):
    size = good[0].shape
    for values, message in (
        ([], "values: expected one or more seeds"),
        ([*good, np.ones((0, *size[1:]))], "values: expected one or more seeds"),
        ([np.ones((*size, 2))], "values: expected one or more seeds"),
        ([np.full(size, np.nan)], "values: expected finite"),
        ([np.full(size, np.inf)], "values: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            function(values)
    with pytest.raises(TypeError, match=r"values: expected a list .* Pass list\(values\)"):
        function(np.ones((2, *size)))
    for confidence in (0, 1, 95, -0.1, np.nan):
        with pytest.raises(ValueError, match="confidence: expected a share between 0 and 1"):
            function(good, confidence=confidence)
    for bounds in ((1, 0), (0, np.nan), (1, 1), (0, np.inf)):
        with pytest.raises(ValueError, match="bounds: expected a low and a high end"):
            function(good, bounds=bounds)
    with pytest.raises(ValueError, match="values: expected numbers in"):
        function(good, bounds=(-1, 0.5))


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (None, "examples: expected to be told which examples the seeds share"),
        ("same", "examples"),
        ([np.arange(3), np.arange(4)], "examples: expected the identities"),
        ([np.arange(3)], "examples: expected the identities"),
        ([np.arange(3.0), np.arange(3.0)], "examples: expected the identities"),
        ([np.array([0, 1, 1]), np.arange(3)], "examples: expected every example once"),
    ],
)
def test_interval_and_simultaneous_refuse_examples_that_do_not_fit(examples, message):
    for values, function in (([np.ones(3)] * 2, interval), ([np.ones((3, 2))] * 2, simultaneous)):
        with pytest.raises(ValueError, match=message):
            function(values, examples=examples)
    with pytest.raises(ValueError, match="examples: expected as many of every seed"):
        interval([np.ones(3), np.ones(4)], examples="shared")


@pytest.mark.parametrize(
    "names",
    [
        np.array([-(2**63), 0, 2**63 - 1]),
        np.array([2**64 - 1, 2**63, 5], np.uint64),
        np.array([-128, 0, 127], np.int8),
        np.array([255, 0, 3], np.uint8),
    ],
)
def test_interval_takes_identities_of_any_integer_type(names):
    values = [np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])]
    assert interval(values, examples=[names, names]) == interval(values, examples="shared")


def test_interval_of_one_bounded_number_for_each_seed_is_no_share_of_so_few_hits():
    values = [np.array([one]) for one in (0.9, 0.95, 0.92)]
    free, within = interval(values), interval(values, bounds=(0, 1))
    assert within.high - within.low < 1.5 * (free.high - free.low)
    assert interval([np.ones(1)] * 3, bounds=(0, 1)).low == pytest.approx(0.025 ** (1 / 3))


@pytest.mark.parametrize("values", [None, [None], [["a"]], [[1.0, [2.0]]], [np.array([1j])], 5])
def test_interval_refuses_what_are_no_numbers(values):
    with pytest.raises((TypeError, jaxtyping.TypeCheckError), match="values"):
        interval(values)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([np.ones((2, 3)), np.ones((2, 4))], {"examples": "fresh"}, "values: expected equal columns"),
        ([np.ones((2, 3))], {"statistic": lambda means: means * np.nan}, "statistic"),
        ([np.ones((2, 3))], {"statistic": lambda means: means, "bounds": (0, 1)}, "bounds: expected none beside"),
        ([np.ones((2, 3))], {"statistic": lambda means: means[..., 0]}, "statistic: expected one from means"),
    ],
)
def test_simultaneous_refuses_what_has_no_interval(values, options, message):
    with pytest.raises(ValueError, match=message):
        simultaneous(values, **options)


@pytest.mark.parametrize(
    "ends", [Interval(0.0, 0.1, -0.1), *(Interval(*one) for one in np.where(np.eye(3), np.nan, [0.0, -0.1, 0.1]))]
)
def test_above_and_the_other_verdicts_refuse_ends_that_are_exchanged_or_nan(ends):
    for verdict in (at_least, above):
        with pytest.raises(ValueError, match="interval: expected a mean, a low end and a high one"):
            verdict(ends, 0.0)
    with pytest.raises(ValueError, match="interval: expected a mean, a low end and a high one"):
        sweet_spot([ends])
    with pytest.raises(ValueError, match="bound: expected a number"):
        above(Interval(0.0, 0.0, 0.0), np.nan)


# ---------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.05, 0.1, "holds"),
        (-0.0500001, 0.1, "undecided"),
        (-0.1, -0.05, "undecided"),
        (-0.1, -0.0500001, "does not hold"),
        (-np.inf, np.inf, "undecided"),
    ],
)
def test_at_least_includes_its_bound(low, high, verdict):
    assert at_least(Interval(0.0, low, high), -0.05) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1e-7, 0.1, "holds"),
        (5.6e-17, 0.1, "undecided"),
        (0.0, 0.1, "undecided"),
        (0.0, 0.0, "undecided"),
        (-0.1, 0.0, "undecided"),
        (-0.1, -5.6e-17, "undecided"),
        (-0.1, -1e-7, "does not hold"),
    ],
)
def test_above_excludes_its_bound_and_rounding(low, high, verdict):
    assert above(Interval(0.0, low, high), 0.0) == verdict


def test_sweet_spot_needs_a_whole_interval_above_the_margin():
    gains = [Interval(0.0, -0.01, 0.01), Interval(0.05, 0.03, 0.07), Interval(-0.2, -0.3, -0.1)]
    assert [sweet_spot(gains, margin) for margin in (0.0, 0.04, 0.07)] == ["found", "undecided", "not found"]
    assert sweet_spot([Interval(5.6e-17, 5.6e-17, 5.6e-17)]) == "not found"
    with pytest.raises(ValueError, match="gains: expected a list with an Interval"):
        sweet_spot([])
    with pytest.raises(ValueError, match="margin: expected 0 or more"):
        sweet_spot(gains, -1.0)
