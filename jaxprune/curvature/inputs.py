"""What every function of curvature asks of a network, a batch and a vector, and the form it computes with.

Half precision becomes float32 before anything is computed: a derivative in half precision is rounding where it is small
(what is below 6e-8 is zero in float16), and weights of zero score would be pruned by their position.
"""

from dataclasses import dataclass
from typing import Any

import jax

from jaxprune import check, tree
from jaxprune.network import Network
from jaxprune.types import Apply, Batch, Params


def ready(network: Network, batch: Batch) -> tuple[Network, Batch]:
    """Checks a network and a batch, before anything expensive starts, and returns both in float32 or wider.

    Raises:
      ValueError: a batch whose parts do not fit, or NaN anywhere; infinite weights, images or labels.
      TypeError: parameters that are not real arrays.
    """
    check.batch(batch)
    check.network(network)
    check.finite_batch(batch)
    network, images = in_float32(network, batch["image"])
    return network, tree.wide({**batch, "image": images})


def in_float32(network: Network, images: Any) -> tuple[Network, Any]:
    """Returns a network and its images in float32 or wider.

    Where the network takes its own types only, it gets these, and derivatives are those of the wide weights.
    """
    given = (network.params, network.state, images)
    params, state, images = wide = tree.wide(given)
    if wide is given:
        return network, images
    try:
        jax.eval_shape(network.apply, params, state, images)
        apply = network.apply
    except TypeError:
        apply = _InOwnTypes(network.apply, tuple(str(leaf.dtype) for leaf in jax.tree.leaves(given)))
    return network.replace(apply=apply, params=params, state=state), images


def like_parameters(vector: Params, network: Network) -> Params:
    """Checks a vector of the space of the weights, and returns it in their types.

    Args:
      vector: structure and shapes of the parameters.
      network: as ``ready`` returned it.

    Raises:
      ValueError: it does not fit, or is not finite.
    """
    check.same_structure("vector", vector, "network.params", network.params)
    check.finite("vector", vector, "Inspect what it was computed from.")
    return tree.cast(vector, network.params)


@dataclass(frozen=True)
class _InOwnTypes:
    apply: Apply
    types: tuple[str, ...]

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        leaves, structure = jax.tree.flatten((params, state, images))
        own = [leaf.astype(kind) for leaf, kind in zip(leaves, self.types, strict=True)]
        return self.apply(*structure.unflatten(own))
