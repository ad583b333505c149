"""Random directions in place of many outputs: exact curvature of a distance that stands for another one."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check, draws, memory
from jaxprune.network import Network
from jaxprune.sites import outputs_at


def sketched(network: Network, images: Any, directions: int, *, key: Any, at: str | None = None) -> Network:
    """Returns the network whose outputs are random directions of another one's, so that k columns stand for any number.

    The outputs z [b, c] become z S / sqrt(k), with S [c, k] of independent signs.  Squared distances between them are
    those between the z in expectation, with a relative standard deviation of at most sqrt(2 / k): so are the
    Gauss-Newton matrix of ``jp.losses.distillation("squared")`` and all its blocks, which then take k backward passes
    where they took c.  S lies in the state, and is the same for all images.

    Args:
      network: its outputs are [b, c].
      images: any batch [b, h, w, d]; only its shape is read.
      directions: k.
      key: of ``jax.random``.
      at: the name of a value that the network tags, in place of its outputs.

    Returns:
      A network with the same parameters.

    Raises:
      ValueError: no directions; outputs that are not [b, c].
      MemoryError: so many directions do not fit.

    Source: Achlioptas (2003), Database-friendly random projections.

    >>> net = Network(lambda p, s, x: x @ p, jnp.ones((2, 1000)))
    >>> sketched(net, jnp.ones((3, 2)), 8, key=jax.random.key(0))(jnp.ones((3, 2))).shape
    (3, 8)
    """
    check.whole("directions", directions)
    check.network(network)
    whole = network if at is None else outputs_at(network, at)
    shape = jax.eval_shape(whole, images)
    check.outputs(shape, len(images))
    memory.fits(
        "sketched: the directions", 2 * shape.shape[1] * directions * shape.dtype.itemsize, None, remedy="Take fewer."
    )
    signs = draws.shaped(jax.random.rademacher, key, (shape.shape[1], directions), shape.dtype)
    signs = signs / jnp.sqrt(directions).astype(shape.dtype)
    return Network(_Sketched(whole.apply), whole.params, {"network": whole.state, "directions": signs})


@dataclass(frozen=True)
class _Sketched:
    apply: Any

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        return self.apply(params, state["network"], images) @ state["directions"]
