"""The same numbers on one device, on eight, and on two processes of two devices each."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests import many
from tests.curvature import networks
from tests.curvature.networks import close, flat

LOSS = jp.losses.cross_entropy


@pytest.mark.parametrize("name", ["gates", "depthwise"])
def test_curvature_of_a_batch_on_eight_devices_is_that_on_one(name):
    net = networks.build(name)
    batch = {key: np.concatenate([value, value[:3]]) for key, value in net.batch.items()}
    mesh = jp.mesh.make()
    assert mesh.devices.size == 8
    sharded = jp.mesh.shard_batch(mesh, batch)
    assert len(sharded["image"].sharding.device_set) == 8
    vector = networks.vector(net.network.params)

    def everything(network, batch, vector):
        found = {
            "diagonal": jp.curvature.diagonal(network, LOSS, batch),
            "unit": jp.curvature.block_product(network, LOSS, batch, vector, "unit"),
        }
        if name == "gates":
            found |= {
                "hvp": jp.curvature.hvp(network, LOSS, batch, vector),
                "ggnvp": jp.curvature.ggnvp(network, LOSS, batch, vector),
                "layer": jp.curvature.block_product(network, LOSS, batch, vector, "layer"),
                "block": jp.curvature.block(network, LOSS, batch, "gate", "unit"),
            }
        return found

    got = everything(jp.mesh.replicate(mesh, net.network), sharded, jp.mesh.replicate(mesh, vector))
    for quantity, expected in everything(net.network, batch, vector).items():
        close(flat(jax.device_get(got[quantity])), flat(expected), 1e-12)


def _image(x, kernel, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def _convolved(activation, groups):
    def apply(p, s, x):
        x = activation(_image(x, p["first"]))
        return activation(_image(x, p["second"], groups)).mean((1, 2)) @ p["head"]

    return apply


def _attention(p, s, x):
    x = x.reshape(len(x), 9, 2) @ p["embed"]
    weights = jax.nn.softmax(x @ p["query"] @ jnp.swapaxes(x, 1, 2), axis=-1)
    return jax.nn.gelu(weights @ x).mean(1) @ p["head"]


def _mixed(p, s, x):
    x = _image(x, p["first"])
    x = (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-3)
    return jax.nn.relu(_image(x, p["second"])).mean((1, 2)) @ p["head"]


# apply, and the shapes of its parameters; one normalises by its batch, and one has no convolution.
SPLIT = {
    "mixed": (_mixed, {"first": (2, 2, 2, 3), "second": (2, 2, 3, 2), "head": (2, 3)}),
    "relu": (_convolved(jax.nn.relu, 1), {"first": (3, 3, 2, 4), "second": (3, 3, 4, 4), "head": (4, 3)}),
    "gelu": (_convolved(jax.nn.gelu, 1), {"first": (3, 3, 2, 2), "second": (2, 2, 2, 2), "head": (2, 3)}),
    "grouped": (_convolved(jax.nn.gelu, 2), {"first": (2, 2, 2, 2), "second": (3, 3, 1, 4), "head": (4, 3)}),
    "attention": (_attention, {"embed": (2, 3), "query": (3, 3), "head": (3, 3)}),
}
CURVATURE = {
    "gradient": jp.curvature.gradient,
    "hvp": lambda net, loss, batch: jp.curvature.hvp(net, loss, batch, net.params),
    "ggnvp": lambda net, loss, batch: jp.curvature.ggnvp(net, loss, batch, net.params),
    "block of the ggn": lambda net, loss, batch: jp.curvature.block(net, loss, batch, "head", "unit", "ggn"),
    **{
        f"diagonal of the {matrix}": functools.partial(jp.curvature.diagonal, matrix=matrix)
        for matrix in networks.MATRICES
    },
    **{
        f"{blocks} product": lambda net, loss, batch, blocks=blocks: jp.curvature.block_product(
            net, loss, batch, net.params, blocks
        )
        for blocks in ("unit", "layer", 2)
    },
}
SCORES = {
    "snip": jp.scores.snip(LOSS),
    "grasp": jp.scores.grasp(LOSS),
    "fisher": jp.scores.fisher(LOSS),
    "synflow": jp.scores.synflow(),
    "magnitude": jp.scores.magnitude(),
    "diagonal score": jp.scores.diagonal_hessian(LOSS),
    "quadratic": jp.scores.block_hessian(LOSS, form="quadratic"),
    "obs": jp.scores.block_hessian(LOSS, form="obs", matrix="ggn"),
    "greedy": jp.scores.block_hessian(LOSS, form="greedy", matrix="ggn"),
    "random": jp.scores.random(jax.random.key(0)),
    "update": lambda net, batches: jp.scores.surgeon_update(LOSS, matrix="ggn")(
        net, batches, jax.tree.map(lambda leaf: leaf > 0, net.params)
    ),
}
QUANTITIES = {**CURVATURE, **{name: lambda net, _, batch, s=score: s(net, [batch]) for name, score in SCORES.items()}}


def split_and_whole(name, quantity, devices, examples):
    apply, shapes = SPLIT[name]
    params = {key: jnp.asarray(networks.normal(at, *shape)) / 2 for at, (key, shape) in enumerate(shapes.items())}
    network = jp.Network(apply, params)
    batch = {"image": networks.normal(9, examples, 3, 3, 2), "label": np.arange(examples) % 3}
    mesh = jp.mesh.make(jax.devices()[:devices])
    whole = QUANTITIES[quantity](network, LOSS, batch)
    split = QUANTITIES[quantity](jp.mesh.replicate(mesh, network), LOSS, jp.mesh.shard_batch(mesh, batch))
    close(flat(jax.device_get(split)), flat(whole), 1e-12)


# What takes a gradient of every example, or of every block, in a program of its own.
@pytest.mark.parametrize("quantity", ["diagonal of the hessian", "fisher", "2 product"])
@pytest.mark.parametrize("name", SPLIT)
def test_curvature_of_a_split_batch_is_that_of_the_whole(name, quantity):
    split_and_whole(name, quantity, 8, 8)


# Everything: python -m pytest -m grid tests/curvature/test_devices.py
@pytest.mark.grid
@pytest.mark.parametrize(("devices", "examples"), [(1, 8), (2, 8), (8, 8), (1, 64), (2, 64), (8, 64)])
@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", SPLIT)
def test_curvature_and_scores_of_every_split_are_those_of_the_whole(name, quantity, devices, examples):
    split_and_whole(name, quantity, devices, examples)
    jax.clear_caches()  # there are more programs than a process can hold, see tests/conftest.py


_PROCESS = """
import numpy as np
import jaxprune as jp
from jax.sharding import NamedSharding, PartitionSpec
from tests.curvature import networks

assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
loss, process = jp.losses.cross_entropy, jax.process_index()
net = networks.build("gates")
mesh = jp.mesh.make()
split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
batch = {key: np.concatenate([value, value[:3]]) for key, value in net.batch.items()}
batch = {
    key: jax.make_array_from_process_local_data(split, value[4 * process : 4 * process + 4], value.shape)
    for key, value in batch.items()
}
assert not batch["image"].is_fully_addressable

def everywhere(tree):
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(whole, np.asarray(leaf), leaf.shape), tree)

network, vector = everywhere(net.network), everywhere(networks.vector(net.network.params))
found = {
    "hvp": jp.curvature.hvp(network, loss, batch, vector),
    "diagonal": jp.curvature.diagonal(network, loss, batch),
    "unit": jp.curvature.block_product(network, loss, batch, vector, "unit"),
}
found = {name: [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)] for name, tree in found.items()}
bad = {**batch, "image": batch["image"] * np.nan}
try:
    jp.curvature.diagonal(network, loss, bad)
except ValueError as error:
    assert "batch: expected finite numbers" in str(error), error
else:
    raise AssertionError("NaN was not found")
for name, values in found.items():
    print("RESULT", name, *(value.hex() for value in np.concatenate(values).tolist()), flush=True)
"""


def test_curvature_of_two_processes_with_two_devices_each_is_that_of_one(tmp_path):
    written = many.run(tmp_path, _PROCESS)
    net = networks.build("gates")
    batch = {key: np.concatenate([value, value[:3]]) for key, value in net.batch.items()}
    vector = networks.vector(net.network.params)
    expected = {
        "hvp": jp.curvature.hvp(net.network, LOSS, batch, vector),
        "diagonal": jp.curvature.diagonal(net.network, LOSS, batch),
        "unit": jp.curvature.block_product(net.network, LOSS, batch, vector, "unit"),
    }
    for output in written:
        rows = {name: values.split() for name, values in re.findall(r"RESULT (\w+) (.*)", output)}
        assert set(rows) == set(expected)
        for name, values in rows.items():
            close([float.fromhex(value) for value in values], flat(expected[name]))
