"""Training on many devices: the same numbers, and each device does its part of the work."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

LOSS = jp.losses.cross_entropy


class Small(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        values = nn.Conv(8, (3, 3), use_bias=False, name="first")(images)
        values = nn.relu(nn.BatchNorm(use_running_average=not train)(values))
        return nn.Dense(3, name="head")(nn.relu(nn.Conv(16, (3, 3), name="second")(values)).mean((1, 2)))


def network():
    variables = jax.jit(Small().init)(jax.random.key(0), np.zeros((1, 8, 8, 1)))
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
    return jp.Network.from_linen(Small(), variables, train={"train": True})


def images():
    draw = np.random.default_rng(1)
    return {"image": draw.standard_normal((40, 8, 8, 1)), "label": np.arange(40) % 3}


def fitted(placement=None, **options):
    net = network()
    mask = jp.masks.unstructured(0.5)(jp.scores.magnitude()(net, []), jp.tree.prunable(net.params))
    tx = jp.optim.with_mask(optax.adam(1e-2), mask)
    given = {"steps": 2, "batch_size": 16, "seed": 0, "placement": placement, **options}
    return mask, jp.train.fit(net, LOSS, tx, images(), **given, with_optimizer=True)


@pytest.mark.parametrize("split", [False, True])
def test_fit_with_a_placement_takes_the_steps_of_one_device(split):
    placement = jp.mesh.Placement(jp.mesh.make(), split=split)
    assert placement.size == 8
    mask, (alone, _) = fitted()
    _, (placed, optimizer) = fitted(placement)
    for one, other in zip(*map(jax.tree.leaves, (alone, placed)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    for keep, leaf in zip(*map(jax.tree.leaves, (mask, placed.params)), strict=True):
        assert not np.asarray(leaf)[~np.asarray(keep)].any()
    leaves = jax.tree.leaves((placed.params, optimizer))
    assert all(len(leaf.sharding.device_set) == 8 for leaf in leaves)
    divided = [leaf for leaf in leaves if not leaf.is_fully_replicated]
    assert bool(divided) == split
    # Where it can be had, an eighth of every kernel and of its moments lies on a device.
    assert all(leaf.addressable_data(0).size == leaf.size / 8 for leaf in divided)
    if split:
        assert len(divided) >= 3 * sum(leaf.size % 8 == 0 and leaf.ndim > 1 for leaf in jax.tree.leaves(placed.params))


@pytest.mark.parametrize("split", [False, True])
def test_fit_with_a_placement_divides_the_work(split):
    net, tx = network(), optax.adam(1e-2)
    placement = jp.mesh.Placement(jp.mesh.make(), split=split)
    batch = {**images(), "weight": np.ones(40)}

    def operations(place, bring):
        state = place((net, tx.init(net.params)))
        lowered = jp.train.step.lower(*state, bring(batch), jax.random.key(0), loss=LOSS, update=tx.update)
        return lowered.compile().cost_analysis()["flops"]

    whole = operations(lambda tree: jax.tree.map(jnp.asarray, tree), lambda batch: batch)
    assert operations(placement.tree, placement.batch) < 0.15 * whole


def test_fit_with_a_placement_goes_on_where_it_was(tmp_path):
    placement = jp.mesh.Placement(jp.mesh.make(), split=True)
    _, (straight, _) = fitted(placement, steps=3)
    fitted(placement, steps=2, folder=tmp_path / "run")
    _, (resumed, _) = fitted(placement, steps=3, folder=tmp_path / "run")
    for one, other in zip(*map(jax.tree.leaves, (straight, resumed)), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sharding == other.sharding


def test_placement_refuses_what_does_not_divide_and_axes_that_are_explicit():
    placement = jp.mesh.Placement(jp.mesh.make())
    with pytest.raises(ValueError, match=r"batch_size: expected a multiple of 8, .* but got 12"):
        fitted(placement, batch_size=12)
    with pytest.raises(ValueError, match="batch: expected a multiple of 8"):
        placement.batch({"image": np.ones((4, 2))})
    with pytest.raises(ValueError, match=r"data: .*'model'"):
        jp.mesh.Placement(jp.mesh.make(), "model")
    explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with pytest.raises(ValueError, match="mesh: expected Auto axes, but data is"):
        jp.mesh.Placement(explicit)


def test_placement_splits_over_one_axis_of_a_mesh_with_two():
    mesh = jax.make_mesh((4, 2), ("data", "other"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    placement = jp.mesh.Placement(mesh)
    assert placement.size == 4
    batch = placement.batch({"image": np.arange(8.0)})
    assert batch["image"].addressable_data(0).shape == (2,)
    np.testing.assert_array_equal(batch["image"], np.arange(8.0))
