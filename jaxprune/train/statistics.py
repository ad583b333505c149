"""Running statistics of a network, measured anew."""

from collections.abc import Collection, Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check, losses, processes, tree
from jaxprune.network import Network
from jaxprune.train.stepping import forward, stream_names
from jaxprune.types import Batch


def recalibrate(
    network: Network, batches: Iterable[Batch], key: jax.Array, *, rngs: Collection[str] = ("dropout",)
) -> Network:
    """Replaces the running statistics of a network by those of its own activations on these batches.

    An explicit step, for example after pruning: nothing in jaxprune does it unasked.  Every statistic s that
    ``train_apply`` updates as ``m s + (1 - m) b`` becomes the mean of b over the batches, by their examples (for a
    variance: the mean of the variances within batches).  What it does not update stays.

    Args:
      network: one with a ``train_apply``.
      batches: images.  Those of weight 0, padding, are cut off before anything is computed; the others count alike.
      key: for dropout and other random streams, where the network has any.
      rngs: the names of the random streams of ``train_apply``, as in ``fit``.

    Returns:
      The network with the new statistics; its weights are the same.

    Raises:
      ValueError: the network has no ``train_apply``; there is no image of weight above 0, or weights above 0 differ; a
        statistic is updated in another way; ``rngs`` are no different names.

    >>> net = Network(
    ...     lambda params, state, images: images - state["mean"],
    ...     {},
    ...     {"mean": jnp.zeros(1)},
    ...     lambda params, state, images, rngs: (
    ...         images - images.mean(0), {"mean": 0.9 * state["mean"] + 0.1 * images.mean(0)}
    ...     ),
    ... )
    >>> batch = {"image": jnp.array([[1.0], [3.0], [0.0]]), "weight": jnp.array([1, 1, 0])}
    >>> jnp.round(recalibrate(net, [batch], jax.random.key(0)).state["mean"], 3)
    Array([2.], dtype=float32)
    """
    streams = stream_names(rngs)
    if network.train_apply is None:
        raise ValueError("network: expected a train_apply, whose statistics are averaged, but it has none.")
    found, counts, weights = [], [], set()
    check.network(network)
    for batch in check.each(batches):
        check.batch(batch)
        check.finite_batch(batch)
        images = _counted(batch, weights)
        if not len(images):
            continue
        statistics, averaged = _statistics(network, images, key, rngs=streams)
        _demand_averages(averaged)
        found.append(statistics)
        counts.append(len(images))
    if not found:
        raise ValueError("batches: expected at least one batch with an image of weight above 0, but got none.")
    return network.replace(state=jax.tree.map(partial(_average, counts), *found))


def _counted(batch: Batch, seen: set[float]) -> Any:
    """The images that are no padding, of which there are none where all are; their weight joins those seen before."""
    weights = processes.read(losses.weights(batch))
    counts = weights > 0
    seen.update(weights[counts].tolist())
    if len(different := sorted(seen)) > 1:
        raise ValueError(
            "batches: expected weights of 0, for padding, and one other, since statistics of training know no weights, "
            f"but got {different[0]:.3g} and {different[-1]:.3g}. Leave 'weight' out, and every image counts once."
        )
    return batch["image"] if counts.all() else processes.read(batch["image"])[counts]


def _average(counts: list[int], *values: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(values[0]), jnp.floating):
        return values[0]
    # What stays keeps its bits; a sum would round, or overflow.
    same = reduce(jnp.logical_and, [value == values[0] for value in values])
    parts = [tree.wide(value) * (count / sum(counts)) for count, value in zip(counts, values, strict=True)]
    return jnp.where(same, values[0], reduce(jnp.add, parts).astype(values[0].dtype))


def _demand_averages(averaged: Any) -> None:
    wrong = [name for name, flag in tree.by_name(averaged).items() if not flag]
    if wrong:
        raise ValueError(
            f"network: expected statistics s that train_apply updates as m s + (1 - m) b, with one m and a b that does "
            f"not depend on s, but got another rule for {', '.join(wrong)}. In its mode 'ema' Equinox's BatchNorm "
            "normalises by s in training: make it with mode='batch'."
        )


@partial(jax.jit, static_argnames="rngs")
def _statistics(network: Network, images: Any, key: jax.Array, *, rngs: tuple[str, ...]) -> tuple[Any, Any]:
    """The statistics of one batch, and whether each is an average.

    Updating zeros gives (1 - m) b, and updating v gives m v more.
    """
    leaves, structure = jax.tree.flatten(network.state)
    # What is no float (the gates of units) is no statistic, and must be what it is while the others are measured.
    moving = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def updated(values: list[Any]) -> list[Any]:
        whole = [value if moves else leaf for value, moves, leaf in zip(values, moving, leaves, strict=True)]
        state = jax.tree.unflatten(structure, whole)
        return jax.tree.leaves(forward(network.replace(state=state), network.params, images, key, rngs)[1])

    # Nor is what train_apply hands on untouched: an attention mask, a table.
    moving = [moves and new is not leaf for moves, new, leaf in zip(moving, updated(leaves), leaves, strict=True)]
    share = updated([jnp.zeros_like(leaf) for leaf in leaves])
    # v of the size of the statistics themselves, so that the difference loses no digits.
    probe = [
        jnp.full_like(leaf, jnp.maximum(jnp.max(jnp.abs(leaf), initial=0), 1e-6)) if moves else leaf
        for moves, leaf in zip(moving, share, strict=True)
    ]

    def solve(moves: bool, old: Any, part: Any, filled: Any, both: Any) -> tuple[Any, Any]:
        if not moves:
            return old, True
        each = (both - part) / filled
        kept = jnp.mean(each)
        # Were b another one at v, it would hardly differ by the same in every channel.
        averaged = jnp.max(jnp.abs(each - kept)) <= 1e-4 + 32 * jnp.finfo(each.dtype).eps
        return jnp.where(kept < 1, part / jnp.where(kept < 1, 1 - kept, 1), old), averaged

    solved = [solve(*entry) for entry in zip(moving, leaves, share, probe, updated(probe), strict=True)]
    values, averaged = zip(*solved, strict=True) if solved else ((), ())
    return jax.tree.unflatten(structure, values), jax.tree.unflatten(structure, averaged)
