"""What the words of a command line mean: the only tables from strings to functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

import jaxprune as jp
from jaxprune import check
from jaxprune.evaluate import heads
from jaxprune.structured import Chooser, Criterion
from jaxprune.structured.budgets import Budget
from jaxprune.types import Loss, Prunable, Score

LOSSES: Mapping[str, Loss] = {"squared_error": jp.losses.squared_error, "cross_entropy": jp.losses.cross_entropy}

HEADS: Mapping[str, Callable[[float], heads.HeadMaker]] = {
    "ridge": heads.ridge,
    "logistic": heads.logistic,
    "nearest-mean": lambda penalty: heads.nearest_mean(),
    "nearest-neighbours": lambda penalty: heads.nearest_neighbours(),
}


@dataclass(frozen=True)
class ScoreOptions:
    """What a score may be configured with."""

    loss: Loss
    scope: Prunable
    seed: int
    damping: float


SCORES: Mapping[str, Callable[[ScoreOptions], Score]] = {
    "magnitude": lambda o: jp.scores.magnitude(),
    "diagonal": lambda o: jp.scores.diagonal_hessian(o.loss, scope=o.scope),
    "block-quadratic": lambda o: jp.scores.block_hessian(o.loss, form="quadratic", scope=o.scope),
    "block-signed": lambda o: jp.scores.block_hessian(o.loss, form="quadratic", ranking="signed", scope=o.scope),
    "block-obs": lambda o: jp.scores.block_hessian(o.loss, form="obs", damping=o.damping, scope=o.scope),
    "block-greedy": lambda o: jp.scores.block_hessian(o.loss, form="greedy", damping=o.damping, scope=o.scope),
    "fisher": lambda o: jp.scores.fisher(o.loss),
    "snip": lambda o: jp.scores.snip(o.loss),
    "grasp": lambda o: jp.scores.grasp(o.loss),
    "synflow": lambda o: jp.scores.synflow(),
    "random": lambda o: jp.scores.random(jax.random.key(o.seed)),
}


@dataclass(frozen=True)
class SearchOptions:
    """What criteria, choosers and budgets of a search may be configured with."""

    loss: Loss
    seed: int
    share: float | None
    images: Any
    """Batches that the chooser sees."""


CRITERIA: Mapping[str, Callable[[SearchOptions], Criterion]] = {
    "second-order": lambda o: jp.structured.effects.second_order(o.loss),
    "kernel-block": lambda o: jp.structured.effects.kernel_block(o.loss),
    "kl": lambda o: jp.structured.effects.kl(),
    "kl-twice": lambda o: jp.structured.effects.kl(softmax_twice=True),
    "cka": lambda o: jp.structured.effects.cka(),
    "l1": lambda o: jp.structured.criteria.l1(),
    "l2": lambda o: jp.structured.criteria.l2(),
    "batchnorm": lambda o: jp.structured.criteria.batchnorm_scale(),
    "activation": lambda o: jp.structured.criteria.activation(),
    "random": lambda o: jp.structured.criteria.random(jax.random.key(o.seed)),
}

CHOOSERS: Mapping[str, Callable[[SearchOptions], Chooser]] = {
    "cka": lambda o: jp.structured.choosers.cka(o.images),
    "cka-biased": lambda o: jp.structured.choosers.cka(o.images, kind="biased"),
    "cka-rbf": lambda o: jp.structured.choosers.cka(o.images, kind="rbf"),
    "cka-minibatch": lambda o: jp.structured.choosers.cka(o.images, kind="minibatch"),
    "cka-streaming": lambda o: jp.structured.choosers.cka(o.images, kind="streaming"),
    "procrustes": lambda o: jp.structured.choosers.procrustes(o.images),
    "accuracy": lambda o: jp.structured.choosers.accuracy(o.images),
    "random": lambda o: jp.structured.choosers.random(o.seed),
    "always-layer": lambda o: jp.structured.choosers.always("layer"),
    "always-neurons": lambda o: jp.structured.choosers.always("neurons"),
}

BUDGETS: Mapping[str, Callable[[SearchOptions], Budget]] = {
    "macs": lambda o: jp.structured.budgets.macs(o.share),
    "parameters": lambda o: jp.structured.budgets.parameters(o.share),
    "filters": lambda o: jp.structured.budgets.filters(),
    "latency": lambda o: jp.structured.budgets.latency(o.images[0]["image"], o.share),
}


def load(data: str, folder: str | None, size: int) -> tuple[Any, tuple[jp.data.Task, ...]]:
    """Opens a source and its tasks.

    Args:
      data: "digits", "shapes", or "tfds:<name>" for a prepared TensorFlow data set.
      folder: where prepared data sets lie.
      size: side of the images in pixels; the digits have 8 whatever it says.

    Returns:
      (source, tasks).  ImageNet has the ten shipped groups; any other data set two halves of its classes.
    """
    if data == "digits":
        return jp.data.digits(), halves(10, ("0-4", "5-9"))
    if data == "shapes":
        return jp.data.shapes(0, image=size), jp.data.shape_tasks()
    if not data.startswith("tfds:"):
        check.choice("data", data, ("digits", "shapes", "tfds:<name>"))
    source = jp.data.tfds(data.removeprefix("tfds:"), size=size, folder=folder)
    if data.startswith("tfds:imagenet2012"):
        return source, jp.data.imagenet_tasks()
    return source, halves(len(source.classes), ("first half", "second half"))


def halves(classes: int, names: tuple[str, str]) -> tuple[jp.data.Task, ...]:
    """Groups the classes of a source into a lower and an upper half."""
    middle = classes // 2
    return (
        jp.data.Task(names[0], tuple(range(middle))),
        jp.data.Task(names[1], tuple(range(middle, classes))),
    )
