"""Networks with taps, and what their derivatives are in numbers: nothing here knows how the library decides.

A network is written as ``network(params, images, tap)``, and calls ``tap(leaf, z)`` wherever a leaf enters.  So a part
can be added to z without the library, and H_z and J_z follow from their definitions.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.sites.axes import Along
from tests import haste

CLASSES = 3


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile(haste.OPTIONS)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def head(values):
    """[b, ...] -> [b, c], by a constant matrix that is the same for every example."""
    rows = values.reshape(values.shape[0], -1)
    return rows @ normal(99, rows.shape[1], CLASSES) / np.sqrt(rows.shape[1])


def plain(network):
    """The network as the library gets it."""
    return jp.Network(lambda params, state, images: head(network(params, images, lambda leaf, z: z)), {})


def tapped(network, params, images, parts):
    return head(network(params, images, lambda leaf, z: z + parts[leaf] if leaf in parts else z))


def loss(outputs):
    """Of every example alone, and not quadratic: 0.3 |f|^2 + (sum f)^3 / 6."""
    return 0.3 * jnp.sum(outputs**2) + jnp.sum(jnp.sum(outputs, axis=-1) ** 3) / 6


def derivatives(function, part):
    """Outputs [b, c], the Jacobian [b, c, *z] and the Hessian of the loss [*z, *z], at a part of z."""

    def gradient(part):
        outputs, pullback = jax.vjp(function, part)
        rows = jax.vmap(lambda row: pullback(row)[0])(jnp.eye(outputs.size).reshape(-1, *outputs.shape))
        return pullback(jax.grad(loss)(outputs))[0], (outputs, rows.reshape(*outputs.shape, *part.shape))

    def column(direction):
        return jax.jvp(gradient, (part,), (direction,), has_aux=True)[1:]

    hessian, (outputs, jacobian) = jax.vmap(column, out_axes=(0, None))(jnp.eye(part.size).reshape(-1, *part.shape))
    return outputs, jacobian, hessian.reshape(*part.shape, *part.shape)


def gauss_newton(outputs, jacobian):
    """J^T H_out J, with H_out = 0.6 I + (sum f) 1 1^T."""
    rows = jacobian.reshape(*outputs.shape, -1)
    sums = rows.sum(axis=1)
    return 0.6 * np.einsum("bci,bcj->ij", rows, rows) + np.einsum("b,bi,bj->ij", outputs.sum(axis=1), sums, sums)


def is_gauss_newton(outputs, jacobian, hessian):
    """How far H_z is from J^T H_out J, relative to the larger."""
    expected = gauss_newton(outputs, jacobian)
    hessian = hessian.reshape(expected.shape)
    size = max(np.abs(expected).max(), np.abs(hessian).max(), 1e-6)
    return np.abs(hessian - expected).max() / size


def unfolded(values, along, examples):
    """The entries of a value by example, [examples, ...]."""
    shape = values.shape
    split = (*shape[: along.axis], along.before, examples, along.after, *shape[along.axis + 1 :])
    return np.moveaxis(np.reshape(values, split), along.axis + 1, 0)


def leak(jacobian, along):
    """How much an output depends on other examples than its own as they lie in z, relative to the whole."""
    examples = jacobian.shape[0]
    if jacobian.shape[2 + along.axis] != along.before * examples * along.after:
        return 1.0
    rows = np.stack([unfolded(row, replace(along, axis=along.axis + 1), examples) for row in jacobian])
    others = rows[~np.eye(examples, dtype=bool)]
    return np.abs(others).max() / max(np.abs(jacobian).max(), 1e-12)


def every_along(shape, examples):
    """Everywhere that so many examples may lie in a value of that shape."""
    for axis, extent in enumerate(shape):
        for before in range(1, extent + 1):
            if extent % (before * examples) == 0:
                yield Along(axis, before, extent // (before * examples))
