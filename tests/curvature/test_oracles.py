"""Every matrix, product, diagonal and block against the dense matrix, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests import cases

pytestmark = pytest.mark.usefixtures("same_rank")

LOSS = jp.losses.cross_entropy
MATRICES = ("hessian", "ggn", "empirical_fisher")

every_case = pytest.mark.parametrize("name", cases.NAMES)
# test_matrices.py has convolutions, BatchNorm and attention; here is what it has not: a scope, and other nestings.
small_cases = pytest.mark.parametrize("name", ["mlp", "cnn"])
every_matrix = pytest.mark.parametrize("matrix", MATRICES)


def close(got, expected):
    """Equal up to rounding, measured against the largest number there is."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * max(1e-3, np.abs(expected).max(initial=0)))


def in_scope(case):
    """1 where a weight is in the case's scope."""
    return cases.flat(jax.tree.map(lambda w, wanted: np.full(w.shape, float(wanted)), case.network.params, case.scope))


@every_case
def test_products_are_those_of_the_dense_matrices(name):
    case = cases.build(name)
    vector = cases.vector(case.network.params)
    v = np.asarray(cases.flat(vector))
    for loss in ("cross_entropy", "squared_error"):
        arguments = (case.network, getattr(jp.losses, loss), case.batch)
        close(cases.flat(jp.curvature.gradient(*arguments)), cases.share(name) @ cases.gradients(name, loss))
        close(cases.flat(jp.curvature.hvp(*arguments, vector)), cases.matrix(name, "hessian", loss) @ v)
        close(cases.flat(jp.curvature.ggnvp(*arguments, vector)), cases.matrix(name, "ggn", loss) @ v)


# One test for what shares its compiled programs.
@small_cases
@every_matrix
def test_diagonal_and_block_product_are_those_of_the_dense_matrix_in_scope(name, matrix):
    case, dense = cases.build(name), cases.matrix(name, matrix)
    got = jp.curvature.diagonal(case.network, LOSS, case.batch, matrix, case.scope)
    close(cases.flat(got), np.diag(dense) * in_scope(case))
    vector = cases.vector(case.network.params)
    for blocks in ("unit", "layer", 2, 3):
        inside = np.where(cases.same_blocks(case.network.params, blocks), dense, 0)
        got = jp.curvature.block_product(case.network, LOSS, case.batch, vector, blocks, matrix, case.scope)
        close(cases.flat(got), inside @ cases.flat(vector) * in_scope(case))


def test_diagonal_is_of_every_leaf_without_a_scope():
    case = cases.build("mlp")
    close(cases.flat(jp.curvature.diagonal(case.network, LOSS, case.batch)), np.diag(cases.matrix("mlp", "hessian")))


PATHS = {
    "mlp": "1/0",
    "cnn": "conv2/kernel",
}


def slices(where, blocks):
    """The positions of the weights of every block of a leaf, straight from the definition."""
    for unit in where.reshape(-1, where.shape[-1]).T:
        size = len(unit) if blocks == "unit" else blocks
        yield from (unit[start : start + size] for start in range(0, len(unit), size))


@small_cases
@every_matrix
def test_block_is_that_of_the_dense_matrix(name, matrix):
    case, path, dense = cases.build(name), PATHS[name], cases.matrix(name, matrix)
    where = cases.positions(case.network.params, path)
    got = jp.curvature.block(case.network, LOSS, case.batch, path, "layer", matrix)
    close(got, dense[np.ix_(where.ravel(), where.ravel())])
    for blocks in ("unit", 2, 3) if name == "mlp" else ("unit", 3):
        size = where.size // where.shape[-1] if blocks == "unit" else blocks
        expected = np.zeros((len(list(slices(where, blocks))), size, size))
        for block, members in zip(expected, slices(where, blocks), strict=True):
            block[: len(members), : len(members)] = dense[np.ix_(members, members)]
        close(jp.curvature.block(case.network, LOSS, case.batch, path, blocks, matrix), expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_curvature_is_the_same_inside_jit_with_network_and_batch_as_arguments(name):
    case = cases.build(name)
    scope = jp.tree.map_named(lambda leaf_name, _: leaf_name == PATHS[name], case.network.params)
    path, vector = PATHS[name], cases.vector(case.network.params)

    def everything(network, batch, vector):
        return (
            jp.curvature.hvp(network, LOSS, batch, vector),
            jp.curvature.ggnvp(network, LOSS, batch, vector),
            jp.curvature.diagonal(network, LOSS, batch, scope=scope),
            jp.curvature.block_product(network, LOSS, batch, vector, "unit", "ggn", scope),
            jp.curvature.block(network, LOSS, batch, path, 2, "empirical_fisher"),
        )

    outside = everything(case.network, case.batch, vector)
    inside = jax.jit(everything)(case.network, case.batch, vector)
    jax.tree.map(close, inside, outside)


def test_curvature_without_weights_weighs_every_example_one():
    case = cases.build("mlp")
    ones = {**case.batch, "weight": np.ones(5)}
    bare = {key: value for key, value in case.batch.items() if key != "weight"}
    vector = cases.vector(case.network.params)
    close(*(cases.flat(jp.curvature.hvp(case.network, LOSS, batch, vector)) for batch in (bare, ones)))
    for matrix in MATRICES:
        close(*(cases.flat(jp.curvature.diagonal(case.network, LOSS, batch, matrix)) for batch in (bare, ones)))


@every_matrix
def test_curvature_of_padding_counts_for_nothing_even_where_its_loss_is_nan(matrix):
    case = cases.build("mlp")
    targets = {**case.batch, "label": np.eye(3)[case.batch["label"]]}
    padded = cases.pad(targets, 2)
    padded["label"][-1] = np.nan
    vector = cases.vector(case.network.params)

    def everything(batch):
        return (
            jp.curvature.block_product(case.network, LOSS, batch, vector, "unit", matrix),
            jp.curvature.diagonal(case.network, LOSS, batch, matrix),
            jp.curvature.block(case.network, LOSS, batch, PATHS["mlp"], "layer", matrix),
        )

    jax.tree.map(close, everything(padded), everything(targets))


@every_matrix
def test_diagonal_of_a_batch_in_which_nothing_counts_is_zero(matrix):
    case = cases.build("mlp")
    empty = {**case.batch, "weight": np.zeros(5)}
    close(cases.flat(jp.curvature.diagonal(case.network, LOSS, empty, matrix)), np.zeros(43))


def test_diagonal_of_an_input_that_is_always_zero_is_zero():
    case = cases.build("mlp")
    image = case.batch["image"].copy()
    image[:, 0, 0] = 0
    first = jp.curvature.diagonal(case.network, LOSS, {**case.batch, "image": image})[0]["w"]
    assert not first[0].any()
    assert first[1:].all()


def test_block_product_serves_leaves_of_any_shape():
    params = {"scalar": jnp.asarray(2.0), "whole": jnp.ones((3, 2, 2))}

    def apply(params, state, images):
        return params["scalar"] * jnp.einsum("bi,ijc->bc", images, params["whole"])

    network = jp.Network(apply, params)
    batch = {"image": np.arange(6.0).reshape(2, 3), "label": np.array([0, 1])}
    dense = jax.hessian(lambda p: jnp.mean(LOSS(apply(p, {}, batch["image"]), batch)))(params)
    for blocks in ("unit", "layer", 2):
        got = jp.curvature.block_product(network, LOSS, batch, params, blocks)
        close(got["scalar"], 2.0 * dense["scalar"]["scalar"])
    close(jp.curvature.diagonal(network, LOSS, batch)["scalar"], dense["scalar"]["scalar"])


def call(quantity, **changes):
    case = cases.build("mlp")
    given = {"network": case.network, "loss": LOSS, "batch": case.batch, **changes}
    return getattr(jp.curvature, quantity)(**given)


@pytest.mark.parametrize(
    ("quantity", "changes", "message"),
    [
        ("diagonal", {"matrix": "hesian"}, r"matrix: unknown value 'hesian'\. Did you mean 'hessian'\?"),
        ("diagonal", {"scope": {"w": True}}, "scope: expected one Python bool for every leaf.*prunable"),
        ("diagonal", {"batch": {"image": np.ones((2, 2, 2, 1))}}, r"batch: expected the keys.*got \['image'\]"),
        (
            "diagonal",
            {"batch": {"image": np.ones((2, 2, 2, 1)), "label": np.zeros(3, int)}},
            "batch: expected as many labels and weights as images.*'image': 2, 'label': 3",
        ),
        ("block", {"path": "2"}, r"path: no leaf is called '2'\. The leaves are: 0/b, 0/w, 1/0, 1/1"),
        ("block", {"path": "1/0", "blocks": "row"}, "blocks: unknown value 'row'.*Known: layer, unit"),
        ("block", {"path": "1/0", "blocks": 0}, "blocks: expected 'unit', 'layer' or a size of 1 or more, but got 0"),
        ("block_product", {"vector": {"w": 1.0}}, "vector: expected the structure of network.params"),
    ],
)
def test_curvature_names_bad_input(unchecked, quantity, changes, message):
    with pytest.raises(ValueError, match=message):
        call(quantity, **changes)


def test_curvature_names_a_vector_of_another_shape(unchecked):
    params = cases.build("mlp").network.params
    wrong = (params[0], [params[1][0].T, params[1][1]])
    for quantity in ("hvp", "ggnvp", "block_product"):
        with pytest.raises(ValueError, match=r"vector: at \[1\]\[0\] expected the shape \(5, 3\).*got \(3, 5\)"):
            call(quantity, vector=wrong)
