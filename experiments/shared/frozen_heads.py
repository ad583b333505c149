"""A network with a frozen head for each task: pruned and fine-tuned with one of them, tested on all.

The head of a task is fitted once, on features of the dense network, and then frozen: that is what zero-shot means here.
Every split is disjoint.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments.shared import hosts, options
from experiments.shared.architectures import architecture_of
from experiments.shared.checkpoints import fitted, initialised, trained
from experiments.shared.cooling import adam
from experiments.shared.hosts import batches
from experiments.shared.splits import Inputs
from jaxprune import check, records
from jaxprune.evaluate import transfer
from jaxprune.evaluate.heads import HeadMaker

CLASSIFIER = "^head/"
"""The leaves of the classifier of the pretraining, which is neither pruned nor moved."""

# ----------------------------------------------------------------------------- the dense network and its heads


@dataclass(frozen=True)
class Domain:
    """Test images of a task: as they are, or shifted."""

    task: jp.data.Task
    shift: str | None
    data: dict[str, Any]

    @property
    def name(self) -> str:
        """What records and figures call it."""
        return f"{self.task.name} + {self.shift}" if self.shift else self.task.name


@dataclass(frozen=True)
class World:
    """What all runs of one seed share."""

    settings: Any
    seed: int
    inputs: Inputs
    dense: jp.Network
    pretrained: dict[str, float] | None
    makers: dict[str, HeadMaker]
    heads: dict[str, jp.Network]
    prunable: Any
    movable: Any
    """The leaves that an update may move: all but those of the classifier of the pretraining."""
    scoring: Sequence[dict[str, Any]]
    finetuning: dict[str, Any]
    fitting: dict[str, dict[str, Any]]
    selection: dict[str, Any]
    """The images of the source on which the rate of fine-tuning is chosen, which are none that test it."""
    tests: dict[str, Domain]
    transformation: Callable[[float, int], optax.GradientTransformation]
    """(rate, steps) -> what fine-tunes: always the same for the same ones, so that it is compiled once."""
    scored: dict[Any, tuple[Any, dict[float, Any]]] = field(default_factory=dict)
    """The score that was computed last, by its name, and the parameters that were re-adjusted by it, by sparsity:
    one-shot pruning does both once for all sparsities."""
    rounds: dict[Any, Any] = field(default_factory=dict)
    """Rounds of pruning that were done, which sparsities share."""

    @property
    def loss(self) -> jp.types.Loss:
        """Of the labels, through a frozen head: the objective "label", and what is measured."""
        return options.LOSSES[self.settings.label_loss]

    @property
    def chances(self) -> dict[str, float]:
        """The accuracy of guessing on the source, and on the other tasks, where every test image counts alike."""
        source, others = self.inputs.source, [task for task in self.inputs.tasks if task != self.inputs.source]
        sizes = [len(self.tests[task.name].data["label"]) for task in others]
        return {
            "source": source.chance,
            "transfer": float(np.average([task.chance for task in others], weights=sizes)),
        }

    @cached_property
    def quick(self) -> jp.Network:
        """The dense network for everything but scores: the same function, faster, of which no site need be known."""
        return jp.models.sliced(self.dense)

    @cached_property
    def scoring_loss(self) -> float:
        """The loss of the dense network on the scoring images."""
        return transfer.mean_loss(self.loss, self.scoring)(self.headed(self.quick))["loss"]

    @cached_property
    def scoring_gradient(self) -> Any:
        """The gradient of that loss."""
        headed = self.headed(self.quick)
        return jp.curvature.average(lambda batch: jp.curvature.gradient(headed, self.loss, batch), self.scoring)

    def headed(self, network: jp.Network, task: str = "") -> jp.Network:
        """Puts the frozen head of a task on a network; of the source where none is named."""
        return transfer.with_head(network, self.heads[task or self.inputs.source.name])

    def batches(self, data: dict[str, Any], name: str = "images") -> Sequence[dict[str, Any]]:
        """Cuts data into batches; see ``batches``."""
        return batches(data, self.settings.largest_batch, name)

    def features(self, network: jp.Network, data: dict[str, Any], name: str = "images") -> np.ndarray:
        """Reads the features of all images."""
        return transfer.features(network, self.batches(data, name))


def movable(params: Any) -> Any:
    """Says which leaves an update may move: all but those of the classifier of the pretraining."""
    return jp.tree.map_named(lambda name, _: not re.search(CLASSIFIER, name), params)


def prepare(
    settings: Any,
    inputs: Inputs,
    seed: int,
    *,
    shifts: Sequence[str] = (),
    transformation: Callable[[float, int], optax.GradientTransformation] = adam,
) -> World:
    """Splits the data, pretrains the network (or takes the one that was loaded) and fits the frozen heads.

    Of several processes of one program each fits the heads, of features that all have; networks lie on all devices.
    """
    tasks, largest = inputs.tasks, settings.largest_batch
    dense, pretrained = the_dense_network(settings, seed, inputs)
    data = {
        (task.name, name): inputs.part(seed, name, task.classes)
        for task in tasks
        for name in ("head", "selection", "test")
    }
    makers, heads, quick = {}, {}, jp.models.sliced(dense)
    for task in tasks:
        fitting = data[task.name, "head"]
        features = transfer.features(quick, batches(fitting, largest))
        makers[task.name] = choose_head(settings, quick, features, fitting["label"], data[task.name, "selection"])
        heads[task.name] = hosts.everywhere(makers[task.name](features, fitting["label"], len(task.classes)))
    clean = [Domain(task, None, data[task.name, "test"]) for task in tasks]
    shifted = [Domain(task, shift, inputs.shifted(seed, task.classes, shift)) for task in tasks for shift in shifts]
    return World(
        settings=settings,
        seed=seed,
        inputs=inputs,
        dense=dense,
        pretrained=pretrained,
        makers=makers,
        heads=heads,
        # The classifier of the pretraining is not part of the pruned network: the heads replace it.
        prunable=options.prunable(dense.params, CLASSIFIER),
        movable=movable(dense.params),
        scoring=batches(inputs.part(seed, "scoring", inputs.source.classes), largest, "scoring"),
        finetuning=inputs.part(seed, "finetuning", inputs.source.classes),
        fitting={task.name: data[task.name, "head"] for task in tasks},
        selection=data[inputs.source.name, "selection"],
        tests={one.name: one for one in (*clean, *shifted)},
        transformation=transformation,
    )


def the_dense_network(settings: Any, seed: int, inputs: Inputs) -> tuple[jp.Network, dict[str, float] | None]:
    """Returns the network that is pruned, and its accuracy on all classes where it was trained here."""
    if inputs.weights is not None:
        return hosts.everywhere(inputs.weights.network), None
    dense = hosts.everywhere(pretrain(settings, seed, inputs.part(seed, "pretraining"), len(inputs.images.classes)))
    return dense, transfer.accuracy(batches(inputs.part(seed, "test"), settings.largest_batch))(dense)


def pretrain(settings: Any, seed: int, data: dict[str, Any], classes: int) -> jp.Network:
    """Trains the network on all classes with cross-entropy, or loads the checkpoint of an earlier run."""
    found = architecture_of(settings)
    module = found.module(settings, classes, data["image"].shape[1])
    variables = initialised(module, jax.random.key(seed), data["image"][:1])
    network = jp.Network.from_linen(module, variables, train={"train": True})
    return trained(
        settings.out,
        network,
        jp.losses.cross_entropy,
        found.transformation(settings.pretrain_rate, settings.pretrain_steps),
        data,
        {"module": module.describe(), "rate": settings.pretrain_rate},
        steps=settings.pretrain_steps,
        batch_size=settings.batch_size,
        seed=seed,
        augment=found.augment,
        progress=f"pretraining, seed {seed}",
    )


def choose_head(settings: Any, dense: jp.Network, features: Any, labels: Any, selection: Any) -> HeadMaker:
    """Chooses the penalty of a task's head: the best on the selection split, with dense features."""
    makers = [options.HEADS[settings.head](penalty) for penalty in sorted(settings.penalties, reverse=True)]
    if len(makers) == 1:
        return makers[0]
    held_out = transfer.features(dense, batches(selection, settings.largest_batch))

    def accuracy(maker: HeadMaker) -> float:
        outputs = maker(features, labels, int(labels.max()) + 1)(held_out)
        return float(np.mean(np.argmax(np.asarray(outputs), axis=-1) == selection["label"]))

    return max(makers, key=accuracy)  # the first of equals: the largest penalty, so the simplest head


# ------------------------------------------------------------------------------------------------------ the runs


def accuracies(world: World, network: jp.Network) -> dict[str, Any]:
    """Evaluates every test domain with the frozen head, and with one fitted anew on this network's features."""
    refitted = {}
    for task, data in world.fitting.items():
        features, classes = world.features(network, data, f"head of {task}"), int(data["label"].max()) + 1
        refitted[task] = world.makers[task](features, data["label"], classes)
    result: dict[str, Any] = {"frozen": {}, "refitted": {}}
    for name, one in world.tests.items():
        features = world.features(network, one.data, name)
        for kind, heads in (("frozen", world.heads), ("refitted", refitted)):
            outputs = np.asarray(heads[one.task.name](features))
            check.finite(f"outputs on {name}", outputs, "The network is damaged: lower finetune_rate.")
            hits = np.argmax(outputs, axis=-1) == one.data["label"]
            result[kind][name] = {**transfer.summary(hits), "hits": "".join("01"[int(hit)] for hit in hits)}
    return result


def recalibrated(world: World, network: jp.Network) -> jp.Network:
    """Gives a network BatchNorm statistics of its own, where the settings say so."""
    if not world.settings.recalibrate:
        return network
    # A network that is trained here sees all images at once; a pretrained one is too large for that.
    largest = world.settings.largest_batch if world.pretrained is None else len(world.finetuning["label"])
    return jp.train.recalibrate(network, whole_batches(world.finetuning, largest), jax.random.key(world.seed))


def whole_batches(data: dict[str, Any], largest: int) -> list[dict[str, Any]]:
    """Cuts data into batches of one size, since padding would enter statistics.  What is left over is left out."""
    count = -(-len(data["label"]) // largest)
    return list(jp.data.Batches(data, len(data["label"]) // count))[:count]


class Tuned(NamedTuple):
    """A fine-tuned network, and the rate of its fine-tuning."""

    network: jp.Network
    rate: float


def finetuned(world: World, pruned: jp.Network, mask: Any) -> Tuned:
    """Fine-tunes a pruned network at the rate with which it is best on the selection images of the source.

    Of equals it is the smallest rate, with which weights move least.  One at which training diverges is out of the
    question.  Where there is one rate only, nothing is evaluated.

    Raises:
      FloatingPointError: training diverges at every rate.
    """
    rates = world.settings.finetune_rates
    if len(rates) == 1:
        return Tuned(finetuned_at(world, pruned, mask, rates[0]), rates[0])

    def train(rate: float) -> jp.Network:
        return finetuned_at(world, pruned, mask, rate)

    return best_rate(rates, train, lambda network: selection_accuracy(world, network))


def best_rate(
    rates: Sequence[float], train: Callable[[float], jp.Network], right: Callable[[jp.Network], float]
) -> Tuned:
    """Trains at every rate and takes the network that gets most right; of equals the one of the smallest rate.

    Raises:
      FloatingPointError: training diverges at every rate.
    """
    best, most = None, -1.0
    for rate in sorted(rates):
        try:
            network = train(rate)
        except FloatingPointError:
            continue
        if (found := right(network)) > most:
            best, most = Tuned(network, rate), found
    if best is None:
        raise FloatingPointError(
            f"finetune_rates: expected one at which training stays finite, but got {sorted(rates)}. Take smaller ones."
        )
    return best


def selection_accuracy(world: World, network: jp.Network) -> float:
    """Measures the accuracy on the selection images of the source, through its frozen head.

    An image whose outputs are not finite is not classified rightly.
    """
    features = world.features(network, world.selection, "selection")
    outputs = np.asarray(world.heads[world.inputs.source.name](features))
    hits = np.argmax(outputs, axis=-1) == world.selection["label"]
    return float(np.mean(hits & np.isfinite(outputs).all(axis=-1)))


def finetuned_at(world: World, pruned: jp.Network, mask: Any, rate: float, order: int | None = None) -> jp.Network:
    """Trains a pruned network on the source task through its frozen head.

    Args:
      world: of the seed.
      pruned: where to start.
      mask: of the weights that stay.
      rate: of the training.
      order: the seed of the order of the images; None: that of the world.
    """
    steps = world.settings.finetune_steps
    tuned = fitted(
        world.headed(pruned),
        options.LOSSES[world.settings.finetune_loss],
        jp.optim.with_mask(world.transformation(rate, steps), mask),
        world.finetuning,
        steps=steps,
        batch_size=world.settings.batch_size,
        seed=world.seed if order is None else order,
        progress=f"fine-tuning at {rate:g}" if isinstance(world.finetuning["image"], jp.data.Stream) else None,
    )
    return pruned.replace(params=tuned.params)


def sparsities(world: World, mask: Any) -> dict[str, Any]:
    """Says how sparse a mask is, in all and in every kernel, and which one it is."""
    kept = jp.tree.map_named(lambda name, leaf: float(np.mean(np.asarray(leaf))), mask)
    layers = zip(jp.tree.names(mask), jax.tree.leaves(kept), jax.tree.leaves(world.prunable), strict=True)
    return {
        "sparsity": jp.masks.sparsity(mask, world.prunable),
        "layer_sparsity": {name: 1 - share for name, share, flag in layers if flag},
        "mask": records.fingerprint(*map(np.asarray, jax.tree.leaves(mask))),
    }
