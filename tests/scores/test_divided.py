"""Scores, updates and rounds on eight devices, and on two processes of two, against one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.scores import solving, surgeon
from jaxprune.scores.units import divided
from tests import many

LOSS = jp.losses.cross_entropy


def _image(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def applied(p, s, x):
    x = jax.nn.relu(_image(jax.nn.relu(_image(x, p["first"])), p["second"]))
    return x.mean((1, 2)) @ p["head"] + p["bias"]


def network(kind=np.float64):
    draw = np.random.default_rng(0)
    shapes = {"first": (3, 3, 2, 3), "second": (3, 3, 3, 5), "head": (5, 3), "bias": (3,)}
    return jp.Network(applied, {name: jnp.asarray(draw.normal(size=s) / 2, kind) for name, s in shapes.items()})


def batches(kind=np.float64):
    draw = np.random.default_rng(1)
    weight = np.linspace(0, 1, 16)  # one of 0, as padding has
    images = draw.normal(size=(2, 16, 4, 4, 2))
    return [
        {"image": image.astype(kind), "label": np.arange(16) % 3, "weight": weight.astype(kind)} for image in images
    ]


def everything(network, batches):
    """What one process, or several together, make of the same data."""
    ggn = {"matrix": "ggn"}
    prunable = jax.tree.map(lambda leaf: leaf.ndim > 1, network.params)
    found = {f"{name} of the sweep": value for name, value in vars(jp.curvature.sweep(network, LOSS, batches)).items()}
    # As few examples as a kernel has inputs, so that "obs" takes factors.
    found["obs by factors"] = jp.scores.block_hessian(LOSS, form="obs", blocks="layer", **ggn)(network, batches[:1])
    for name, score in {
        "fisher": jp.scores.fisher(LOSS),
        "obs": jp.scores.block_hessian(LOSS, form="obs", **ggn),
        "greedy": jp.scores.block_hessian(LOSS, form="greedy", **ggn),
    }.items():
        found[name] = score(network, batches)
    update = jp.scores.surgeon_update(LOSS, **ggn)
    *_, last = jp.pruning.rounds(
        network, jp.scores.diagonal_hessian(LOSS), batches, prunable, (0.3, 0.6), update=update
    )
    found["mask after rounds"], found["params after rounds"] = last.mask, last.params
    read = jp.processes.read(found)
    return {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for name, tree in read.items()}


def demand_same(found, expected, most):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        scale = 0 if "mask" in name else most * np.abs(expected[name]).max()
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=scale, err_msg=name)


PROCESS = """
import jaxprune as jp
from tests.scores.test_divided import batches, everything, network

placement = jp.mesh.Placement(jp.mesh.make())
place = lambda batch: placement.batch({name: entry[8 * processes.index():][:8] for name, entry in batch.items()})
for name, values in everything(placement.tree(network()), [place(batch) for batch in batches()]).items():
    print("RESULT", name, "=", *(float(value).hex() for value in values), flush=True)
"""


def test_divided_scores_updates_and_rounds_are_those_of_one_device(tmp_path):
    expected = everything(network(), batches())
    mesh = jp.mesh.make()
    split = [jp.mesh.shard_batch(mesh, batch) for batch in batches()]
    demand_same(everything(jp.mesh.replicate(mesh, network()), split), expected, 1e-12)
    for output in many.run(tmp_path, PROCESS):
        rows = dict(re.findall(r"RESULT (.*?) = (.*)", output))
        found = {name: np.array([float.fromhex(value) for value in row.split()]) for name, row in rows.items()}
        demand_same(found, expected, 1e-12)


def test_divided_sweep_of_float32_is_that_of_one_device():
    mesh, net = jp.mesh.make(), network(np.float32)
    some = ("diagonal", "unit")

    def swept(network, batches):
        found = vars(jp.curvature.sweep(network, LOSS, batches, some))
        return {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found[name])]) for name in some}

    split = [jp.mesh.shard_batch(mesh, batch) for batch in batches(np.float32)]
    got, expected = swept(jp.mesh.replicate(mesh, net), split), swept(net, batches(np.float32))
    assert all(values.dtype == np.float32 for values in got.values())
    demand_same(got, expected, 1e-5)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_divided_joins_what_devices_make_of_units(count):
    placement, rows = jp.mesh.Placement(jp.mesh.make()), np.arange(count * 2.0).reshape(count, 2)
    given = (rows, np.float64(3))

    def function(given, numbers):
        return jax.lax.map(lambda number: (given[0][number] * given[1], number), numbers)

    got = jax.jit(lambda given: divided(function, placement, given, count))(given)
    np.testing.assert_array_equal(got[0], 3 * rows)
    np.testing.assert_array_equal(got[1], np.arange(count))


def test_by_factors_on_eight_devices_is_the_inverse_of_every_damped_block():
    draw = np.random.default_rng(0)
    leaf, factors = draw.normal(size=(5, 11)), draw.normal(size=(22, 2, 3))
    members = jp.curvature.partition.members(leaf.shape, 3)  # 22 blocks, three on a device; every second one is shorter
    factors[1::2, :, 2] = 0
    factors[3, :, 1] = 0  # an input that is always zero
    blocks = np.einsum("bri,brj->bij", factors, factors)
    shift = 0.1 * np.einsum("bii->", blocks) / leaf.size
    expected = np.zeros_like(leaf)
    for row, block in zip(members, blocks, strict=True):
        for place, weight in enumerate(row):
            if weight >= 0 and block[place, place] > 0:
                alone = np.linalg.inv(block + shift * np.eye(3))[place, place]
                expected.flat[weight] = leaf.flat[weight] ** 2 / (2 * alone)
    order = solving.order(members, leaf.size)
    for placement in (None, jp.mesh.Placement(jp.mesh.make())):
        got = surgeon._by_factors(jnp.asarray(leaf), factors, members, order, 0.1, placement=placement)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
