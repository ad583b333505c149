"""Derivatives inside a network: gradients at its places, and ReLUs that pass only what speaks for the output.

A place is a value that the network tags, or the output of the operation through which a leaf of its parameters enters
(``"stage1_block0/conv1/kernel"``: the output of that convolution, before anything is added to it).
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core

from jaxprune import tree
from jaxprune.network import Network
from jaxprune.sites.kernels import find, needed
from jaxprune.sites.program import Program, Step, holds_program, trace
from jaxprune.types import Apply


def gradients_at(
    network: Network, images: Any, sites: Sequence[str], of: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Evaluates places inside a network, and the gradients there of a number made from the outputs.

    With z the value at a site and f what follows it, ``z`` and ``d of(f(z)) / dz``.

    Args:
      network: the network.
      images: [b, h, w, c].
      sites: tags, and names of leaves of the parameters.
      of: ``outputs [b, c] -> scalar``.

    Returns:
      The values, and the gradients of the same shapes, in the order of the sites.

    Raises:
      ValueError: no such site; the message lists those that there are.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(3 * x, "tripled") ** 2, {})
    >>> gradients_at(net, jnp.ones((1, 2)), ["tripled"], jnp.sum)
    ((Array([[3., 3.]], dtype=float32),), (Array([[6., 6.]], dtype=float32),))
    """
    arguments = (network.params, network.state, images)
    program = trace(network.apply, *arguments)
    numbers = [_place(program, network, site) for site in sites]

    def moved(moves: dict[int, Any]) -> tuple[Any, Any]:
        change = {number: partial(jnp.add, move) for number, move in moves.items()}
        outputs, kept = program.run(jax.tree.leaves(arguments), change, keep=numbers)
        return of(outputs[0]), kept

    zeros = {number: jnp.zeros(program.avals[number].shape, program.avals[number].dtype) for number in numbers}
    gradients, values = jax.grad(moved, has_aux=True)(zeros)
    return tuple(values[number] for number in numbers), tuple(gradients[number] for number in numbers)


def before(network: Network, images: Any, site: str) -> dict[str, tuple[int, ...]]:
    """Lists the tagged values that are made before a place, the nearest first, with their shapes.

    Args:
      network: the network.
      images: [b, h, w, c], or a ``jax.ShapeDtypeStruct``: only shape and type matter.
      site: a tag, or the name of a leaf of the parameters.

    Raises:
      ValueError: no such site.

    >>> from jax.ad_checkpoint import checkpoint_name
    >>> net = Network(lambda p, s, x: checkpoint_name(checkpoint_name(x, "first").sum(1), "second"), {})
    >>> before(net, jax.ShapeDtypeStruct((1, 2), "float32"), "second")
    {'first': (1, 2)}
    """
    program = trace(network.apply, network.params, network.state, images)
    number = _place(program, network, site)
    found: dict[str, tuple[int, ...]] = {}
    for step in program.steps:
        if number in step.outputs:
            break
        if step.name == "name":
            found[step.params["name"]] = program.avals[step.outputs[0]].shape
    return dict(reversed(found.items()))


def guided(network: Network) -> Network:
    """Makes the network whose ReLUs let back only positive gradients: ``max(g, 0) 1[z > 0]`` for ``g 1[z > 0]``.

    Its outputs are the same.  The ReLUs are found in the program: ``jax.nn.relu``, ``max(x, 0)`` and
    ``where(x > 0, x, 0)`` of whatever depends on the images.  Other activations keep their derivatives: ReLU6, however
    it is written (``jax.nn.relu6``, ``clip(x, 0, 6)``, ``min(relu(x), 6)``), as in Captum, and the maximum that guards
    a variance, ``max(E[x^2] - E[x]^2, 0)``, in Flax's LayerNorm.

    Args:
      network: evaluated in evaluation mode; one with an equal ``apply`` gives one with an equal ``apply``.

    Returns:
      A network of the same parameters and state.  It can be differentiated backwards, once.

    Raises:
      ValueError: when it is evaluated: the network has no ReLU between images and outputs, or has one inside a loop or
        a branch, where it is not replaced.

    Source: Springenberg, Dosovitskiy, Brox and Riedmiller (2014), arXiv 1412.6806.

    >>> net = Network(lambda p, s, x: -jax.nn.relu(x), {})
    >>> jax.grad(lambda x: net(x).sum())(jnp.array([[2.0, -1.0]])).tolist()
    [[-1.0, 0.0]]
    >>> jax.grad(lambda x: guided(net)(x).sum())(jnp.array([[2.0, -1.0]])).tolist()
    [[0.0, 0.0]]
    """
    return Network(_Guided(network.apply), network.params, network.state)


@dataclass(frozen=True)
class _Guided:
    apply: Apply

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        arguments = (params, state, images)
        program = trace(self.apply, *arguments)
        varying = program.arguments[-1:]
        live = _depending(program, varying)[0] & needed(program)
        looped = [step.name for index, step in enumerate(program.steps) if index in live and _loops_over_relu(step)]
        if looped:
            raise ValueError(
                f"network: it has a ReLU inside a {looped[0]}, where its gradient can't be changed. Unroll the loop, "
                "or use a method that is not guided."
            )
        outputs = [program.steps[index].outputs[0] for index in _relus(program, varying) if index in live]
        if not outputs:
            raise ValueError(
                "network: guided methods change the gradient of ReLUs, but between images and outputs this network has "
                "none. For other activations use a method that is not guided, such as attribution.gradient()."
            )
        leaves, _ = program.run(jax.tree.leaves(arguments), dict.fromkeys(outputs, _only_positive))
        return leaves[0]


@jax.custom_vjp
def _only_positive(rectified: Any) -> Any:
    """The output of a ReLU, whose gradient is clamped from below at 0, and 0 where the output is."""
    return rectified


# The output is 0 wherever the ReLU's gradient has to be 0; max(x, 0) alone would pass half of it where x is 0.
_only_positive.defvjp(
    lambda rectified: (rectified, rectified > 0),
    lambda passes, gradient: (jnp.where(passes, jnp.maximum(gradient, 0), jnp.zeros_like(gradient)),),
)


def _place(program: Program, network: Network, site: str) -> int:
    """The number of a place; a name that is given twice means the last."""
    tagged = {step.params["name"]: step.outputs[0] for step in program.steps if step.name == "name"}
    if site in tagged:
        return tagged[site]
    served, _ = find(program, tree.names(network.params), program.arguments[-1])
    if site in served:
        return served[site].output
    kernels = [path for path, place in served.items() if place.kind in ("dense", "convolution")]
    near = difflib.get_close_matches(site, [*tagged, *served], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"site: the network has no place {site!r}.{hint} It tags: {', '.join(tagged) or 'nothing'}. Its kernels: "
        f"{', '.join(kernels) or 'none that enters through one product'}. A value inside a function with a derivative "
        "of its own, or inside a loop, has no place."
    )


def _depending(program: Program, starts: Sequence[int]) -> tuple[set[int], set[int]]:
    """The positions of the steps that depend on any of these values; and the values that do, with these."""
    reached, found = set(starts), set()
    for index, step in enumerate(program.steps):
        if any(atom in reached for atom in _values(step)):
            found.add(index)
            reached.update(step.outputs)
    return found, reached


def _relus(program: Program, varying: Sequence[int]) -> list[int]:
    """The positions of the steps whose output is a ReLU of a value, with no limit above.

    Args:
      program: where they are.
      varying: the arguments whose functions are values; what depends on none of them can be a limit.
    """
    makers = {number: step for step in program.steps for number in step.outputs}
    zeros = {number for number, value in program.constants.items() if _is_zero(value)}
    found = []
    for index, step in enumerate(program.steps):
        if step.name in _SPREADS and _is_zero_atom(step.inputs[0], zeros):
            zeros.update(step.outputs)
        if _is_relu(step, makers, zeros):
            found.append(index)
    _, reached = _depending(program, varying)
    return [index for index in found if not _is_limited(program, program.steps[index], makers, reached)]


def _is_limited(program: Program, relu: Step, makers: dict[int, Step], reached: set[int]) -> bool:
    """Whether a ReLU is part of a ReLU6 or the like: ``min(x, limit)`` is all that reads it, or what it reads."""

    def limits(step: Step | None) -> bool:
        return step is not None and step.name == "min" and sum(atom in reached for atom in _values(step)) == 1

    (output,) = relu.outputs
    readers = [step for step in program.steps if output in _values(step)]
    limited = bool(readers) and all(map(limits, readers)) and output not in program.outputs
    return limited or any(limits(makers.get(number)) for number in _values(relu))


def _values(step: Step) -> list[int]:
    """The inputs of a step without its literals."""
    return [atom for atom in step.inputs if not isinstance(atom, core.Literal)]


# What makes zeros of a zero.
_SPREADS = frozenset({"broadcast_in_dim", "convert_element_type", "reshape", "copy"})


def _is_relu(step: Step, makers: dict[int, Step], zeros: set[int]) -> bool:
    if step.name == "custom_jvp_call":
        inner = _opened(step.params["call_jaxpr"])
        relus = _relus(inner, inner.arguments)
        return len(relus) == len(inner.steps) == 1 and inner.steps[0].outputs == inner.outputs
    if step.name == "max":
        others = [atom for atom in step.inputs if not _is_zero_atom(atom, zeros)]
        return len(others) == 1 and not _is_variance(others[0], makers)
    if step.name == "select_n" and len(step.inputs) == 3:
        choice, without, value = step.inputs
        test = _maker(choice, makers)
        if test is None or test.name not in ("gt", "ge") or test.inputs[0] != value:
            return False
        return _is_zero_atom(test.inputs[1], zeros) and _is_zero_atom(without, zeros)
    return False


def _is_variance(atom: Any, makers: dict[int, Step]) -> bool:
    """Whether a value is a difference whose second term is a square: E[x^2] - E[x]^2."""
    step = _maker(atom, makers)
    square = _maker(step.inputs[1], makers) if step and step.name == "sub" else None
    if square is None:
        return False
    return (
        square.name == "square"
        or (square.name == "integer_pow" and square.params["y"] == 2)
        or (square.name == "mul" and square.inputs[0] == square.inputs[1])
    )


def _maker(atom: Any, makers: dict[int, Step]) -> Step | None:
    return None if isinstance(atom, core.Literal) else makers.get(atom)


def _is_zero_atom(atom: Any, zeros: set[int]) -> bool:
    return _is_zero(atom.val) if isinstance(atom, core.Literal) else atom in zeros


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tracer) or not jnp.issubdtype(jnp.result_type(value), jnp.number):
        return False
    return not np.any(value)


def _opened(inner: Any) -> Program:
    closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
    return trace(core.jaxpr_as_fun(closed), *(_shape(variable.aval) for variable in closed.jaxpr.invars))


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _loops_over_relu(step: Step) -> bool:
    """Whether a step that runs a program of its own, other than one with its own derivative, has a ReLU in it."""
    if not holds_program(step) or step.name.startswith("custom_"):
        return False
    inner = [value for value in jax.tree.leaves(step.params) if isinstance(value, (core.Jaxpr, core.ClosedJaxpr))]
    programs = [_opened(value) for value in inner]
    return any(_relus(program, program.arguments) or any(map(_loops_over_relu, program.steps)) for program in programs)
