"""Pruning in rounds: score, select, make up for what was deleted, score again."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import check, masks
from jaxprune.network import Network
from jaxprune.types import Batch, Mask, Params, Prunable, Score, Select

Update = Callable[[Network, Sequence[Batch], Mask], Params]
"""Makes up for what a mask deletes: ``(network, batches, mask) -> params``, as ``jp.scores.surgeon_update`` does."""


class Round(NamedTuple):
    """What a round leaves: its mask, and the params with pruned weights zero and the kept ones updated if asked."""

    mask: Mask
    params: Params


def rounds(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    select: Callable[[float], Select] = masks.unstructured,
    update: Update | None = None,
) -> Iterator[Round]:
    """Yields the mask and the params after every round: what is left is scored anew, and masks are nested.

    Args:
      network: the dense network.
      score: what ranks the weights.
      batches: the data it sees.
      prunable: static tree of bools.
      schedule: the sparsity of every round, not decreasing; see ``jp.schedules``.
      select: sparsity -> ``Select``.
      update: what re-adjusts the kept weights after every round, see ``jp.scores.surgeon_update``; the next round
        scores and updates what it returned.  None: kept weights stay as they are.

    Yields:
      A ``Round`` for every entry of the schedule.

    Raises:
      ValueError: a schedule that is empty, decreases or leaves [0, 1).
    """
    targets = [check.sparsity(value, "schedule") for value in schedule]
    if not targets or sorted(targets) != targets:
        raise ValueError(f"schedule: expected one or more sparsities that do not decrease, but got {tuple(schedule)}.")
    check.static_bools("prunable", prunable, network.params)

    def run() -> Iterator[Round]:
        mask, pruned = masks.ones(network.params), network
        for sparsity in targets:
            values = score(pruned, batches)
            check.finite("scores", values, "Look at the loss, the images and the weights that were scored.")
            # What is pruned ranks below everything, so it stays pruned.
            values = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, jnp.finfo(leaf.dtype).min), mask, values)
            mask = select(sparsity)(values, prunable)
            params = pruned.params if update is None else update(pruned, batches, mask)
            pruned = network.replace(params=masks.apply(mask, params))
            yield Round(mask, pruned.params)

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
    *_, last = rounds(network, score, batches, prunable, schedule, select)
    return last.mask


def prune_and_update(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    update: Update,
    select: Callable[[float], Select] = masks.unstructured,
) -> Round:
    """Returns the mask and the updated params of the last round; arguments and errors are those of ``rounds``.

    Two weights have equal inputs; the larger one takes over the smaller one, or at damping 1 half of it:

    >>> from jaxprune import losses, scores
    >>> net = Network(lambda p, s, x: x @ p["w"], {"w": jnp.array([[2.0], [1.0]])})
    >>> batch = {"image": jnp.array([[1.0, 1.0]]), "label": jnp.zeros((1, 1))}
    >>> update = scores.surgeon_update(losses.squared_error, damping=1.0)
    >>> prune_and_update(net, scores.magnitude(), [batch], {"w": True}, (0.5,), update).params["w"][:, 0]
    Array([2.5, 0. ], dtype=float32)
    """
    *_, last = rounds(network, score, batches, prunable, schedule, select, update)
    return last
