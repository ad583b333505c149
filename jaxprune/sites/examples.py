"""Whether a function treats every example alone, so that it may be called with some of them at a time.

What is followed is the program itself, not its derivative, which is blind to what is held constant: a network that
subtracts the mean of its batch behind a ``stop_gradient`` mixes its examples all the same.  Every value of the program
either holds the examples along one axis, each made of its own example by what is the same for all, or depends on none,
or is ``MIXED``.  What is not known mixes; nothing is guessed.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Number
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxprune.sites.axes import MIXED, RULES, Along
from jaxprune.sites.depthwise import to_read
from jaxprune.sites.operations import inside, opened
from jaxprune.sites.program import Step

# Number by number, whatever the function: an input has the shape of the result, or one index along some axes.
_ELEMENTWISE = {
    *("add", "add_any", "sub", "mul", "div", "rem", "pow", "integer_pow", "max", "min", "clamp", "atan2", "nextafter"),
    *("neg", "abs", "sign", "floor", "ceil", "round", "square", "sqrt", "rsqrt", "cbrt", "is_finite"),
    *("exp", "exp2", "expm1", "log", "log1p", "logistic", "erf", "erfc", "erf_inv", "lgamma", "digamma"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "select_n"),
    *(
        "convert_element_type",
        "reduce_precision",
        "real",
        "copy",
        "copy_p",
        "name",
        "sharding_constraint",
        "stop_gradient",
    ),
}
# They work along axes that a parameter names, and alike on all others.
_REDUCING = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")
_ALONG = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split")
_WINDOWS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")
_SHAPED = ("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "rev", "pad", "stack", "unstack", "gather")
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
# Of these there may be more or fewer where an axis has one index only.
_LAYOUT = ("broadcast_in_dim", "reshape", "squeeze", "tile", "copy", "copy_p")

# Parameters that say how long axes are, that of the examples among them; shapes are compared by themselves.
_EXTENTS = {"shape", "limit_indices", "slice_sizes", "sizes", "new_sizes", "length"}

# Of a value that depends on no example: the axes along which it is known to be the same everywhere.
Whole = frozenset[int]


def are_alone(function: Callable[..., Any], whole: Any, split: Any, parts: int) -> bool:
    """Whether a function of some of the examples is proven to return what it would of these among all.

    Args:
      function: ``(whole, split) -> tree``, pure; examples first in every leaf that it returns.
      whole: a tree of arrays, or of shapes.
      split: as ``whole``, with the examples first in every leaf.
      parts: how many parts the examples are split into, evenly.

    Returns:
      Whether every example is proven to be treated alone, and alike, among all; and the program of one part does the
      same steps.

    >>> import jax.numpy as jnp
    >>> images = jnp.ones((4, 3))
    >>> are_alone(lambda weights, images: jnp.tanh(images @ weights), jnp.ones((3, 2)), images, 2)
    True
    >>> are_alone(lambda weights, images: images - jax.lax.stop_gradient(images.mean(0)), 0.0, images, 2)
    False
    """
    leaves, structure = jax.tree.flatten((whole, split))
    shapes = tuple((tuple(np.shape(leaf)), jax.numpy.result_type(leaf)) for leaf in leaves)
    config: Any = jax.config
    return _are_alone(function, structure, shapes, len(jax.tree.leaves(whole)), parts, config.jax_enable_x64)


@lru_cache(maxsize=128)
def _are_alone(function: Any, structure: Any, shapes: Any, first: int, parts: int, float64: bool) -> bool:
    counts = {shape[0] if shape else 0 for shape, _ in shapes[first:]}
    (examples,) = counts if len(counts) == 1 else (0,)
    if examples < 2 or examples % parts:
        return False
    some = [((examples // parts, *shape[1:]), kind) for shape, kind in shapes[first:]]
    try:
        whole, part = (
            to_read(function, *structure.unflatten([jax.ShapeDtypeStruct(*each) for each in given]))
            for given in (shapes, [*shapes[:first], *some])
        )
    except (TypeError, ValueError, AssertionError):  # it takes so many examples only
        return False
    states: list[Any] = [Whole()] * first + [Along(0)] * (len(shapes) - first)
    words: tuple[list[Any], list[Any]] = ([], [])
    found = _through(whole, states, examples, words[0])
    _through(part, states, examples // parts, words[1])
    return all(each == Along(0) for each in found) and words[0] == words[1]


def _through(program: Any, states: Sequence[Any], examples: int, words: list[Any]) -> list[Any]:
    """What is known of the outputs of a program, from what is known of its inputs.

    ``words``: gets its steps and the single numbers in it, alike for any number of examples.
    """
    jaxpr = opened(program)
    known = dict(zip(jaxpr.invars, states, strict=True)) | dict.fromkeys(jaxpr.constvars, Whole())
    for value in getattr(program, "consts", ()):
        words.append((np.shape(value), np.asarray(value).tobytes() if np.size(value) == 1 else ""))
    for equation in jaxpr.eqns:
        given = [Whole() if isinstance(atom, core.Literal) else known[atom] for atom in equation.invars]
        words += _words(equation, given)
        if equation.primitive.name in _CALLS:
            (inner, *_) = inside(equation.params)
            made = _through(inner, given, examples, words)
        else:
            made = [_of_step(equation, given, value.aval, examples) for value in equation.outvars]
        known.update(zip(equation.outvars, made, strict=True))
    return [Whole() if isinstance(atom, core.Literal) else known[atom] for atom in jaxpr.outvars]


def _words(equation: Any, given: list[Any]) -> list[Any]:
    """What of an equation must not change with the number of examples."""
    name = equation.primitive.name
    if name in _LAYOUT:
        return []
    literals = [str(atom.val) for atom in equation.invars if isinstance(atom, core.Literal)]
    # Of as many ones as there are examples the sum says how many.
    counts = name not in _ELEMENTWISE and all(isinstance(each, frozenset) for each in given)
    shapes = [
        _rest(np.shape(atom.aval), Whole() if counts else each)
        for atom, each in zip(equation.invars, given, strict=True)
        if hasattr(atom.aval, "shape")
    ]
    made = [np.shape(value.aval) for value in equation.outvars] if counts and name not in _CALLS else []
    rest = [(key, value) for key, value in equation.params.items() if key not in _EXTENTS and _is_plain(value)]
    return [(name, *literals, *rest, *shapes, *made)]


def _is_plain(value: Any) -> bool:
    """Whether a parameter is a number, a word, or some of them."""
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, (str, Number))


def _rest(shape: tuple[int, ...], state: Any) -> tuple[Any, ...]:
    """The shape of a value but for what may change with the number of examples."""
    if isinstance(state, Along):
        return (state.before, state.after, *shape[: state.axis], *shape[state.axis + 1 :])
    free = state | _single(shape) if isinstance(state, frozenset) and state else ()
    return tuple(extent for axis, extent in enumerate(shape) if axis not in free)


def _of_step(equation: Any, given: list[Any], aval: Any, examples: int) -> Any:
    """What is known of one output of an equation."""
    if MIXED in given:
        return MIXED
    marked = {place: each for place, each in enumerate(given) if isinstance(each, Along)}
    shapes = [np.shape(atom.aval) if hasattr(atom.aval, "shape") else () for atom in equation.invars]
    if not marked:
        return _constant(equation, given, shapes, aval)
    rest = {place: each for place, each in enumerate(given) if place not in marked}
    along = _followed(equation, marked, rest, shapes, aval.shape)
    return along if along is not None and along.is_of(aval.shape, examples) else MIXED


def _constant(equation: Any, given: list[Any], shapes: list[Any], aval: Any) -> Whole:
    """The axes along which a value is the same, that depends on no example."""
    name, params = equation.primitive.name, equation.params
    if name == "broadcast_in_dim":
        places = params["broadcast_dimensions"]
        same = {at for old, at in enumerate(places) if old in given[0] or shapes[0][old] < params["shape"][at]}
        return Whole(same | (set(range(len(params["shape"]))) - set(places)))
    if name == "tile":
        return _single(shapes[0])
    if name == "reshape":
        before, after = shapes[0], aval.shape
        return Whole(
            new
            for new in range(len(after))
            for old in given[0]
            if before[old] == after[new] and math.prod(before[:old]) == math.prod(after[:new])
        )
    if name in _ELEMENTWISE:
        every = [each | _single(shape) for each, shape in zip(given, shapes, strict=True) if shape]
        return Whole(set(range(len(aval.shape))).intersection(*every))
    return Whole()


def _single(shape: tuple[int, ...]) -> Whole:
    """The axes that have one index."""
    return Whole(axis for axis, extent in enumerate(shape) if extent == 1)


def _ruled(name: str, equation: Any, marked: dict[int, Along], shapes: Any, result: Any) -> Any:
    return RULES[name](Step(equation.primitive, equation.params, (), ()), marked, shapes, result)


def _followed(equation: Any, marked: dict[int, Along], rest: dict[int, Whole], shapes: Any, result: Any) -> Any:
    """Where the examples lie in what an equation makes; None where they are not followed."""
    name, params = equation.primitive.name, equation.params
    alike = next(iter(marked.values())) if len(set(marked.values())) == 1 else None
    # What varies along the examples, and does not come from them, knows which example is which.
    axis = None if alike is None else alike.axis
    same = axis is not None and all(
        not shapes[place] or axis in known | _single(shapes[place]) for place, known in rest.items()
    )
    if name in _ELEMENTWISE:
        return alike if same else None
    if name == "dot_general":
        return _product(equation, marked, shapes, result)
    if name == "conv_general_dilated":
        return _ruled(name, equation, marked, shapes, result) if params["batch_group_count"] == 1 else None
    if name in _REDUCING:
        return _ruled("reduce_sum", equation, marked, shapes, result)
    if name in _ALONG:
        return _ruled("cumsum", equation, marked, shapes, result)
    if name in _WINDOWS:
        return _ruled("reduce_window_sum", equation, marked, shapes, result)
    if name == "sort":
        return alike if same and params["dimension"] != axis else None
    if name == "concatenate":
        return _ruled(name, equation, marked, shapes, result) if same else None
    if name in _SHAPED and list(marked) == [0]:
        # Of a gather the indices say the same of all examples, unless they are paired with them.
        paired = name == "gather" and params["dimension_numbers"].operand_batching_dims
        return None if paired else _ruled(name, equation, marked, shapes, result)
    return None


def _product(equation: Any, marked: dict[int, Along], shapes: Any, result: Any) -> Along | None:
    _, batched = equation.params["dimension_numbers"]
    if len(marked) == 1:
        ((side, along),) = marked.items()
        # Paired with the indices of something else, every example has weights of its own.
        return None if along.axis in batched[side] else _ruled("dot_general", equation, marked, shapes, result)
    places = {list(batched[side]).index(each.axis) for side, each in marked.items() if each.axis in batched[side]}
    paired = len(places) == 1 and all(each.axis in batched[side] for side, each in marked.items())
    merged = {(each.before, each.after) for each in marked.values()}
    return Along(places.pop(), *merged.pop()) if paired and len(merged) == 1 else None
