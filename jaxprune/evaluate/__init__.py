"""What a network can still do, where it looks, what it finds and how it decides."""

from jaxprune.evaluate import (
    alignment,
    attacks,
    attribution,
    discovery,
    heads,
    observers,
    perturbation,
    relevance,
    robustness,
    safety,
    transfer,
    triplets,
)

__all__ = [
    "alignment",
    "attacks",
    "attribution",
    "discovery",
    "heads",
    "observers",
    "perturbation",
    "relevance",
    "robustness",
    "safety",
    "transfer",
    "triplets",
]
