"""Pruning of vision networks: what it costs, what survives it, how far it can go.

Scores of every weight are turned into boolean mask pytrees by pure functions, and masks are kept by optax
transformations.  Start with ``jaxprune.types``.
"""

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
    pruning,
    records,
    schedules,
    scores,
    similarity,
    sites,
    stats,
    structured,
    tensor_files,
    train,
    tree,
    types,
)
from jaxprune.network import Network

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
    "pruning",
    "records",
    "schedules",
    "scores",
    "similarity",
    "sites",
    "stats",
    "structured",
    "tensor_files",
    "train",
    "tree",
    "types",
]
