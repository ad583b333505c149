"""What the study of methods computes: its settings, its runs, and the check of every value."""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

import jaxprune as jp
from experiments.methods.arms import ARMS
from experiments.shared import images, named
from experiments.shared.images import FORMS
from experiments.shared.methods import DENSE, Method
from experiments.shared.named import Named
from experiments.shared.results import fields_of
from experiments.shared.settings import Execution, at_most_images, each_once, fits, listed, positive
from jaxprune import check, records


@dataclass(frozen=True)
class Decisive:
    """What decides the numbers of a run, apart from seed, method and sparsity."""

    data: Annotated[Named, listed(FORMS)] = "digits"
    """tfds:<name> is a prepared TensorFlow data set; folder:<path> holds a folder for each class; a function returns a
    jp.data.Source."""
    data_folder: str | None = None
    """Where prepared TensorFlow data sets lie."""
    image: int | None = None
    """Side of the images in pixels; the digits have 8 whatever it says.  None: 32."""
    depth: int = 8
    """Depth of the CIFAR ResNet, 6 n + 2."""
    width: int = 6
    """Channels of its first stage."""
    pretrain_steps: int = 1000
    pretrain_rate: float = 5e-3
    """Peak learning rate of AdamW on cross-entropy, with cosine decay."""
    batch_size: int = 64
    examples: int = 512
    """Training images that every method has."""
    rounds: int = 9
    """Of the methods that prune in rounds, each of which prunes the same share of what is left."""
    finetune_steps: int = 100
    finetune_rates: tuple[float, ...] = (2e-4, 1e-3, 5e-3)
    """Peak learning rates of Adam on cross-entropy, on the images that every method has; the best on the selection
    images is taken for each network."""


@dataclass(frozen=True, kw_only=True)
class Run(Decisive, Method):
    """A pruned network, before and after fine-tuning, and one record."""

    seed: int
    sparsity: float


@dataclass(frozen=True)
class Settings(Decisive, Execution):
    """Every method at every sparsity for every seed, and the dense network for every seed."""

    methods: Annotated[tuple[str, ...], listed(ARMS)] = tuple(ARMS)
    """Objective, score and update of each."""
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: Path = Path("results/methods")


@dataclass(frozen=True)
class Inputs:
    """The images of the study, and its settings filled in."""

    settings: Any
    images: jp.data.Source
    fingerprint: str

    def part(self, seed: int, name: str) -> dict[str, Any]:
        """The labelled images of a split."""
        return jp.data.select(self.images, self.indices(seed, name), tuple(range(len(self.images.classes))))

    def indices(self, seed: int, name: str) -> np.ndarray:
        """The numbers of the images of a split."""
        return jp.data.split(self.images.labels, self.images.name, seed)[name]


def open_study(settings: Settings) -> Inputs:
    """Opens the data, and finds every bad value before anything expensive starts."""
    each_once("methods", settings.methods)
    for word in settings.methods:
        check.choice("methods", word, ARMS, ordered=True)
    each_once("sparsities", settings.sparsities)
    for sparsity in settings.sparsities:
        check.sparsity(sparsity, "sparsities")
    positive(settings, "width", "pretrain_steps", "batch_size", "finetune_steps", "pretrain_rate", "image")
    check.whole("rounds", settings.rounds)
    check.whole("examples", settings.examples, least=8)
    each_once("finetune_rates", settings.finetune_rates)
    for rate in settings.finetune_rates:
        check.positive("finetune_rates", rate)
    side = settings.image or 32
    module = jp.models.resnet_cifar(settings.depth, 2, settings.width)
    fits("width, depth", f"{settings.width}, {settings.depth}", module, (side, side, 3))
    found = images.load(settings.data, settings.data_folder, side)
    inputs = Inputs(dataclasses.replace(settings, data=named.name(settings.data)), found.images, "")
    for seed in settings.seeds:
        there = len(inputs.indices(seed, "pretraining"))
        at_most_images(settings.batch_size, there, found.images.name)
        if settings.examples > there:
            raise ValueError(
                f"examples: expected at most {there}, the images that train the network, but got {settings.examples}."
            )
    digest = records.digest([found.images.name, found.images.fingerprint()])[:16]
    return dataclasses.replace(inputs, fingerprint=digest)


def plan(settings: Settings, inputs: Any) -> list[Run]:
    """Lists the runs, those of a seed and a method together."""
    del inputs
    fields = fields_of(settings, Decisive)
    cells = [(DENSE, 0.0), *itertools.product((ARMS[word].method for word in settings.methods), settings.sparsities)]
    return [Run(**fields, **vars(method), seed=seed, sparsity=s) for seed in settings.seeds for method, s in cells]
