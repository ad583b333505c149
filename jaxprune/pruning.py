"""Pruning in rounds: score, select, score again."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from jaxprune import check, masks
from jaxprune.network import Network
from jaxprune.types import Batch, Mask, Prunable, Score, Select


def rounds(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    select: Callable[[float], Select] = masks.unstructured,
) -> Iterator[Mask]:
    """Yields the mask after every round: the masked network is scored anew, and masks are nested.

    Args:
      network: the dense network.
      score: what ranks the weights.
      batches: the data it sees.
      prunable: static tree of bools.
      schedule: the sparsity of every round, not decreasing; see ``jp.schedules``.
      select: sparsity -> ``Select``.

    Yields:
      A mask for every entry of the schedule.

    Raises:
      ValueError: a schedule that is empty, decreases or leaves [0, 1).
    """
    targets = [check.sparsity(value, "schedule") for value in schedule]
    if not targets or sorted(targets) != targets:
        raise ValueError(f"schedule: expected one or more sparsities that do not decrease, but got {tuple(schedule)}.")
    check.static_bools("prunable", prunable, network.params)

    def run() -> Iterator[Mask]:
        mask = masks.ones(network.params)
        for sparsity in targets:
            values = score(network.replace(params=masks.apply(mask, network.params)), batches)
            check.finite("scores", values, "Look at the loss, the images and the weights that were scored.")
            # What is pruned ranks below everything, so it stays pruned.
            values = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, jnp.finfo(leaf.dtype).min), mask, values)
            mask = select(sparsity)(values, prunable)
            yield mask

    return run()


def prune(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    select: Callable[[float], Select] = masks.unstructured,
) -> Mask:
    """Returns the mask of the last round; arguments and errors are those of ``rounds``.

    >>> from jaxprune import schedules, scores
    >>> net = Network(lambda p, s, x: x @ p["w"], {"w": jnp.array([[3.0], [1.0], [2.0], [4.0]])})
    >>> prune(net, scores.magnitude(), [], {"w": True}, schedules.exponential(0.5, 3))["w"][:, 0]
    Array([ True, False, False,  True], dtype=bool)
    """
    *_, mask = rounds(network, score, batches, prunable, schedule, select)
    return mask
