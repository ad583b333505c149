"""The rows of the Gauss-Newton matrix against dense Jacobians, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxprune as jp
from jaxprune.curvature.jacobian import jacobian
from tests.curvature import networks
from tests.curvature.networks import close, normal

LOSSES = {
    "cross_entropy": jp.losses.cross_entropy,
    "squared": jp.losses.distillation(),
    "kl": jp.losses.distillation("kl", temperature=2.0),
}


def dense(network, loss, batch, chosen):
    """J^T H_out J of the mean loss by the chosen weights, written out."""
    vector, unravel = ravel_pytree(network.params)
    outputs = network(batch["image"])
    given = {**batch, "teacher": outputs} if isinstance(loss, jp.losses.Distillation) else batch
    rows = jax.jacrev(lambda v: network.apply(unravel(v), network.state, batch["image"]))(vector)
    bend = jax.vmap(jax.hessian(lambda z, one: jp.losses.mean(loss, z[None], jax.tree.map(lambda e: e[None], one))))
    inner = bend(outputs, {name: entry for name, entry in given.items() if name != "weight"})
    weight = np.asarray(batch.get("weight", np.ones(len(outputs))))
    matrix = np.einsum("n,nci,ncd,ndj->ij", weight / weight.sum(), rows, inner, rows)
    places = np.flatnonzero(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(chosen)]))
    return matrix[np.ix_(places, places)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["convolutions", "attention"])
def test_jacobian_rows_make_the_gauss_newton_matrix(name, loss):
    net = networks.build(name)
    leaves, structure = jax.tree.flatten(net.network.params)
    chosen = structure.unflatten([jnp.asarray(normal(i, *leaf.shape) > 0) for i, leaf in enumerate(leaves)])
    batch = dict(net.batch)
    if loss != "cross_entropy":
        batch.pop("label", None)
    rows = jacobian(net.network, LOSSES[loss], [batch], chosen, most=16)
    assert rows is not None
    expected = dense(net.network, LOSSES[loss], batch, chosen)
    close(rows.T @ rows, expected, 1e-11)


def test_jacobian_of_batches_is_that_of_all_together():
    net = networks.build("convolutions")
    chosen = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), net.network.params)
    parts = [{name: entry[rows] for name, entry in net.batch.items()} for rows in (slice(0, 1), slice(1, None))]
    whole = jacobian(net.network, LOSSES["kl"], [net.batch], chosen, most=16)
    split = jacobian(net.network, LOSSES["kl"], parts, chosen, most=16)
    close(split.T @ split, whole.T @ whole, 1e-12)


def test_jacobian_is_not_written_where_it_is_not_known_too_wide_or_too_large():
    net = networks.build("convolutions")
    chosen = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), net.network.params)
    assert jacobian(net.network, LOSSES["kl"], [net.batch], chosen, most=1) is None
    assert jacobian(net.network, LOSSES["kl"], [net.batch], chosen, most=16, memory=1) is None
    tied = jp.Network(lambda p, s, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": jnp.eye(3)})
    batch = {"image": normal(0, 4, 3)}
    assert jacobian(tied, LOSSES["squared"], [batch], {"w": jnp.ones((3, 3), bool)}, most=16) is None
