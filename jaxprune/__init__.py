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

__version__ = "0.1.0"

__all__ = [
    "Network",
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


def __getattr__(name: str) -> Any:
    """Imports a module when it is first asked for: nobody waits for SciPy, orbax and optax who does not need them."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxprune' has no attribute {name!r}")
    if name == "Network":
        from jaxprune.network import Network

        globals()[name] = Network
        return Network
    return importlib.import_module(f"jaxprune.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
