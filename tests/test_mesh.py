"""Where arrays lie, and what every device does with its part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune import mesh
from tests import cases


def two_axes():
    return jax.make_mesh((4, 2), ("data", "other"), axis_types=(AxisType.Auto,) * 2)


def explicit():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))


def per_example(w, x, _):
    """A loop over the examples; what is kept are theirs."""
    squares = jax.lax.scan(lambda total, row: (total + (w * row) ** 2, None), jnp.zeros(3), x)[0]
    return {"squares": squares, "count": jnp.asarray(len(x))}, x.sum(1)


@pytest.mark.parametrize("make", [jp.mesh.make, two_axes])
@pytest.mark.parametrize("outer", [lambda function: function, jax.jit])
def test_each_shard_adds_up_what_devices_make_of_their_own_examples(make, outer):
    placement = mesh.Placement(make())
    weights, images = np.arange(3.0), np.random.default_rng(0).normal(size=(16, 3))
    sums, kept = outer(lambda w, x: mesh.each_shard(per_example, placement, w, x))(weights, placement.whole(images))
    np.testing.assert_allclose(sums["squares"], ((weights * images) ** 2).sum(0), rtol=1e-13)
    assert sums["count"] == 16
    assert sums["squares"].sharding.is_fully_replicated
    np.testing.assert_allclose(kept.ravel(), images.sum(1), rtol=1e-13)
    assert kept.shape == (placement.size, 16 // placement.size)
    # What was kept is there for the next call.
    total, _ = mesh.each_shard(lambda w, x, own: (own @ x[:, 0] * w, ()), placement, 2.0, placement.whole(images), kept)
    np.testing.assert_allclose(total, 2 * images.sum(1) @ images[:, 0], rtol=1e-13)


def test_found_says_how_a_batch_is_split():
    images, placement = np.ones((8, 3)), mesh.Placement(jp.mesh.make())
    assert mesh.found({"image": images}) is None
    assert mesh.found({"image": jp.mesh.replicate(jp.mesh.make(), images)}) is None
    assert mesh.found({"image": placement.whole(images)}) == placement
    other = mesh.Placement(two_axes(), "other")
    assert mesh.found({"image": other.whole(images)}) == other
    both = NamedSharding(two_axes(), PartitionSpec(("data", "other")))
    assert mesh.found({"image": jax.device_put(images, both)}) is None

    said = []
    jax.jit(lambda batch: said.append(mesh.found(batch)))({"image": placement.whole(images)})
    assert (said[0].size, said[0].data) == (8, "data")
    jax.jit(lambda batch: said.append(mesh.found(batch)))({"image": jp.mesh.replicate(jp.mesh.make(), images[:3])})
    jax.jit(lambda batch: said.append(mesh.found(batch)))({"image": images})
    over = PartitionSpec("data")
    inside = jax.shard_map(lambda x: said.append(mesh.found(x)), mesh=placement.mesh, in_specs=over, out_specs=None)
    jax.jit(inside)({"image": placement.whole(np.ones((64, 3)))})
    assert said[1:] == [None] * 3


def test_shard_batch_asks_for_what_the_axis_divides_and_not_all_devices():
    split = jp.mesh.shard_batch(two_axes(), {"image": np.arange(12.0)})["image"]
    assert split.addressable_data(0).shape == (3,)
    np.testing.assert_array_equal(split, np.arange(12.0))
    with pytest.raises(ValueError, match=r"batch: expected a multiple of 4, the parts that 'data'.* but got 6"):
        jp.mesh.shard_batch(two_axes(), {"image": np.arange(6.0)})
    leaves = jp.mesh.shard_leaves(two_axes(), {"w": np.ones((4, 12)), "b": np.ones(3)})
    assert leaves["w"].addressable_data(0).shape == (4, 3)
    assert leaves["b"].is_fully_replicated


def test_replicate_is_what_a_placement_does():
    tree = {"w": np.ones((2, 3)), "count": 3}
    one, other = jp.mesh.replicate(jp.mesh.make(), tree), jp.mesh.Placement(jp.mesh.make()).tree(tree)
    assert jax.tree.map(lambda leaf: leaf.sharding, one) == jax.tree.map(lambda leaf: leaf.sharding, other)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("method", ["tree", "whole", "batch"])
def test_placement_keeps_no_memory_of_its_caller(method, devices):
    given = {"image": cases.aligned(64, np.float64)}
    placed = getattr(jp.mesh.Placement(jp.mesh.make(jax.devices()[:devices])), method)(given)
    given["image"][:] = 0
    np.testing.assert_array_equal(placed["image"], np.ones(64))


def test_placement_refuses_explicit_axes_wherever_they_come_from():
    words = "mesh: expected Auto axes, but data is .*Explicit.*Make it by jp.mesh.make"
    for call in (jp.mesh.shard_batch, jp.mesh.replicate, jp.mesh.shard_leaves):
        with pytest.raises(ValueError, match=words):
            call(explicit(), np.ones((8, 2)))
    net = jp.Network(lambda p, s, x: x @ p, jnp.ones((2, 3)))
    batch = {"image": np.ones((8, 2)), "label": np.zeros(8, int)}
    batch = jax.device_put(batch, NamedSharding(explicit(), PartitionSpec("data")))
    with pytest.raises(ValueError, match=words):
        jp.curvature.diagonal(net, jp.losses.cross_entropy, batch)
    with pytest.raises(ValueError, match=words):
        jax.jit(lambda batch: jp.curvature.diagonal(net, jp.losses.cross_entropy, batch))(batch)
