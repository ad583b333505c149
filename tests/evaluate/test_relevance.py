"""Relevance mass and rank accuracy, the pointing game, insertion and deletion: closed forms, and Quantus' figures.

A letter and a number in the name of a test, such as a3, are its number among the facts of the reference, section 8.
"""

from itertools import permutations
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.evaluate import attribution, perturbation, relevance

KEY = jax.random.key(0)
MEASURES = [relevance.mass, relevance.rank, relevance.pointing]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


def objects(count=3, size=(6, 10)):
    """Objects of different sizes."""
    masks = np.zeros((count, *size), bool)
    for number in range(count):
        masks[number, 1 : 3 + number, 2 : 5 + number] = True
    return masks


# ---------------------------------------------------------------------------------------------------- mass and rank


@pytest.mark.parametrize("measure", MEASURES)
def test_relevance_m1_of_perfect_inverted_and_flat_maps(measure):
    masks = objects()
    np.testing.assert_array_equal(measure(masks * 1.0, masks), 1)
    np.testing.assert_array_equal(measure(1.0 - masks, masks), 0)
    np.testing.assert_allclose(measure(np.full(masks.shape, 0.3), masks), relevance.chance(masks), atol=1e-15)


def test_mass_m2_of_three_times_as_much_on_the_object():
    masks = objects()
    share, maps = masks.mean(axis=(1, 2)), np.where(masks, 3.0, 1.0)
    np.testing.assert_allclose(relevance.mass(maps, masks), 3 * share / (2 * share + 1), atol=1e-15)
    np.testing.assert_array_equal(relevance.rank(maps, masks), 1)


def test_mass_and_rank_m3_change_by_what_they_should_and_by_nothing_else():
    masks, maps = objects(), draw(3, 6, 10)
    mass, rank = relevance.mass(maps, masks), relevance.rank(maps, masks)
    for factor in (1e-300, 0.1, 1e300):
        np.testing.assert_allclose(relevance.mass(factor * maps, masks), mass, rtol=1e-14)
    np.testing.assert_array_equal(relevance.rank(np.exp(9 * maps), masks), rank)
    assert np.all(np.abs(relevance.mass(maps + 1, masks) - mass) > 1e-3)
    least, total, on = maps.min(axis=(1, 2)), maps.sum(axis=(1, 2)), np.sum(maps * masks, axis=(1, 2))
    minmax = relevance.mass(relevance.pooled(maps[..., None] + 7, "minmax"), masks)
    sizes = masks.sum(axis=(1, 2))
    np.testing.assert_allclose(minmax, (on - least * sizes) / (total - least * 60), rtol=1e-12)


def test_mass_and_rank_m4_of_random_maps_reach_chance_with_hypergeometric_spread():
    n, size = 4000, (8, 8)
    masks = np.zeros((n, *size), bool)
    masks[:, 1:3, 2:5] = True
    maps = perturbation.random_order(KEY, (n, *size))
    share, (mass, rank) = 6 / 64, (relevance.mass(maps, masks), relevance.rank(maps, masks))
    spread = np.sqrt(share * (1 - share) / 6 * (64 - 6) / 63)
    assert abs(rank.std() / spread - 1) < 0.05
    for found in (mass, rank, relevance.pointing(maps, masks)):
        assert abs(found.mean() - share) < 4 * found.std() / np.sqrt(n)


def test_flat_m5_flags_a_map_of_zeros_which_has_no_mass_and_the_rank_of_chance():
    masks, maps = objects(), draw(3, 6, 10)
    maps[1] = 0
    assert relevance.mass(maps, masks)[1] == 0
    np.testing.assert_array_equal(relevance.flat(maps), [False, True, False])
    np.testing.assert_array_equal(relevance.flat(relevance.pooled(maps[..., None], "minmax")), [False, True, False])
    for measure in (relevance.rank, relevance.pointing):
        np.testing.assert_allclose(measure(maps, masks)[1], relevance.chance(masks)[1], atol=1e-15)


def test_flat_m5_flags_attention_that_varies_by_rounding_alone():
    module = jp.models.vit("ti", patch=8, image=32, classes=3, width=8, heads=2, depth=1)
    images = draw(3, 32, 32, 3).astype(np.float32)
    shapes = jax.eval_shape(module.init, KEY, images)["params"]
    params = jax.tree.map(lambda leaf: np.asarray(draw(*leaf.shape) - 0.5, np.float32), shapes)
    for name in ("query", "key"):
        params["block0"]["attention"][name]["kernel"] *= 0
    network = jp.Network.from_linen(module, {"params": params})
    maps = np.array(attribution.last_attention()(network, images))
    assert maps.dtype == np.float32
    assert np.ptp(maps) < 1e-6
    # Whether the enlargement itself rounds is for the compiler to choose.
    maps[:, ::3] = np.nextafter(maps[:, ::3], np.float32(1))
    masks = np.zeros((3, 32, 32), bool)
    masks[:, 3:9, 4:20] = True
    for how in ("absolute", "minmax"):
        pooled = relevance.pooled(maps, how)
        assert np.all(relevance.flat(pooled))
        for measure in (relevance.rank, relevance.pointing):
            np.testing.assert_array_equal(measure(pooled, masks), relevance.chance(masks))
    np.testing.assert_array_equal(relevance.mass(relevance.pooled(maps, "absolute"), masks), relevance.chance(masks))
    np.testing.assert_array_equal(relevance.mass(relevance.pooled(maps, "minmax"), masks), 0)
    curve = {"steps": 8, "score": lambda outputs, targets: outputs[:, 0], "key": KEY}
    rounded, constant = (perturbation.deletion(network, images, of, **curve) for of in (maps[..., 0], 0 * maps[..., 0]))
    np.testing.assert_array_equal(rounded.values, constant.values)


def test_flat_does_not_flag_what_varies_by_more_than_rounding():
    maps = np.full((2, 4, 4), 3.0)
    maps[0, 1, 2] += 3 * 0.9e-6
    maps[1, 1, 2] += 3 * 1.1e-6
    assert relevance.flat(maps).tolist() == [True, False]
    assert relevance.flat(1e-300 * maps).tolist() == [True, False]
    assert relevance.pooled(np.stack([-maps[0], 1.5e308 * (maps[1] > 3) - 1e308])[..., None], "minmax").sum() == 1
    masks = maps > 3
    assert relevance.pointing(maps, masks).tolist() == [1 / 16, 1]


@pytest.mark.parametrize("seed", range(6))
def test_rank_m5_counts_ties_as_the_mean_over_every_order_of_the_pixels(seed):
    rng = np.random.default_rng(seed)
    maps, mask = rng.integers(3, size=6) * 1.0, np.zeros(6, bool)
    mask[rng.permutation(6)[: rng.integers(1, 6)]] = True
    hits, points = [], []
    for order in map(list, permutations(range(6))):
        ranked = np.array(order)[np.argsort(-maps[order], kind="stable")]
        hits.append(mask[ranked[: mask.sum()]].mean())
        points.append(mask[ranked[0]])
    arguments = maps.reshape(1, 2, 3), mask.reshape(1, 2, 3)
    np.testing.assert_allclose(relevance.rank(*arguments), np.mean(hits), atol=1e-14)
    np.testing.assert_allclose(relevance.pointing(*arguments), np.mean(points), atol=1e-14)


def test_relevance_m6_of_a_transposed_map_misses_an_object_off_the_diagonal():
    masks = np.zeros((1, 64, 96), bool)
    masks[:, 4:12, 60:80] = True
    maps = masks * 1.0
    turned = np.swapaxes(maps, 1, 2).reshape(maps.shape)
    for measure in MEASURES:
        assert measure(maps, masks) == 1
        assert measure(turned, masks) < 0.3
    with pytest.raises(ValueError, match="masks: expected bool"):
        relevance.mass(np.swapaxes(maps, 1, 2), masks)


def test_mass_and_rank_m9_agree_with_quantus():
    with np.load(Path(__file__).parent / "golden" / "attribution.npz") as file:
        pooled, masks, mass, rank = (file[name] for name in ("pooled", "masks", "mass", "rank"))
    np.testing.assert_allclose(relevance.mass(pooled, masks), mass, atol=1e-14)
    np.testing.assert_allclose(relevance.rank(pooled, masks), rank, atol=1e-14)


# ------------------------------------------------------------------------------------------- pointing and pooling


def test_pointing_takes_a_tolerance_as_a_distance_from_the_object():
    masks, maps = np.zeros((1, 9, 9), bool), np.zeros((1, 9, 9))
    masks[0, 4, 4] = True
    maps[0, 1, 0] = 1  # three rows and four columns away: five pixels
    assert relevance.pointing(maps, masks, tolerance=4.9) == 0
    assert relevance.pointing(maps, masks, tolerance=5) == 1
    np.testing.assert_allclose(relevance.chance(masks, tolerance=1), 5 / 81)
    np.testing.assert_allclose(relevance.pointing(np.ones((1, 9, 9)), masks, tolerance=1), 5 / 81)


def test_pooled_is_what_it_says():
    maps = draw(2, 3, 4, 3) - 0.5
    total = maps.sum(axis=-1)
    expected = {
        "squared": np.sum(maps * maps, axis=-1),
        "absolute": np.abs(total),
        "positive": np.where(total > 0, total, 0),
        "max": np.abs(maps).max(axis=-1),
    }
    for how, values in expected.items():
        np.testing.assert_allclose(relevance.pooled(maps, how), values, atol=1e-15)
    scaled = relevance.pooled(maps[..., :1], "minmax")
    assert scaled.min(axis=(1, 2)).tolist() == [0, 0]
    assert scaled.max(axis=(1, 2)).tolist() == [1, 1]
    np.testing.assert_allclose(relevance.pooled(5 * maps[..., :1] - 9, "minmax"), scaled, atol=1e-13)
    # The squares of float32 may lie outside of float32.
    tiny = np.array([1e-30, 2e-30], np.float32).reshape(1, 1, 2, 1)
    for sized in (tiny, 1e-30 / tiny * 1e30):
        assert not relevance.flat(relevance.pooled(sized, "squared"))


# ------------------------------------------------------------------------------------------ insertion and deletion


def over(masks):
    """A network whose outputs are the mean brightness of the object, and that of the rest."""
    window = jnp.stack([masks, ~masks], axis=-1) * 1.0
    return jp.Network(_windowed, window / window.sum(axis=(1, 2), keepdims=True))


def _windowed(params, state, images):
    return jnp.einsum("bhwk,bhwc->bk", params, images)


def first(outputs, targets):
    return outputs[:, 0]


def test_insertion_and_deletion_of_a_perfect_ranking_are_exact():
    masks = objects()
    network, images, share = over(masks), np.ones((3, 6, 10, 1)), masks.mean(axis=(1, 2))
    options = {"score": first, "steps": 60}
    deleted = perturbation.deletion(network, images, masks, **options)
    inserted = perturbation.insertion(network, images, masks, **options)
    np.testing.assert_allclose(deleted.area, share / 2, atol=1e-14)
    np.testing.assert_allclose(inserted.area, 1 - share / 2, atol=1e-14)
    np.testing.assert_allclose(deleted.fractions, np.arange(61) / 60, atol=1e-15)
    for curve, ends in [(deleted, (1, 0)), (inserted, (0, 1))]:
        np.testing.assert_allclose(curve.values[:, [0, -1]], [ends] * 3, atol=1e-14)
    # The reverse order swaps them.
    reverse = -1.0 * masks
    np.testing.assert_allclose(
        perturbation.deletion(network, images, reverse, **options).area, 1 - share / 2, atol=1e-14
    )
    np.testing.assert_allclose(perturbation.insertion(network, images, reverse, **options).area, share / 2, atol=1e-14)


@pytest.mark.parametrize("random", ["a random map", "ties"])
def test_insertion_in_a_random_order_has_an_area_of_a_half(random):
    n = 400
    masks = np.broadcast_to(objects(1), (n, 6, 10))
    maps = (
        perturbation.random_order(jax.random.key(3), (n, 6, 10)) if random == "a random map" else np.zeros((n, 6, 10))
    )
    curve = perturbation.insertion(over(masks), np.ones((n, 6, 10, 1)), maps, score=first, steps=20)
    assert abs(curve.area.mean() - 0.5) < 4 * curve.area.std() / np.sqrt(n)
    assert curve.area.std() > 0


def test_insertion_orders_ties_by_key_and_position():
    masks = objects()
    network, images, options = over(masks), np.ones((3, 6, 10, 1)), {"score": first, "steps": 60}

    def area(count, key):
        few = network.replace(params=network.params[:count])
        return perturbation.insertion(few, images[:count], np.zeros((count, 6, 10)), key=key, **options).area

    np.testing.assert_array_equal(area(3, KEY)[:2], area(2, KEY))
    assert np.all(area(3, KEY) != area(3, jax.random.key(1)))


def test_probability_of_the_networks_own_class_is_the_default_score():
    weights, images = draw(6, 3, seed=1) - 0.5, draw(4, 2, 3, 1)
    network = jp.Network(lambda params, state, x: x.reshape(len(x), -1) @ params, jnp.asarray(weights))
    pooled, base = draw(4, 2, 3, seed=2), 0.25
    curve = perturbation.deletion(network, images, pooled, baseline=base, steps=3)
    own = np.argmax(images.reshape(4, 6) @ weights, axis=1)
    flat, order = images.reshape(4, 6), np.argsort(-pooled.reshape(4, 6), axis=1)
    for step, count in enumerate([0, 2, 4, 6]):
        changed = flat.copy()
        np.put_along_axis(changed, order[:, :count], base, axis=1)
        odds = np.exp(changed @ weights)
        np.testing.assert_allclose(curve.values[:, step], (odds / odds.sum(axis=1, keepdims=True))[range(4), own])
    np.testing.assert_allclose(curve.area, (curve.values[:, :-1] + curve.values[:, 1:]).sum(axis=1) / 6)
    asked = perturbation.insertion(
        network, images, pooled, steps=2, targets=np.array([0, 1, 2, 0]), score=perturbation.logit
    )
    np.testing.assert_allclose(asked.values[:, -1], (flat @ weights)[range(4), [0, 1, 2, 0]], atol=1e-14)


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("measure", MEASURES)
def test_relevance_names_bad_masks_and_maps(measure):
    masks, maps = objects(), draw(3, 6, 10)
    with pytest.raises(
        ValueError, match=r"masks: expected bool \[b, h, w\] = \(3, 6, 10\), but got \(3, 6, 9\)\. Resize"
    ):
        measure(maps, masks[:, :, :9])
    empty = masks.copy()
    empty[1] = False
    with pytest.raises(ValueError, match=r"masks: .* number 1 has none \(1 of 3 are empty\)"):
        measure(maps, empty)
    with pytest.raises(TypeError, match="masks: expected bool"):
        measure(maps, masks * 255)
    with pytest.raises(ValueError, match=r"pooled: expected relevance of 0 or more, but found -1"):
        measure(np.where(masks, -1.0, 1.0), masks)
    with pytest.raises(ValueError, match="pooled: expected finite numbers, but 18"):
        measure(np.where(masks, np.nan, 1.0)[:2], masks[:2])
    with pytest.raises(ValueError, match=r"pooled: expected \[b, h, w\]"):
        measure(maps[..., None], masks)


def test_relevance_names_bad_options():
    masks, images = objects(), np.ones((3, 6, 10, 1))
    with pytest.raises(ValueError, match=r"how: unknown value 'square'\. Did you mean 'squared'"):
        relevance.pooled(images, "square")
    with pytest.raises(ValueError, match="how: 'minmax' is for maps of one channel"):
        relevance.pooled(np.ones((1, 2, 2, 3)), "minmax")
    with pytest.raises(ValueError, match="maps: expected finite"):
        relevance.pooled(np.full((1, 2, 2, 3), np.inf), "squared")
    with pytest.raises(ValueError, match="tolerance: expected 0 or more"):
        relevance.pointing(masks * 1.0, masks, tolerance=-1)
    with pytest.raises(ValueError, match=r"masks: .* number 0 has none"):
        relevance.chance(masks & False)
    with pytest.raises(
        ValueError, match=r"pooled: expected relevance \[b, h, w\] = \(3, 6, 10\), but got \(3, 10, 6\)"
    ):
        perturbation.insertion(over(masks), images, np.ones((3, 10, 6)))
    with pytest.raises(ValueError, match="steps: expected at most 60"):
        perturbation.deletion(over(masks), images, masks, steps=61)
    with pytest.raises(ValueError, match="baseline: expected a number"):
        perturbation.deletion(over(masks), images, masks, baseline=np.ones(3))
    with pytest.raises(TypeError, match=r"baseline: expected a number, .* but got 'blur'"):
        perturbation.insertion(over(masks), images, masks, baseline="blur")


@pytest.mark.usefixtures("unchecked")
def test_perturbation_names_scores_orders_and_keys_that_serve_nothing():
    masks, images = objects(), np.ones((3, 6, 10, 1))
    with pytest.raises(ValueError, match="tolerance: expected 0 or more pixels, but got 'a'"):
        relevance.chance(masks, tolerance="a")
    for score, came in [(lambda outputs, targets: outputs, r"\(3, 2\)"), (lambda *_: 1.0, r"\(\)")]:
        with pytest.raises(ValueError, match=rf"score: .* -> \[b\] = \(3,\), .* but it returns {came}"):
            perturbation.insertion(over(masks), images, masks, score=score)
    with pytest.raises(TypeError, match=r"key: expected one JAX PRNG key, .* but got 0\."):
        perturbation.deletion(over(masks), images, masks, key=0)
    with pytest.raises(TypeError, match=r"key: expected one JAX PRNG key, .* but got key<fry>\[2\]"):
        perturbation.random_order(jax.random.split(KEY), (1, 2, 3))
    with pytest.raises(ValueError, match=r"shape: expected \(b, h, w\), .* but got \(3, 4\)"):
        perturbation.random_order(KEY, (3, 4))
    with pytest.raises(ValueError, match=r"shape\[2\]: expected a whole number of 1 or more, but got 2\.5"):
        perturbation.random_order(KEY, (3, 4, 2.5))


def test_random_order_is_the_same_for_a_key_of_either_kind():
    shape = (1, 2, 3)
    typed = perturbation.random_order(jax.random.key(3), shape)
    np.testing.assert_array_equal(perturbation.random_order(jax.random.PRNGKey(3), shape), typed)
