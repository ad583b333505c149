"""What a network can still do: evaluators, each ``(network) -> {name: number}``."""

from jaxprune.evaluate import transfer

__all__ = ["transfer"]
