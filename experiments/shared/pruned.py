"""What a method makes of the dense network of a seed: a mask, and the weights that stay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from experiments.shared import options
from experiments.shared.frozen_heads import World, recalibrated
from experiments.shared.hosts import batches
from experiments.shared.methods import DENSE, Method
from jaxprune import check, memory
from jaxprune.pruning import Compensated
from jaxprune.pruning.rounds import warn_of_one_deletion
from jaxprune.scores.surgeon import SurgeonUpdate
from jaxprune.types import Loss, Score

SKETCH = 1
"""Tells the random directions of a seed from whatever else it draws."""


class Pruned(NamedTuple):
    """A pruned network, the mask of what it keeps, and the gradients that moving the rest took; scoring not counted."""

    network: jp.Network
    mask: Any
    gradients: float = 0.0


@dataclass(frozen=True)
class Goal:
    """An objective, ready to be used.

    Attributes:
      network: of whose outputs the loss is, or of random directions that stand for them; its parameters are those of
        the dense network.
      quick: with all outputs, and faster, of which no site need be known: for what moves weights by products.
      loss: what is to stay small.
      images: the batches it is of.
    """

    network: jp.Network
    quick: jp.Network
    loss: Loss
    images: Sequence[dict[str, Any]]


def goal(world: World, objective: str) -> Goal:
    """Makes an objective of a seed; "none" has the images of the source, which no score without one reads."""
    headed = world.headed(world.dense), world.headed(world.quick)
    if objective in ("label", "none"):
        return Goal(*headed, world.loss, world.scoring)
    unlabelled = [without_labels(batch) for batch in world.scoring]
    if objective == "source-head":
        return Goal(*headed, jp.losses.distillation(), unlabelled)
    if objective == "features":
        whole, quick = (jp.sites.outputs_at(one, "features") for one in (world.dense, world.quick))
        return _distance(world, whole, quick, unlabelled)
    if objective == "logits-of-all":
        whole = world.inputs.part(world.seed, "scoring", world.inputs.classes)
        cut = batches(whole, world.settings.largest_batch, "scoring images of all tasks")
        unlabelled = [without_labels(batch) for batch in cut]
    return _distance(world, world.dense, world.quick, unlabelled)


def _distance(world: World, network: jp.Network, quick: jp.Network, images: Sequence[dict[str, Any]]) -> Goal:
    if world.settings.sketch:
        key = jax.random.fold_in(jax.random.key(world.seed), SKETCH)
        network = jp.curvature.sketched(network, images[0]["image"], world.settings.sketch, key=key)
    return Goal(network, quick, jp.losses.distillation(), images)


def without_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a batch without its labels."""
    return {name: one for name, one in batch.items() if name != "label"}


def prune(
    world: World, method: Method, sparsity: float, select: Callable[[float], Any] = jp.masks.unstructured
) -> Pruned:
    """Prunes the dense network; statistics of BatchNorm become its own where the settings say so.

    Args:
      world: of the seed.
      method: how.
      sparsity: the share that goes.
      select: sparsity -> what selects.
    """
    if method.word == DENSE.word:
        return Pruned(recalibrated(world, world.quick), jp.masks.ones(world.dense.params))
    if method.update in ("rounds", "adam"):
        if select is not jp.masks.unstructured:
            raise ValueError(
                f"methods: {method.update} prunes to sparsities, which what selects in patterns has none of."
            )
        done = _rounds(world, method, schedule(sparsity, world.settings.round_share))
        network = world.quick.replace(params=done[-1].params)
        found = Pruned(network, done[-1].mask, sum(one.gradients for one in done))
    else:
        found = _at_once(world, method, sparsity, select)
    return found._replace(network=recalibrated(world, found.network))


def _at_once(world: World, method: Method, sparsity: float, select: Any) -> Pruned:
    """Prunes by one scoring for all sparsities, or in rounds that score anew; and re-adjusts what stays where asked."""
    aim, update = goal(world, method.objective), None
    score = _score(world, method, aim.loss)
    if method.update == "surgeon":
        warn_of_one_deletion(score)
        blocks, damping = world.settings.blocks or "unit", world.settings.damping
        update = jp.scores.surgeon_update(aim.loss, blocks=blocks, damping=damping)
    if world.settings.rounds > 1:
        if select is not jp.masks.unstructured:
            raise ValueError("rounds: expected 1 of what selects in patterns, which no schedule of sparsities reaches.")
        schedule = jp.schedules.exponential(sparsity, world.settings.rounds)
        *_, last = jp.pruning.rounds(aim.network, score, aim.images, world.prunable, schedule, update=update)
        return Pruned(world.quick.replace(params=last.params), last.mask)
    name = (method.objective, method.score)
    if name not in world.scored:
        world.scored.clear()
        values = score(aim.network, aim.images)
        check.finite("scores", values, "Inspect the loss and the images.")
        world.scored[name] = values, {}
    values, updated = world.scored[name]
    mask = select(sparsity)(values, world.prunable)
    if update is None:
        params = aim.network.params
    elif select is not jp.masks.unstructured:
        params = update(aim.network, aim.images, mask)
    else:
        if sparsity not in updated:
            updated.clear()
            updated.update(_updated(world, values, aim, update, sparsity))
        params = updated[sparsity]
    return Pruned(world.quick.replace(params=jp.masks.apply(mask, params)), mask)


def _updated(world: World, values: Any, aim: Goal, update: SurgeonUpdate, sparsity: float) -> dict[float, Any]:
    """Re-adjusts by a score: the same blocks serve all sparsities of a study, of which as many as fit are held."""
    others = [*world.settings.sparsities, *getattr(world.settings, "rungs", ())]
    held = memory.available(None) // (4 * sum(leaf.nbytes for leaf in jax.tree.leaves(aim.network.params)))
    chosen = list(dict.fromkeys([sparsity, *others]))[: max(1, held)]
    masks = [jp.masks.unstructured(one)(values, world.prunable) for one in chosen]
    try:
        return dict(zip(chosen, update.each(aim.network, aim.images, masks), strict=True))
    except ValueError:  # of a block that is not definite: another sparsity may do without it
        return {sparsity: update(aim.network, aim.images, masks[0])}


# --------------------------------------------------------------------------------------------- rounds and their control


def schedule(sparsity: float, share: float) -> tuple[float, ...]:
    """Lists the rounds to a sparsity: steps that all sparsities share, each by a share of what is left, and a last.

    Since no step depends on where it ends, a network at one sparsity does not depend on which others a study asks for,
    and those at several share their rounds.

    >>> [round(one, 3) for one in schedule(0.6, 0.25)]
    [0.25, 0.438, 0.6]
    """
    steps, kept = [], 1 - share
    while kept * (1 - share / 2) > 1 - sparsity:  # the last round prunes at least half a share
        steps.append(1 - kept)
        kept *= 1 - share
    return (*steps, sparsity)


def _round(world: World, method: Method, steps: tuple[float, ...]) -> Compensated:
    """The last of some rounds; each is done once for all sparsities, and for the control."""
    if (method.word, steps) in world.rounds:
        return world.rounds[method.word, steps]
    aim = goal(world, method.objective)
    score = _score(world, method, aim.loss)
    before = _round(world, method, steps[:-1]) if len(steps) > 1 else None

    def scored(network: jp.Network, images: Any) -> Any:
        return score(aim.network.replace(params=network.params), images)

    arguments = (aim.quick, scored, aim.images, world.prunable, steps)
    settings: dict[str, Any] = {"objective": aim.loss, "scope": world.movable, "after": before}
    made: Iterator[Compensated]
    if method.update == "rounds":
        made = jp.pruning.surgeon_rounds(*arguments, **settings)
    else:
        budgets = [one.gradients for one in _rounds(world, replace(method, update="rounds"), steps)]
        made = jp.pruning.adam_rounds(*arguments, **settings, gradients=budgets)
    found = world.rounds[method.word, steps] = next(made)
    return found


def _rounds(world: World, method: Method, steps: tuple[float, ...]) -> list[Compensated]:
    return [_round(world, method, steps[: number + 1]) for number in range(len(steps))]


def _score(world: World, method: Method, loss: Loss) -> Score:
    settings = world.settings
    blocks = settings.blocks or "unit"
    given = options.ScoreOptions(loss, world.prunable, world.seed, settings.damping, blocks, settings.price_flat)
    return options.score("methods", method.score, given)
