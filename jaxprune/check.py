"""Every precondition of the library, once, with a message that says what to do.

Each function raises ``ValueError`` (or ``TypeError``) naming the argument, what was expected, what
came, and the remedy; it returns nothing, or the value in its checked form.  ``is_number``,
``are_numbers`` and ``is_whole`` only answer, for preconditions with a message of their own.
"""

import difflib
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def choice(name: str, value: str, options: Iterable[str], *, ordered: bool = False) -> str:
    """Checks that ``value`` is one of ``options``; the error offers the nearest, and lists them by name.

    Where they are ``ordered`` it lists them as they come.
    """
    known = list(options) if ordered else sorted(options)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, n=3, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    # A long list would bury the message.
    listed = known if len(known) <= 30 else [*near, "..."]
    raise ValueError(f"{name}: unknown value {value!r}.{hint} Known: {', '.join(listed)}.")


def sparsity(value: float, name: str = "sparsity") -> float:
    """Checks that a sparsity lies in [0, 1)."""
    number = float(value)
    if not 0.0 <= number < 1.0:
        raise ValueError(
            f"{name}: expected a fraction in [0, 1), the share of the prunable weights that becomes zero, but got "
            f"{value!r}. To remove 90 % of the weights pass 0.9."
        )
    return number


def positive(name: str, value: float) -> None:
    """Checks that a number is finite and above zero."""
    if not (is_number(value) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a finite number above 0, but got {value!r}.")


def are_numbers(value: Any) -> bool:
    """Whether a value is a real number, or an array or nested sequence of such.  Text and booleans are none."""
    try:
        kind = jnp.result_type(value if hasattr(value, "dtype") else np.asarray(value))
    except (TypeError, ValueError):  # text, rows of different lengths, or a number that no array has
        return isinstance(value, Real) and not isinstance(value, bool)
    return jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)


def is_number(value: Any) -> bool:
    """Whether a value is one real number."""
    return are_numbers(value) and np.ndim(value) == 0


def is_whole(value: Any) -> bool:
    """Whether a value is one whole number, of Python or NumPy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def key(name: str, value: Any) -> None:
    """Checks that a value is one JAX PRNG key, typed or as two or four words."""
    kind, shape = getattr(value, "dtype", None), np.shape(value) if hasattr(value, "dtype") else None
    typed = kind is not None and jnp.issubdtype(kind, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (kind == np.uint32 and shape in ((2,), (4,))):
        came = repr(value) if kind is None else f"{kind}{list(shape or ())}"
        raise TypeError(f"{name}: expected one JAX PRNG key, such as jax.random.key(0), but got {came}.")


def whole(name: str, value: Any, least: int = 1) -> int:
    """Checks that a number is whole and not below ``least``."""
    if not is_whole(value) or value < least:
        raise ValueError(f"{name}: expected a whole number of {least} or more, but got {value!r}.")
    return int(value)


def same_structure(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Checks that two trees have the same containers, and leaves of the same shapes."""
    got, expected = jax.tree.structure(tree), jax.tree.structure(reference)
    if got != expected:
        raise ValueError(
            f"{name}: expected the structure of {reference_name}, {_short(expected)}, but got {_short(got)}. Build it "
            f"with jax.tree.map over {reference_name}, so that every leaf is present."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(reference), jax.tree.leaves(tree), strict=True)
    for (path, leaf), other in pairs:
        if np.shape(other) != np.shape(leaf):
            raise ValueError(
                f"{name}: at {jax.tree_util.keystr(path)} expected the shape {np.shape(leaf)} of {reference_name}, "
                f"but got {np.shape(other)}."
            )


def static_bools(name: str, tree: Any, reference: Any) -> None:
    """Checks that a tree holds one Python bool for every leaf of the reference."""
    if jax.tree.structure(tree) != jax.tree.structure(reference):
        raise ValueError(
            f"{name}: expected one Python bool for every leaf of the parameters, "
            f"{_short(jax.tree.structure(reference))}, but got {_short(jax.tree.structure(tree))}. "
            "jp.tree.prunable(params) makes such a tree."
        )
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, (bool, np.bool_)):
            raise TypeError(
                f"{name}: expected Python bools (it is static: it decides what is compiled), but found a "
                f"{type(leaf).__name__}. For a choice of single weights use a mask."
            )


def mask(name: str, tree: Any, params: Any) -> None:
    """Checks that a tree is a mask of ``params``: same structure and shapes, boolean leaves."""
    same_structure(name, tree, "params", params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.result_type(leaf) != jnp.bool_:
            raise TypeError(
                f"{name}: expected boolean leaves (True = kept), but {jax.tree_util.keystr(path)} is "
                f"{jnp.result_type(leaf)}. Masks are never multiplied; compare to get booleans: values != 0."
            )


def finite(name: str, tree: Any, remedy: str, *, infinite: bool = False) -> None:
    """Checks that no leaf holds NaN or infinity.  Does nothing under a JAX transformation.

    ``infinite``: infinity is allowed, where it can be meant (a mask of attention).
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    leaves = [(path, leaf) for path, leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    if not leaves or any(isinstance(leaf, (Tracer, jax.ShapeDtypeStruct)) for _, leaf in leaves):
        return
    counts = _count_not_finite([leaf for _, leaf in leaves], infinite)
    if isinstance(counts, Tracer):  # arrays that a traced function closes over
        return
    for (path, _), bad in zip(leaves, np.asarray(counts).tolist(), strict=True):
        if bad:
            where = jax.tree_util.keystr(path) or "the array"
            wanted, wrong = ("numbers", "NaN") if infinite else ("finite numbers", "NaN or infinite")
            raise ValueError(f"{name}: expected {wanted}, but {where} holds {bad} that are {wrong}. {remedy}")


def within(name: str, low: Any, high: Any, bounds: tuple[float, float], remedy: str) -> None:
    """Checks that the lowest and the highest of some numbers lie in ``bounds``; NaN does not.

    They are shown with all their digits: 1.0000001 is not 1.  What is outside by no more than rounding is to be
    clipped, and whatever else the remedy says would be wrong.
    """
    least, most = bounds
    if low >= least and high <= most:
        return
    rounding = max(least - low, high - most) <= 1e-3 * (most - least)
    found = ", ".join(str(end).removesuffix(".0") for end in (low, high))
    raise ValueError(
        f"{name}: expected numbers in [{least:g}, {most:g}], but they lie in [{found}]. "
        + (f"That is no more than rounding: np.clip(values, {least:g}, {most:g})." if rounding else remedy)
    )


def _count_not_finite(leaves: list[Any], infinite: bool) -> Any:
    if not all(map(_lies_here, leaves)):
        return _count_not_finite_there(leaves, infinite)
    # In the type that the library will compute in, where a large number may be none.
    with np.errstate(over="ignore"):
        arrays = [np.asarray(leaf, jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))) for leaf in leaves]
    if infinite:
        return [np.count_nonzero(np.isnan(array)) for array in arrays]
    return [array.size - np.count_nonzero(np.isfinite(array)) for array in arrays]


@partial(jax.jit, static_argnums=1)
def _count_not_finite_there(leaves: list[Any], infinite: bool) -> jax.Array:
    return jnp.stack([jnp.sum(jnp.isnan(leaf) if infinite else ~jnp.isfinite(leaf)) for leaf in leaves])


def _lies_here(leaf: Any) -> bool:
    """Whether NumPy can read it where it lies: compiling a program to look at it would take longer than looking."""
    if not isinstance(leaf, jax.Array):
        return True
    return not isinstance(leaf, Tracer) and [device.platform for device in leaf.devices()] == ["cpu"]


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


def batch(value: Mapping[str, Any], name: str = "batch") -> None:
    """Checks a batch: an image and a label for each of one or more examples, and weights that are not negative."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected a batch, {{'image': ..., 'label': ...}}, but got a {type(value).__name__}.")
    for key in ("image", "label"):
        if key not in value:
            raise ValueError(
                f"{name}: expected the keys 'image', 'label' and optionally 'weight', but got {sorted(value)}."
            )
    for key, entry in value.items():
        if isinstance(entry, (Mapping, tuple)) or not np.shape(entry):
            raise ValueError(
                f"{name}: expected every entry as one array with an axis of the examples first, but {key!r} is "
                f"{_kind(entry)}. Leave out what is not of the examples, and put parts together into one array."
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


def _kind(value: Any) -> str:
    return f"{value.dtype}{list(np.shape(value))}" if hasattr(value, "dtype") else f"a {type(value).__name__}"


def network(network: Any, name: str = "network") -> None:
    """Checks the weights and the state of a network: real, and no NaN.  What is by design infinite is state."""
    real(f"{name}.params", network.params)
    finite(f"{name}.params", network.params, "Look at the training that made them.")
    finite(f"{name}.state", network.state, "Look at the training that made it.", infinite=True)


def concrete(name: str, tree: Any, remedy: str) -> None:
    """Checks that nothing is traced: for what loops on the host, and decides by what it finds there."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError(
            f"{name}: expected arrays, but got what jax.jit (or another transformation) traces; this loops over "
            f"batches on the host. {remedy}"
        )


def real(name: str, tree: Any) -> None:
    """Checks that every leaf is a real floating-point array: what can be differentiated twice."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{name}: expected arrays, but {jax.tree_util.keystr(path) or 'the whole'} is {_kind(leaf)}. Make it "
                "one: jax.numpy.asarray(...)."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name}: expected real floating-point leaves, but {jax.tree_util.keystr(path)} is "
                f"{jnp.result_type(leaf)}. Put what is not trained (counters, tables) into the state, and split "
                "complex weights into real and imaginary parts."
            )


def finite_batch(batch: Mapping[str, Any], name: str = "batch") -> None:
    """Checks that images and labels of every example that counts are finite.  Does nothing under a transformation."""
    counting = {key: value for key, value in batch.items() if key != "weight"}
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(dict(batch))) or not _are_arrays(batch):
        return
    if "weight" in batch:
        finite(f"{name}: weight", batch["weight"], "Padding has the weight 0.")
        counting = {key: _that_counts(value, batch["weight"]) for key, value in counting.items()}
    finite(name, counting, "Look at the preprocessing, or give the example the weight 0.")


def _that_counts(value: Any, weight: Any) -> Any:
    """The entries of the examples of weight above 0; zero for the others."""
    if _lies_here(value) and _lies_here(weight):
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
        raise ValueError(f"{name}: expected one array of outputs [b, c], but got {_short(jax.tree.structure(value))}.")
    if len(value.shape) != 2 or value.shape[0] != examples:
        raise ValueError(
            f"{name}: expected outputs of shape [b, c] with b = {examples} images, but got {tuple(value.shape)}. "
            "Flatten or pool what remains of space, and keep the axis of the examples first."
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name}: expected real floating-point outputs, but got {value.dtype}.")


def writable(name: str, folder: str | os.PathLike[str]) -> Path:
    """Makes the folder where it is missing, and checks that a file can be written there."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"{name}: cannot write in {str(path)!r} ({error.strerror or error}). Choose a folder that you may write to."
        ) from error
    return path


def _short(structure: Any) -> str:
    text = str(structure)
    return text if len(text) <= 200 else text[:197] + "..."
