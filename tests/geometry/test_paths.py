"""Paths and slices of the loss against closed forms, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from tests import cases

pytestmark = pytest.mark.usefixtures("same_rank")

SQUARED = jp.losses.squared_error


def linear(seed=0):
    """A network that is linear in its weights: its squared error is a quadratic function of them."""
    rng = np.random.default_rng(seed)
    return jp.Network(_linear, {"w": jnp.asarray(rng.normal(size=(3, 2)))})


def _linear(params, state, images):
    return images @ params["w"]


def data(count=6, seed=1):
    rng = np.random.default_rng(seed)
    return {"image": rng.normal(size=(count, 3)), "label": rng.normal(size=(count, 2))}


def mean_loss(network, loss, batch):
    return float(jp.losses.mean(loss, network(batch["image"]), batch))


# --------------------------------------------------------------------------------------------------- the pruning path


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_pruning_path_of_second_order_is_exact_where_the_loss_is_quadratic(matrix):
    mask = {"w": jnp.array([[True, False], [False, True], [True, False]])}
    got = jp.geometry.pruning_path(linear(), SQUARED, [data(4), data(2, seed=2)], mask, points=7, matrix=matrix)
    np.testing.assert_allclose(got.second, got.true, atol=1e-12)
    np.testing.assert_allclose(got.shares, np.linspace(0, 1, 7))
    assert got.true[0] == 0
    assert np.abs(got.first - got.true).max() > 0.1


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_pruning_path_is_what_the_dense_matrices_say(name):
    case, loss = cases.build(name), jp.losses.cross_entropy
    rng = np.random.default_rng(0)
    mask = jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.5), case.network.params)
    got = jp.geometry.pruning_path(case.network, loss, [case.batch], mask, points=5)
    step = np.asarray(cases.flat(jp.masks.apply(mask, case.network.params)) - cases.flat(case.network.params))
    slope = cases.share(name) @ cases.gradients(name) @ step
    bend = step @ cases.matrix(name, "hessian") @ step
    np.testing.assert_allclose(got.first, got.shares * slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.second, got.shares * slope + got.shares**2 * bend / 2, rtol=1e-9, atol=1e-12)
    pruned = case.network.replace(params=jp.masks.apply(mask, case.network.params))
    change = mean_loss(pruned, loss, case.batch) - mean_loss(case.network, loss, case.batch)
    np.testing.assert_allclose(got.true[-1], change, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", cases.NAMES)
def test_filter_normalised_is_as_long_as_every_filter_and_moves_nothing_else(name, masked):
    params = cases.build(name).network.params
    rng = np.random.default_rng(0)
    kept = jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.7), params)
    pruned = jp.masks.apply(kept, params)
    got = jp.geometry.filter_normalised(pruned, jax.random.key(0), kept=kept if masked else None)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    for direction, leaf, keep in zip(*map(jax.tree.leaves, (got, pruned, kept)), strict=True):
        assert direction.dtype == leaf.dtype
        if leaf.ndim < 2:
            np.testing.assert_array_equal(direction, 0)
            continue
        lengths = [np.linalg.norm(np.reshape(one, (-1, leaf.shape[-1])), axis=0) for one in (direction, leaf)]
        np.testing.assert_allclose(*lengths, rtol=1e-12)
        if masked:
            np.testing.assert_array_equal(np.asarray(direction)[~keep], 0)
    other = jp.geometry.filter_normalised(pruned, jax.random.key(1))
    assert not np.array_equal(cases.flat(other), cases.flat(got))


def test_filter_normalised_leaves_a_filter_of_zeros_where_it_is():
    got = jp.geometry.filter_normalised({"w": jnp.array([[0.0, 3.0], [0.0, 4.0]])}, jax.random.key(0))
    np.testing.assert_array_equal(got["w"][:, 0], 0)
    np.testing.assert_allclose(np.linalg.norm(got["w"][:, 1]), 5)


def test_line_and_plane_hold_the_loss_at_every_point():
    network, batches = linear(), [data(4), data(2, seed=2)]
    first, second = (jp.geometry.filter_normalised(network.params, jax.random.key(seed)) for seed in (0, 1))
    everything = jax.tree.map(lambda *parts: np.concatenate(parts), *batches)

    def at(a, b):
        moved = jax.tree.map(lambda w, d, e: w + a * d + b * e, network.params, first, second)
        return mean_loss(network.replace(params=moved), SQUARED, everything)

    line = jp.geometry.line(network, SQUARED, batches, first, reach=0.5, points=5)
    np.testing.assert_allclose(line.distances, [-0.5, -0.25, 0, 0.25, 0.5])
    np.testing.assert_allclose(line.losses, [at(a, 0) for a in line.distances], rtol=1e-12)
    plane = jp.geometry.plane(network, SQUARED, batches, first, second, reach=2.0, points=3)
    np.testing.assert_allclose(plane.losses, [[at(a, b) for b in (-2, 0, 2)] for a in (-2, 0, 2)], rtol=1e-12)


# ------------------------------------------------------------------------------------------------------------ barriers


def barrier(network, other, **options):
    return jp.geometry.barrier(network, SQUARED, [data()], other, key=jax.random.key(0), **options)


def test_barrier_is_none_to_itself_and_none_where_the_loss_is_convex():
    assert barrier(linear(), linear()).height == 0
    got = barrier(linear(0), linear(1), points=5)
    assert got.height == 0
    np.testing.assert_allclose(got.losses[[0, -1]], [mean_loss(linear(seed), SQUARED, data()) for seed in (0, 1)])


def _wells(params, state, images):
    return images * (params["w"] ** 2 - 1)


@pytest.mark.parametrize("ends", [(-1.2, 1.0), (-1.0, 1.3)])
def test_barrier_between_two_wells_is_the_rise_above_the_chord(ends):
    batch = {"image": np.ones((2, 1)), "label": np.zeros((2, 1))}
    left, right = (jp.Network(_wells, {"w": jnp.full((1, 1), w)}) for w in ends)
    got = jp.geometry.barrier(left, SQUARED, [batch], right, key=jax.random.key(0), points=31)
    w = np.linspace(*ends, 31)
    losses = (w**2 - 1) ** 2
    np.testing.assert_allclose(got.losses, losses, atol=1e-12)
    # The hill at w = 0 is higher than both ends, of which the one or the other is the higher.
    rises = losses - np.linspace(losses[0], losses[-1], 31)
    assert np.max(rises) > 0.7
    assert got.height == pytest.approx(np.max(rises), abs=1e-12)


def test_barrier_is_none_where_a_hill_stays_below_the_chord():
    batch = {"image": np.ones((2, 1)), "label": np.zeros((2, 1))}
    # At w = -1 and w = 2 the loss (w^2 - 1)^2 is 0 and 9; at the hill, w = 0, it is 1 and the chord 3.
    left, right = (jp.Network(_wells, {"w": jnp.full((1, 1), w)}) for w in (-1.0, 2.0))
    assert jp.geometry.barrier(left, SQUARED, [batch], right, key=jax.random.key(0), points=31).height == 0


class Normalised(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4, param_dtype=np.float64, name="first")(x)
        norm = nn.BatchNorm(use_running_average=not train, momentum=self.momentum, param_dtype=np.float64, name="norm")
        return nn.Dense(2, param_dtype=np.float64, name="second")(jnp.tanh(norm(x)))


def normalised(seed, momentum=0.9, train=True):
    module = Normalised(momentum)
    variables = jax.jit(module.init)(jax.random.key(seed), data()["image"])
    # Flax makes some of them in float32.
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables)
    # Statistics that fit nothing, as those of interpolated weights would.
    variables = {**variables, "batch_stats": jax.tree.map(lambda leaf: leaf + 3.0 + seed, variables["batch_stats"])}
    return jp.Network.from_linen(module, variables, train={"train": True} if train else None)


def exact(params, batch):
    """The loss of the network with BatchNorm on the statistics of this very batch, written out."""
    hidden = batch["image"] @ params["first"]["kernel"] + params["first"]["bias"][None]
    mean, variance = hidden.mean(axis=0, keepdims=True), hidden.var(axis=0, keepdims=True)
    scaled = (hidden - mean) / np.sqrt(variance + 1e-5) * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    outputs = np.tanh(scaled) @ params["second"]["kernel"] + params["second"]["bias"][None]
    return np.mean(np.sum((outputs - batch["label"]) ** 2, axis=1))


@pytest.mark.parametrize("momentum", [0.9, 0.3])
def test_barrier_has_at_every_point_the_exact_statistics_of_its_activations(momentum):
    left, right = normalised(0, momentum), normalised(1, momentum)
    batch = data(20)
    between = [
        jax.tree.map(lambda a, b, share=share: np.asarray((1 - share) * a + share * b), left.params, right.params)
        for share in np.linspace(0, 1, 5)
    ]
    got = jp.geometry.barrier(left, SQUARED, [batch], right, key=jax.random.key(0), points=5)
    np.testing.assert_allclose(got.losses, [exact(params, batch) for params in between], rtol=1e-9)
    padded = cases.pad({**batch, "weight": np.ones(20)}, 3)
    padded["label"][20:] = 0
    again = jp.geometry.barrier(left, SQUARED, [padded], right, key=jax.random.key(0), points=5)
    np.testing.assert_allclose(again.losses, got.losses, rtol=1e-9)
    elsewhere = jp.geometry.barrier(
        left, SQUARED, [data(7, seed=5)], right, key=jax.random.key(0), points=5, calibration=[batch]
    )
    recalibrated = jp.train.recalibrate(right, [batch], jax.random.key(0))
    np.testing.assert_allclose(elsewhere.losses[-1], mean_loss(recalibrated, SQUARED, data(7, seed=5)), rtol=1e-9)


def test_barrier_without_a_training_mode_interpolates_the_statistics():
    left, right = normalised(0, train=False), normalised(1, train=False)
    got = barrier(left, right, points=3)
    middle = jax.tree.map(lambda a, b: (a + b) / 2, left, right)
    ends = [mean_loss(network, SQUARED, data()) for network in (left, middle, right)]
    np.testing.assert_allclose(got.losses, ends, rtol=1e-9)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.usefixtures("unchecked")
def test_paths_name_bad_input_with_its_remedy():
    network, batch = linear(), data()
    mask, direction = {"w": np.ones((3, 2), bool)}, {"w": np.ones((3, 2))}
    path, line = jp.geometry.pruning_path, jp.geometry.line
    other = jp.Network(_wells, network.params)
    for call, error, message in [
        (lambda: path(network, SQUARED, [batch], direction), TypeError, r"mask: expected boolean leaves"),
        (lambda: path(network, SQUARED, [batch], mask, points=1), ValueError, r"points: expected 2 or more.*got 1"),
        (lambda: path(network, SQUARED, [batch], mask, matrix="gnn"), ValueError, r"Did you mean 'ggn'"),
        (lambda: path(network, SQUARED, batch, mask), TypeError, r"batches: expected a list of batches"),
        (
            lambda: line(network, SQUARED, [batch], {"w": np.ones(3)}),
            ValueError,
            r"direction: at .* expected the shape",
        ),
        (lambda: line(network, SQUARED, [batch], direction, reach=0.0), ValueError, r"reach: expected a finite number"),
        (lambda: line(network, SQUARED, [batch], direction, points=0), ValueError, r"points: expected a finite number"),
        (lambda: jp.geometry.filter_normalised(network.params, jax.random.key(0), kept={}), ValueError, r"kept: exp"),
        (lambda: barrier(network, other), ValueError, r"other: expected the apply of network"),
        (lambda: barrier(network, network.replace(params={})), ValueError, r"other\.params: expected the structure"),
        (lambda: barrier(network, network.replace(state={"s": 1.0})), ValueError, r"other\.state: expected the struct"),
        (lambda: barrier(normalised(0), normalised(1), calibration=[]), ValueError, r"calibration: expected at least"),
    ]:
        with pytest.raises(error, match=message):
            call()
