"""Values that a network tags, found in its program and read.

A network tags a value with JAX's own ``jax.ad_checkpoint.checkpoint_name(x, "stage1/block0")``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from jaxprune import check
from jaxprune.network import Network
from jaxprune.sites.program import Program, trace
from jaxprune.types import Apply, TrainApply


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


def outputs_at(network: Network, site: str) -> Network:
    """Returns the network whose outputs are a tagged value of another, flattened to [b, d]; to be differentiated.

    Args:
      network: the network, in evaluation mode.
      site: the name of a tagged value whose first axis counts the examples.

    Returns:
      A network with the same parameters and state.  Equal calls give equal networks, which share compiled programs.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(x * p, "features") + 1, jax.numpy.full((), 2.0))
    >>> outputs_at(net, "features")(jax.numpy.ones((1, 2)))
    Array([[2., 2.]], dtype=float32)
    """
    train = None if network.train_apply is None else _TrainAt(network.train_apply, site)
    return network.replace(apply=_At(network.apply, site), train_apply=train)


@dataclass(frozen=True)
class _At:
    apply: Apply
    site: str

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        return _run_to(self.apply, self.site, params, state, images)[0]


@dataclass(frozen=True)
class _TrainAt:
    apply: TrainApply
    site: str

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> tuple[Any, Any]:
        value, (_, *leaves) = _run_to(self.apply, self.site, params, state, images, rngs)
        _, shapes = jax.eval_shape(self.apply, params, state, images, rngs)
        return value, jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _run_to(apply: Any, site: str, params: Any, state: Any, images: Any, *rest: Any) -> tuple[Any, list[Any]]:
    """The tagged value [b, d], and the leaves of the outputs."""
    arguments = (params, state, images, *rest)
    # What has a derivative rule of its own stays whole, so that the rule holds: tags inside it are not found.
    program = trace(apply, *arguments)
    known = _tagged(program)
    check.choice("at", site, known, ordered=True)
    outputs, found = program.run(jax.tree.leaves(arguments), {}, keep=[known[site]])
    value, examples = found[known[site]], jax.numpy.shape(images)[0]
    if value.ndim < 2 or value.shape[0] != examples:
        raise ValueError(
            f"at: expected a tagged value whose first axis counts the {examples} images, but {site!r} has the shape "
            f"{value.shape}."
        )
    return value.reshape(examples, -1), outputs
