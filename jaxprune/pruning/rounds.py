"""Pruning in rounds: score, select, update the remaining weights (by a formula, or by training), score again."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import check, masks
from jaxprune.masks.selection import demand_finite, lowest
from jaxprune.network import Network
from jaxprune.scores.surgeon import OneDeletion
from jaxprune.types import Batch, Mask, Params, Prunable, Score, Select

Update = Callable[[Network, Sequence[Batch], Mask], Params]
"""Updates the remaining weights: ``(network, batches, mask) -> params``, as ``jp.scores.surgeon_update`` does."""


Train = Callable[[Network, Mask, int], Network]
"""Trains under a mask, with an optimizer of its own: ``(network, mask, number of the rung) -> network``."""


class Rung(NamedTuple):
    """What a rung of the ladder leaves: its number, the sparsity asked for, the mask, and the trained network."""

    number: int
    sparsity: float
    mask: Mask
    network: Network


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
      ValueError: a schedule that is empty, decreases or leaves [0, 1); images that the network does not take.
      TypeError: a schedule that lists no numbers; a single batch.

    Warns:
      UserWarning: a score that prices one deletion (``form="obs"``) together with an update.
    """
    targets = sparsities_of(schedule)
    check.network(network)
    check.static_bools("prunable", prunable, network.params)
    batches = readable(network, batches)
    if update is not None:
        warn_of_one_deletion(score)

    def run() -> Iterator[Round]:
        mask, pruned = masks.ones(network.params), network
        for sparsity in targets:
            mask = narrowed(mask, score(pruned, batches), select(sparsity), prunable)
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


def ladder(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    train: Train,
    select: Callable[[float], Select] = masks.unstructured,
    update: Update | None = None,
) -> Iterator[Rung]:
    """Yields networks trained, pruned, trained again and so on: learning-rate rewinding.

    On rung t the network of rung t - 1 is scored, pruned to ``schedule[t]`` (masks are nested), and trained anew with
    ``train``: weights go on from where they were, while learning rate and optimizer start from the beginning, as long
    as ``train`` makes them anew.  A rung of sparsity 0 is trained without being scored, so that a schedule that begins
    with 0 trains the dense network first, and one without it prunes at initialisation.

    Nothing is stored here: a ladder is resumable where ``train`` is.  ``jp.train.fit`` with a folder for every rung
    returns at once from the rungs that are finished, and what is computed between them is computed again, equal.

    Args:
      network: the network at its initialisation.
      score: what ranks the weights, such as ``jp.scores.magnitude()``.
      batches: the data it sees.
      prunable: static tree of bools.
      schedule: the sparsity of every rung, not decreasing; see ``jp.schedules.ladder``.
      train: trains the network of a rung.  It must keep pruned weights at zero, as ``jp.optim.with_mask`` does.
      select: sparsity -> ``Select``.
      update: what re-adjusts the kept weights before they are trained, as in ``rounds``.

    Yields:
      A ``Rung`` for every entry of the schedule.

    Raises:
      ValueError: a schedule that is empty, decreases or leaves [0, 1); images that the network does not take; scores of
        another structure than the parameters; a ``train`` after which pruned weights live.
      TypeError: a schedule that lists no numbers; a single batch; a ``train`` that returns no network.

    Source: learning-rate rewinding is from Renda, Frankle and Carbin (2020), arXiv 2003.02389.

    >>> from jaxprune import schedules, scores
    >>> net = Network(lambda p, s, x: x @ p["w"], {"w": jnp.array([[3.0], [1.0], [2.0], [4.0]])})
    >>> def shrink(network: Network, mask: Mask, number: int) -> Network:
    ...     return network.replace(params={"w": network.params["w"] * 0.5})
    >>> rungs = ladder(net, scores.magnitude(), [], {"w": True}, schedules.ladder(3, share=0.5), shrink)
    >>> [(rung.sparsity, rung.network.params["w"][:, 0].tolist()) for rung in rungs]
    [(0.0, [1.5, 0.5, 1.0, 2.0]), (0.5, [0.75, 0.0, 0.0, 1.0]), (0.75, [0.0, 0.0, 0.0, 0.5])]
    """
    targets = sparsities_of(schedule)
    check.network(network)
    check.static_bools("prunable", prunable, network.params)
    batches = readable(network, batches)
    if update is not None:
        warn_of_one_deletion(score)

    def run() -> Iterator[Rung]:
        mask, current = masks.ones(network.params), network
        for number, sparsity in enumerate(targets):
            if sparsity > 0:
                mask = narrowed(mask, score(current, batches), select(sparsity), prunable)
                params = current.params if update is None else update(current, batches, mask)
                current = current.replace(params=masks.apply(mask, params))
            current = train(current, mask, number)
            _demand_trained(mask, current)
            yield Rung(number, sparsity, mask, current)

    return run()


def warn_of_one_deletion(score: Score) -> None:
    """Warns where an update belongs to a score of the surgeon's that prices one deletion, as "obs" does."""
    if isinstance(score, OneDeletion):
        warnings.warn(
            'score: form="obs" prices one deletion with all else re-adjusted; of two weights that stand in for each '
            'other both are cheap, and both go, so that no update can make up for them. form="greedy" prices one after '
            "the other.",
            stacklevel=3,
        )


def sparsities_of(schedule: Sequence[float]) -> list[float]:
    """Checks a schedule: one or more sparsities that do not decrease."""
    if check.is_number(schedule):
        raise ValueError(f"schedule: expected a sparsity for every round, but got {schedule!r}. Pass ({schedule!r},).")
    remedy = "Pass a tuple, such as (0.5, 0.8), or one of jp.schedules."
    listed = check.numbers("schedule", schedule, "a sparsity for every round", remedy)
    targets = [check.sparsity(value, "schedule") for value in listed]
    if not targets or sorted(targets) != targets:
        raise ValueError(f"schedule: expected one or more sparsities that do not decrease, but got {listed}.")
    return targets


def readable(network: Network, batches: Sequence[Batch]) -> Sequence[Batch]:
    """Checks a first batch against the network, and returns batches that can be read in every round."""
    found: Any = check.batches(batches)
    for batch in islice(found, 1):
        check.batch(batch, "batches")
        check.takes(network, batch["image"])
    return found


def narrowed(mask: Mask, values: Any, select: Select, prunable: Prunable) -> Mask:
    """Selects among what a mask has left."""
    check.same_structure("scores", values, "params", mask)
    demand_finite(values, prunable)
    # What is pruned ranks below everything, so it stays pruned.
    values = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, lowest(leaf)), mask, values)
    return select(values, prunable)


def _demand_trained(mask: Mask, network: Any) -> None:
    if not isinstance(network, Network):
        raise TypeError(
            f"train: expected it to return the trained network, but got {type(network).__name__}. Return "
            "network.replace(params=...), or what jp.train.fit returns."
        )
    check.same_structure("train: params", network.params, "mask", mask)
    alive = sum(jax.tree.leaves(jax.tree.map(lambda keep, leaf: jnp.sum(~keep & (leaf != 0)), mask, network.params)))
    if alive:
        raise ValueError(
            f"train: expected a network whose pruned weights are zero, but {int(alive)} of them are not. Train with "
            "jp.optim.with_mask(tx, mask)."
        )
