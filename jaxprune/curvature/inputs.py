"""What every function of curvature asks of a network, a batch and a vector, and the form it computes with.

Half precision becomes float32 before anything is computed: a derivative in half precision is rounding where it is small
(what is below 6e-8 is zero in float16), and weights of zero score would be pruned by their position.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax

from jaxprune import check, losses, tree
from jaxprune.losses import Distillation
from jaxprune.network import Network
from jaxprune.sites import outputs_at
from jaxprune.types import Apply, Batch, Loss, Params


def ready(network: Network, loss: Loss, batch: Batch) -> tuple[Network, Loss, Batch]:
    """Checks a network and a batch, before anything expensive starts, and returns both in float32 or wider.

    A loss that is taken at a value inside the network is ``placed`` at the outputs.

    Raises:
      ValueError: a batch whose parts do not fit, or NaN anywhere; infinite weights, images or labels.
      TypeError: parameters that are not real arrays.
    """
    check.batch(batch, keys=losses.entries(loss))
    losses.demand_read(loss, batch)
    check.network(network)
    check.finite_batch(batch)
    network, images = in_float32(network, batch["image"])
    return *placed(network, loss), tree.wide({**batch, "image": images})


def placed(network: Network, loss: Loss) -> tuple[Network, Loss]:
    """Makes of a loss at a value inside the network one of the outputs, of the network that returns that value."""
    if isinstance(loss, Distillation) and loss.at is not None:
        return outputs_at(network, loss.at), replace(loss, at=None)
    return network, loss


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
