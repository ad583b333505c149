"""Values that a network tags, found in its program and read.

A network tags a value with JAX's own ``jax.ad_checkpoint.checkpoint_name(x, "stage1/block0")``.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from jaxprune import check
from jaxprune.network import Network
from jaxprune.sites.program import Program, trace


def tags(network: Network, images: Any) -> list[str]:
    """Lists the values that a network tags, in the order of the program.

    Args:
      network: the network.
      images: [b, h, w, c], or a ``jax.ShapeDtypeStruct``: only shape and type matter.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x * p, "features") + 1, jax.numpy.ones(()))
    >>> tags(net, jax.ShapeDtypeStruct((1, 2), "float32"))
    ['features']
    """
    return list(_tagged(trace(network.apply, network.params, network.state, images, enter_custom=True)))


def read(network: Network, images: Any, sites: Sequence[str]) -> tuple[Any, ...]:
    """Evaluates a network and returns the values of the sites of these names.

    Args:
      network: the network.
      images: [b, h, w, c].
      sites: names of tagged values, see ``tags``.

    Returns:
      The values, in the order asked for.  What only the outputs need is not computed under ``jit``.

    Raises:
      ValueError: a site does not exist; the message offers the nearest name.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x * p, "features") + 1, jax.numpy.full((), 2.0))
    >>> read(net, jax.numpy.ones((1, 2)), ["features"])
    (Array([[2., 2.]], dtype=float32),)
    """
    arguments = (network.params, network.state, images)
    program = trace(network.apply, *arguments, enter_custom=True)
    known = _tagged(program)
    for site in sites:
        check.choice("sites", site, known)
    _, found = program.run(jax.tree.leaves(arguments), {}, keep=[known[site] for site in sites])
    return tuple(found[known[site]] for site in sites)


def _tagged(program: Program) -> dict[str, int]:
    """The number of every tagged value; a name that is given twice means the last."""
    return {step.params["name"]: step.outputs[0] for step in program.steps if step.name == "name"}


# One compiled reader for every network with the same apply.
read_jit = partial(jax.jit, static_argnames="sites")(read)
