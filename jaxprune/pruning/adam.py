"""The control of compensation: the same rounds, the same objective and images, and Adam for as many gradients."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import check, masks
from jaxprune.network import Network
from jaxprune.pruning.compensation import VALUE, compensated
from jaxprune.pruning.objective import Objective
from jaxprune.pruning.rounds import sparsities_of
from jaxprune.pruning.trajectory import Attempt, Compensated
from jaxprune.types import Batch, Loss, Mask, Params, Prunable, Scope, Score, Select

# How often in a training the images held out are asked.
_LOOKS = 20


def adam_rounds(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    *,
    gradients: Sequence[float],
    rates: Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2),
    objective: Loss | None = None,
    held_out: Iterable[Batch] | None = None,
    select: Callable[[float], Select] = masks.unstructured,
    scope: Scope = None,
    after: Compensated | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[Compensated]:
    """Yields the rounds of ``surgeon_rounds`` in which Adam moves the kept weights: what that is to be compared with.

    Every round trains at every rate, on all fitted images at once, with a cosine decay to zero, and keeps the point at
    which the objective on the images held out was smallest, over all rates.  What choosing the rate takes is not
    charged, in favour of Adam.

    Args:
      network: as of ``surgeon_rounds``, and so are all others that are not named here.
      score: what ranks.
      batches: the images.
      prunable: static tree of bools.
      schedule: the sparsity of every round.
      gradients: what every round may take: the ``budgets`` of the last of the rounds to compare with.
      rates: the learning rates, of which the images held out choose.
      objective: the loss.
      held_out: more batches.
      select: sparsity -> ``Select``.
      scope: the leaves that may move.
      after: a round to go on after.
      folder: where every round is kept.

    Yields:
      A ``Compensated`` for every entry of the schedule, with one ``Attempt`` for the rate that was chosen.

    Raises:
      ValueError: as many gradients as there are rounds are missing, or one is negative; no rate, or one that is not
        positive; else as ``surgeon_rounds``.
      TypeError: gradients or rates that list no numbers; else as ``surgeon_rounds``.

    Source: Kingma and Ba (2015), arXiv 1412.6980.

    >>> from jaxprune import scores
    >>> net = Network(lambda p, s, x: x @ p["w"], {"w": jnp.array([[2.0], [1.0]])})
    >>> batch = {"image": jnp.ones((4, 2))}
    >>> options = {"gradients": [100.0], "rates": [0.1]}
    >>> (found,) = adam_rounds(net, scores.magnitude(), [batch], {"w": True}, (0.5,), **options)
    >>> jnp.round(found.params["w"][:, 0], 1)
    Array([3., 0.], dtype=float32)
    """
    schedule = sparsities_of(schedule)
    wanted = f"a number of 0 or more for each of {len(schedule)} rounds"
    gradients = check.numbers("gradients", gradients, wanted, "Pass the budgets of the last of the rounds.")
    if len(gradients) != len(schedule) or any(not 0 <= budget < math.inf for budget in gradients):
        raise ValueError(f"gradients: expected {wanted}, but got {gradients}.")
    rates = check.numbers("rates", rates, "one or more learning rates", "Pass a tuple, such as (1e-3,).")
    if not rates:
        raise ValueError("rates: expected one or more learning rates, but got none.")
    for rate in rates:
        check.positive("rates", rate)

    def move(target: Objective, params: Params, free: Mask, number: int) -> tuple[Params, tuple[Attempt, ...]]:
        # Every look is paid for as the surgeon's are.
        count = max(0, int(gradients[number] - VALUE * (_LOOKS + 1)))
        before = target.value(params)
        spent = count + VALUE * (min(_LOOKS, count) + 1)
        found = [_trained(target, params, free, count, rate) for rate in rates if count]
        after, steps, moved, rate = min(found, key=lambda each: each[0], default=(math.inf, 0, params, rates[0]))
        if not after < before:
            return params, (Attempt(rate, 0, 0.0, before, before, spent),)
        return moved, (Attempt(rate, steps, 1.0, before, after, spent),)

    values = {"gradients": gradients, "rates": rates}
    return compensated(
        network, score, batches, prunable, schedule, objective, held_out, select, scope, move, after, folder, values
    )


def _trained(
    target: Objective, params: Params, free: Mask, count: int, rate: float
) -> tuple[float, int, Params, float]:
    """The best point on the way: its objective, its step, the parameters, and the rate."""
    moments = _adam().init(params)
    best = (math.inf, 0, params, rate)
    looks = {round(count * look / min(_LOOKS, count)) for look in range(1, min(_LOOKS, count) + 1)}
    for step in range(1, count + 1):
        size = 0.5 * rate * (1 + math.cos(math.pi * (step - 1) / count))
        params, moments = _stepped(params, moments, target.gradient(params), free, size)
        if step in looks and (after := target.value(params)) < best[0]:
            best = (after, step, params, rate)
    return best


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam()


# One program for every rate: the size of a step is an argument.
@partial(jax.jit, donate_argnums=1)
def _stepped(params: Params, moments: Any, gradient: Params, free: Mask, size: Any) -> tuple[Params, Any]:
    gradient = jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, 0), free, gradient)
    updates, moments = _adam().update(gradient, moments)
    params = jax.tree.map(lambda leaf, change: (leaf - size * change).astype(leaf.dtype), params, updates)
    return params, moments
