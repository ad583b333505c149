"""What the adapters of all libraries share: how a model wants to be called, and where an array of it is kept."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Path = tuple[Any, ...]


def taken(model: Any, known: tuple[str, ...], train: Mapping[str, Any] | None) -> dict[str, bool]:
    """Reads off the signature of a model which of the ``known`` arguments it takes, and whether it demands them.

    Raises:
      ValueError: it takes no images, or demands something else, or has a switch (a default of True or False) that
        ``train`` says nothing about.

    >>> taken(lambda image, key, state=None: image, ("state", "key"), None)
    {'key': True, 'state': False}
    """
    form = f"model: expected __call__(self, images), with {' and '.join(known)} where it needs them, but"
    if not callable(model):
        raise ValueError(f"{form} a {type(model).__name__} cannot be called. Give it a __call__.")
    parameters = list(inspect.signature(model).parameters.values())
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise ValueError(f"{form} that of {type(model).__name__} takes no images. Give it a first argument.")
    rest = [entry for entry in parameters[1:] if entry.kind not in (entry.VAR_POSITIONAL, entry.VAR_KEYWORD)]
    others = [entry for entry in rest if entry.name not in known]
    for entry in others:
        if entry.default is entry.empty:
            raise ValueError(
                f"{form} that of {type(model).__name__} demands {entry.name!r}. Give it a default, or write a "
                "jp.Network(apply, params, state, train_apply) by hand."
            )
        # Left alone, a switch such as train=False would stay where it is in training, and nobody would see it.
        if isinstance(entry.default, bool) and train is None:
            raise ValueError(
                f"{form} that of {type(model).__name__} has the switch {entry.name}={entry.default}. Without arguments "
                f"it must mean evaluation: say what means training, such as train={{{entry.name!r}: "
                f"{not entry.default}}}, or train={{}} if nothing does."
            )
    return {entry.name: entry.default is entry.empty for entry in rest if entry.name in known}


def unrandom(function: Callable[[Any], Any]) -> Any:
    """Calls a function of a key, and refuses outputs that depend on it.

    The key is mapped over and the outputs are not: JAX itself follows what depends on what, at no cost in the program.

    >>> unrandom(lambda key: 2.0)
    2.0
    """
    try:
        return jax.vmap(function, out_axes=None)(jax.random.key(0)[None])
    except ValueError as error:
        if "out_axes" not in str(error):
            raise
        raise ValueError(
            "model: expected no random numbers in evaluation mode, but its outputs depend on some. Draw them in "
            "training mode only, as the library's own Dropout does."
        ) from error


def hashed(static: Any) -> int:
    """The hash of what is static about a model.

    Raises:
      ValueError: something in it has none.
    """
    try:
        return hash(static)
    except TypeError as error:
        raise ValueError(
            f"model: expected static attributes that can be hashed, so that equal models share compiled programs, but "
            f"got one with {error}. Make lists tuples, and keep arrays where the library looks for arrays."
        ) from error


def nested(values: Iterable[tuple[Path, Any]]) -> dict[Any, Any]:
    """Nests values by their paths.

    >>> nested([(("layers", 0, "weight"), 1.0), (("layers", 0, "bias"), 2.0)])
    {'layers': {0: {'weight': 1.0, 'bias': 2.0}}}
    """
    root: dict[Any, Any] = {}
    for path, value in values:
        level = root
        for part in path[:-1]:
            level = level.setdefault(part, {})
        level[path[-1]] = value
    return root


def at(tree: Any, path: Path) -> Any:
    """Returns what ``nested`` put at a path."""
    for part in path:
        tree = tree[part]
    return tree


def own(tree: Any) -> Any:
    """Copies the arrays of a tree: a step that donates the network's must not delete those of the user's model."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.array(leaf), tree)
