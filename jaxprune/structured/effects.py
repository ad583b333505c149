"""Criteria of what removing a unit does: to the outputs, to the representation, to the loss.

``kl`` and ``cka`` switch off one unit at a time, and take one forward pass for every unit that lives; ``second_order``
takes all units at once, at the price of a few gradients.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, curvature, losses, processes, similarity, tree
from jaxprune.groups import Gates, Group, below, living
from jaxprune.network import Network
from jaxprune.sites import read_jit
from jaxprune.structured.criteria import Criterion, Ratings, listed, unit_slices
from jaxprune.structured.gates import factored, gated, outputs
from jaxprune.types import Batch, Loss


def kl(*, softmax_twice: bool = False) -> Criterion:
    """Rates a unit by how far the outputs move without it: the mean of KL(q || p), p with and q without the unit.

    One forward pass over the batches for every living unit and layer, in a loop on the host.

    Args:
      softmax_twice: take the softmax of probabilities, as the code of arXiv 2506.04513 does (its networks end in a
        softmax already).  It flattens the distributions and with them the differences.

    Source: Luo and Wu (2020), "Neural Network Pruning with Residual-Connections and Limited-Data" (CURL).
    """

    def distance(with_it: list[Any], without: list[Any], batches: Sequence[Batch]) -> float:
        total = weight = 0.0
        for left, right, batch in zip(with_it, without, batches, strict=True):
            total += float(_divergence(left, right, losses.weights(batch), twice=softmax_twice))
            weight += float(jnp.sum(losses.weights(batch)))
        return total / weight

    return _leave_one_out(outputs, distance)


def cka(site: str = "features") -> Criterion:
    """Rates a unit by how far a representation moves without it: 1 - CKA (linear, debiased) at a tagged value.

    One forward pass over the batches for every living unit and layer, in a loop on the host.

    Source: Pons et al. (2024), arXiv 2405.17081, for layers.
    """

    def distance(with_it: list[Any], without: list[Any], batches: Sequence[Batch]) -> float:
        counts = [processes.read(losses.weights(batch)) > 0 for batch in batches]
        before, after = (
            np.concatenate([processes.read(part)[count] for part, count in zip(parts, counts, strict=True)])
            for parts in (with_it, without)
        )
        if np.all(after == after[:1]):
            return 1.0  # of a constant CKA says nothing: all that the representation told is gone
        return 1.0 - similarity.linear_cka(before, after, debiased=True)

    return _leave_one_out(lambda network, images: read_jit(network, images, (site,))[0], distance)


def second_order(loss: Loss) -> Criterion:
    """Rates a unit by the second-order change of the mean loss when its gate goes from 1 to 0.

        -dL/dg + (1/2) d2L/dg2,    g the factor of the unit after its activation (of a layer: of what it adds)

    Exact derivatives, all units and layers at once: the factors are a scale like any other, whose Hessian diagonal
    ``jp.curvature.diagonal`` finds at the price of a few gradients where the network is piecewise linear.

    Source: LeCun et al. (1990), "Optimal Brain Damage", for weights; Molchanov et al. (2019), arXiv 1906.10771, for
    gates to first order.
    """

    def rate(network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch]) -> Ratings:
        check.network(network)
        factors = factored(network, groups, gates)
        cut = curvature.average(
            lambda batch: (
                curvature.gradient(factors, loss, batch),
                curvature.diagonal(factors, loss, batch),
            ),
            listed(batches),
        )
        return {name: 0.5 * np.asarray(cut[1][name]) - np.asarray(cut[0][name]) for name in factors.params}

    return rate


def kernel_block(loss: Loss) -> Criterion:
    """Rates a unit by w_B' H_B w_B / 2, B the weights of the kernels that make it; a layer by the sum over its kernels.

    The Hessian block of the kernel alone: it leaves out biases, BatchNorm and the kernels that read the unit, so it is
    not the cost of deleting the unit, which is ``second_order``.  Blocks are those of units (filters).
    """

    def rate(network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch]) -> Ratings:
        check.network(network)
        open_network = gated(network, groups, gates)
        wanted = tree.map_named(lambda name, leaf: np.ndim(leaf) > 1 and _is_made(name, groups), network.params)
        weights = jax.tree.map(jnp.asarray, network.params)  # of NumPy, where units were removed
        found = curvature.average(
            lambda batch: curvature.block_product(open_network, loss, batch, weights, "unit", scope=wanted),
            listed(batches),
        )
        shares = jax.tree.map(lambda w, h: 0.5 * np.asarray(w, np.float64) * np.asarray(h), network.params, found)
        leaves, result = tree.by_name(shares), {}
        kernels = [name for name, inside in tree.by_name(wanted).items() if inside]
        for group in groups:
            if group.is_layer:
                owned = [name for name in kernels if any(below(name, member.leaf) for member in group.members)]
                result[group.name] = np.array([sum(leaves[name].sum() for name in owned)])
            else:
                made = [member for member in group.members if not member.reads and member.leaf in kernels]
                rows = [unit_slices(leaves[member.leaf], member, group.size).sum(1) for member in made]
                result[group.name] = np.sum(rows, axis=0)
        return result

    return rate


def _is_made(name: str, groups: Sequence[Group]) -> bool:
    """Whether a leaf makes units of a group, or lies in a layer."""
    return any(
        below(name, member.leaf) if group.is_layer else name == member.leaf and not member.reads
        for group in groups
        for member in group.members
    )


def _leave_one_out(
    look: Callable[[Network, Any], Any], distance: Callable[[list[Any], list[Any], Sequence[Batch]], float]
) -> Criterion:
    """Rates every unit by the distance between what is seen with it and without it."""

    def rate(network: Network, groups: Sequence[Group], gates: Gates, batches: Iterable[Batch]) -> Ratings:
        check.network(network)
        kept = listed(batches)
        whole = gated(network, groups, gates)
        alive = living(groups, whole.state["gates"])
        with_it = [look(whole, batch["image"]) for batch in kept]
        result = {}
        for group in groups:
            ratings = np.zeros(group.size)
            for unit in np.flatnonzero(alive[group.name]):
                off = {**alive, group.name: alive[group.name] & (np.arange(group.size) != unit)}
                without = whole.replace(state={**whole.state, "gates": off})
                ratings[unit] = distance(with_it, [look(without, batch["image"]) for batch in kept], kept)
            result[group.name] = ratings
        return result

    return rate


@partial(jax.jit, static_argnames="twice")
def _divergence(with_it: Any, without: Any, weights: Any, *, twice: bool) -> Any:
    """Sums weight KL(q || p) over the examples."""
    p, q = (jax.nn.log_softmax(jax.nn.softmax(x) if twice else x) for x in (with_it, without))
    return jnp.sum(jnp.where(weights > 0, weights * jnp.sum(jnp.exp(q) * (q - p), axis=-1), 0))
