"""Pruning of vision networks: what it costs, what survives it, how far it can go.

Scores of every weight are turned into boolean mask pytrees by pure functions, and masks are kept by optax
transformations.  Start with ``jaxprune.types``.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprune import (
        checkpoint,
        cost,
        curvature,
        data,
        evaluate,
        geometry,
        groups,
        losses,
        masks,
        mesh,
        models,
        optim,
        processes,
        pruning,
        records,
        schedules,
        scores,
        similarity,
        sites,
        stats,
        store,
        structured,
        sweep,
        tensor_files,
        train,
        tree,
        types,
    )
    from jaxprune.network import Network
    from jaxprune.types import Preprocess

__version__ = "0.1.0"

__all__ = [
    "Network",
    "Preprocess",
    "checkpoint",
    "cost",
    "curvature",
    "data",
    "evaluate",
    "geometry",
    "groups",
    "losses",
    "masks",
    "mesh",
    "models",
    "optim",
    "processes",
    "pruning",
    "records",
    "schedules",
    "scores",
    "similarity",
    "sites",
    "stats",
    "store",
    "structured",
    "sweep",
    "tensor_files",
    "train",
    "tree",
    "types",
]

_CLASSES = {"Network": "network", "Preprocess": "types"}


def __getattr__(name: str) -> Any:
    """Imports a module when it is first asked for: nobody waits for SciPy, orbax and optax who does not need them."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxprune' has no attribute {name!r}")
    if (module := _CLASSES.get(name)) is not None:
        globals()[name] = getattr(importlib.import_module(f"jaxprune.{module}"), name)
        return globals()[name]
    return importlib.import_module(f"jaxprune.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
