"""Rules for what is done to every number by itself, and for sums, maxima and orders along an axis."""

from collections.abc import Sequence

import numpy as np

from jaxprune.structured.discovery.counting import RECOMPUTED
from jaxprune.structured.discovery.facts import Facts, Step, Value
from jaxprune.structured.discovery.indices import STAYS, Nodes

Axes = tuple[Nodes, ...]

ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bessel_i0e",
        "bessel_i1e",
        "cbrt",
        "ceil",
        "clamp",
        "complex",
        "conj",
        "convert_element_type",
        "copy",
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "eq_to",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "igamma",
        "igammac",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "le_to",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "lt_to",
        "max",
        "min",
        "mul",
        "mulhi",
        "name",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "polygamma",
        "population_count",
        "clz",
        "pow",
        "random_gamma_grad",
        "real",
        "reduce_precision",
        "regularized_incomplete_beta",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sharding_constraint",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
        "pvary",
        "pbroadcast",
        "reshard",
        "mesh_cast",
        "zeta",
    ]
)
REDUCTIONS = frozenset(
    [
        "reduce_sum",
        "reduce_max",
        "reduce_min",
        "reduce_prod",
        "reduce_and",
        "reduce_or",
        "reduce_xor",
        "argmax",
        "argmin",
        "psum",  # over an axis whose name vmap has given a place
    ]
)
CUMULATIVE = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
WINDOWS = frozenset(
    ["reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window_mul"]
)


def elementwise(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """Every index of the result is the same index of every operand; an axis of length 1 serves all."""
    shape = step.shapes[0]
    result: list[Nodes] = []
    for axis, length in enumerate(shape):
        here: list[Nodes] = []
        spread = 0
        for operand in operands:
            if len(operand.axes) != len(shape):
                spread |= operand.marks
            elif len(operand.axes[axis]) == length:
                here.append(operand.axes[axis])
            else:
                facts.indices.fix(operand.axes[axis], "one index serves all of another axis")
                spread |= operand.marks
        nodes = here[0] if here else facts.indices.fresh(length)
        for other in here[1:]:
            facts.indices.join(nodes, other)
        facts.spread(nodes, spread)
        result.append(nodes)
    return [tuple(result) for _ in step.shapes]


def identity(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """Every result is its operand."""
    return [operand.axes for operand in operands]


def recast(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """The same bits as numbers of another type, of the same size or not."""
    if operand.shape == step.shapes[0]:
        return [operand.axes]
    for nodes in operand.axes:
        facts.indices.fix(nodes, "bits as numbers of another size")
    return [tuple(np.full(length, STAYS) for length in step.shapes[0])]


def reduction(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """A sum or maximum over an axis: its indices stay, since their number may be in the program (a mean).

    Where statistics are recomputed, it is followed instead.
    """
    gone = step.params["axes"]
    recomputed = facts.counts is not None and not facts.sealed and step.name in RECOMPUTED
    for operand in () if recomputed else operands:
        for axis in gone:
            facts.indices.fix(operand.axes[axis], _over(step.name))
    kept = [axis for axis in range(len(operands[0].axes)) if axis not in gone]
    return [tuple(result) for result in _together(facts, operands, kept, len(step.shapes))]


def _over(name: str) -> str:
    words = {
        "reduce_sum": "a sum or mean over the units",
        "psum": "a sum over the units",
        "reduce_max": "a maximum over the units",
    }
    return words.get(name, f"{name} over the units")


def _together(facts: Facts, operands: Sequence[Value], kept: Sequence[int], results: int) -> list[list[Nodes]]:
    """The axes of the first operand that are kept, those of the others joined to them."""
    for axis in kept:
        for other in operands[1:]:
            facts.indices.join(operands[0].axes[axis], other.axes[axis])
    return [[operands[0].axes[axis] for axis in kept] for _ in range(results)]


def cumulative(facts: Facts, step: Step, operand: Value) -> list[Axes]:
    """A running sum: the indices of its axis stay."""
    facts.indices.fix(operand.axes[step.params["axis"]], f"{step.name} along the units")
    return [operand.axes]


def ordered(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """A sort, or the first of it: the indices of its axis stay."""
    axis = step.params.get("dimension", step.params.get("axis", -1)) % len(operands[0].axes)
    for operand in operands:
        facts.indices.fix(operand.axes[axis], f"{step.name} along the units")
    kept = range(len(operands[0].axes))
    results = _together(facts, operands, [one for one in kept if one != axis], len(step.shapes))
    lengths = [shape[axis] for shape in step.shapes]
    return [(*one[:axis], np.full(length, STAYS), *one[axis:]) for one, length in zip(results, lengths, strict=True)]


def window(facts: Facts, step: Step, *operands: Value) -> list[Axes]:
    """A maximum or sum over windows: indices stay but along axes where a window is one index."""
    params = step.params
    fields = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    dense = operands[: len(step.shapes)]
    for operand in operands[len(step.shapes) :]:  # where it starts from: a number
        for nodes in operand.axes:
            facts.indices.fix(nodes, step.name)
    result = []
    for axis, length in enumerate(step.shapes[0]):
        single = all(params[name][axis] == 1 for name in fields if name in params)
        alone = single and tuple(params["padding"][axis]) == (0, 0)
        for operand in dense:
            if not alone:
                facts.indices.fix(operand.axes[axis], "windows along the units")
            else:
                facts.indices.join(dense[0].axes[axis], operand.axes[axis])
        result.append(dense[0].axes[axis] if alone else np.full(length, STAYS))
    return [tuple(result) for _ in step.shapes]
