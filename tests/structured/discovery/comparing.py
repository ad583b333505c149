"""Values and gradients of a network, and those of another with fewer units."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.structured.removal import kept

CLOSE = 1e-12


@jax.jit
def measured(network, images):
    def read(params):
        outputs = network.replace(params=params)(images)
        return jnp.sum(jnp.sin(outputs) * jnp.arange(1, 1 + outputs.size).reshape(outputs.shape)), outputs

    return jax.grad(read, has_aux=True)(network.params)


def sliced(values, groups, gates):
    return jp.tree.map_named(
        lambda name, leaf: np.asarray(leaf)[np.ix_(*kept(name, leaf.shape, groups, gates))], values
    )


def same(got, want):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=CLOSE, atol=CLOSE), got, want)
