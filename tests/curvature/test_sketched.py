"""Random directions in place of outputs, held against dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxprune as jp

pytestmark = pytest.mark.usefixtures("float64")

CLASSES = 12


def network():
    keys = jax.random.split(jax.random.key(0), 2)
    params = {"first": jax.random.normal(keys[0], (5, 4)), "last": jax.random.normal(keys[1], (4, CLASSES))}

    def apply(params, state, images):
        return checkpoint_name(jnp.tanh(images @ params["first"]), "features") @ params["last"]

    return jp.Network(apply, params)


IMAGES = np.random.default_rng(1).standard_normal((6, 5))


def jacobian(net, images):
    """[b, outputs, weights], by forward mode."""
    found = jax.jacfwd(lambda params: net.replace(params=params)(images))(net.params)
    leaves = [leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(found)]
    return np.concatenate(leaves, axis=-1)


@pytest.mark.parametrize("at", [None, "features"])
def test_sketched_has_the_exact_blocks_of_its_directions(at):
    net, images = network(), jnp.asarray(IMAGES)
    few = jp.curvature.sketched(net, images, 3, key=jax.random.key(2), at=at)
    whole = net if at is None else jp.sites.outputs_at(net, at)
    signs = np.asarray(few.state["directions"])
    assert signs.shape == (whole(images).shape[1], 3)
    assert np.allclose(np.abs(signs), 3**-0.5)
    rows = np.einsum("bcw,ck->bkw", jacobian(whole, images), signs)
    expected = 2 * np.einsum("bkw,bkw->w", rows, rows) / len(images)
    found = jp.curvature.diagonal(few, jp.losses.distillation(), {"image": images})
    assert np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)]) == pytest.approx(expected, rel=1e-12)


def test_sketched_is_right_in_the_mean_and_as_far_off_as_it_says():
    net, images, directions = network(), jnp.asarray(IMAGES), 4
    exact = jp.curvature.diagonal(net, jp.losses.distillation(), {"image": images})["first"]
    diagonal = jax.jit(lambda few: jp.curvature.diagonal(few, jp.losses.distillation(), {"image": images})["first"])
    draws = np.stack(
        [diagonal(jp.curvature.sketched(net, images, directions, key=jax.random.key(each))) for each in range(400)]
    )
    ratios = draws / exact
    assert np.abs(ratios.mean(0) - 1).max() < 5 * np.sqrt(2 / directions / len(draws))
    assert ratios.std(0).max() < 1.2 * np.sqrt(2 / directions)


def test_sketched_costs_as_many_columns_as_it_has_directions():
    net, batch = network(), {"image": jnp.asarray(IMAGES)}
    few = jp.curvature.sketched(net, batch["image"], 2, key=jax.random.key(0))
    plans = [jp.curvature.plan(one, jp.losses.distillation(), batch, "diagonal", compile=False) for one in (net, few)]
    assert plans[1].gradients < plans[0].gradients


def test_sketched_refuses_no_directions_and_outputs_that_are_no_rows():
    with pytest.raises(ValueError, match="directions"):
        jp.curvature.sketched(network(), IMAGES, 0, key=jax.random.key(0))
    images = jnp.ones((2, 4, 4, 1))
    with pytest.raises(ValueError, match=r"\[b, c\]"):
        jp.curvature.sketched(jp.Network(lambda p, s, x: x * p, jnp.ones(())), images, 2, key=jax.random.key(0))


def test_sketched_refuses_directions_that_do_not_fit_and_names_the_limit(monkeypatch):
    with pytest.raises(MemoryError, match=r"sketched: the directions: needs .* Take fewer"):
        jp.curvature.sketched(network(), IMAGES, 10**12, key=jax.random.key(0))
    monkeypatch.setenv("JAXPRUNE_MEMORY", "5")
    with pytest.raises(MemoryError, match="JAXPRUNE_MEMORY=5"):
        jp.curvature.sketched(network(), IMAGES, 100, key=jax.random.key(0))
