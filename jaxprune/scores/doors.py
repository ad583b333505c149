"""What every score asks of a network and of batches."""

from collections.abc import Iterable

from jaxprune import check
from jaxprune.network import Network
from jaxprune.types import Batch


def ready(network: Network, batches: Iterable[Batch]) -> Network:
    """Checks a network to be scored on data, and returns it in float32 or wider; batches are checked one by one.

    Raises:
      ValueError: weights that are not finite, or NaN in the state.
      TypeError: parameters that are not real arrays; a single batch; anything traced.
    """
    if hasattr(batches, "keys"):
        raise TypeError("batches: expected a list of batches, but got a single one. Pass [batch].")
    check.concrete(
        "network, batches",
        (network, batches),
        "Call the score outside, and jit what is made of it; inside, jp.curvature.gradient, hvp and diagonal work.",
    )
    return weights(network)


def weights(network: Network) -> Network:
    """Checks the weights and the state of a network, and returns it in float32 or wider."""
    check.network(network)
    return network.wide()
