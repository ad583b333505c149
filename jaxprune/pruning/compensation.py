"""Rounds that undo what pruning did: after each, all kept weights move together towards the dense network's outputs."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import check, losses, masks, tree
from jaxprune.network import Network
from jaxprune.pruning.folder import Kept, kept
from jaxprune.pruning.objective import Objective, moved, objective
from jaxprune.pruning.rounds import narrowed, readable, sparsities_of, warn_of_one_deletion
from jaxprune.pruning.systems import System, conjugate, system
from jaxprune.pruning.trajectory import Attempt, Compensated
from jaxprune.types import Batch, Loss, Mask, Params, Prunable, Scope, Score, Select

# What each takes in gradients of the same images, from above (``scripts/benchmark rounds`` measures it).  A Jacobian
# that is written out takes less than the products that are charged for it.
PRODUCT, DIAGONAL, VALUE = 2.0, 3.0, 0.5
# After how many steps the images held out are asked, and how often in a row they may say no.
_EVERY, _PATIENCE = 5, 2
# What is tried where no number of steps helps: less of the first, then more damping.
_LENGTHS, _DAMPINGS = (0.5, 0.25, 0.1), (1.0, 10.0, 100.0)


Move = Callable[[Objective, Params, Mask, int], tuple[Params, tuple[Attempt, ...]]]


def surgeon_rounds(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    *,
    objective: Loss | None = None,
    held_out: Iterable[Batch] | None = None,
    select: Callable[[float], Select] = masks.unstructured,
    scope: Scope = None,
    solutions: int = 2,
    steps: int = 60,
    damping: float = 0.1,
    memory: int = 2_000_000_000,
    after: Compensated | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[Compensated]:
    """Yields rounds of scoring, pruning a little more, and moving all kept weights by Gauss-Newton steps.

    After a round has pruned, ``(G_KK + d I) v = -g_K`` is solved over the free weights K: what the mask keeps, and
    every leaf in scope that is not pruned.  g is the true gradient, at the pruned point, of the distance to the dense
    network, and G the Gauss-Newton matrix of that distance there; away from the dense network the Hessian is another
    matrix, and G is used, since it is never indefinite.  Conjugate gradients, preconditioned by the diagonal, run until
    the distance on images held out no longer falls: far fewer steps than solve the system, which would fit what these
    few images do not say.  The weights move to the best point seen on the way.

    What lies in the state of the network, such as a frozen head, never moves.  Loops on the host over compiled steps.

    Args:
      network: the dense network.
      score: what ranks the weights of every round's network, such as ``jp.scores.block_hessian`` of a distillation.
      batches: the images that scores see, and that the distance is taken on; with what the loss reads.
      prunable: static tree of bools.
      schedule: the sparsity of every round, not decreasing; see ``jp.schedules``.
      objective: the loss that is made small.  None: ``jp.losses.distillation()``, the squared distance to the outputs
        of the dense network; with ``at=`` to a value inside.  A batch with a "teacher" keeps it.  A loss of labels
        makes the network fit the labels of these images: what other tasks read of it is lost.
      held_out: more batches, which say whether a step helps.  None: every fourth image of ``batches`` is held out.
      select: sparsity -> ``Select``.
      scope: static tree of bools: the leaves that may move.  None: every leaf of the parameters.
      solutions: how many systems are solved in a round, each at the point that the one before left.
      steps: the most steps for one system.
      damping: d is this times the mean diagonal of G_KK.
      memory: the bytes that a Jacobian may take; where it takes more, a system is solved by products, whose
        preconditioner is an estimate.  Not what happens to be free: the same call then gives the same numbers.
      after: a round of the same call to go on after, as though that had not been interrupted.
      folder: where every round is kept, with a ``trajectory.json`` of what all did; the same call goes on after the
        last one there, which it yields first.  None: nothing is kept.

    Yields:
      A ``Compensated`` for every entry of the schedule.

    Warns:
      UserWarning: no step helped in a round; the message says what was tried.  Its weights stay where pruning left
        them.

    Raises:
      ValueError: a schedule that is empty, decreases or leaves [0, 1); an option out of its range; a scope in which
        nothing is left to move; images that the network does not take, or too few to hold one out of; a round to go on
        after that is not of this schedule; a folder of other rounds, or one that somebody else writes into.
      TypeError: a schedule that lists no numbers; a single batch; ``after`` is no such round.

    Source: whole-network steps on the Gauss-Newton matrix of a distance to the dense network, in rounds; for steps on
    features of a few layers see Lucas and Mazumder (2024), arXiv 2411.18376.

    Two weights have equal inputs: what one of them did, the other one does.

    >>> from jaxprune import scores
    >>> net = Network(lambda p, s, x: x @ p["w"], {"w": jnp.array([[2.0], [1.0]])})
    >>> batch = {"image": jnp.ones((4, 2))}
    >>> (found,) = surgeon_rounds(net, scores.magnitude(), [batch], {"w": True}, (0.5,), damping=1e-6)
    >>> [f"{weight:.3f}" for weight in found.params["w"][:, 0].tolist()]
    ['3.000', '0.000']
    """
    check.whole("solutions", solutions)
    check.whole("steps", steps)
    check.positive("damping", damping)
    check.positive("memory", memory)

    def move(target: Objective, params: Params, free: Mask, number: int) -> tuple[Params, tuple[Attempt, ...]]:
        attempts: list[Attempt] = []
        for _ in range(solutions):
            params, attempt = _solved(target, params, free, steps, damping, memory)
            attempts.append(attempt)
            if not attempt.accepted:
                break
        if not attempts[0].accepted and attempts[0].before > 0:
            tried = ", ".join(f"{damping * factor:.2g}" for factor in _DAMPINGS)
            warnings.warn(
                f"surgeon_rounds: in round {number} no step made the objective on the images held out smaller than "
                f"{attempts[0].before:.4g}, at relative damping {tried}; the kept weights stay as pruning left them.",
                stacklevel=2,
            )
        return params, tuple(attempts)

    values = {"solutions": solutions, "steps": steps, "damping": damping, "memory": memory}
    return compensated(
        network, score, batches, prunable, schedule, objective, held_out, select, scope, move, after, folder, values
    )


def compensated(
    network: Network,
    score: Score,
    batches: Sequence[Batch],
    prunable: Prunable,
    schedule: Sequence[float],
    loss: Loss | None,
    held_out: Iterable[Batch] | None,
    select: Callable[[float], Select],
    scope: Scope,
    move: Move,
    after: Compensated | None,
    folder: str | os.PathLike[str] | None,
    values: Mapping[str, Any],
) -> Iterator[Compensated]:
    """What ``surgeon_rounds`` and ``adam_rounds`` share.

    ``move`` says how the free weights go where they go, ``values`` what decides that.
    """
    sparsities = sparsities_of(schedule)
    for name, function in (("score", score), ("select", select), ("objective", loss)):
        if function is not None and not callable(function):
            raise TypeError(
                f"{name}: expected a function, such as jp.scores.magnitude(), jp.masks.unstructured or "
                f"jp.losses.distillation('kl'), but got {function!r:.80}."
            )
    warn_of_one_deletion(score)
    check.network(network)
    check.static_bools("prunable", prunable, network.params)
    wanted = jax.tree.map(lambda _: True, network.params) if scope is None else scope
    check.static_bools("scope", wanted, network.params)
    if not any(jax.tree.leaves(wanted)):
        raise ValueError("scope: expected a leaf that may move, but got none. None lets every leaf move.")
    _demand_of(after, folder, sparsities, network)
    batches = readable(network, batches)
    held_out = None if held_out is None else list(check.batches(held_out, "held_out"))
    target = objective(network, losses.distillation() if loss is None else loss, batches, held_out)
    decisive = {
        "network": (network.params, network.state),
        "objective": getattr(target.loss, "__qualname__", repr(target.loss)),
        "batches": _given(target.fitted, batches),
        "held_out": _given(target.held_out, batches if held_out is None else held_out),
        "prunable": prunable,
        "scope": wanted,
        "schedule": sparsities,
        **values,
    }

    def pruned(mask: Mask, params: Params, sparsity: float) -> tuple[Mask, Params]:
        values = score(network.replace(params=params), batches)
        mask = narrowed(mask, values, select(sparsity), prunable)
        return mask, masks.apply(mask, params)

    return _run(target, wanted, sparsities, pruned, move, kept(folder, decisive, network.params), after, network)


def _run(
    target: Objective,
    wanted: Scope,
    sparsities: Sequence[float],
    pruned: Callable[[Mask, Params, float], tuple[Mask, Params]],
    move: Move,
    folder: AbstractContextManager[Kept | None],
    after: Compensated | None,
    like: Network,
) -> Iterator[Compensated]:
    start = masks.ones(like.params), target.network.params
    with folder as keeping:
        last = after if keeping is None else keeping.last
        if keeping is not None and last is not None:
            mask, params = pruned(*start, sparsities[0])
            keeping.demand(mask, target.value(params))
            yield last
        mask, params = start if last is None else (last.mask, tree.wide(last.params))
        for number in range(0 if last is None else last.number + 1, len(sparsities)):
            mask, params = pruned(mask, params, sparsities[number])
            free = jax.tree.map(lambda inside, leaf: leaf if inside else jnp.zeros_like(leaf), wanted, mask)
            params, attempts = move(target, params, free, number)
            given = tree.cast(params, like.params)
            earlier = () if last is None else (*last.earlier, last.attempts)
            last = Compensated(number, sparsities[number], mask, given, attempts, earlier)
            if keeping is not None:
                keeping.save(last)
            yield last


def _given(batches: Sequence[Batch], asked: Sequence[Batch]) -> list[Batch]:
    """Batches without a teacher that was computed: another machine computes other last digits."""
    own = all("teacher" in batch for batch in asked)
    return [{name: one for name, one in batch.items() if own or name != "teacher"} for batch in batches]


def _demand_of(
    after: Compensated | None, folder: str | os.PathLike[str] | None, sparsities: Sequence[float], network: Network
) -> None:
    if after is None:
        return
    if not isinstance(after, Compensated):
        raise TypeError(
            f"after: expected a round that surgeon_rounds or adam_rounds yielded, but got a {type(after).__name__}. "
            f"{'Pass its last entry.' if isinstance(after, (list, tuple)) else 'Pass None to begin with the first.'}"
        )
    if folder is not None:
        raise ValueError("after, folder: expected one of them. A folder knows its last round.")
    if after.number >= len(sparsities) or sparsities[after.number] != after.sparsity:
        raise ValueError(
            f"after: expected a round of this schedule {tuple(sparsities)}, but got round {after.number} at sparsity "
            f"{after.sparsity}. Pass the schedule that it was made with."
        )
    check.same_structure("after.params", after.params, "network.params", network.params)


def _solved(
    target: Objective, params: Params, free: Mask, steps: int, damping: float, memory: int
) -> tuple[Params, Attempt]:
    """Solves one system, and goes to the best point on the way."""
    found = system(target, params, free, memory)
    gradient = found.gather(target.gradient(params))
    mean_diagonal = float(jnp.mean(found.diagonal)) if found.positions.size else 0.0
    before, spent, relative = target.value(params), 1 + DIAGONAL + VALUE, damping
    if mean_diagonal > 0:
        for relative in (damping * factor for factor in _DAMPINGS):
            best, taken, values = _followed(target, params, found, gradient, relative * mean_diagonal, steps, before)
            spent += PRODUCT * taken + VALUE * values
            if best is not None:
                step, number, length, after = best
                return moved(params, found.spread(step), length), Attempt(
                    relative, number, length, before, after, spent
                )
    return params, Attempt(relative, 0, 0.0, before, before, spent)


def _followed(
    target: Objective, params: Params, found: System, gradient: Any, damping: float, steps: int, before: float
) -> tuple[tuple[Any, int, float, float] | None, int, int]:
    """The best point of conjugate gradients (v, its number of steps, length, objective), the steps and values taken."""
    seen: list[tuple[Any, int, float, float]] = []

    def look(step: Any, number: int, length: float = 1.0) -> None:
        after = target.value(moved(params, found.spread(step), length))
        seen.append((step, number, length, after if math.isfinite(after) else math.inf))

    def best() -> tuple[Any, int, float, float] | None:
        helping = [point for point in seen if point[3] < before]
        return min(helping, key=lambda point: point[3], default=None)

    step, taken = None, 0
    for taken, step in enumerate(conjugate(found, gradient, damping), 1):
        if taken % _EVERY == 0:
            look(step, taken)
            ahead = best()
            if taken - (0 if ahead is None else ahead[1]) >= _PATIENCE * _EVERY:
                break
        if taken == steps:
            break
    if step is not None and taken % _EVERY:
        look(step, taken)
    if best() is None and seen:
        first, number, _, _ = seen[0]
        for length in _LENGTHS:
            look(first, number, length)
    return best(), taken, len(seen)
