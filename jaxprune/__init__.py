"""Pruning of vision networks: what it costs, what survives it, how far it can go.

Scores of every weight are turned into boolean mask pytrees by pure functions, and masks are kept by optax
transformations.  Start with ``jaxprune.types``.
"""

from jaxprune import (
    checkpoint,
    curvature,
    data,
    evaluate,
    geometry,
    losses,
    masks,
    mesh,
    models,
    optim,
    pruning,
    records,
    schedules,
    scores,
    sites,
    stats,
    train,
    tree,
    types,
)
from jaxprune.network import Network

__all__ = [
    "Network",
    "checkpoint",
    "curvature",
    "data",
    "evaluate",
    "geometry",
    "losses",
    "masks",
    "mesh",
    "models",
    "optim",
    "pruning",
    "records",
    "schedules",
    "scores",
    "sites",
    "stats",
    "train",
    "tree",
    "types",
]
