"""Names and layouts of another library's weights, and ours: rules that read and write, strict both ways.

A layout is the list of rules between a file and a module.  Reading demands that every name of the file is used, or
dropped by a rule that says why, and that every leaf is filled; writing runs the same rules backwards.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxprune import tree

Arrays = tuple[np.ndarray, ...]


class Rule(NamedTuple):
    """Some tensors of a file that hold some leaves: ``read(tensors) -> leaves`` and its inverse ``write``.

    Attributes:
      tensors: names in the file.
      leaves: names of leaves, "params/..." or "batch_stats/...".
      read: from the tensors to the leaves.
      write: from the leaves to the tensors, bit for bit.
    """

    tensors: tuple[str, ...]
    leaves: tuple[str, ...]
    read: Callable[[Arrays], Arrays]
    write: Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Layout:
    """How a file holds a network.

    Attributes:
      rules: every tensor that matters, once, and every leaf, once.
      dropped: regular expressions of names that are left out, whole names, each with the reason.
      added: what the source's library demands in a file and we do not use, as it is written: name to tensor, or None
        where it may be missing from a file and is not written.
    """

    rules: tuple[Rule, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, np.ndarray | None] = field(default_factory=dict)


def same(tensor: str, leaf: str) -> Rule:
    """Takes an array as it is."""
    return Rule((tensor,), (leaf,), lambda found: found, lambda made: made)


def convolution(tensor: str, leaf: str) -> Rule:
    """Takes a kernel [out, in, h, w] as [h, w, in, out]."""
    return transposed(tensor, leaf, (2, 3, 1, 0))


def linear(tensor: str, leaf: str) -> Rule:
    """Takes a kernel [out, in] as [in, out]."""
    return transposed(tensor, leaf, (1, 0))


def transposed(tensor: str, leaf: str, axes: Sequence[int]) -> Rule:
    """Takes an array with its axes in another order: axis i of the leaf is axis ``axes[i]`` of the tensor."""
    back = tuple(int(axis) for axis in np.argsort(axes))
    return Rule((tensor,), (leaf,), lambda found: (found[0].transpose(axes),), lambda made: (made[0].transpose(back),))


def reshaped(tensor: str, leaf: str, outside: Sequence[int], inside: Sequence[int]) -> Rule:
    """Takes an array of the shape ``outside`` as one of the shape ``inside``, of as many numbers."""
    shapes = (tuple(outside), tuple(inside))
    return Rule(
        (tensor,), (leaf,), lambda found: (found[0].reshape(shapes[1]),), lambda made: (made[0].reshape(shapes[0]),)
    )


def fused(tensor: str, leaves: Sequence[str], matrix: bool = True) -> Rule:
    """Takes one array [k n, ...] apart into k leaves: kernels [n, in], which are transposed, or vectors [n]."""

    def read(found: Arrays) -> Arrays:
        return tuple(part.T if matrix else part for part in np.split(found[0], len(leaves)))

    def write(made: Arrays) -> Arrays:
        return (np.concatenate([part.T if matrix else part for part in made]),)

    return Rule((tensor,), tuple(leaves), read, write)


def norm(tensor: str, leaf: str) -> tuple[Rule, ...]:
    """Takes "weight" and "bias" of a normalisation as "scale" and "bias"."""
    return same(f"{tensor}.weight", f"params/{leaf}/scale"), same(f"{tensor}.bias", f"params/{leaf}/bias")


def dense(tensor: str, leaf: str, bias: bool = True) -> tuple[Rule, ...]:
    """Takes "weight" [out, in] and "bias" of a linear layer as "kernel" [in, out] and "bias"."""
    kernel = linear(f"{tensor}.weight", f"params/{leaf}/kernel")
    return (kernel, same(f"{tensor}.bias", f"params/{leaf}/bias")) if bias else (kernel,)


class ShapeError(ValueError):
    """A tensor of a file has another shape than its leaves ask for."""

    def __init__(self, tensor: str, expected: Sequence[int], found: Sequence[int]) -> None:
        super().__init__(f"{tensor}: expected the shape {tuple(expected)}, but got {tuple(found)}.")


class NamesError(ValueError):
    """Names of a file and of a network do not fit together.

    Attributes:
      missing: names that the file should have.
      extra: names that it should not have.
    """

    def __init__(self, missing: Sequence[str], extra: Sequence[str]) -> None:
        both = (("missing", missing), ("extra", extra))
        parts = [f"{len(names)} {what} ({_few(names)})" for what, names in both if names]
        super().__init__(f"expected exactly the tensors of this network, but got {' and '.join(parts)}.")
        self.missing, self.extra = tuple(missing), tuple(extra)


def dropped(layout: Layout, names: Iterable[str]) -> dict[str, str]:
    """Lists which of these names the layout leaves out, with the reasons.

    >>> dropped(Layout((), {"queue.*": "keys of other images"}), ["queue", "conv.weight"])
    {'queue': 'keys of other images'}
    """
    found = {}
    for name in names:
        reasons = [why for pattern, why in layout.dropped.items() if re.fullmatch(pattern, name)]
        if reasons or name in layout.added:
            found[name] = (reasons or ["made anew where it is needed"])[0]
    return found


def shapes(layout: Layout, like: Any) -> dict[str, tuple[int, ...]]:
    """Lists the tensors that a file must have, with their shapes.

    Args:
      layout: the rules.
      like: the variables of the module, as arrays or ``jax.ShapeDtypeStruct``.

    Raises:
      ValueError: the rules do not fill each leaf once.
    """
    leaves = tree.by_name(like)
    _demand_each_leaf_once(layout, list(leaves))
    # Broadcast zeros have shapes, and take no memory.
    empty = {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in leaves.items()}
    return {
        name: made.shape
        for rule in layout.rules
        for name, made in zip(rule.tensors, rule.write(tuple(empty[leaf] for leaf in rule.leaves)), strict=True)
    }


def read(layout: Layout, tensors: Mapping[str, np.ndarray], like: Any) -> Any:
    """Makes the variables of a module from the tensors of a file.

    Args:
      layout: the rules.
      tensors: all of the file's, by name.
      like: the variables that the module has, as arrays or ``jax.ShapeDtypeStruct``; it decides the shapes.

    Returns:
      Variables, float32: every number is the file's, but for those of float64, which are rounded.

    Raises:
      NamesError: names that the file lacks, or has beside those of the network and those dropped.
      ShapeError: a tensor does not fit.
      ValueError: numbers that are not floating-point or not finite in float32.
    """
    expected = shapes(layout, like)
    missing = [name for name in expected if name not in tensors]
    extra = sorted(set(tensors) - set(expected) - set(dropped(layout, tensors)))
    if missing or extra:
        raise NamesError(missing, extra)
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ShapeError(name, shape, tensors[name].shape)
    leaves = {}
    for rule in layout.rules:
        made = rule.read(tuple(_float32(name, tensors[name]) for name in rule.tensors))
        # Copies in C order, whose bytes do not depend on the file that they came from.
        leaves |= {leaf: np.array(value, order="C") for leaf, value in zip(rule.leaves, made, strict=True)}
    return tree.map_named(lambda name, _: leaves[name], like)


def write(layout: Layout, variables: Any) -> dict[str, np.ndarray]:
    """Makes the tensors of a file from the variables of a module: the inverse of ``read``, bit for bit.

    Raises:
      ValueError: the variables are not those of the layout's module.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in tree.by_name(variables).items()}
    _demand_each_leaf_once(layout, list(leaves))
    tensors = {}
    for rule in layout.rules:
        made = rule.write(tuple(leaves[leaf] for leaf in rule.leaves))
        tensors |= {name: np.array(value, order="C") for name, value in zip(rule.tensors, made, strict=True)}
    return tensors | {name: value for name, value in layout.added.items() if value is not None}


def _demand_each_leaf_once(layout: Layout, leaves: Sequence[str]) -> None:
    filled = [leaf for rule in layout.rules for leaf in rule.leaves]
    if sorted(filled) != sorted(leaves):
        missing, extra = set(leaves) - set(filled), set(filled) - set(leaves)
        twice = {leaf for leaf in filled if filled.count(leaf) > 1}
        raise ValueError(
            f"layout: expected a rule for each leaf, once, but leaves without one are {_few(sorted(missing))}, rules "
            f"without a leaf are {_few(sorted(extra))}, and leaves with several are {_few(sorted(twice))}. Is the "
            "layout that of another shape?"
        )


def _float32(name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype.kind != "f":
        raise ValueError(f"{name}: expected floating-point numbers, but got {tensor.dtype}. Is it a quantised network?")
    with np.errstate(over="ignore", invalid="ignore"):
        made = np.asarray(tensor, np.float32)
    if not np.all(np.isfinite(made)):
        raise ValueError(
            f"{name}: expected finite float32 numbers, but {int(np.sum(~np.isfinite(made)))} are NaN, infinite or too "
            "large. The file is damaged, or from a training that diverged."
        )
    return made


def _few(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
