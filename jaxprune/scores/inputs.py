"""What every score asks of a network and of batches."""

from collections.abc import Iterable
from typing import Any

from jaxprune import check, tree
from jaxprune.network import Network
from jaxprune.types import Batch


def ready(network: Network, batches: Iterable[Batch]) -> tuple[Any, Iterable[Batch]]:
    """Checks a network to be scored on data; batches are checked one by one.

    Returns:
      Its weights in float32 or wider, and batches that can be read again and again.

    Raises:
      ValueError: weights that are not finite, or NaN in the state.
      TypeError: parameters that are not real arrays; a single batch; anything traced.
    """
    batches = check.batches(batches)
    check.concrete(
        "network, batches",
        (network, batches),
        "Call the score outside, and jit what is made of it; inside, jp.curvature.gradient, hvp and diagonal work.",
    )
    return weights(network), batches


def weights(network: Network) -> Any:
    """Checks the weights and the state of a network, and returns the weights in float32 or wider."""
    check.network(network)
    return tree.wide(network.params)
