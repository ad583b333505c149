"""Every quantity of every matrix of sixteen networks against dense matrices, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.curvature import routes
from tests.curvature import networks
from tests.curvature.networks import MATRICES, close, flat

LOSS = jp.losses.cross_entropy
every_network = pytest.mark.parametrize("name", networks.NAMES)

# A leaf of every network, of another kind each time.
PATHS = {
    "perceptron": "w1",
    "layouts": "torch",
    "convolutions": "grouped",
    "depthwise": "deep",
    "lines": "torch",
    "attention": "attention/key/kernel",
    "smooth": "grouped",
    "nested": "heads",
    "tied": "scanned",
    "batch_norm": "norm1/scale",
    "mixing": "w2",
    "scales": "whole",
    "sideways": "w",
    "single": "w1",
    "opaque": "reversed",
    "gates": "gate",
}

# The Hessian is the matrix of Gauss and Newton at these as well, though it is not proven.
EQUAL = {
    ("mixing", "w1"),
    ("mixing", "b1"),
    ("sideways", "w"),
    ("opaque", "reversed"),
    ("opaque", "rule"),
    ("opaque", "chosen"),
    ("tied", "cut"),
    ("tied", "left"),
    ("tied", "right"),
}


def products(matrix):
    """Block sizes and vectors.  The parameters themselves take a path of their own; it does not know the matrix."""
    given = {"hessian": ("unit", "layer", 2), "ggn": ("layer",), "empirical_fisher": (2,)}
    yield from ((blocks, "random") for blocks in given[matrix])
    if matrix == "hessian":
        yield from ((blocks, "own") for blocks in ("unit", "layer"))


@every_network
def test_diagonal_and_block_product_are_those_of_the_dense_matrix(name):
    net, dense = networks.build(name), networks.dense(name)
    vector = networks.vector(net.network.params)
    keys = [(matrix, *key) for matrix in MATRICES for key in (("diagonal", None), *products(matrix))]

    def everything(network, batch, vector):
        vectors = {"random": vector, "own": network.params}
        return [
            jp.curvature.diagonal(network, LOSS, batch, matrix)
            if blocks == "diagonal"
            else jp.curvature.block_product(network, LOSS, batch, vectors[kind], blocks, matrix)
            for matrix, blocks, kind in keys
        ]

    found = networks.compiled(everything)(net.network, net.batch, vector)
    vectors = {"random": flat(vector), "own": flat(net.network.params)}
    for (matrix, blocks, kind), got in zip(keys, found, strict=True):
        if blocks == "diagonal":
            close(flat(got), np.diag(dense.matrices[matrix]))
        else:
            close(flat(got), dense.inside(net.leaves, blocks, matrix) @ vectors[kind])


@every_network
def test_block_is_that_of_the_dense_matrix(name):
    net, dense, path = networks.build(name), networks.dense(name), PATHS[name]
    keys = [("hessian", "unit"), ("hessian", "layer"), ("hessian", 3), ("ggn", "unit"), ("empirical_fisher", 3)]

    def everything(network, batch):
        return [jp.curvature.block(network, LOSS, batch, path, blocks, matrix) for matrix, blocks in keys]

    found = networks.compiled(everything)(net.network, net.batch)
    for (matrix, blocks), got in zip(keys, found, strict=True):
        close(got, dense.blocks(path, net.leaves[path].units, blocks, matrix))


@pytest.mark.parametrize("name", ["lines", "gates"])
@pytest.mark.parametrize("kind", ["cross_entropy, soft", "squared_error", "squared_error, soft", "bumpy", "together"])
def test_curvature_of_every_loss_is_that_of_its_own_matrices(name, kind):
    net = networks.build(name)
    kind, *targets = kind.split(", ")
    batch = networks.soft(net.batch, net.classes) if targets else net.batch
    loss = getattr(networks, kind, None) or getattr(jp.losses, kind)
    dense = networks.Dense(net.network, batch, loss)
    vector = networks.vector(net.network.params)
    keys = [("hessian", "unit"), ("ggn", 2), ("empirical_fisher", "layer")]
    of_diagonals = ("hessian", "empirical_fisher")

    def everything(network, batch, vector):
        return (
            [jp.curvature.diagonal(network, loss, batch, matrix) for matrix in of_diagonals],
            [jp.curvature.block_product(network, loss, batch, vector, blocks, matrix) for matrix, blocks in keys],
            jp.curvature.block(network, loss, batch, PATHS[name], "unit"),
        )

    diagonals, moved, block = networks.compiled(everything)(net.network, batch, vector)
    for matrix, got in zip(of_diagonals, diagonals, strict=True):
        close(flat(got), np.diag(dense.matrices[matrix]))
    for (matrix, blocks), got in zip(keys, moved, strict=True):
        close(flat(got), dense.inside(net.leaves, blocks, matrix) @ flat(vector))
    close(block, dense.blocks(PATHS[name], net.leaves[PATHS[name]].units, "unit", "hessian"))


def test_curvature_is_tested_with_a_loss_that_bends_both_ways():
    net = networks.build("lines")
    dense = networks.Dense(net.network, net.batch, networks.bumpy)
    eigenvalues = np.linalg.eigvalsh(dense.blocks("head", (1,), "layer", "ggn"))
    assert eigenvalues[0] < -0.1 * eigenvalues[-1] < 0


@pytest.mark.parametrize("name", ["layouts", "convolutions", "lines", "smooth", "nested", "scales"])
def test_average_over_batches_of_one_is_that_of_the_whole(name):
    net, dense, path = networks.build(name), networks.dense(name), PATHS[name]
    vector = networks.vector(net.network.params)

    @networks.compiled
    def everything(network, batch, vector):
        return (
            jp.curvature.diagonal(network, LOSS, batch),
            jp.curvature.block_product(network, LOSS, batch, vector, "unit"),
            jp.curvature.block(network, LOSS, batch, path, 2, "ggn"),
        )

    parts = [{key: value[at : at + 1] for key, value in net.batch.items()} for at in range(5)]
    diagonal, product, block = jp.curvature.average(lambda batch: everything(net.network, batch, vector), parts)
    close(flat(diagonal), np.diag(dense.matrices["hessian"]))
    close(flat(product), dense.inside(net.leaves, "unit", "hessian") @ flat(vector))
    close(block, dense.blocks(path, net.leaves[path].units, 2, "ggn"))


def padded(batch, count):
    """Examples of weight 0 that are NaN, image and label."""
    filled = {
        key: np.concatenate([value, np.full((count, *value.shape[1:]), 0.0 if key == "weight" else np.nan)])
        for key, value in batch.items()
    }
    return filled


@pytest.mark.parametrize("name", ["lines", "smooth", "scales", "opaque"])
def test_average_does_not_depend_on_batch_size_or_padding_with_nan(name):
    net = networks.build(name)
    vector, path = networks.vector(net.network.params), PATHS[name]
    batch = networks.soft(net.batch, net.classes)

    @networks.compiled
    def everything(network, batch, vector):
        return (
            jp.curvature.gradient(network, LOSS, batch),
            jp.curvature.hvp(network, LOSS, batch, vector),
            jp.curvature.ggnvp(network, LOSS, batch, vector),
            jp.curvature.diagonal(network, LOSS, batch),
            jp.curvature.block_product(network, LOSS, batch, vector, "unit"),
            jp.curvature.block_product(network, LOSS, batch, vector, "layer", "empirical_fisher"),
            jp.curvature.block(network, LOSS, batch, path, "unit"),
        )

    parts = [{key: value[start:stop] for key, value in batch.items()} for start, stop in ((0, 1), (1, 4), (4, 5))]
    parts = [padded(part, 4 - len(part["label"])) for part in parts]
    got = jp.curvature.average(lambda part: everything(net.network, part, vector), parts)
    for mean, whole in zip(got, everything(net.network, batch, vector), strict=True):
        close(flat(mean), flat(whole), 1e-12)


def test_diagonal_does_not_depend_on_the_order_of_the_classes():
    net, order = networks.build("perceptron"), np.array([2, 0, 1])
    head = net.network.params["head"]
    params = {**net.network.params, "head": {"w": head["w"][:, order], "b": head["b"][order]}}
    batch = {**net.batch, "label": np.argsort(order)[net.batch["label"]]}
    got = jp.curvature.diagonal(net.network.replace(params=params), LOSS, batch)
    expected = jp.curvature.diagonal(net.network, LOSS, net.batch)
    close(got["head"]["w"], expected["head"]["w"][:, order], 1e-12)
    for name in ("w1", "b1", "w2"):
        close(got[name], expected[name], 1e-12)


def _wide(p, _, x):
    return jnp.maximum(x @ p["w1"], 0) @ p["w2"]


def wide():
    """Forty classes: three chunks of signals."""
    params = {"w1": jnp.asarray(networks.normal(1, 4, 3)), "w2": jnp.asarray(networks.normal(2, 3, 40))}
    leaves = {"w1": networks.Leaf((4, 3), (1,), "SSS"), "w2": networks.Leaf((3, 40), (1,), "SSS")}
    batch = {"image": networks.normal(3, 5, 4), "label": np.array([0, 39, 20, 7, 7]), "weight": np.arange(5.0)}
    return jp.Network(_wide, params), batch, leaves


@pytest.mark.parametrize("loss", [LOSS, networks.bumpy])
def test_curvature_takes_more_classes_than_one_chunk(loss):
    network, batch, leaves = wide()
    dense, vector = networks.Dense(network, batch, loss), networks.vector(network.params)
    request = jp.curvature.blocks.request(network, loss, batch, "hessian", "unit", None)
    # Before the head three columns are enough.
    assert [len(task.chunks()) for task in routes.product_tasks(request, vector)] == [1, 5]

    def everything(network, batch, vector):
        return (
            jp.curvature.diagonal(network, loss, batch),
            jp.curvature.block_product(network, loss, batch, vector),
            jp.curvature.block(network, loss, batch, "w2", "unit"),
        )

    for diagonal, product, block in (
        everything(network, batch, vector),
        networks.compiled(everything)(network, batch, vector),
    ):
        close(flat(diagonal), np.diag(dense.matrices["hessian"]))
        close(flat(product), dense.inside(leaves, "unit", "hessian") @ flat(vector))
        close(block, dense.blocks("w2", (1,), "unit", "hessian"))


def test_curvature_takes_whole_weights_and_truths():
    net = networks.build("gates")
    counts = np.array([1, 2, 0, 1, 3])

    @networks.compiled
    def everything(batch):
        arguments = (net.network, LOSS, batch)
        mixed = (net.network, networks.together, batch)
        return (
            jp.curvature.ggnvp(*arguments, net.network.params),
            jp.curvature.block_product(*arguments, net.network.params, "layer", "ggn"),
            jp.curvature.block_product(*mixed, net.network.params, "layer", "empirical_fisher"),
        )

    for weight in (counts, counts > 0):
        got, expected = (everything({**net.batch, "weight": each}) for each in (weight, weight.astype(float)))
        close(flat(got), flat(expected), 1e-12)


def test_curvature_can_be_traced_with_network_and_batch_closed_over():
    net = networks.build("perceptron")
    vector = networks.vector(net.network.params)
    batch = {key: jax.numpy.asarray(value) for key, value in net.batch.items()}

    def everything(vector):
        arguments = (net.network, LOSS, batch)
        return (
            jp.curvature.hvp(*arguments, vector),
            jp.curvature.ggnvp(*arguments, vector),
            jp.curvature.block_product(*arguments, vector),
            jp.curvature.diagonal(*arguments),
        )

    got, expected = networks.compiled(everything)(vector), networks.dense("perceptron")
    close(flat(got[0]), expected.matrices["hessian"] @ flat(vector))
    close(flat(got[1]), expected.matrices["ggn"] @ flat(vector))
    close(flat(got[2]), expected.inside(net.leaves, "unit", "hessian") @ flat(vector))
    close(flat(got[3]), np.diag(expected.matrices["hessian"]))


def test_curvature_takes_single_precision_weights_in_double_precision():
    net = networks.build("nested")
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net.network.params)
    network = net.network.replace(params=single)
    found = jp.sites.survey(network, net.batch["image"])
    assert set(found.sites) == set(net.leaves)
    dense = networks.Dense(network.replace(params=jax.tree.map(lambda leaf: leaf.astype(float), single)), net.batch)
    vector = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), networks.vector(single))
    diagonal = jp.curvature.diagonal(network, LOSS, net.batch)
    product = jp.curvature.block_product(network, LOSS, net.batch, vector)
    close(flat(diagonal), np.diag(dense.matrices["hessian"]), 1e-6)
    close(flat(product), dense.inside(net.leaves, "unit", "hessian") @ flat(vector), 1e-6)


@every_network
def test_routes_rest_on_a_hessian_that_is_gauss_and_newtons_where_that_is_proven(name):
    net, dense = networks.build(name), networks.dense(name)
    for path, leaf in net.leaves.items():
        hessian, ggn = (dense.blocks(path, leaf.units, "layer", matrix) for matrix in ("hessian", "ggn"))
        # Where everything is zero, nothing is tested; softmax over one class has no curvature.
        assert np.abs(ggn).max() > 1e-9 or leaf.routes[0] == "N" or name == "single", path
        difference = np.abs(hessian - ggn).max() / max(np.abs(ggn).max(), 1e-12)
        proven = leaf.routes[0] in "SN" or (name, path) in EQUAL
        assert difference < 1e-10 if proven else difference > 1e-4, path


@pytest.mark.parametrize("name", ["convolutions", "gates"])
def test_block_keeps_its_identities(name):
    net, path = networks.build(name), {"convolutions": "grouped", "gates": "gate"}[name]
    arguments = (net.network, LOSS, net.batch)
    scope = jp.tree.map_named(lambda leaf_name, _: leaf_name == path, net.network.params)
    layer = np.asarray(jp.curvature.block(*arguments, path, "layer"))
    units = np.asarray(jp.curvature.block(*arguments, path, "unit"))
    diagonal = np.asarray(jp.tree.leaf(jp.curvature.diagonal(*arguments, scope=scope), path))
    size = np.abs(layer).max()
    np.testing.assert_allclose(layer, layer.T, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(np.diag(layer), diagonal.ravel(), rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose([np.trace(unit) for unit in units], diagonal.sum((*range(diagonal.ndim - 1),)), 1e-10)
    lowest = np.linalg.eigvalsh(layer)[0]
    if name == "convolutions":
        # Proven: the matrix of Gauss and Newton, of four examples that count and three classes.
        assert lowest > -1e-12 * size
        assert np.linalg.matrix_rank(layer, tol=1e-10 * size) <= 4 * (3 - 1) < len(layer)
    else:
        assert lowest < -1e-3 * size
    damping = max(0.0, -lowest) + 0.1 * size
    for block, values in ((layer, diagonal.ravel()), *zip(units, np.moveaxis(diagonal, -1, 0), strict=True)):
        inverse = np.linalg.inv(block + damping * np.eye(len(block)))
        assert (1 / np.diag(inverse) <= (values.ravel() + damping) * (1 + 1e-12)).all()


# optax 0.2.8 announces the end of optax.second_order.
@pytest.mark.filterwarnings("ignore:The function (hvp|hessian_diag) is deprecated")
@pytest.mark.parametrize("name", ["nested", "gates"])
def test_diagonal_and_hvp_agree_with_optax(name):
    net = networks.build(name)
    batch = {key: value for key, value in net.batch.items() if key != "weight"}

    def mean(params, images, labels):
        outputs = net.network.apply(params, net.network.state, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))

    vector = networks.vector(net.network.params)

    @networks.compiled
    def theirs(params, images, labels):
        arguments = (mean, params, images, labels)
        return optax.second_order.hessian_diag(*arguments), optax.second_order.hvp(mean, flat(vector), *arguments[1:])

    expected, product = theirs(net.network.params, batch["image"], batch["label"])
    close(flat(jp.curvature.diagonal(net.network, LOSS, batch)), expected)
    close(flat(jp.curvature.hvp(net.network, LOSS, batch, vector)), flat(product))
