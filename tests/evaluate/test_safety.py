import dataclasses
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

import jaxprune as jp
from jaxprune.evaluate import safety, transfer

DELTA = 0.05
DRAWS = 10_000
# Three standard errors of a simulated share that is DELTA.
NOISE = 3 * np.sqrt(DELTA * (1 - DELTA) / DRAWS)


def flipped(n: int, *counts: int) -> safety.Evidence:
    """Nested flips: so many of n images at each rung."""
    after = np.arange(n) >= np.array(counts)[:, None]
    return safety.flips(np.ones(n, bool), after, images=np.arange(n))


def certify(evidence, sparsities=(0.3, 0.5, 0.7), **options):
    return safety.largest(evidence, sparsities, **{"alpha": 0.05, "made": {}, "reported": {}, **options})


# ------------------------------------------------------------------------------------------------------ exact tests


def test_p_values_are_the_binomial_tails_of_scipy():
    for n, alpha in itertools.product((1, 7, 300, 5000), (0.01, 0.05, 0.5, 0.99)):
        counts = np.unique(np.linspace(0, n, 50).astype(int))
        np.testing.assert_allclose(safety.p_values(counts, n, alpha), stats.binom.cdf(counts, n, alpha), rtol=1e-11)


def test_p_values_are_no_smaller_than_they_should_be_at_any_rate_of_alpha_or_more():
    n, alpha = 120, 0.05
    found = safety.p_values(np.arange(n + 1), n, alpha)
    for rate in (alpha, alpha + 1e-6, 0.06, 0.2, 0.9):
        chances = stats.binom.pmf(np.arange(n + 1), n, rate)
        for level in (0.001, 0.01, 0.05, 0.3, 0.9, *found[:20]):
            assert chances[found <= level].sum() <= level * (1 + 1e-12)


@pytest.mark.parametrize("alpha", [0.02, 0.05, 0.2, 0.5])
def test_p_values_hold_of_a_sample_without_replacement(alpha):
    for pool in (2, 3, 10, 25, 60, 150):
        flips = int(np.floor(pool * alpha)) + 1  # the fewest whose rate exceeds alpha
        for n, delta in itertools.product(range(1, pool + 1), (0.01, 0.05, 0.2)):
            passes = np.flatnonzero(safety.p_values(np.arange(n + 1), n, alpha) <= delta)
            if len(passes):
                assert stats.hypergeom.cdf(passes[-1], pool, flips, n) <= delta


def test_p_values_hold_of_images_drawn_for_each_class():
    # Ten images of each class, whose rates of flips are very unequal; their mean is alpha.
    alpha, each = 0.1, 10
    for rates in ([0.1] * 6, [0.6, 0, 0, 0, 0, 0], [0.3, 0.3, 0, 0, 0, 0], [0.05, 0.15] * 3):
        chances = np.ones(1)
        for rate in rates:
            chances = np.convolve(chances, stats.binom.pmf(np.arange(each + 1), each, rate))
        n = each * len(rates)
        for delta in (0.01, 0.05, 0.2):
            passes = safety.p_values(np.arange(n + 1), n, alpha) <= delta
            assert 0 < chances[passes].sum() <= delta or not any(np.array(rates)[1:])


def test_fixed_sequence_stops_at_the_first_rung_that_fails():
    rng = np.random.default_rng(0)
    found = rng.random((4, 50, 6)) ** 3
    expected = np.zeros((4, 50), int)
    for place in np.ndindex(expected.shape):
        while expected[place] < 6 and found[place][expected[place]] <= 0.2:
            expected[place] += 1
    np.testing.assert_array_equal(safety.fixed_sequence(found, 0.2), expected)
    assert len(np.unique(expected)) == 7


def test_fixed_sequence_errs_no_more_than_stated_by_enumeration():
    # Flips are nested: an image flips from some rung on, or never.  All outcomes of three rungs are listed.
    n, alpha, delta = 40, 0.12, 0.1
    first, more, most = (count.ravel() for count in np.meshgrid(*[np.arange(n + 1)] * 3, indexing="ij"))
    inside = first + more + most <= n
    counts = np.stack([first, more, most, n - first - more - most], axis=1)[inside]
    certified = safety.fixed_sequence(safety.p_values(np.cumsum(counts[:, :3], axis=1), n, alpha), delta)
    for rates in ((0.01, 0.05, 0.13), (0.02, 0.121, 0.2), (0.121, 0.13, 0.14), (0.05, 0.121, 0.121), (0.01, 0.1, 0.11)):
        shares = np.diff([0.0, *rates, 1.0])
        chances = stats.multinomial.pmf(counts, n, shares)
        assert chances.sum() == pytest.approx(1)
        safe = int(np.sum(np.array(rates) <= alpha))
        wrong = chances[certified > safe].sum()
        assert wrong <= delta
        assert (wrong == 0) == (safe == 3)


@pytest.mark.parametrize(("alpha", "n", "exact"), [(0.05, 300, 0.0337), (0.05, 100, 0.0371), (0.01, 900, 0.0249)])
def test_fixed_sequence_errs_no_more_than_stated_in_ten_thousand_draws(alpha, n, exact):
    # Rungs of nested flips, of which the third lies just above alpha, and the two below it far under it.
    rates = np.array([0.001, 0.002, alpha * (1 + 1e-9), 2 * alpha])
    shares = np.diff([0.0, *rates, 1.0])
    draws = np.random.default_rng(0).multinomial(n, shares, DRAWS)[:, :-1]
    certified = safety.fixed_sequence(safety.p_values(np.cumsum(draws, axis=1), n, alpha), DELTA)
    violations = np.mean(certified > 2)
    assert violations <= DELTA + NOISE
    np.testing.assert_allclose(violations, exact, atol=NOISE)  # the worst case is that of the first rung above alpha


def test_images_needed_is_59_149_and_299_without_a_flip():
    assert [safety.images_needed(alpha, DELTA) for alpha in (0.05, 0.02, 0.01)] == [59, 149, 299]
    for alpha, delta in itertools.product((0.001, 0.01, 0.05, 0.3, 0.5, 0.9), (1e-6, 0.05, 0.25, 0.5)):
        n = safety.images_needed(alpha, delta)
        assert (1 - alpha) ** n <= delta * (1 + 1e-12)
        assert n == 1 or (1 - alpha) ** (n - 1) > delta * (1 - 1e-12)
        safety.demand_images(n, alpha, delta)


@pytest.mark.parametrize(
    ("alpha", "rate", "power"), [(0.05, 0.02, 0.9), (0.05, 0.01, 0.5), (0.2, 0.1, 0.8), (0.3, 0.001, 0.99)]
)
def test_images_needed_is_the_smallest_number_with_that_power(alpha, rate, power):
    def powerful(n):
        passes = np.flatnonzero(stats.binom.cdf(np.arange(n + 1), n, alpha) <= DELTA)
        return len(passes) > 0 and stats.binom.cdf(passes[-1], n, rate) >= power

    expected = next(n for n in itertools.count(1) if powerful(n))
    assert safety.images_needed(alpha, DELTA, flip_rate=rate, power=power) == expected


# ---------------------------------------------------------------------------------------------------------- betting


def sequences(n: int) -> np.ndarray:
    return np.array(list(itertools.product((-1, 0, 1), repeat=n)))


def chance_of(drops: np.ndarray, gain: float, alpha: float) -> np.ndarray:
    """How likely each sequence is whose drops have the mean alpha, with that share of gains."""
    shares = np.array([gain, 1 - alpha - 2 * gain, alpha + gain])
    return np.prod(shares[drops + 1], axis=-1)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3, 0.7])
@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_betting_is_a_martingale_where_the_drop_is_alpha(alpha, gain):
    drops = sequences(7)
    wealth = np.exp(safety.betting(drops, alpha))
    chances = chance_of(drops, gain, alpha)
    np.testing.assert_allclose(chances @ wealth, 1, rtol=1e-12)
    larger = chance_of(drops, gain, min(alpha + 0.1, 0.75))
    assert np.all(np.diff(larger @ wealth, prepend=1) <= 1e-15)
    smaller = chance_of(drops, 0.0, alpha / 4)
    assert smaller @ wealth[:, -1] > 1


def test_betting_is_a_martingale_where_drops_depend_on_those_before():
    alpha, n = 0.2, 6
    drops, rng = sequences(n), np.random.default_rng(0)
    # After each beginning the next drop has the mean alpha, with another share of gains.
    gains = {one: rng.uniform(0, 0.4) for t in range(n) for one in itertools.product((-1, 0, 1), repeat=t)}
    chances = [np.prod([_share(gains[tuple(one[:t])], one[t], alpha) for t in range(n)]) for one in drops.tolist()]
    np.testing.assert_allclose(chances @ np.exp(safety.betting(drops, alpha)), 1, rtol=1e-12)


def _share(gain, drop, alpha):
    return {-1: gain, 0: 1 - alpha - 2 * gain, 1: alpha + gain}[drop]


@pytest.mark.parametrize(("alpha", "delta"), [(0.6, 0.2), (0.4, 0.3), (0.2, 0.5)])
def test_betting_errs_no_more_than_stated_whenever_one_stops_by_enumeration(alpha, delta):
    drops = sequences(9)
    ever = np.exp(safety.betting(drops, alpha)).max(axis=-1) >= 1 / delta
    for gain in (0.0, 0.05, 0.2):
        assert 0 < chance_of(drops, gain, alpha)[ever].sum() <= delta


@pytest.mark.parametrize(("alpha", "gain"), [(0.05, 0.0), (0.05, 0.02), (0.2, 0.1)])
def test_betting_errs_no_more_than_stated_with_the_luckiest_stop(alpha, gain):
    rng, n = np.random.default_rng(1), 300
    uniform = rng.random((DRAWS, n), np.float32)
    drops = (uniform < alpha + gain).astype(np.int8) - (uniform > 1 - gain).astype(np.int8)
    assert np.mean(safety.betting_p_values(drops, alpha) <= DELTA) <= DELTA + NOISE


def test_betting_does_not_know_what_comes():
    rng = np.random.default_rng(0)
    drops = rng.integers(-1, 2, (5, 3, 40))
    whole = safety.betting(drops, 0.1)
    np.testing.assert_array_equal(safety.betting(drops[..., :17], 0.1), whole[..., :17])
    assert whole.shape == drops.shape


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.4])
def test_betting_makes_the_bet_under_which_wealth_grows_most(alpha):
    rng = np.random.default_rng(2)
    for gains, flips, n in [(0, 0, 1), (0, 0, 30), (0, 1, 60), (3, 2, 60), (9, 1, 60), (1, 30, 60)]:
        before = rng.permutation(np.repeat([-1, 1, 0], [gains, flips, n - gains - flips]))
        q, r = (flips + 1) / (n + 3 / alpha), gains / (n + 3 / alpha)

        def growth(bet, q=q, r=r):
            return -(
                q * np.log1p(bet * (alpha - 1)) + r * np.log1p(bet * (alpha + 1)) + (1 - q - r) * np.log1p(bet * alpha)
            )

        best = optimize.minimize_scalar(growth, bounds=(0, 1 / (1 - alpha)), method="bounded", options={"xatol": 1e-9})
        wealth = safety.betting(np.append(before, 0), alpha)
        bet = np.expm1(wealth[-1] - wealth[-2]) / alpha
        np.testing.assert_allclose(bet, best.x if q - r < alpha else 0, atol=1e-5)


def test_labels_needed_is_where_wealth_first_suffices():
    rng = np.random.default_rng(3)
    for _ in range(20):
        drops = rng.choice([-1, 0, 1], 400, p=[0.01, 0.97, 0.02])
        wealth = np.exp(safety.betting(drops, 0.05))
        enough = [t + 1 for t in range(400) if wealth[t] >= 20]
        assert safety.labels_needed(drops, 0.05) == (enough[0] if enough else None)
    assert safety.labels_needed(np.ones(50, int), 0.05) is None


def test_labels_needed_are_not_many_more_than_the_fewest_without_a_flip():
    for alpha in (0.05, 0.02, 0.01):
        fewest, found = safety.images_needed(alpha), safety.labels_needed(np.zeros(1000, int), alpha)
        assert fewest < found < 1.3 * fewest


# ---------------------------------------------------------------------------------------------------------- evidence


@given(st.integers(2, 4), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_disagreements_are_never_fewer_than_flips_whatever_the_labels(classes, n, seed):
    rng = np.random.default_rng(seed)
    labels, dense = rng.integers(classes, size=(2, n))
    pruned = np.where(rng.random((3, n)) < 0.3, rng.integers(classes, size=(3, n)), dense)
    changed = safety.disagreements(dense, pruned, images=np.arange(n))
    flips = safety.flips(dense == labels, pruned == labels, images=np.arange(n))
    drops = safety.drops(dense == labels, pruned == labels, images=np.arange(n))
    assert np.all(changed.values >= flips.values)
    assert np.all(flips.values >= drops.values)
    lost = (dense == labels).sum() - (pruned == labels).sum(axis=1)
    np.testing.assert_array_equal(drops.values.sum(axis=1), lost)
    assert (changed.kind, flips.kind, drops.kind) == ("disagreements", "flips", "drops")
    assert (flips.rungs, flips.n) == (3, n)


def test_flips_leave_out_padding_with_its_identities():
    dense, pruned = np.array([True, True, True, False]), np.array([[False, False, True, True]])
    found = safety.flips(dense, pruned, images=["a", "b", "c", "d"], weight=[1, 0, 1, 1.0])
    assert found.values.tolist() == [[True, False, False]]
    assert found.images.tolist() == ["a", "c", "d"]


def network(scale):
    return jp.Network(lambda params, state, images: images * params["scale"], {"scale": jnp.asarray(scale)})


def data(n=7):
    rng = np.random.default_rng(0)
    return {"image": rng.normal(size=(n, 3)), "label": rng.integers(3, size=n)}


def test_hits_and_predictions_are_those_of_every_network():
    nets = [network(scale) for scale in ([1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, -1.0, 2.0])]
    known = data()
    expected = np.stack([np.argmax(known["image"] * np.asarray(one.params["scale"]), axis=1) for one in nets])
    for size in (2, 7, 16):
        batches = jp.data.Batches(known, size)  # the last one is padded
        np.testing.assert_array_equal(safety.predictions((one for one in nets), iter(batches)), expected)
        np.testing.assert_array_equal(safety.hits(nets, batches), expected == known["label"])
    np.testing.assert_array_equal(safety.predictions(nets, [{"image": known["image"]}]), expected)
    assert len(np.unique(expected, axis=0)) == 3


def test_predictions_of_transfer_are_those_that_correct_compares():
    net, known = network([1.0, -1.0, 2.0]), data(9)
    batches = jp.data.Batches({**known, "weight": np.array([1, 0, 2, 1, 1, 0, 1, 1, 1.0])}, 4)
    found = transfer.predictions(net, batches)
    np.testing.assert_array_equal(found == np.delete(known["label"], [1, 5]), transfer.correct(net, batches))
    with pytest.raises(ValueError, match="classes: expected one for each of the 3 outputs"):
        transfer.predictions(net, batches, classes=("a", "b"))
    with pytest.raises(ValueError, match=r"expected outputs of shape \[b, c\]"):
        transfer.predictions(net, [{"image": np.ones((2, 2, 3))}])
    with pytest.raises(ValueError, match="outputs: expected finite numbers"):
        transfer.predictions(network([1.0, 1e300, 2.0]), [{"image": np.full((1, 3), 1e300)}])


def test_hits_refuse_weights_that_a_test_cannot_count():
    batch = {**data(2), "weight": np.array([1.0, 2.0])}
    for read in (safety.hits, safety.predictions):
        with pytest.raises(ValueError, match=r"batches: weight: expected 0 \(left out\) or 1 for each of 2 images"):
            read([network([1.0, 1.0, 1.0])], [batch])


@pytest.mark.usefixtures("unchecked")
def test_hits_refuse_what_is_not_several_networks():
    with pytest.raises(TypeError, match=r"networks: expected several.*Pass \[network\]"):
        safety.hits(network([1.0, 1.0, 1.0]), [data()])
    with pytest.raises(ValueError, match="networks: expected one or more, but got none"):
        safety.predictions(iter([]), [data()])


BOOLS, ROWS = np.ones(3, bool), np.ones((2, 3), bool)
BAD_EVIDENCE = [
    (safety.flips, (BOOLS, BOOLS), {}, ValueError, r"hits: expected \[n\].*but got \[3\] and \[3\].*hits\[None\]"),
    (safety.flips, (BOOLS, np.ones((2, 4), bool)), {}, ValueError, r"but got \[3\] and \[2, 4\]"),
    (safety.flips, (BOOLS[:0], ROWS[:, :0]), {}, ValueError, "for one rung and one image or more"),
    (safety.flips, (BOOLS, ROWS.astype(int)), {}, TypeError, "hits: expected booleans, right or wrong, but got int64"),
    (safety.drops, (BOOLS.astype(float), ROWS), {}, TypeError, "dense_hits: expected booleans"),
    (safety.disagreements, (BOOLS, ROWS), {}, TypeError, "dense_predictions: expected integers, .* but got bool"),
    (safety.disagreements, (np.arange(3), np.ones((2, 3))), {}, TypeError, "predictions: expected integers"),
    (safety.flips, (BOOLS, ROWS), {"images": np.arange(2)}, ValueError, "number of each of the 3 images, but got 2"),
    (safety.flips, (BOOLS, ROWS), {"images": [4, 5, 4]}, ValueError, "every image once, but 4 occurs 2 times"),
    (
        safety.flips,
        (BOOLS, ROWS),
        {"images": BOOLS},
        ValueError,
        r"but got bool\[3\]. Of a mask take numpy.flatnonzero",
    ),
    (
        safety.flips,
        (BOOLS, ROWS),
        {"images": np.arange(3.0)},
        ValueError,
        r"integers or strings \[n\], but got float64",
    ),
    (safety.flips, (BOOLS, ROWS), {"weight": [1, 0.5, 1]}, ValueError, r"weight: expected 0 \(left out\) or 1"),
    (safety.flips, (BOOLS, ROWS), {"weight": [1, 1]}, ValueError, r"weight: expected 0 \(left out\) or 1"),
    (safety.flips, (BOOLS, ROWS), {"weight": [0, 0, 0]}, ValueError, r"values: expected bool \[rungs, n\]"),
]


@pytest.mark.parametrize(("make", "given", "options", "kind", "words"), BAD_EVIDENCE)
def test_flips_and_their_kin_refuse_what_does_not_fit(make, given, options, kind, words):
    with pytest.raises(kind, match=words):
        make(*given, **{"images": np.arange(3), **options})


@pytest.mark.usefixtures("unchecked")
def test_evidence_refuses_what_no_maker_made():
    with pytest.raises(ValueError, match=r"kind: unknown value 'flip'\. Did you mean 'flips'"):
        safety.Evidence("flip", ROWS, np.arange(3))
    with pytest.raises(ValueError, match=r"values: expected int8 \[rungs, n\] of drops, but got int64"):
        safety.Evidence("drops", np.zeros((2, 3), int), np.arange(3))
    with pytest.raises(ValueError, match="values: expected drops of -1, 0 and 1"):
        safety.Evidence("drops", np.full((2, 3), 2, np.int8), np.arange(3))


# ---------------------------------------------------------------------------------------------------------- largest


def test_largest_is_the_fixed_sequence_of_exact_tests():
    rng = np.random.default_rng(0)
    sparsities = np.linspace(0.1, 0.9, 9)
    seen = []
    for _ in range(200):
        rates = np.sort(rng.uniform(0, 0.1, 9))
        after = rng.random(150) >= rates[:, None]
        evidence = safety.flips(np.ones(150, bool), after, images=np.arange(150))
        found = certify(evidence, sparsities)
        expected, p_values = 0, stats.binom.cdf((~after).sum(axis=1), 150, 0.05)
        while expected < 9 and p_values[expected] <= DELTA:
            expected += 1
        assert found.sparsity == (sparsities[expected - 1] if expected else None)
        assert found.stopped == (expected if expected < 9 else None)
        np.testing.assert_allclose(found.p_values, p_values, rtol=1e-12)
        assert found.outcomes[0].counts == tuple((~after).sum(axis=1).tolist())
        seen.append(expected)
    assert len(set(seen)) > 3


def test_largest_counts_no_rung_behind_one_that_failed():
    assert certify(flipped(300, 0, 0, 0)).sparsity == 0.7
    n = 300
    after = np.ones((3, n), bool)
    after[1, :40] = False  # the second rung fails, the third would pass
    found = certify(safety.flips(np.ones(n, bool), after, images=np.arange(n)))
    assert (found.sparsity, found.stopped) == (0.3, 1)


def test_largest_of_several_tasks_counts_a_rung_only_if_all_reject():
    one, other = flipped(300, 0, 5, 30), flipped(120, 0, 8, 8)
    found = certify({"0-4": one, "5-9": other})
    assert found.sparsity == 0.3
    np.testing.assert_allclose(
        found.p_values, np.maximum(stats.binom.cdf([0, 5, 30], 300, 0.05), stats.binom.cdf([0, 8, 8], 120, 0.05))
    )
    assert certify({"0-4": one}).sparsity == 0.5
    # A larger drop is allowed on the second task.
    assert certify({"0-4": one, "5-9": other}, alpha={"0-4": 0.05, "5-9": 0.2}).sparsity == 0.5


def test_largest_of_several_tasks_errs_no_more_than_stated():
    # Both tasks lie just above alpha in turn, the other far below; and both at once.
    n, alpha, rng = (200, 400), 0.05, np.random.default_rng(0)
    for rates in ((alpha, 0.001), (0.001, alpha), (alpha, alpha)):
        found = [
            safety.p_values(rng.binomial(count, rate, (DRAWS, 1)), count, alpha)
            for count, rate in zip(n, rates, strict=True)
        ]
        wrong = np.mean(safety.fixed_sequence(np.maximum(*found), DELTA))
        assert wrong <= DELTA + NOISE
        assert (wrong > 0.01) == (rates != (alpha, alpha))


def test_largest_bets_on_drops_in_their_order():
    rng, n = np.random.default_rng(0), 400
    dense, after = rng.random(n) < 0.95, rng.random((3, n)) < np.array([0.94, 0.93, 0.7])[:, None]
    evidence = safety.drops(dense, after, images=np.arange(n))
    found = certify(evidence, alpha=0.1)
    wealth = np.exp(safety.betting(dense.astype(int) - after, 0.1))
    np.testing.assert_allclose(found.p_values, np.minimum(1, 1 / wealth.max(axis=1)))
    assert found.outcomes[0].counts == tuple((dense.sum() - after.sum(axis=1)).tolist())
    order = rng.permutation(n)
    moved = certify(safety.drops(dense[order], after[:, order], images=order), alpha=0.1)
    assert moved.p_values != found.p_values


def test_largest_certifies_what_a_certificate_of_kind_disagreements_says_of_the_drop():
    # However the labels fall, the rate of disagreements bounds the drop; the certificate is never bolder.
    rng, n = np.random.default_rng(1), 300
    for _ in range(50):
        labels, dense = rng.integers(5, size=(2, n))
        rates = np.array([0.005, 0.02, 0.04])[:, None]
        pruned = np.where(rng.random((3, n)) < rates, rng.integers(5, size=(3, n)), dense)
        without = certify(safety.disagreements(dense, pruned, images=np.arange(n))).sparsity
        with_labels = certify(safety.flips(dense == labels, pruned == labels, images=np.arange(n))).sparsity
        assert (without or 0) <= (with_labels or 0)


def test_largest_refuses_images_that_serve_two_purposes():
    evidence = {"5-9": flipped(100, 0)}
    with pytest.raises(
        ValueError, match=r"made: .* but 2 of the 100 that certify '5-9' also made the .*'head': 98, 99"
    ):
        certify(evidence, (0.3,), made={"scoring": [200], "head": [98, 99, 100]})
    with pytest.raises(
        ValueError, match=r"reported: .*also are reported as 'test': 0, 1, 2, 3, 4, \.\.\.\. Split anew"
    ):
        certify(evidence, (0.3,), made={"scoring": [200]}, reported={"test": range(9)})
    with pytest.raises(ValueError, match=r"made: .* 1 of the 2 that are reported as 'test' also made .*'scoring': 201"):
        certify(evidence, (0.3,), made={"scoring": [200, 201]}, reported={"test": [201, 202]})


def test_demand_disjoint_compares_every_pair_of_kinds():
    parts = {"certified": {"a": [1, 2], "b": [2, 3]}, "made": {"x": [4], "y": [4, 5]}, "reported": {"t": [6, 7]}}
    safety.demand_disjoint(**parts)
    for first, second in itertools.combinations(parts, 2):
        shared = {**parts, first: {**parts[first], "new": [9]}, second: {**parts[second], "also": [8, 9]}}
        with pytest.raises(ValueError, match="serve nothing else, but 1 of the"):
            safety.demand_disjoint(**shared)
    safety.demand_disjoint({"a": ["digits/1"]}, {"x": ["test/1"], "none": []}, {})
    with pytest.raises(ValueError, match="integers everywhere or strings everywhere"):
        safety.demand_disjoint({"a": ["1"]}, {"x": [1]}, {})


@pytest.mark.usefixtures("unchecked")
def test_demand_disjoint_refuses_parts_without_names():
    with pytest.raises(TypeError, match=r"made: expected a dictionary, name -> numbers of images, but got int64\[3\]"):
        safety.demand_disjoint({"a": [7]}, np.arange(3), {})
    with pytest.raises(ValueError, match=r"made: scoring: expected the numbers \(or names\).*but got int64\[1, 2\]"):
        safety.demand_disjoint({"a": [7]}, {"scoring": [[1, 2]]}, {})


BAD_LARGEST = [
    ({"alpha": 0.04}, r"alpha: expected 0.0488 or more of 60 images of 5-9.*but got 0.04. It takes 74 images without"),
    ({"alpha": 0.0487}, "expected 0.0488 or more .* It takes 61 images"),
    ({"alpha": 0.02}, "It takes 149 images without a flip: certify on more, or allow a larger drop"),
    ({"alpha": 0.01}, "It takes 299 images"),
    ({"alpha": 0.0}, "alpha of 5-9: expected a share between 0 and 1, but got 0.0. Five points are 0.05"),
    ({"alpha": 5}, "alpha of 5-9: expected a share between 0 and 1, but got 5"),
    ({"alpha": float("nan")}, "alpha of 5-9: expected a share between 0 and 1, but got nan"),
    ({"alpha": {"0-4": 0.1}}, r"alpha: expected one for each of the tasks \['5-9'\], but got those of \['0-4'\]"),
    ({"delta": 1.0}, "delta: expected a share between 0 and 1, but got 1.0. 95 % confidence is 0.05"),
    ({"delta": 0}, "delta: expected a share between 0 and 1, but got 0"),
    ({"sparsities": (0.5, 0.3)}, r"sparsities: expected one or more that increase, above 0, but got \(0.5, 0.3\)"),
    ({"sparsities": (0.3, 0.3)}, "name no sparsity twice"),
    ({"sparsities": (0.0, 0.3)}, "leave out the dense network"),
    ({"sparsities": ()}, "expected one or more that increase"),
    ({"sparsities": (0.3, 30)}, r"sparsities: expected a fraction in \[0, 1\)"),
    ({"sparsities": (0.3, 0.5, 0.7)}, "expected one for each of the 2 rungs of the evidence of 5-9, but got 3"),
    ({"evidence": {}}, "evidence: expected that of one task or more, but got none"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_LARGEST)
def test_largest_refuses_in_words(changes, words):
    given = {"evidence": {"5-9": flipped(60, 0, 1)}, "sparsities": (0.3, 0.5), "alpha": 0.05, **changes}
    with pytest.raises(ValueError, match=words):
        certify(given.pop("evidence"), given.pop("sparsities"), **given)


@pytest.mark.usefixtures("unchecked")
def test_largest_refuses_hits_in_place_of_evidence():
    with pytest.raises(TypeError, match=r"evidence: expected what flips, .*but got bool\[2, 3\]"):
        certify(ROWS)
    with pytest.raises(TypeError, match=r"sparsities: expected those of the rungs, .*but got 0\.5"):
        certify({"5-9": flipped(60, 0)}, 0.5)


BAD_NUMBERS = [
    (safety.p_values, (np.array([0.5]), 10, 0.1), {}, TypeError, "counts: expected integers, but got float64"),
    (safety.p_values, (np.array([11]), 10, 0.1), {}, ValueError, r"counts: expected numbers in \[0, 10\]"),
    (safety.p_values, (np.array([1]), 0, 0.1), {}, ValueError, "n: expected a whole number of 1 or more, but got 0"),
    (safety.p_values, (np.array([1]), 10, 1.0), {}, ValueError, "alpha: expected a share between 0 and 1"),
    (safety.fixed_sequence, (0.1,), {}, ValueError, r"p_values: expected \[..., rungs\], but got a single number"),
    (safety.fixed_sequence, ([-3.0],), {}, ValueError, r"p_values: .*Are they logarithms\?"),
    (safety.fixed_sequence, ([np.nan],), {}, ValueError, r"p_values: expected numbers in \[0, 1\]"),
    (
        safety.images_needed,
        (0.05,),
        {"flip_rate": 0.05},
        ValueError,
        "flip_rate: expected a share from 0 up to, but not",
    ),
    (
        safety.images_needed,
        (0.05,),
        {"flip_rate": 0.0499},
        ValueError,
        "so close below it that 16,384 flips are too few",
    ),
    (safety.images_needed, (0.05,), {"power": 1.0}, ValueError, "power: expected a share between 0 and 1"),
    (safety.images_needed, (1e-10,), {}, ValueError, "alpha: expected a drop that 1,000,000,000 images can certify"),
    (safety.demand_images, (0, 0.05), {}, ValueError, "n: expected a whole number of 1 or more"),
    (safety.betting, ([0, 2], 0.1), {}, ValueError, r"drops: expected integers -1, 0 and 1.*int64\[2\] with 0 to 2"),
    (safety.betting, ([0.0, 1.0], 0.1), {}, ValueError, r"but got float64\[2\]. They are dense_hits.astype\(int\)"),
    (safety.betting, (np.zeros((2, 0), int), 0.1), {}, ValueError, "for one example or more"),
    (safety.betting, ([0], 0), {}, ValueError, "alpha: expected a share between 0 and 1"),
    (safety.labels_needed, ([[0]], 0.1), {}, ValueError, r"drops: expected those of one rung, \[n\], but got \[1, 1\]"),
    (safety.labels_needed, ([0], 0.1, 2), {}, ValueError, "delta: expected a share between 0 and 1, but got 2"),
]


@pytest.mark.parametrize(("function", "given", "options", "kind", "words"), BAD_NUMBERS)
def test_p_values_and_their_kin_refuse_bad_numbers(function, given, options, kind, words):
    with pytest.raises(kind, match=words):
        function(*given, **options)


# ------------------------------------------------------------------------------------------------------------- words


def line(evidence, sparsities=(0.42, 0.58, 0.7), **options):
    text = str(certify(evidence, sparsities, **options))
    assert "\n" not in text
    return text


def test_certificate_is_one_line_that_a_person_understands():
    flips = flipped(300, 0, 8, 60)
    changed = dataclasses.replace(flips, kind="disagreements")
    bought = safety.drops(np.ones(300, bool), ~flips.values, images=np.arange(300))
    start = "at 95 % confidence, pruning to 58 % costs at most 5 points"
    assert line(flips) == start
    assert line({"5-9": flips}) == f"{start} on 5-9"
    assert line({"5-9": changed}) == f"{start} on 5-9, tested without their labels"
    assert line({"0-4": flips, "5-9": changed}) == f"{start} on each of 0-4 and 5-9, tested without labels on 5-9"
    assert line({"0-4": flips, "5-9": flips}, alpha={"0-4": 0.05, "5-9": 0.1}) == f"{start} on 0-4 and 10 points on 5-9"
    assert line(dict.fromkeys("abc", changed)) == f"{start} on each of a, b and c, tested without their labels"
    assert line({"5-9": bought}, alpha=0.07, delta=0.1) == (
        "at 90 % confidence, pruning to 58 % costs at most 7 points on 5-9, tested with labels bought one at a time"
    )
    rare = certify(flipped(2000, 0, 0, 0), (0.3, 0.5, 0.99996), delta=1e-6)
    assert str(rare) == "at 99.9999 % confidence, pruning to 99.996 % costs at most 5 points"
    assert line({"5-9": flipped(300, 0, 9, 9)}, alpha=0.01).endswith("pruning to 42 % costs at most 1 point on 5-9")


def test_certificate_says_in_words_that_nothing_is_certified():
    assert line({"5-9": flipped(300, 12, 20, 60)}) == (
        "at 95 % confidence, nothing is certified: already pruning to 42 % may cost more than 5 points on 5-9 (12 "
        f"flips in 300 images, p = 0.26; the smallest p of the ladder is 0.26); at this rate "
        f"{safety.images_needed(0.05, flip_rate=0.04)} new images would probably do"
    )
    assert "at this rate no number of images will do" in line(flipped(300, 15, 20, 60))
    assert "hardly any number" in line(flipped(30_000, 1499, 2000, 2000))
    bought = safety.drops(np.ones(80, bool), np.arange(80) >= np.array([[2], [4], [8]]), images=np.arange(80))
    assert "2 drops in 80 images" in line(bought)
    assert "more labels will do" in line(bought)
    assert certify(bought).sparsity is None


def test_certificate_becomes_json():
    found = certify({"5-9": flipped(300, 0, 8, 60)})
    again = json.loads(json.dumps(dataclasses.asdict(found)))
    assert again["sparsity"] == 0.5
    assert again["outcomes"][0] | {"p_values": None} == {
        "task": "5-9", "kind": "flips", "alpha": 0.05, "n": 300, "counts": [0, 8, 60], "p_values": None
    }  # fmt: skip
