"""Preconditions of batches, of labels, and of what a network returns for them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.check.trees import finite, first_line, kind_of, lies_here, short

ENTRIES = ("image", "label", "teacher", "weight")
"""What the library reads of a batch; a loss of the user's own may read more."""


def label_range(name: str, values: Any, classes: int) -> np.ndarray:
    """Checks that labels are integers in [0, classes)."""
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"{name}: expected integer class labels, but got {values.dtype}.")
    outside = values[(values < 0) | (values >= classes)]
    if outside.size:
        raise ValueError(
            f"{name}: expected labels in [0, {classes}), but found {int(outside[0])}. Raise the number of classes, "
            "relabel, or leave out what has no label."
        )
    return values


def labels(name: str, values: Any, classes: int) -> None:
    """Checks that labels are integers in [0, classes) and that every class occurs."""
    empty = np.setdiff1d(np.arange(classes), label_range(name, values, classes))
    if empty.size:
        raise ValueError(
            f"{name}: class {int(empty[0])} has no example ({empty.size} of {classes} classes are empty). Leave those "
            "classes out of the task, or use more data."
        )


def batch(value: Mapping[str, Any], name: str = "batch", keys: Iterable[str] = ("image",)) -> None:
    """Checks a batch: something of each of one or more examples in every entry, and weights that are not negative.

    ``keys``: what has to be there.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a batch, {{'image': ..., 'label': ...}}, but got a {type(value).__name__}.")
    for key in keys:
        if key not in value:
            raise ValueError(
                f"{name}: expected the keys {', '.join(map(repr, keys))} and optionally 'weight', but got "
                f"{sorted(value)}."
            )
    for key, entry in value.items():
        if isinstance(entry, (Mapping, tuple, list)) or not np.shape(entry):
            remedy = "Leave out what is not of the examples, and put parts together into one array."
            raise ValueError(
                f"{name}: expected every entry as one array with an axis of the examples first, but {key!r} is "
                f"{kind_of(entry)}. {'Make it one: numpy.asarray(...).' if isinstance(entry, list) else remedy}"
            )
        if key.removesuffix("s") in ENTRIES and key not in ENTRIES:
            raise ValueError(
                f"{name}: an entry is called {key!r}, which nothing reads. Did you mean {key.removesuffix('s')!r}?"
            )
    if "weight" in value and np.ndim(value["weight"]) != 1:
        raise ValueError(
            f"{name}: expected one weight for each example, but got weights of shape {np.shape(value['weight'])}. "
            "Write "
            "weight.reshape(-1)."
        )
    sizes = {key: np.shape(entry)[0] for key, entry in value.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{name}: expected as many labels and weights as images, but the lengths are {sizes}.")
    if 0 in sizes.values():
        raise ValueError(f"{name}: expected at least one example, but it is empty. Is the split or the task empty?")
    if "weight" in value and not isinstance(value["weight"], Tracer):
        weight = value["weight"]
        # jnp where the array may lie on other hosts; NumPy cannot read it there.
        lowest = jnp.min(weight) if isinstance(weight, jax.Array) else np.min(weight)
        if not isinstance(lowest, Tracer) and lowest < 0:
            raise ValueError(f"{name}: expected weights of 0 or more, but found {lowest}.")


def batches(value: Any, name: str = "batches") -> Iterable[Any]:
    """Checks that there are several batches, and returns what can be read again and again.

    Batches that are not listed have arrays of their own whenever they are read, see ``each``.
    """
    if hasattr(value, "keys"):
        raise TypeError(f"{name}: expected a list of batches, but got a single one. Pass [batch].")
    if not isinstance(value, Iterable) and not hasattr(value, "__getitem__"):
        raise TypeError(f"{name}: expected a list of batches, but got a {type(value).__name__}. Pass [batch, ...].")
    if isinstance(value, Iterator):
        return list(each(value))
    return value if isinstance(value, (Sequence, _Read)) else _Read(value)


def each(value: Iterable[Any]) -> Iterator[Any]:
    """Yields batches with arrays of their own, but those that are listed.

    A loader may write the next batch into the memory of the last one, while the device still reads that, or after it
    was put into a list.
    """
    kept = isinstance(value, (Sequence, _Read))
    for one in value:
        if kept or not isinstance(one, Mapping):
            yield one
        else:
            yield {name: part.copy() if isinstance(part, np.ndarray) else part for name, part in one.items()}


class _Read:
    """Batches of a loader, with arrays of their own; all else is the loader's."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return each(iter(self._loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)


def takes(network: Any, images: Any, name: str = "batches") -> None:
    """Checks, by shapes alone, that a network takes images."""
    try:
        jax.eval_shape(network.apply, network.params, network.state, images)
    except Exception as error:  # whatever a network raises for images that it does not take
        raise ValueError(
            f"{name}: expected images that the network takes, but of {kind_of(images)} it says {first_line(error)}. "
            "Pass images of the shape and type that it was made for."
        ) from error


def finite_batch(batch: Mapping[str, Any], name: str = "batch") -> None:
    """Checks that images and labels of every example that counts are finite.  Does nothing under a transformation."""
    counting = {key: value for key, value in batch.items() if key != "weight"}
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(dict(batch))) or not _are_arrays(batch):
        return
    if "weight" in batch:
        finite(f"{name}: weight", batch["weight"], "Padding has the weight 0.")
        counting = {key: _that_counts(value, batch["weight"]) for key, value in counting.items()}
    finite(name, counting, "Inspect the preprocessing, or give the example the weight 0.")


def _that_counts(value: Any, weight: Any) -> Any:
    """The entries of the examples of weight above 0; zero for the others."""
    if lies_here(value) and lies_here(weight):
        return np.asarray(value)[np.asarray(weight) > 0]
    return _that_counts_there(value, weight)


@jax.jit
def _that_counts_there(value: Any, weight: Any) -> jax.Array:
    return jnp.where((weight > 0).reshape(-1, *[1] * (value.ndim - 1)), value, jnp.zeros((), value.dtype))


def _are_arrays(tree: Any) -> bool:
    return all(not isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(dict(tree)))


def floating_images(images: Any) -> None:
    """Checks that a module gets floating-point images: bytes would be taken as numbers up to 255."""
    if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
        raise TypeError(
            f"images: expected floating-point numbers, normalised, but got {jnp.result_type(images)}. Divide bytes by "
            "255, or let jp.models.normalised(network, preprocess) do that."
        )


def outputs(value: Any, examples: int, name: str = "network.apply") -> None:
    """Checks that a network returns one array [b, c] for b images."""
    if not hasattr(value, "shape"):
        raise ValueError(f"{name}: expected one array of outputs [b, c], but got {short(jax.tree.structure(value))}.")
    if len(value.shape) != 2 or value.shape[0] != examples:
        raise ValueError(
            f"{name}: expected outputs of shape [b, c] with b = {examples} images, but got {tuple(value.shape)}. "
            "Flatten or pool what remains of space, and keep the axis of the examples first."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name}: expected real floating-point outputs, but got {value.dtype}.")
