"""Multiply-accumulates and parameters, counted from the program itself, whatever library wrote the network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune import tree
from jaxprune.network import Network
from jaxprune.sites.kernels import find
from jaxprune.sites.operations import inside, multiplications, opened
from jaxprune.sites.program import Program, trace

# Equations that run one program, once, on their own inputs.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vmap_call"}
_PRODUCTS = {"dot_general", "conv_general_dilated", "depthwise", "correlations"}
# Equations that may multiply matrices where nobody can see it.
_OPAQUE = {"ragged_dot_general", "scaled_matmul", "scaled_matmul_wrapper", "dot_product_attention_fwd"}
_OPAQUE |= {"dot_product_attention_fp8_fwd", "ffi_call", "pure_callback", "io_callback"}


def macs(network: Network, image_shape: Sequence[int]) -> int:
    """Counts the multiply-accumulates that one image takes.

    Those of convolutions and matrix products on which the outputs depend, and nothing else: no bias, normalisation,
    activation or pooling.  A convolution takes ``h w c_out k_h k_w c_in / groups`` for its output [h, w, c_out]:
    products with padding count, as is usual, and so do those with the zeros that a transposed convolution puts between
    pixels.  A loop counts as often as it turns, and of branches the most expensive one does.  Papers often call this
    number FLOPs; in floating-point operations it is twice as large.

    Args:
      network: traced with one image of its parameters' type; leaves may be ``jax.ShapeDtypeStruct``.
      image_shape: (h, w, c).

    Returns:
      The multiply-accumulates.

    Raises:
      ValueError: ``image_shape`` is not (h, w, c); or a product lies where it cannot be counted: in a ``while`` loop,
        whose turns the program does not tell, or in a kernel or callback that JAX does not look into.

    >>> net = Network(lambda p, s, x: jax.nn.relu(x.reshape(len(x), -1) @ p["w"]), {"w": jnp.ones((12, 5))})
    >>> macs(net, (2, 2, 3))
    60
    """
    return sum(_by_step(_traced(network, image_shape)).values())


def macs_by_leaf(network: Network, image_shape: Sequence[int]) -> tuple[dict[str, int], int]:
    """Counts what the convolution or product of every parameter leaf takes of the multiply-accumulates of one image.

    Args:
      network: as for ``macs``.
      image_shape: (h, w, c).

    Returns:
      For every leaf by name what the one operation takes through which it enters, 0 if that is a sum or a scaling; and
      what is left: products between activations (attention), and kernels that are no plain operand of one operation
      (tied, standardised, or in a loop: ``print(jp.sites.survey(network, images))`` says why).  Together they are
      ``macs(network, image_shape)``.

    Raises:
      ValueError: as ``macs``.

    >>> params = {"w": jnp.ones((12, 5)), "b": jnp.ones(5)}
    >>> net = Network(lambda p, s, x: x.reshape(len(x), -1) @ p["w"] + p["b"], params)
    >>> macs_by_leaf(net, (2, 2, 3))
    ({'b': 0, 'w': 60}, 0)
    """
    program = _traced(network, image_shape)
    counts = _by_step(program)
    paths = tree.names(network.params)
    sites, _ = find(program, paths, program.arguments[-1])
    # Popped, so that what nobody claims is left.
    own = {path: counts.pop(sites[path].way[-1], 0) if path in sites else 0 for path in paths}
    return own, sum(counts.values())


def parameters(network: Network, *, state: bool = False) -> int:
    """Counts the parameters.

    Args:
      network: leaves may be ``jax.ShapeDtypeStruct``.
      state: whether every number in the state counts too.  With BatchNorm that is the mean and the variance of every
        channel, as in the total that Keras prints.

    Returns:
      How many numbers there are.

    >>> net = Network(lambda p, s, x: x @ p["w"], {"w": jnp.ones((3, 2))}, {"mean": jnp.ones(2)})
    >>> parameters(net), parameters(net, state=True)
    (6, 8)
    """
    return tree.size(network.params) + (tree.size(network.state) if state else 0)


def _traced(network: Network, image_shape: Sequence[int]) -> Program:
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(isinstance(extent, (int, np.integer)) and extent > 0 for extent in shape):
        raise ValueError(
            f"image_shape: expected (h, w, c), three whole numbers above 0, but got {shape}. It is the shape of one "
            "image, without the batch: images.shape[1:]."
        )
    types = [jnp.result_type(leaf) for leaf in jax.tree.leaves(network.params)]
    floats = [kind for kind in types if jnp.issubdtype(kind, jnp.floating)]
    image = jax.ShapeDtypeStruct((1, *shape), jnp.result_type(*floats) if floats else jnp.result_type(float))
    return trace(network.apply, network.params, network.state, image, whole=True)


class _Equation(NamedTuple):
    """One equation of a program, flat or nested; its inputs and outputs are numbers, or variables, or literals."""

    name: str
    params: Mapping[str, Any]
    inputs: Sequence[Any]
    outputs: Sequence[Any]


def _by_step(program: Program) -> dict[int, int]:
    """Counts what every step takes on which the outputs depend, by its position."""
    steps = [_Equation(step.name, step.params, step.inputs, step.outputs) for step in program.steps]
    return _backwards(steps, _variables(program.outputs), program.aval)


def _variables(atoms: Sequence[Any]) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, core.Literal)}


def _backwards(equations: Sequence[_Equation], wanted: set[Any], aval: Callable[[Any], Any]) -> dict[int, int]:
    """Walks from the outputs back, adding to ``wanted`` what they are made of, and counts what it meets."""
    counts = {}
    for index in reversed(range(len(equations))):
        name, params, inputs, outputs = equations[index]
        asked = [output in wanted for output in outputs]
        if not any(asked):
            continue
        made = multiplications(name, params, [aval(atom) for atom in inputs], [aval(atom) for atom in outputs])
        counts[index], needs = (
            (made, [True] * len(inputs)) if made is not None else _other(equations[index], asked, aval)
        )
        wanted.update(_variables([atom for atom, need in zip(inputs, needs, strict=True) if need]))
    return counts


def _other(equation: _Equation, asked: list[bool], aval: Callable[[Any], Any]) -> tuple[int, list[bool]]:
    """Counts what an equation that is no product takes, and says which inputs these of its outputs need."""
    name, params, inputs, _ = equation
    programs = inside(params)
    if name == "scan":
        return _scan(equation, asked, aval)
    if name == "cond":
        counts, needs = zip(*(_nested(branch, asked) for branch in params["branches"]), strict=True)
        return max(counts), [True, *(any(each) for each in zip(*needs, strict=True))]
    if name in _CALLS and len(programs) == 1:
        return _nested(programs[0], asked)
    if name in _OPAQUE or any(_multiplies(each) for each in programs):
        raise ValueError(_uncountable(name))
    return 0, [True] * len(inputs)


def _nested(program: Any, asked: Sequence[bool]) -> tuple[int, list[bool]]:
    jaxpr = opened(program)
    equations = [_Equation(each.primitive.name, each.params, each.invars, each.outvars) for each in jaxpr.eqns]
    wanted = _variables([atom for atom, need in zip(jaxpr.outvars, asked, strict=True) if need])
    counts = _backwards(equations, wanted, lambda atom: atom.aval)
    return sum(counts.values()), [variable in wanted for variable in jaxpr.invars]


def _scan(equation: _Equation, asked: Sequence[bool], aval: Callable[[Any], Any]) -> tuple[int, list[bool]]:
    _, params, inputs, outputs = equation
    body = opened(params["jaxpr"])
    # Inputs are constants, carry and slices, outputs are carry and slices; only slices have an axis more outside.  (How
    # the parameters say so differs between versions of JAX.)
    carried = _whole(zip(outputs, body.outvars, strict=True), aval)
    consts = _whole(zip(inputs, body.invars, strict=True), aval) - carried
    carry, stacked = list(asked[:carried]), asked[carried:]
    while True:  # what one turn needs of the carry, the turn before must make
        count, needs = _nested(body, [*carry, *stacked])
        grown = [old or new for old, new in zip(carry, needs[consts : consts + carried], strict=True)]
        if grown == carry:
            # What goes in as the carry is asked for even by a loop that never turns.
            return params["length"] * count, [*needs[:consts], *grown, *needs[consts + carried :]]
        carry = grown


def _whole(pairs: Iterable[tuple[Any, Any]], aval: Callable[[Any], Any]) -> int:
    return sum(len(aval(outer).shape) == len(inner.aval.shape) for outer, inner in pairs)


def _multiplies(program: Any) -> bool:
    return any(
        each.primitive.name in _PRODUCTS | _OPAQUE or any(_multiplies(inner) for inner in inside(each.params))
        for each in opened(program).eqns
    )


def _uncountable(name: str) -> str:
    if name == "while":
        return (
            "network.apply: expected a number of products that the program tells, but the outputs depend on products "
            "in a while loop, which turns nobody knows how often. Write it with jax.lax.scan, or with "
            "jax.lax.fori_loop between fixed bounds."
        )
    return (
        f"network.apply: expected products that the program shows, but the outputs depend on {name!r}, which cannot be "
        "looked into. Count a network that computes the same with jax.numpy (attention: implementation='xla')."
    )
