"""Second moments of what kernels see: the data from which layerwise methods prune one layer at a time.

A kernel is W [g, d, o]: g groups that share no weights (1 but for a grouped convolution), d inputs of a unit in the
order of the leaf, o units.  At every position t of every image n (a pixel, a token) it sees x[n, g, t, d], a patch of
its input, and puts out x W.  Where that is, the program of the network says (``jp.sites``), so any network is served.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune import check, losses, tree
from jaxprune.curvature.blocks import request
from jaxprune.curvature.layouts import Layout, layout
from jaxprune.curvature.requests import Request, reason_against_signals
from jaxprune.curvature.stream import NO_BATCH, total_weight
from jaxprune.sites import survey
from jaxprune.types import Batch, Params, Prunable

# Steps on the way of a leaf that scale it: what its operation multiplies is not the leaf then.
_SCALING = ("mul", "div", "neg")


@dataclass(frozen=True)
class Kernels:
    """The kernels that are pruned, and the images on which their inputs are looked at.

    Attributes:
      network: the dense network, in float32 or wider.
      batches: images and weights, in float32 or wider.
      layouts: of every kernel by its name, in the order in which the network runs through them.
    """

    network: jp.Network
    batches: tuple[Batch, ...]
    layouts: dict[str, Layout]

    def weights(self, path: str, params: Params) -> np.ndarray:
        """Reads a kernel as W [g, d, o], in float64."""
        return np.asarray(tree.leaf(params, path), np.float64).ravel()[self.layouts[path].index]

    def leaf(self, path: str, values: np.ndarray) -> np.ndarray:
        """Writes numbers [g, d, o] at the places of their weights, in the shape of the leaf."""
        where = self.layouts[path]
        flat = np.zeros(where.index.size, values.dtype)
        flat[where.index] = values
        return flat.reshape(where.shape)

    def moments(self, params: Params, paths: Sequence[str]) -> dict[str, np.ndarray]:
        """Computes H = sum_n weight_n sum_t x[n, t] x[n, t]^T / sum_n weight_n of some kernels: [g, d, d], float64.

        Args:
          params: of the network whose inputs are taken.
          paths: the names of the kernels.
        """
        return self._averaged(paths, params, None)

    def cross_moments(self, params: Params, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Computes the moments of one kernel with ``params``, and those of its inputs there with those when dense.

        Returns:
          H as of ``moments``, and ``sum_n weight_n sum_t x[n, t] dense_x[n, t]^T / sum_n weight_n``; [g, d, d].
        """
        return self._averaged([path], params, None)[path], self._averaged([path], params, self.network.params)[path]

    def _averaged(self, paths: Sequence[str], params: Params, others: Params | None) -> dict[str, np.ndarray]:
        names, total = tuple(self.layouts), sum(map(total_weight, self.batches))
        found: dict[str, Any] = dict.fromkeys(paths, 0.0)
        for batch in self.batches:
            left = dict(zip(names, _operands(self.network.replace(params=params), batch, names), strict=True))
            right = left
            if others is not None:
                right = dict(zip(names, _operands(self.network.replace(params=others), batch, names), strict=True))
            for path in paths:
                product = _products(left[path], right[path], losses.weights(batch, left[path]), self.layouts[path])
                found[path] = found[path] + np.asarray(product, np.float64) / total
        return found


def kernels(network: jp.Network, batches: Iterable[Batch], chosen: Prunable, name: str = "prunable") -> Kernels:
    """Finds where some kernels see their inputs.

    Args:
      network: the dense network, evaluated in evaluation mode.
      batches: images and optional weights; examples of weight 0 are not seen.  The activations of a whole batch are
        held in memory together, so large networks want small batches.
      chosen: static tree of bools: the kernels.
      name: of that argument, for messages.

    Raises:
      ValueError: no batch, none of weight above 0, NaN anywhere; nothing is chosen; a leaf that is not the kernel of
        one dense layer or convolution (tied, scanned, scaled on its way, a bias), or whose examples are not proven
        independent; the message names it.

    >>> net = jp.Network(lambda p, s, x: x @ p, jnp.ones((2, 1)))
    >>> found = kernels(net, [{"image": jnp.array([[1.0, 3.0], [1.0, 1.0]])}], True)
    >>> found.moments(net.params, [""])[""].tolist()
    [[[1.0, 2.0], [2.0, 5.0]]]
    """
    check.network(network)
    check.static_bools(name, chosen, network.params)
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(f"{name}: expected at least one True leaf, but every leaf is False: nothing is pruned.")
    listed = [{key: batch[key] for key in ("image", "weight") if key in batch} for batch in _checked(batches)]
    # A matrix of Gauss and Newton is served by the same sites: what it refuses has no inputs of every example either.
    asked = [request(network, jp.losses.distillation(), batch, "ggn", "layer", chosen) for batch in listed]
    wrong = [f"{path} ({why})" for path in asked[0].paths if (why := _reason(asked[0], path))]
    if wrong:
        raise ValueError(
            f"{name}: expected kernels that enter through one dense layer or convolution, but got {'; '.join(wrong)}. "
            "Leave those out: jp.tree.prunable(params, exclude=...)."
        )
    check.positive("batches: the sum of the weights", sum(map(total_weight, listed)))
    found = asked[0].survey
    order = sorted(asked[0].paths, key=lambda path: found.sites[path].way[-1])
    return Kernels(
        asked[0].network,
        tuple(one.batch for one in asked),
        {path: layout(found, found.sites[path]) for path in order},
    )


def _checked(batches: Iterable[Batch]) -> list[Batch]:
    listed = list(check.batches(batches))
    if not listed:
        raise ValueError(NO_BATCH)
    for batch in listed:
        check.batch(batch)
    return listed


def _reason(asked: Request, path: str) -> str:
    """Why the inputs of a leaf cannot be read; ``""`` if they can."""
    found = asked.survey
    if path not in found.sites:
        return found.unserved[path] or "the outputs do not depend on it"
    site = found.sites[path]
    if site.kind not in ("dense", "convolution"):
        return f"it enters by {'adding' if site.kind == 'add' else 'scaling'}"
    if any(found.program.steps[at].name in _SCALING for at in site.way[:-1]):
        return "it is scaled on its way"
    return reason_against_signals(asked, path)


@partial(jax.jit, static_argnames="paths")
@jax.default_matmul_precision("highest")
def _operands(network: jp.Network, batch: Batch, paths: tuple[str, ...]) -> list[Any]:
    """What the operation of every kernel multiplies with it, examples first."""
    images = losses.images(batch)
    found = survey(network, images)
    numbers = {path: found.sites[path].operand for path in paths}
    leaves = jax.tree.leaves((network.params, network.state, images))
    _, values = found.program.run(leaves, {}, tuple(set(numbers.values())))
    return [layout(found, found.sites[path]).prepared(values[number]) for path, number in numbers.items()]


@partial(jax.jit, static_argnames="where")
@jax.default_matmul_precision("highest")
def _products(left: Any, right: Any, weight: Any, where: Layout) -> Any:
    """sum_n weight_n sum_t left[n, t] right[n, t]^T, [g, d, d]; padding is cut off, as it may be infinite here."""
    counts = (weight > 0)[:, None, None, None]

    def seen(operand: Any) -> Any:
        inputs = tree.wide(jax.vmap(where.inputs)(operand))
        return jnp.where(counts, inputs, jnp.zeros((), inputs.dtype))

    return jnp.einsum("ngtd,ngte->gde", seen(left) * weight[:, None, None, None], seen(right))
