"""Every method of the study: an objective, a score, an update, and the options that are tried for it.

All have the same images, and a method is tried with each of its options: which of them is best is read off images held
out, by the squared distance to the dense network, and then it has all images.  Only rounds and their control, whose
rate is chosen by what is held out of the images, are tried with nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxprune as jp
from experiments.methods import fisher_blocks, layerwise, thresholding
from experiments.shared.methods import Method
from experiments.shared.pruned import without_labels
from jaxprune.pruning import Round
from jaxprune.types import Batch, Loss, Prunable

DAMPINGS, DEFAULT = (1e-3, 1e-2, 1e-1), 1e-2
ALLOCATIONS = ("global", "uniform")


@dataclass(frozen=True)
class Scene:
    """What all runs of a seed share.

    Attributes:
      settings: of the study.
      seed: of splits, network and order.
      dense: the network before.
      images: the images that all methods have, labelled, as one batch.
      fitted: those that options are tried with.
      held_out: those that say which option is best.
      test: labelled images on which nothing is chosen.
      selection: labelled images that choose the rate of fine-tuning.
      prunable: the kernels that are pruned.
      movable: the leaves that may move.
      spent: the gradients of rounds that were done, which their control has too.
    """

    settings: Any
    seed: int
    dense: jp.Network
    images: Batch
    fitted: Batch
    held_out: Batch
    test: Batch
    selection: Batch
    prunable: Prunable
    movable: Prunable
    spent: dict[Any, list[float]] = field(default_factory=dict)


class Options(NamedTuple):
    """What is tried: how the zeros are shared out, whether the first kernel is pruned too, and the damping."""

    allocation: str
    first: bool
    damping: float


@dataclass(frozen=True)
class Arm:
    """A method.

    Attributes:
      method: its three axes.
      label: what tables call it.
      make: (scene, batch, prunable, sparsity, options) -> the pruned network.
      damped: whether damping is an option of it.
      allocations: which are tried.
    """

    method: Method
    label: str
    make: Callable[[Scene, Batch, Prunable, float, Options], Round]
    damped: bool = False
    allocations: Sequence[str] = ALLOCATIONS

    def options(self) -> Iterator[Options]:
        """Lists what is tried: of every method with and without the first kernel."""
        for one in product(self.allocations, (True, False), DAMPINGS if self.damped else (DEFAULT,)):
            yield Options(*one)


class Made(NamedTuple):
    """A pruned network, the options that were chosen, and the gradients that moving the rest took, where counted."""

    mask: Any
    params: Any
    options: Options | None
    gradients: float | None


def prune(scene: Scene, arm: Arm, sparsity: float) -> Made:
    """Prunes by a method, with the best of its options."""
    if arm.method.update in ("rounds", "adam"):
        return _in_rounds(scene, arm.method, sparsity)
    tried = list(arm.options())
    best = tried[0]
    if len(tried) > 1:
        distance = jp.losses.distillation()
        (taught,) = jp.data.with_teacher([without_labels(scene.held_out)], scene.dense)
        costs = []
        for options in tried:
            found = _with(scene, arm, scene.fitted, sparsity, options)
            cost = jp.evaluate.transfer.mean_loss(distance, [taught])(scene.dense.replace(params=found.params))["loss"]
            costs.append(cost if np.isfinite(cost) else np.inf)
        best = tried[int(np.argmin(costs))]
    mask, params = _with(scene, arm, scene.images, sparsity, best)
    return Made(mask, params, best if len(tried) > 1 else None, 0.0 if arm.method.update == "none" else None)


def _with(scene: Scene, arm: Arm, batch: Batch, sparsity: float, options: Options) -> Round:
    """Prunes with some options: without the first kernel the others lose more, so that as many weights go."""
    if options.first:
        return arm.make(scene, batch, scene.prunable, sparsity, options)
    names = [name for name, flag in jp.tree.by_name(scene.prunable).items() if flag]
    sizes = {name: np.size(leaf) for name, leaf in jp.tree.by_name(scene.dense.params).items()}
    rest = jp.tree.map_named(lambda name, flag: flag and name != first_kernel(names), scene.prunable)
    whole = sum(sizes[name] for name in names)
    share = sparsity * whole / (whole - sizes[first_kernel(names)])
    return arm.make(scene, batch, rest, min(share, 1 - 1e-6), options)


def first_kernel(names: Sequence[str]) -> str:
    """The first kernel of a CIFAR ResNet is its stem's; of others, the first by name."""
    return next((name for name in names if name.startswith("stem")), names[0])


# ---------------------------------------------------------------------------------------- what the arms are made of


def objective(name: str) -> Loss:
    """The loss of an objective; all are of the network's own outputs."""
    return jp.losses.cross_entropy if name == "label" else jp.losses.distillation()


def _scored(
    score: Callable[[Loss, Options, Scene], Any], name: str, update: Callable[[Loss, Options], Any] | None = None
) -> Callable[[Scene, Batch, Prunable, float, Options], Round]:
    """Ranks by a score, selects, and updates what stays."""

    def make(scene: Scene, batch: Batch, prunable: Prunable, sparsity: float, options: Options) -> Round:
        loss = objective(name)
        given = [batch if name == "label" else without_labels(batch)]
        values = score(loss, options, scene)(scene.dense, given)
        mask = jp.masks.unstructured(sparsity, options.allocation)(values, prunable)
        params = scene.dense.params if update is None else update(loss, options)(scene.dense, given, mask)
        return Round(mask, jp.masks.apply(mask, params))

    return make


def _least_squares(scene: Scene, batch: Batch, prunable: Prunable, sparsity: float, options: Options) -> Round:
    """The classifier, which nothing prunes, is fitted too: it sees what the layers before it have become."""
    mask, _ = _scored(_diagonal, "label")(scene, batch, prunable, sparsity, options)
    refit = jp.tree.map_named(lambda name, _: name == "head/kernel", scene.dense.params)
    return layerwise.least_squares(scene.dense, [without_labels(batch)], mask, damping=options.damping, refit=refit)


def _wanda(scene: Scene, batch: Batch, prunable: Prunable, sparsity: float, options: Options) -> Round:
    return layerwise.wanda(scene.dense, [without_labels(batch)], prunable, sparsity, allocation=options.allocation)


def _sparsegpt(scene: Scene, batch: Batch, prunable: Prunable, sparsity: float, options: Options) -> Round:
    given: dict[str, Any] = {"damping": options.damping, "allocation": options.allocation}
    return layerwise.sparsegpt(scene.dense, [without_labels(batch)], prunable, sparsity, **given)


def _fisher_blocks(form: str, rounds: int) -> Callable[[Scene, Batch, Prunable, float, Options], Round]:
    def make(scene: Scene, batch: Batch, prunable: Prunable, sparsity: float, options: Options) -> Round:
        given: dict[str, Any] = {"damping": options.damping, "allocation": options.allocation}
        return fisher_blocks.woodfisher(scene.dense, [batch], prunable, sparsity, form=form, rounds=rounds, **given)

    return make


def _thresholded(name: str, **chosen: Any) -> Callable[[Scene, Batch, Prunable, float, Options], Round]:
    """By labels on the empirical Fisher matrix, as CHITA; by logits on the Gauss-Newton matrix, with the gradient."""

    def make(scene: Scene, batch: Batch, prunable: Prunable, sparsity: float, options: Options) -> Round:
        matrix, given = ("empirical_fisher", batch) if name == "label" else ("ggn", without_labels(batch))
        made: dict[str, Any] = {"damping": options.damping, "allocation": options.allocation, **chosen}
        return thresholding.thresholding(
            scene.dense, [given], prunable, sparsity, matrix=matrix, loss=objective(name), **made
        )

    return make


def _in_rounds(scene: Scene, method: Method, sparsity: float) -> Made:
    images = scene.images if method.objective == "label" else without_labels(scene.images)
    loss = objective(method.objective)
    score = jp.scores.block_hessian(loss, form="greedy", scope=scene.prunable)
    schedule = jp.schedules.exponential(sparsity, scene.settings.rounds)
    arguments = (scene.dense, score, [images], scene.prunable, schedule)
    options: dict[str, Any] = {"objective": loss, "scope": scene.movable}
    name, found = (method.objective, sparsity), []
    if method.update == "rounds" or name not in scene.spent:
        found = list(jp.pruning.surgeon_rounds(*arguments, **options))
        scene.spent[name] = [one.gradients for one in found]
    if method.update == "adam":
        found = list(jp.pruning.adam_rounds(*arguments, **options, gradients=scene.spent[name]))
    return Made(found[-1].mask, found[-1].params, None, sum(one.gradients for one in found))


def _diagonal(loss: Loss, options: Options, scene: Scene) -> Any:
    return jp.scores.diagonal_hessian(loss, scope=scene.prunable)


def _block(form: str) -> Callable[[Loss, Options, Scene], Any]:
    return lambda loss, options, scene: jp.scores.block_hessian(
        loss, form=form, damping=options.damping, scope=scene.prunable
    )


def _surgeon(loss: Loss, options: Options) -> Any:
    return jp.scores.surgeon_update(loss, damping=options.damping)


def _arm(word: str, label: str, make: Any, **options: Any) -> tuple[str, Arm]:
    before, _, after = word.rpartition("/")
    score, _, update = after.partition("+")
    return word, Arm(Method(objective=before or "none", score=score, update=update or "none"), label, make, **options)


ARMS: Mapping[str, Arm] = dict(
    [
        _arm("magnitude", "magnitude", _scored(lambda *_: jp.scores.magnitude(), "none")),
        _arm(
            "random",
            "random mask",
            _scored(lambda loss, options, scene: jp.scores.random(jax.random.key(scene.seed)), "none"),
        ),
        _arm("label/fisher", "Fisher diagonal, labels", _scored(lambda loss, *_: jp.scores.fisher(loss), "label")),
        _arm("label/diagonal", "Hessian diagonal, labels", _scored(_diagonal, "label")),
        _arm("logits/diagonal", "Hessian diagonal, logits", _scored(_diagonal, "logits")),
        _arm("logits/quadratic", "Hessian block (quadratic), logits", _scored(_block("quadratic"), "logits")),
        _arm("logits/obs", "surgeon, one deletion, logits", _scored(_block("obs"), "logits"), damped=True),
        _arm("logits/obs+surgeon", "the same + update", _scored(_block("obs"), "logits", _surgeon), damped=True),
        _arm(
            "logits/diagonal+surgeon",
            "Hessian diagonal + update, logits",
            _scored(_diagonal, "logits", _surgeon),
            damped=True,
        ),
        _arm("logits/greedy", "greedy surgeon, logits", _scored(_block("greedy"), "logits"), damped=True),
        _arm(
            "label/greedy+surgeon",
            "greedy surgeon + update, labels",
            _scored(_block("greedy"), "label", _surgeon),
            damped=True,
        ),
        _arm(
            "logits/greedy+surgeon",
            "greedy surgeon + update, logits",
            _scored(_block("greedy"), "logits", _surgeon),
            damped=True,
        ),
        _arm("logits/greedy+rounds", "greedy surgeon + rounds, logits", None),
        _arm("logits/greedy+adam", "greedy surgeon + Adam, logits", None),
        _arm("layers/wanda", "Wanda", _wanda, allocations=layerwise.ALLOCATIONS),
        _arm("layers/sparsegpt+sparsegpt", "SparseGPT", _sparsegpt, damped=True, allocations=layerwise.ALLOCATIONS),
        _arm(
            "label/diagonal+least-squares",
            "Hessian diagonal, labels + layerwise least squares",
            _least_squares,
            damped=True,
        ),
        _arm("label/woodfisher+surgeon", "WoodFisher, labels", _fisher_blocks("obs", 1), damped=True),
        _arm(
            "label/woodfisher-greedy+stages",
            "WoodFisher, greedy, in 4 rounds, labels",
            _fisher_blocks("greedy", 4),
            damped=True,
        ),
        _arm(
            "label/thresholding+thresholding",
            "iterated hard thresholding (CHITA), labels",
            _thresholded("label"),
            damped=True,
        ),
        _arm(
            "label/thresholding+stages",
            "the same in 4 stages (CHITA++), labels",
            _thresholded("label", stages=4, steps=20),
            damped=True,
        ),
        _arm(
            "logits/thresholding+stages",
            "the same on the Gauss-Newton matrix, logits",
            _thresholded("logits", stages=4, steps=5, first_order=True),
            damped=True,
        ),
    ]
)
