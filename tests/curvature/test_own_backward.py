"""Networks with a backward pass of the user's own: the matrices of its Jacobian, or a refusal by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from tests.curvature import networks
from tests.curvature.networks import close, flat

LOSS = jp.losses.cross_entropy


def network(backward):
    """Rounds hidden values to quarters, and passes back what it is told to."""

    @jax.custom_vjp
    def rounded(x):
        return jnp.round(4 * x) / 4

    rounded.defvjp(lambda x: (jnp.round(4 * x) / 4, x), lambda x, u: (backward(x, u),))
    params = {"w1": jnp.asarray(networks.normal(0, 5, 4)), "w2": jnp.asarray(networks.normal(1, 4, 3))}
    return jp.Network(lambda p, s, x: rounded(x @ p["w1"]) @ p["w2"], params)


BATCH = {"image": networks.normal(2, 6, 5), "label": np.arange(6) % 3, "weight": np.arange(6.0)}


@pytest.mark.parametrize("matrix", ["ggn", "empirical_fisher"])
def test_diagonal_and_products_behind_an_own_backward_pass_are_those_of_its_jacobian(matrix):
    net = network(lambda x, u: jnp.where(jnp.abs(x) < 1, u, 0.5 * u))
    x, w1, w2 = BATCH["image"], *(np.asarray(net.params[name]) for name in ("w1", "w2"))
    hidden = x @ w1
    outputs = np.round(4 * hidden) / 4 @ w2
    slope = np.where(np.abs(hidden) < 1, 1.0, 0.5)
    share = BATCH["weight"] / BATCH["weight"].sum()
    jacobian = np.einsum("nd,nh,hc->ncdh", x, slope, w2).reshape(6, 3, -1)
    p = np.asarray(jax.nn.softmax(outputs))
    bend = np.einsum("nc,ce->nce", p, np.eye(3)) - np.einsum("nc,ne->nce", p, p)
    if matrix == "empirical_fisher":
        gradient = p - np.eye(3)[BATCH["label"]]
        bend = np.einsum("nc,ne->nce", gradient, gradient)
    dense = np.einsum("n,nci,nce,nej->ij", share, jacobian, bend, jacobian)
    close(jp.curvature.diagonal(net, LOSS, BATCH, matrix)["w1"].ravel(), np.diag(dense), 1e-12)
    found = jp.curvature.block_product(net, LOSS, BATCH, net.params, "layer", matrix)["w1"]
    close(found.ravel(), dense @ w1.ravel(), 1e-12)
    close(jp.curvature.block(net, LOSS, BATCH, "w1", matrix=matrix), dense, 1e-12)


def test_ggnvp_and_surgeon_take_an_own_backward_pass():
    net = network(lambda x, u: u)
    vector = networks.vector(net.params)
    whole = jnp.concatenate(
        [jp.curvature.block(net, LOSS, BATCH, name, matrix="ggn") @ vector[name].ravel() for name in ("w1", "w2")]
    )
    alone = [
        jp.curvature.ggnvp(net, LOSS, BATCH, {**jax.tree.map(jnp.zeros_like, vector), name: vector[name]})
        for name in ("w1", "w2")
    ]
    close(
        np.concatenate([np.ravel(found[name]) for found, name in zip(alone, ("w1", "w2"), strict=True)]), whole, 1e-12
    )
    assert jp.curvature.plan(net, LOSS, BATCH, "diagonal", matrix="ggn").exact
    assert jp.scores.block_hessian(LOSS, form="obs", matrix="ggn")(net, [BATCH])["w1"].all()
    assert flat(jp.curvature.diagonal(net, LOSS, BATCH)).size == 32


@pytest.mark.parametrize("quantity", [jp.curvature.diagonal, jp.curvature.ggnvp])
def test_curvature_names_a_backward_pass_that_is_not_linear(quantity):
    net = network(lambda x, u: jnp.clip(u, -0.1, 0.1))
    more = ("ggn",) if quantity is jp.curvature.diagonal else (net.params,)
    with pytest.raises(TypeError, match=r"network\.apply: expected backward passes of custom_vjp that are linear"):
        quantity(net, LOSS, BATCH, *more)
    assert flat(jp.curvature.hvp(net, LOSS, BATCH, net.params)).any()
