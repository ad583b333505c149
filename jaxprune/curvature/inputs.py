"""What every function of curvature asks of a network, a batch and a vector, and the form it computes with.

Half precision becomes float32 before anything is computed: a derivative in half precision is rounding where it is small
(what is below 6e-8 is zero in float16), and weights of zero score would be pruned by their position.
"""

from jaxprune import check, tree
from jaxprune.network import Network
from jaxprune.types import Batch, Params


def ready(network: Network, batch: Batch) -> tuple[Network, Batch]:
    """Checks a network and a batch, before anything expensive starts, and returns both in float32 or wider.

    Raises:
      ValueError: a batch whose parts do not fit, or NaN anywhere; infinite weights, images or labels.
      TypeError: parameters that are not real arrays.
    """
    check.batch(batch)
    check.network(network)
    check.finite_batch(batch)
    return network.wide(), tree.wide(dict(batch))


def like_parameters(vector: Params, network: Network) -> Params:
    """Checks a vector of the space of the weights, and returns it in their types.

    Args:
      vector: structure and shapes of the parameters.
      network: as ``ready`` returned it.

    Raises:
      ValueError: it does not fit, or is not finite.
    """
    check.same_structure("vector", vector, "network.params", network.params)
    check.finite("vector", vector, "Look at what it was computed from.")
    return tree.cast(vector, network.params)
