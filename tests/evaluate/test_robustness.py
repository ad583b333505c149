"""Attacks against closed forms, and paired comparisons of what is left."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxprune as jp
from jaxprune.evaluate import robustness, transfer

W = np.array([0.7, -1.3, 0.0, 2.0])
WIDE = (-10.0, 10.0)


def linear(weights: Any = W, bias: Any = 0.1) -> jp.Network:
    """Two classes; the second output is the margin of the second class."""
    return jp.Network(_margin, {"w": jnp.asarray(weights), "b": jnp.asarray(bias)})


def _margin(params, state, images):
    margin = images.reshape(len(images), -1) @ params["w"] + params["b"]
    return jnp.stack([jnp.zeros_like(margin), margin], axis=1)


def wrong_side(outputs, batch):
    """A loss that is linear in the margin."""
    sign = 2 * jnp.asarray(batch["label"]) - 1
    return -sign * (outputs[:, 1] - outputs[:, 0])


def batch_of(n: int = 6, seed: int = 0, features: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.uniform(0.2, 0.8, (n, features)), "label": rng.integers(2, size=n)}


def values(network, loss, batch, images) -> np.ndarray:
    return np.asarray(loss(network(images), batch))


FGSM = partial(robustness.fgsm, epsilon=0.05)
ATTACKS = {
    "fgsm": FGSM,
    "pgd": partial(robustness.pgd, epsilon=0.05, step_size=0.02, steps=4),
    "random start": lambda network, loss, batch: robustness.pgd(
        network, loss, batch, epsilon=0.05, step_size=0.02, steps=6, key=jax.random.key(3)
    ),
}


# -------------------------------------------------------------------------------------------------------- attacks


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_a_linear_model_cost_epsilon_times_the_l1_norm_of_its_weights(attack):
    batch, network = batch_of(), linear()
    images = ATTACKS[attack](network, wrong_side, batch)
    rise = values(network, wrong_side, batch, images) - values(network, wrong_side, batch, batch["image"])
    np.testing.assert_allclose(rise, 0.05 * np.abs(W).sum(), atol=1e-12)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_on_a_linear_model_give_the_cross_entropy_of_the_smaller_margin(attack):
    batch, network = batch_of(), linear()
    margin = (2 * batch["label"] - 1) * (batch["image"] @ W + 0.1)
    images = ATTACKS[attack](network, jp.losses.cross_entropy, batch)
    expected = np.log1p(np.exp(-(margin - 0.05 * np.abs(W).sum())))
    np.testing.assert_allclose(values(network, jp.losses.cross_entropy, batch, images), expected, atol=1e-12)


def test_fgsm_is_the_worst_corner_of_the_ball_for_a_linear_model():
    batch, network = batch_of(), linear()
    worst = values(network, jp.losses.cross_entropy, batch, FGSM(network, jp.losses.cross_entropy, batch))
    for corner in np.stack(np.meshgrid(*[(-0.05, 0.05)] * 4), axis=-1).reshape(-1, 4):
        assert np.all(values(network, jp.losses.cross_entropy, batch, batch["image"] + corner) <= worst + 1e-12)


def test_fgsm_follows_the_sign_of_numpys_gradient():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((12, 7)), rng.standard_normal((7, 3))
    images, labels = rng.uniform(0.2, 0.8, (9, 2, 2, 3)), rng.integers(3, size=9)
    hidden = images.reshape(9, 12) @ first
    logits = np.maximum(hidden, 0) @ second
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slope = ((share - np.eye(3)[labels]) @ second.T * (hidden > 0)) @ first.T
    assert np.min(np.abs(slope)) > 1e-9

    def apply(params, state, images):
        return jax.nn.relu(images.reshape(len(images), -1) @ params[0]) @ params[1]

    network = jp.Network(apply, [jnp.asarray(first), jnp.asarray(second)])
    batch = {"image": images, "label": labels, "weight": rng.uniform(0.1, 2.0, 9)}
    got = robustness.fgsm(network, jp.losses.cross_entropy, batch, epsilon=0.03)
    np.testing.assert_array_equal(got, images + 0.03 * np.sign(slope).reshape(images.shape))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attacks_keep_the_ball_and_the_bounds_exactly(epsilon, bounds, dtype):
    images = np.random.default_rng(0).uniform(bounds[0], bounds[1], (20, 4)).astype(dtype)
    images[0], images[1] = bounds
    batch = {"image": images, "label": np.arange(20) % 2}
    pgd = partial(robustness.pgd, step_size=0.1, steps=7, key=jax.random.key(0))
    for attack in (robustness.fgsm, pgd):
        got = np.asarray(attack(linear(), jp.losses.cross_entropy, batch, epsilon=epsilon, bounds=bounds))
        assert got.dtype == dtype
        assert bounds[0] <= got.min() <= got.max() <= bounds[1]
        assert np.all(got >= images - dtype(epsilon))
        assert np.all(got <= images + dtype(epsilon))
        assert np.any(got != images) == (epsilon > 0)
        if attack is robustness.fgsm and epsilon == 5.0:
            assert set(np.unique(got[:, [0, 1, 3]])) == set(bounds)


def test_pgd_starts_uniformly_in_the_ball_as_a_function_of_the_key():
    batch = {"image": np.full((500, 4), 0.5), "label": np.zeros(500, int)}
    flat = jp.Network(lambda params, state, images: 0.0 * images[:, :2], {})

    def started(seed: int) -> np.ndarray:
        made = robustness.pgd(
            flat, jp.losses.cross_entropy, batch, epsilon=0.2, step_size=1.0, steps=1, key=jax.random.key(seed)
        )
        return np.asarray(made)

    # A network without a gradient stays where it started.
    assert stats.kstest(started(0).ravel(), "uniform", args=(0.3, 0.4)).pvalue > 0.01
    np.testing.assert_array_equal(started(0), started(0))
    assert not np.array_equal(started(0), started(1))


def test_pgd_finds_the_top_that_one_large_step_jumps_over():
    def tent(params, state, images):
        return jnp.minimum(images - params, 0.2 - (images - params))

    def height(outputs, batch):
        return outputs[:, 0]

    network = jp.Network(tent, jnp.asarray(0.5))  # its top is 0.1, at 0.6
    batch = {"image": np.array([[0.55], [0.65], [0.3]]), "label": np.zeros(3, int)}
    once = robustness.fgsm(network, height, batch, epsilon=0.2)
    np.testing.assert_allclose(values(network, height, batch, once), [-0.05, -0.05, 0.0], atol=1e-12)
    many = robustness.pgd(network, height, batch, epsilon=0.2, step_size=0.01, steps=40)
    found = values(network, height, batch, many)
    assert np.all(found[:2] >= 0.1 - 0.01)
    assert np.all(found >= values(network, height, batch, once) - 1e-12)
    # Out of reach of the top, the end of the ball is the worst.
    np.testing.assert_allclose(many[2], [0.5], atol=1e-12)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_keep_images_of_padding_and_do_not_depend_on_other_weights(attack):
    batch = batch_of()
    plain = np.asarray(ATTACKS[attack](linear(), jp.losses.cross_entropy, batch))
    images = batch["image"].copy()
    images[2], images[4] = np.nan, 77.0
    weight = np.array([1.0, 1e-8, 0.0, 3.0, 0.0, 1.0])
    got = np.asarray(ATTACKS[attack](linear(), jp.losses.cross_entropy, {**batch, "image": images, "weight": weight}))
    counts = weight > 0
    np.testing.assert_array_equal(got[~counts], images[~counts])
    np.testing.assert_array_equal(got[counts], plain[counts])


def test_fgsm_leaves_a_batch_alone_that_is_all_padding():
    batch = {**batch_of(), "weight": np.zeros(6)}
    np.testing.assert_array_equal(FGSM(linear(), jp.losses.cross_entropy, batch), batch["image"])


def test_attacks_share_one_program_for_every_epsilon_batch_and_equal_network():
    traces = []

    def apply(params, state, images):
        traces.append(1)
        return images @ params

    for seed in range(3):
        network = jp.Network(apply, jnp.asarray(np.random.default_rng(seed).standard_normal((4, 3))))
        batch = {**batch_of(seed=seed), "weight": np.ones(6)}
        for epsilon in (0, 0.1, 1):
            robustness.fgsm(network, jp.losses.cross_entropy, batch, epsilon=epsilon, bounds=(0, 1))
            robustness.pgd(network, jp.losses.cross_entropy, batch, epsilon=epsilon, step_size=1, steps=3)
            robustness.pgd(
                network,
                jp.losses.cross_entropy,
                batch,
                epsilon=epsilon,
                step_size=0.1,
                steps=2,
                key=jax.random.key(seed),
                bounds=WIDE,
            )
    assert len(traces) == 1


def test_fgsm_does_not_lose_a_tiny_gradient_to_the_size_of_the_batch():
    # The gradient is exp(-85), about 1e-37; a 64th of it would be zero in float32.
    def apply(params, state, images):
        return jnp.stack([-jnp.sum(images, axis=1) - params, jnp.zeros(len(images), images.dtype)], axis=1)

    network = jp.Network(apply, jnp.asarray(83, jnp.float32))
    batch = {"image": np.full((64, 4), 0.5, np.float32), "label": np.ones(64, int)}
    np.testing.assert_allclose(FGSM(network, jp.losses.cross_entropy, batch), 0.45, rtol=1e-6)


def test_suite_shows_by_a_transferred_attack_that_a_gradient_is_masked():
    # So sure of itself that the gradient of the loss is zero in float32: it looks robust, and has the same decisions.
    images = np.full((4, 4), 0.5, np.float32)
    batch = {"image": images, "label": np.ones(4, int)}
    soft = linear(np.array([1, 1, 1, 1], np.float32), np.float32(-1.9))
    sure = linear(4e3 * np.array([1, 1, 1, 1], np.float32), np.float32(-1.9 * 4e3))
    suite = robustness.Suite(jp.losses.cross_entropy, [batch], attacks={"fgsm": FGSM}).against(soft)
    assert suite(soft) == {
        "clean": 1.0,
        "transfer/fgsm": 0.0,
        "transfer": 0.0,
        "white-box/fgsm": 0.0,
        "white-box": 0.0,
    }
    found = suite(sure)
    assert (found["clean"], found["white-box/fgsm"], found["transfer/fgsm"]) == (1.0, 1.0, 0.0)


# ------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(("epsilon", "bounds"), [(8 / 255, (0.0, 1.0)), (1e-3, (0.0, 1.0)), (0.1, (0.05, 0.95))])
def test_attacks_in_half_precision_keep_the_ball_and_the_bounds_exactly(dtype, epsilon, bounds):
    images = np.random.default_rng(0).uniform(0.06, 0.94, (50, 4)).astype(dtype)
    images[0] = [bounds[0], bounds[1], 0.5, 0.25]  # as near as the type comes to them
    ends = images[0, :2].astype(float)
    batch = {"image": images, "label": np.arange(50) % 2}
    pgd = partial(robustness.pgd, step_size=epsilon / 4, steps=6, key=jax.random.key(0))
    for attack in (robustness.fgsm, pgd):
        got = attack(linear(W.astype(dtype)), jp.losses.cross_entropy, batch, epsilon=epsilon, bounds=bounds)
        assert got.dtype == dtype
        wide, clean = np.asarray(got).astype(np.float64), images.astype(np.float64)
        assert np.abs(wide - clean).max() <= np.float32(epsilon)
        assert ends[0] <= wide.min() <= wide.max() <= ends[1]
        # Nothing is given away: the next number further out would be outside.
        further = np.nextafter(np.asarray(got), np.where(wide > clean, np.inf, -np.inf).astype(dtype))
        out = np.abs(further.astype(np.float64) - clean) > epsilon
        out |= (further.astype(np.float64) < ends[0]) | (further.astype(np.float64) > ends[1])
        if attack is robustness.fgsm:
            assert out[wide != clean].all()


def test_pgd_in_half_precision_adds_up_steps_smaller_than_its_numbers():
    images = np.full((2, 4), 0.9, jnp.bfloat16)  # whose neighbours are 1 / 256 away
    batch = {"image": images, "label": np.array([0, 1])}
    got = robustness.pgd(
        linear(np.array([1.0, -1.0, 2.0, 1.0])), wrong_side, batch, epsilon=0.05, step_size=0.001, steps=40
    )
    assert np.abs(np.asarray(got).astype(float) - images.astype(float)).min() > 0.03


def test_attacks_in_half_precision_keep_images_of_padding():
    images = np.array([[0.3, np.nan, 7.0, 1e-7], [0.5] * 4], np.float16)
    batch = {"image": images, "label": np.array([0, 1]), "weight": np.array([0.0, 1.0])}
    np.testing.assert_array_equal(np.asarray(FGSM(linear(), wrong_side, batch))[0], images[0])


# --------------------------------------------------------------------------------------- gradients that are not finite


@pytest.mark.parametrize("label", [2, -1, 1000])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_refuse_a_label_without_an_output(attack, label):
    batch = {**batch_of(), "label": np.array([0, 1, label, 0, 1, 0])}
    with pytest.raises(ValueError, match=rf"batch: labels: expected labels in \[0, 2\), but found {label}\."):
        ATTACKS[attack](linear(), jp.losses.cross_entropy, batch)
    weight = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    assert np.isfinite(ATTACKS[attack](linear(), jp.losses.cross_entropy, {**batch, "weight": weight})).all()


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_attacks_refuse_a_teacher_that_equals_the_network(attack):
    batch, loss = batch_of(), jp.losses.distillation("kl")
    (taught,) = jp.data.with_teacher([batch], linear())
    with pytest.raises(ValueError, match=r"loss: .* for an attack from the clean images .* the teacher equals the net"):
        ATTACKS[attack](linear(), loss, taught)
    # Elsewhere the distance has a slope, as the inner attack of TRADES uses it.
    moved = ATTACKS["random start"](linear(), loss, taught)
    assert values(linear(), loss, taught, moved).min() > 1e-4


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_refuse_a_gradient_that_is_not_finite(attack):
    def apply(params, state, images):
        return images * jnp.where(images[:, 1:] > 0.3, 1.0, jnp.inf)

    batch = {"image": np.array([[0.5, 0.8], [0.5, 0.1], [0.5, 0.9]]), "label": np.array([0, 1, 0])}
    with pytest.raises(ValueError, match=r"loss: expected a finite gradient in every image, but that of 1 of 3 is NaN"):
        ATTACKS[attack](jp.Network(apply, {}), jp.losses.cross_entropy, batch)


def test_attacks_find_one_nan_among_very_many_values():
    images = np.random.default_rng(0).uniform(0, 1, (10, 10_000)).astype(np.float32)
    images[4, 5000] = np.nan  # which the largest and the smallest of so many do not show on CPU
    network = jp.Network(lambda p, s, x: x[:, :2], {})
    with pytest.raises(ValueError, match=r"batch: expected finite numbers, but \['image'\] holds 1 "):
        FGSM(network, jp.losses.cross_entropy, {"image": images, "label": np.zeros(10, int)})


# ------------------------------------------------------------------------------------------------------ the suite


def test_attacked_batches_are_made_on_one_network_and_met_by_another():
    other = np.array([1.5, 0.4, -0.3, 1.0])
    batches = [batch_of(seed=seed) for seed in range(3)]
    made = list(robustness.attacked(linear(), wrong_side, batches, FGSM))
    for batch, worse in zip(batches, made, strict=True):
        assert worse["label"] is batch["label"]
        move = worse["image"] - batch["image"]
        sign = 2 * batch["label"] - 1
        np.testing.assert_allclose(move @ other, -sign * 0.05 * (np.sign(W) @ other), atol=1e-12)
    suite = robustness.Suite(wrong_side, batches, attacks={"fgsm": FGSM}).against(linear())
    network = linear(other, -1.3)
    margins = np.concatenate([batch["image"] @ other - 1.3 for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    shift = np.where(labels == 1, -1, 1) * 0.05
    hits = suite.hits(network)
    np.testing.assert_array_equal(hits["clean"], (margins > 0) == labels)
    np.testing.assert_array_equal(hits["transfer/fgsm"], (margins + shift * (np.sign(W) @ other) > 0) == labels)
    np.testing.assert_array_equal(hits["white-box/fgsm"], (margins + shift * np.abs(other).sum() > 0) == labels)
    assert len({tuple(one) for one in hits.values()}) == 3


def conditions(size: int = 4) -> robustness.Suite:
    data = batch_of(10)
    made = {
        name: jp.data.Batches({**data, "image": np.clip(data["image"] + move, 0, 1)}, size)
        for name, move in (("light", 0.1), ("dark", -0.15), ("new", 0.05))
    }
    return robustness.Suite(
        jp.losses.cross_entropy,
        jp.data.Batches(data, size),
        corrupted={"light": made["light"], "dark": made["dark"]},
        shifted={"new": made["new"]},
        attacks=ATTACKS,
    )


def test_suite_measures_every_condition_on_every_example_once():
    suite, network = conditions().against(linear(-W, 1.0)), linear(bias=-0.9)
    hits, labels, found = suite.hits(network), suite.labels(), suite(network)
    attacked = [f"{kind}/{name}" for kind in ("transfer", "white-box") for name in ATTACKS]
    assert set(hits) == {"clean", "corrupted/light", "corrupted/dark", "shifted/new", *attacked}
    assert list(labels) == list(hits)
    for name, one in hits.items():
        assert (one.dtype, one.shape) == (np.bool_, (10,))
        np.testing.assert_array_equal(labels[name], batch_of(10)["label"])
        assert found[name] == np.mean(one)
    np.testing.assert_array_equal(hits["clean"], transfer.correct(network, [batch_of(10)]))
    np.testing.assert_array_equal(hits["corrupted/dark"], transfer.correct(network, suite.corrupted["dark"]))
    assert found["corrupted"] == pytest.approx((found["corrupted/light"] + found["corrupted/dark"]) / 2)
    assert found["shifted"] == found["shifted/new"]
    assert found["white-box"] == pytest.approx(np.mean([found[f"white-box/{name}"] for name in ATTACKS]))


def test_suite_transferred_attack_on_the_network_itself_is_a_white_box_attack():
    suite = conditions().against(linear())
    hits = suite.hits(linear())
    for name in ATTACKS:
        np.testing.assert_array_equal(hits[f"transfer/{name}"], hits[f"white-box/{name}"])


def test_suite_compiles_two_programs_for_all_conditions_and_networks():
    traces = []

    def apply(params, state, images):
        traces.append(1)
        return _margin(params, state, images)

    networks = [jp.Network(apply, linear(scale * W).params) for scale in (1.0, 0.5, 0.1)]
    suite = conditions().against(networks[0])
    for network in networks:
        suite.hits(network)
    assert len(traces) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": iter([])}, r"clean: expected batches that can be read again, but got an iterator\. Pass list"),
        ({"clean": []}, r"clean: expected at least one batch, but got none"),
        ({"corrupted": {"fog": []}}, r"corrupted/fog: expected at least one batch"),
        ({"shifted": {"new": iter([1])}}, r"shifted/new: expected batches that can be read again"),
        ({"transferred": {"fgsm": []}}, r"transfer/fgsm: expected at least one batch"),
    ],
)
def test_suite_names_a_set_that_cannot_be_read(change, message):
    with pytest.raises(ValueError, match=message):
        robustness.Suite(**{"loss": jp.losses.cross_entropy, "clean": [batch_of()], **change})


def test_suite_has_no_accuracy_of_a_set_of_padding_alone():
    suite = robustness.Suite(jp.losses.cross_entropy, [{**batch_of(), "weight": np.zeros(6)}])
    with pytest.raises(ValueError, match=r"hits: expected at least one example, but got none"):
        suite(linear())


# ----------------------------------------------------------------------------------------------------- comparison


def test_difference_is_the_mean_paired_change_in_points_overall_and_by_class():
    rng = np.random.default_rng(0)
    dense, pruned, labels = rng.random(400) < 0.8, rng.random(400) < 0.7, rng.integers(3, size=400)
    labels[labels == 1] = 5
    found = robustness.difference(pruned, dense, labels)
    move = pruned.astype(float) - dense
    assert found.overall.n == 400
    assert found.overall.points.mean == pytest.approx(100 * move.mean())
    # The interval of many differences is close to the normal one.
    half = 100 * 1.96 * move.std() / np.sqrt(400)
    for end, sign in ((found.overall.points.low, -1), (found.overall.points.high, 1)):
        assert end == pytest.approx(100 * move.mean() + sign * half, abs=0.1 * half)
    assert list(found.classes) == [0, 2, 5]
    for label, change in found.classes.items():
        assert change.n == np.sum(labels == label)
        assert change.points.mean == pytest.approx(100 * move[labels == label].mean())
        assert change.points.low < change.points.mean < change.points.high
    narrow = robustness.difference(pruned, dense, labels, confidence=0.5).overall.points
    assert found.overall.points.low < narrow.low < narrow.high < found.overall.points.high


def test_difference_cancels_by_pairing_what_both_get_wrong():
    dense = np.arange(200) % 2 == 0
    pruned = dense.copy()
    pruned[:4:2] = False
    paired = robustness.difference(pruned, dense, np.zeros(200, int)).overall.points
    unpaired = robustness.difference(pruned[::-1].copy(), dense, np.zeros(200, int)).overall.points
    assert paired.mean == unpaired.mean == pytest.approx(-1.0)
    assert 5 * (paired.high - paired.low) < unpaired.high - unpaired.low


def test_difference_varies_with_training_seeds_as_well():
    # Each seed changes all its examples or none: the interval spans both.
    dense = [np.ones(50, bool), np.ones(30, bool)]
    pruned, labels = [np.zeros(50, bool), np.ones(30, bool)], [np.zeros(50, int), np.full(30, 7)]
    found = robustness.difference(pruned, dense, labels, examples="fresh")
    assert (found.overall.points.mean, found.overall.n) == (-50.0, 80)
    assert found.overall.points.low == -100.0
    assert found.overall.points.high >= 0
    # A class that one seed lacks is that of the other seeds: no gain, and all lost or none, of so many images.
    assert [(one.points.mean, one.n) for one in found.classes.values()] == [(-100.0, 50), (0.0, 30)]
    assert found.classes[0].points.high == pytest.approx(-100 + 100 * np.sqrt(2) * (1 - 0.025 ** (1 / 50)))
    assert found.classes[7].points.high == pytest.approx(100 * (1 - 0.025 ** (1 / 30)))
    # Identities of the images of every seed say the same.
    named = robustness.difference(pruned, dense, labels, examples=[np.arange(50), np.arange(50, 80)])
    assert named.overall.points == pytest.approx(found.overall.points)


def test_difference_asks_which_examples_seeds_share():
    hits, labels = [np.ones(4, bool)] * 2, [np.zeros(4, int)] * 2
    with pytest.raises(ValueError, match="examples: expected to be told which examples the seeds share"):
        robustness.difference(hits, hits, labels)
    with pytest.raises(ValueError, match="labels, examples: expected the same labels for every run"):
        robustness.difference(hits, hits, [np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0])], examples="shared")
    with pytest.raises(ValueError, match="examples: expected the identities"):
        robustness.difference(hits, hits, labels, examples=[np.arange(4), np.arange(3)])


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epsilon": -0.1}, ValueError, r"epsilon: expected a finite number of 0 or more.*got -0.1.*8 / 255"),
        ({"epsilon": float("nan")}, ValueError, r"epsilon: expected a finite number"),
        ({"epsilon": float("inf")}, ValueError, r"epsilon: expected a finite number"),
        (
            {"bounds": (1.0, 0.0)},
            ValueError,
            r"bounds: expected \(low, high\) with low below high, but got \(1.0, 0.0\)",
        ),
        (
            {"batch": {"image": np.full((1, 4), 1.5), "label": np.zeros(1, int)}},
            ValueError,
            r"batch: images: expected numbers in \[0, 1\], but they lie in \[1.5, 1.5\]\. Pass the bounds",
        ),
        (
            {"batch": {"image": np.full((1, 4), np.nan), "label": np.zeros(1, int)}},
            ValueError,
            r"batch: expected finite numbers, but \['image'\] holds 4 ",
        ),
        (
            {"batch": {"image": np.zeros((1, 4), np.uint8), "label": np.zeros(1, int)}},
            TypeError,
            r"batch: expected floating-point images.*got uint8\. Divide",
        ),
        ({"batch": {"image": np.zeros((0, 4)), "label": np.zeros(0, int)}}, ValueError, r"batch: .*but it is empty"),
        ({"batch": {"image": np.zeros((1, 4))}}, ValueError, r"batch: expected the keys"),
        (
            {"batch": {"image": np.full((1, 4), 1.0000001, np.float32), "label": np.zeros(1, int)}},
            ValueError,
            r"they lie in \[1\.0000001, 1\.0000001\]\. That is no more than rounding: np\.clip",
        ),
        (
            {"batch": {"image": np.full((1, 4), 1.5, jnp.bfloat16), "label": np.zeros(1, int)}},
            ValueError,
            r"they lie in \[1\.5, 1\.5\]\. Pass the bounds",
        ),
        ({"step_size": 0.0}, ValueError, r"step_size: expected a finite number above 0, but got 0.0"),
        ({"steps": 0}, ValueError, r"steps: expected a whole number of 1 or more, but got 0"),
    ],
)
def test_attacks_name_bad_input_with_its_remedy(change, error, message):
    arguments = {"batch": batch_of(), "epsilon": 0.1, "step_size": 0.1, "steps": 2, **change}
    batch = arguments.pop("batch")
    with pytest.raises(error, match=message):
        robustness.pgd(linear(), jp.losses.cross_entropy, batch, **arguments)
    if not {"steps", "step_size"} & set(change):
        kept = {name: value for name, value in arguments.items() if name not in ("steps", "step_size")}
        with pytest.raises(error, match=message):
            robustness.fgsm(linear(), jp.losses.cross_entropy, batch, **kept)


HITS, LABELS = np.array([True, False]), np.array([0, 1])


@pytest.mark.parametrize(
    ("pruned", "dense", "labels", "error", "message"),
    [
        (
            HITS[:1],
            HITS,
            LABELS,
            ValueError,
            r"pruned, dense, labels: expected arrays of one length n.*'pruned': \[\(1,\)\]",
        ),
        ([HITS, HITS], HITS, LABELS, ValueError, r"pruned, dense, labels: expected arrays of one length"),
        (HITS[:0], HITS[:0], LABELS[:0], ValueError, r"n, 1 or more, for each run, but got"),
        ([], [], [], ValueError, r"pruned, dense, labels: expected arrays"),
        (HITS[None], HITS[None], LABELS[None][None], ValueError, r"pruned, dense, labels: expected arrays"),
        (HITS * 1.0, HITS, LABELS, TypeError, r"pruned: expected bool \[n\], what Suite.hits gives, but got float64"),
        (HITS, LABELS, LABELS, TypeError, r"dense: expected bool"),
        (HITS, HITS, LABELS * 1.0, TypeError, r"labels: expected integer class labels, but got float64"),
    ],
)
def test_difference_refuses_hits_that_do_not_fit_each_other(pruned, dense, labels, error, message):
    with pytest.raises(error, match=message):
        robustness.difference(pruned, dense, labels)
