"""What a network can still do: evaluators, each ``(network) -> {name: number}``."""

from jaxprune.evaluate import attacks, heads, robustness, transfer

__all__ = ["attacks", "heads", "robustness", "transfer"]
