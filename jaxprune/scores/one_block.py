"""What an optimal brain surgeon computes of one block [m, m] and its weights [m].

Each function returns [m] numbers, and whether the damped block was positive definite.  ``void``: the weights that take
no part; ``shift``: what the diagonal is damped by.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from jaxprune.curvature.grams import symmetric
from jaxprune.scores import triangles


def costs_alone(block: Any, weights: Any, void: Any, shift: Any) -> tuple[Any, Any]:
    """The cost of every deletion alone, the rest of the block updated."""
    _, factor, definite = _factored(block, void, shift)
    inverse = jnp.sum(triangles.inverse(factor) ** 2, axis=0)
    return jnp.where(void, 0, weights**2 / (2 * inverse)), definite


def costs_in_turn(block: Any, weights: Any, void: Any, shift: Any) -> tuple[Any, Any]:
    """The cost of every deletion in the order in which they are cheapest.

    A Cholesky factorisation of the inverse whose next pivot is the cheapest weight.  Row k of it is column j of the
    inverse without the k weights that went before, over the root of its entry j.
    """
    damped, factor, definite = _factored(block, void, shift)
    lower = triangles.inverse(factor)
    inverse = symmetric(lower[:, None])[0]
    # Below this no diagonal of an inverse falls, but by rounding.
    floor = 1 / jnp.diagonal(damped)
    tiny = jnp.finfo(weights.dtype).tiny

    def step(k: Any, carry: Any) -> Any:
        rows, diagonal, weights, left, scores, last = carry
        costs = jnp.where(left, weights**2 / (2 * diagonal), jnp.inf)
        j = jnp.argmin(costs)
        row = (inverse[j] - rows[:, j] @ rows) / jnp.sqrt(diagonal[j])
        weights = weights - weights[j] / jnp.sqrt(diagonal[j]) * row
        last = jnp.maximum(costs[j], jnp.nextafter(jnp.maximum(last, tiny), jnp.inf))
        diagonal = jnp.maximum(diagonal - row**2, floor)
        return rows.at[k].set(row), diagonal, weights, left.at[j].set(False), scores.at[j].set(last), last

    zeros = jnp.zeros_like(weights)
    start = (jnp.zeros_like(block), jnp.diagonal(inverse), weights, ~void, zeros, zeros[0])
    return jax.lax.fori_loop(0, jnp.sum(~void), step, start)[4], definite


def readjustment(block: Any, weights: Any, void: Any, shift: Any) -> tuple[Any, Any]:
    """What the weights that stay change by, once the others are gone."""
    _, factor, definite = _factored(block, void, shift)
    pull = jnp.where(void, 0, block @ jnp.where(void, weights, 0))
    return cho_solve((factor, True), pull), definite


def _factored(block: Any, void: Any, shift: Any) -> tuple[Any, Any, Any]:
    """The damped block, its Cholesky factor, and whether there is one."""
    damped = jnp.where(void[:, None] | void[None, :], 0, block) + jnp.diag(jnp.where(void, 1, shift))
    factor = jnp.linalg.cholesky(damped, symmetrize_input=False)
    definite = (shift > 0) & jnp.all(jnp.isfinite(jnp.diagonal(factor)))
    return damped, factor, definite | jnp.all(void)
