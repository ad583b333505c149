"""Preconditions of trees: structure, types, finite numbers; of networks too."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def same_structure(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Checks that two trees have the same containers, and leaves of the same shapes."""
    got, expected = jax.tree.structure(tree), jax.tree.structure(reference)
    if got != expected:
        raise ValueError(
            f"{name}: expected the structure of {reference_name}, {short(expected)}, but got {short(got)}. Build it "
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
            f"{short(jax.tree.structure(reference))}, but got {short(jax.tree.structure(tree))}. "
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


def _count_not_finite(leaves: list[Any], infinite: bool) -> Any:
    if not all(map(lies_here, leaves)):
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


def lies_here(leaf: Any) -> bool:
    """Whether NumPy can read it where it lies: compiling a program to inspect it would take longer than looking."""
    if not isinstance(leaf, jax.Array):
        return True
    return not isinstance(leaf, Tracer) and [device.platform for device in leaf.devices()] == ["cpu"]


def real(name: str, tree: Any) -> None:
    """Checks that every leaf is a real floating-point array: what can be differentiated twice."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not hasattr(leaf, "dtype"):
            raise TypeError(
                f"{name}: expected arrays, but {jax.tree_util.keystr(path) or 'the whole'} is {kind_of(leaf)}. Make it "
                "one: jax.numpy.asarray(...)."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name}: expected real floating-point leaves, but {jax.tree_util.keystr(path)} is "
                f"{jnp.result_type(leaf)}. Put what is not trained (counters, tables) into the state, and split "
                "complex weights into real and imaginary parts."
            )


def distinct(names: list[str]) -> list[str]:
    """Checks that no two leaves have one name, so that a name would mean either."""
    if len(set(names)) < len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise ValueError(
            f"tree: expected leaves of different names, but two are called {twice!r}. Rename a container: one whose "
            "own name has a '/' in it (as Haiku's have) stands beside nested ones that spell the same."
        )
    return names


def network(network: Any, name: str = "network") -> None:
    """Checks the weights and the state of a network: real, and no NaN.  What is by design infinite is state."""
    if not all(hasattr(network, part) for part in ("apply", "params", "state")) or isinstance(network, type):
        raise TypeError(
            f"{name}: expected a jp.Network, but got a {type(network).__name__}. jp.Network.from_linen, from_nnx and "
            "from_equinox make one of a model; jp.Network(apply, params) of a function."
        )
    real(f"{name}.params", network.params)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(network.params)]
    distinct([jax.tree_util.keystr(path, simple=True, separator="/") for path in paths])
    finite(f"{name}.params", network.params, "Inspect the training that made them.")
    finite(f"{name}.state", network.state, "Inspect the training that made it.", infinite=True)


def concrete(name: str, tree: Any, remedy: str) -> None:
    """Checks that nothing is traced: for what loops on the host, and decides by what it finds there."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError(
            f"{name}: expected arrays, but got what jax.jit (or another transformation) traces; this loops over "
            f"batches on the host. {remedy}"
        )


def kind_of(value: Any) -> str:
    """Writes the type and the shape of a value, for messages."""
    return f"{value.dtype}{list(np.shape(value))}" if hasattr(value, "dtype") else f"a {type(value).__name__}"


def first_line(error: Exception) -> str:
    """What somebody else's error says, in short."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200].rstrip('.')}"


def short(structure: Any) -> str:
    """Writes a structure, cut where it is long, for messages."""
    text = str(structure)
    return text if len(text) <= 200 else text[:197] + "..."
