"""Places inside a network, found in its program.

A network tags a value with JAX's own ``jax.ad_checkpoint.checkpoint_name(x, "stage1/block0")``.  ``read`` traces the
pure function once and evaluates the same equations while keeping what is tagged, whatever library wrote the network.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.extend import core

from jaxprune import check
from jaxprune.network import Network

# Equations that hold a program of their own, and where: the walk goes inside to look for tags.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


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
    return list(_collect(jax.make_jaxpr(network.apply)(network.params, network.state, images).jaxpr))


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
    closed = jax.make_jaxpr(network.apply)(*arguments)
    known = _collect(closed.jaxpr)
    for site in sites:
        check.choice("sites", site, known)
    found: dict[str, Any] = {}
    _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), found)
    return tuple(found[site] for site in sites)


def _collect(jaxpr: core.Jaxpr) -> dict[str, None]:
    names: dict[str, None] = {}
    for equation in jaxpr.eqns:
        if equation.primitive.name == "name":
            names[equation.params["name"]] = None
        elif (inner := _inner(equation)) is not None:
            names |= _collect(inner[0])
    return names


def _inner(equation: core.JaxprEqn) -> tuple[core.Jaxpr, Sequence[Any]] | None:
    key = _CALLS.get(equation.primitive.name)
    if key is None:
        return None
    program = equation.params[key]
    return (program.jaxpr, program.consts) if isinstance(program, core.ClosedJaxpr) else (program, ())


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], found: dict[str, Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def look(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [look(atom) for atom in equation.invars]
        inner = _inner(equation)
        if inner is not None and _collect(inner[0]):
            results = _evaluate(*inner, operands, found)
        else:
            # Bound whole, so that custom derivative rules survive.
            results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
            results = results if equation.primitive.multiple_results else [results]
        if equation.primitive.name == "name":
            found[equation.params["name"]] = results[0]
        values.update(zip(equation.outvars, results, strict=True))
    return [look(atom) for atom in jaxpr.outvars]


# One compiled reader for every network with the same apply.
read_jit = partial(jax.jit, static_argnames="sites")(read)
