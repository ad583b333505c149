"""Iterated hard thresholding on a quadratic model of the loss, all prunable weights together, as CHITA does it.

The model at the weights w is ``Q(v) = g^T (v - w) + ||A (v - w)||^2 / 2 + d ||v - w||^2 / 2``: g the gradient of the
mean loss, ``A^T A`` its empirical Fisher or Gauss-Newton matrix G, written out as rows.  It is made small among all v
with so many weights that are not zero: steps down the gradient, each followed by setting the smallest weights to zero,
and conjugate gradients on what is left.  The matrix is never formed.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.methods.quadratic import Quadratic, sparse_minimum
from jaxprune import check, losses, tree
from jaxprune.curvature.jacobian import jacobian
from jaxprune.curvature.stream import NO_BATCH, total_weight
from jaxprune.losses import Distillation
from jaxprune.masks import allocations
from jaxprune.types import Batch, Loss, Params, Prunable

MATRICES = ("empirical_fisher", "ggn")


def thresholding(
    network: jp.Network,
    batches: Sequence[Batch],
    prunable: Prunable,
    sparsity: float,
    *,
    damping: float = 1e-2,
    allocation: str = "global",
    matrix: str = "empirical_fisher",
    loss: Loss = jp.losses.cross_entropy,
    first_order: bool = False,
    stages: int = 1,
    steps: int = 50,
    most: int = 64,
) -> jp.pruning.Round:
    """Prunes and updates all prunable weights together, by iterated hard thresholding on the quadratic model.

    Args:
      network: the dense network.
      batches: images, what the loss reads, and optional weights.
      prunable: static tree of bools.
      sparsity: the share of the prunable weights that becomes zero.
      damping: the ridge d is this times the mean diagonal of G.
      allocation: "global", or "uniform": every leaf keeps the same share.
      matrix: "empirical_fisher", the paper's: a row for every image; or "ggn": one for every image and class.
      loss: whose model it is.  Of a distillation without a teacher, which "ggn" takes, the dense network is it.
      first_order: whether g is in the model.  False: the gradient is taken as zero, as in optimal brain surgeon.  With
        the rows of a fitted network, some nearly zero, the model falls without end along g, and the network is lost.
      stages: how often the model is made anew, around the weights as pruned so far, each time keeping the same share of
        what was left: the paper's CHITA++.  What was pruned may come back.
      steps: the most changes of the support in a stage.
      most: the most classes for which "ggn" is written out.

    Returns:
      The mask, exactly ``round(sparsity * n)`` pruned; and the params.

    Raises:
      ValueError: an option out of range; rows that cannot be written (a tied or scanned leaf, more classes than
        ``most``, too little memory); a loss without a gradient where "empirical_fisher" needs one; NaN anywhere.

    Source: Benbaki et al. (2023), arXiv 2302.14623.

    >>> net = jp.Network(lambda p, s, x: x @ p, jnp.array([[2.0], [1.0]]))
    >>> batch = {"image": jnp.array([[1.0, 1.0]])}
    >>> options = {"matrix": "ggn", "loss": jp.losses.distillation(), "damping": 1e-4}
    >>> jnp.round(thresholding(net, [batch], True, 0.5, **options).params[:, 0], 2).tolist()
    [3.0, 0.0]
    """
    check.choice("matrix", matrix, MATRICES)
    check.choice("allocation", allocation, ("global", "uniform"))
    check.positive("damping", damping)
    check.whole("stages", stages)
    check.whole("steps", steps, 0)
    check.whole("most", most)
    check.sparsity(sparsity)
    check.network(network)
    check.static_bools("prunable", prunable, network.params)
    if not any(jax.tree.leaves(prunable)):
        raise ValueError("prunable: expected at least one True leaf, but every leaf is False: nothing is pruned.")
    batches = _taught(network, loss, batches, matrix)
    params, kept = network.params, np.zeros(0, bool)
    for share in jp.schedules.exponential(sparsity, stages):
        at = network.replace(params=params)
        rows = _rows(at, loss, batches, prunable, matrix, most)
        point = _chosen(params, prunable, rows.dtype)
        slope = np.zeros_like(point)
        if first_order:
            gradient = jp.curvature.average(lambda batch, at=at: jp.curvature.gradient(at, loss, batch), batches)
            slope = _chosen(gradient, prunable, rows.dtype)
        ridge = damping * float(np.einsum("rn,rn->", rows, rows, dtype=np.float64)) / len(point)
        check.positive("damping: times the mean diagonal of the matrix", ridge)
        runs = _runs(params, prunable, share, allocation)
        model = Quadratic(point, slope, rows, ridge, *runs)
        weights, kept, _ = sparse_minimum(model, steps=steps)
        params = _placed(weights, params, prunable)
    mask = _placed(kept, jp.masks.ones(network.params), prunable)
    return jp.pruning.Round(mask, params)


def _taught(network: jp.Network, loss: Loss, batches: Sequence[Batch], matrix: str) -> Sequence[Batch]:
    """The batches, checked; the dense network is the teacher of a distillation that has none."""
    listed = list(check.batches(batches))
    if not listed:
        raise ValueError(NO_BATCH)
    if matrix == "empirical_fisher":
        losses.demand_slope(loss, listed[0], "the empirical Fisher matrix")
    if isinstance(loss, Distillation) and not any("teacher" in batch for batch in listed):
        return jp.data.with_teacher(listed, network, loss.at)
    return listed


def _rows(
    network: jp.Network, loss: Loss, batches: Sequence[Batch], prunable: Prunable, matrix: str, most: int
) -> np.ndarray:
    """A [r, n] with G = A^T A, of the prunable weights leaf by leaf."""
    chosen = jax.tree.map(lambda inside, leaf: jnp.full(leaf.shape, inside), prunable, network.params)
    found = (
        jacobian(network, loss, batches, chosen, most=most)
        if matrix == "ggn"
        else _gradients(network, loss, batches, prunable)
    )
    if found is None:
        raise ValueError(
            f"matrix: expected a network whose {matrix!r} can be written out as rows, but its loss has no such form, a "
            f"prunable leaf is tied or scanned, there are more than most={most} columns, or memory does not suffice. "
            "Take fewer images, a larger most, or jp.pruning.surgeon_rounds, which needs no rows."
        )
    return found


def _gradients(network: jp.Network, loss: Loss, batches: Sequence[Batch], prunable: Prunable) -> np.ndarray | None:
    """The gradient of every image, scaled by the root of its share."""
    total, parts = sum(map(total_weight, batches)), []
    for batch in batches:
        rows = []
        for path, inside in tree.by_name(prunable).items():
            if inside:
                factors = jp.curvature.block_factors(network, loss, batch, path, "layer", "empirical_fisher")
                if factors is None:
                    return None
                rows.append(np.asarray(factors[0]))
        parts.append(np.sqrt(total_weight(batch) / total).astype(rows[0].dtype) * np.concatenate(rows, axis=1))
    return np.concatenate(parts)


def _chosen(params: Params, prunable: Prunable, dtype: Any) -> np.ndarray:
    """The prunable weights, leaf by leaf [n]."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(prunable), strict=True)
    return np.concatenate([np.asarray(leaf).astype(dtype).ravel() for leaf, inside in pairs if inside])


def _placed(values: np.ndarray, like: Any, prunable: Prunable) -> Any:
    """Writes numbers of the prunable weights [n] into their leaves; the others are the very arrays of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    start, found = 0, []
    for leaf, inside in zip(leaves, jax.tree.leaves(prunable), strict=True):
        part = values[start : start + leaf.size] if inside else None
        start += 0 if part is None else leaf.size
        found.append(leaf if part is None else jnp.asarray(part.reshape(leaf.shape), leaf.dtype))
    return structure.unflatten(found)


def _runs(
    params: Params, prunable: Prunable, sparsity: float, allocation: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ends of the runs of weights that have counts of their own, and how many of each are kept."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(prunable), strict=True)
    sizes = [int(leaf.size) for leaf, inside in pairs if inside]
    pruned = [round(sparsity * sum(sizes))]
    if allocation == "uniform":
        pruned = allocations.uniform([(size,) for size in sizes], pruned[0])
    else:
        sizes = [sum(sizes)]
    kept = tuple(size - gone for size, gone in zip(sizes, pruned, strict=True))
    return tuple(np.cumsum(sizes).tolist()), kept
