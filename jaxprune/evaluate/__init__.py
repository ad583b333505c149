"""What a network can still do: evaluators, each ``(network) -> {name: number}``."""

from jaxprune.evaluate import heads, transfer

__all__ = ["heads", "transfer"]
