"""What the study of joint pruning computes: its settings, its runs, and the check of every value."""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

import jaxprune as jp
from experiments.joint.options import BUDGETS, CHOOSERS, CRITERIA
from experiments.shared import images, named
from experiments.shared.discovered import discovered
from experiments.shared.named import Named
from experiments.shared.results import fields_of
from experiments.shared.settings import Execution, at_most_images, each_once, fits, listed, positive, seeds_below
from jaxprune import check, records

VERSION = 1
"""Of the method: raised whenever the same settings give other networks or numbers."""
CONTROL = "extra-training"
"""The word for the dense network that is tuned and not pruned."""
FRACTIONS = {"test": 0.25, "training": 0.55, "scoring": 0.1, "selection": 0.1}
"""Training serves the dense network and all tuning, scoring the criteria, selection the choosers."""
RADIUS = "{:g}/255"  # of an attack, in records
_WORDS = {
    "choosers": (*CHOOSERS, CONTROL),
    "budgets": tuple(BUDGETS),
    "layer_criterion": tuple(CRITERIA),
    "neuron_criterion": tuple(CRITERIA),
    "allocation": (*jp.structured.ALLOCATIONS, "paper"),
    "optimizer": ("adamw", "sgd"),
    "choose_on": ("selection", "test"),
}
"""The values of settings that are words."""


@dataclass(frozen=True)
class Decisive:
    """What decides the numbers of a run, apart from seed, chooser and budget."""

    data: Annotated[Named, listed(images.FORMS)] = "digits"
    """tfds:<name> is a prepared TensorFlow data set, folder:<path> holds a folder for each class; a function returns a
    jp.data.Source."""
    data_folder: str | None = None
    """Where prepared TensorFlow data sets lie."""
    image: int = 32
    """Side of the images in pixels; the digits have 8 whatever it says."""
    depth: int = 20
    """Depth of the CIFAR ResNet, 6 n + 2."""
    width: int = 16
    """Channels of its first stage."""
    network: Annotated[Named, listed(("", "package.module:function"))] = ""
    """A function without arguments that returns a jp.Network of these images and classes, to be searched instead: its
    structure is found in its program.  Only units can go, and seeds differ in splits and training alone."""
    keras: bool = False
    """Build the variant of Keras's examples: biased convolutions, projections without BatchNorm."""
    pretrain_steps: int = 1000
    pretrain_rate: float = 5e-3
    """Peak learning rate of the dense network, with cosine decay."""
    batch_size: int = 64
    optimizer: Annotated[str, listed(_WORDS["optimizer"])] = "adamw"
    """sgd has Nesterov's momentum."""
    target: float = 0.8
    """The share of the dense network's operations to remove.  0: until no layer can go."""
    share: float = 0.0
    """Of the dense network, removed in a step.  0: one dense block's worth."""
    layer_criterion: Annotated[str, listed(CRITERIA)] = "second-order"
    neuron_criterion: Annotated[str, listed(CRITERIA)] = "second-order"
    allocation: Annotated[str, listed(_WORDS["allocation"])] = "per_cost"
    """How units of different groups compare."""
    multiple: int = 1
    """Widths that change become multiples of this number."""
    brief_steps: int = 50
    """Training steps of every candidate."""
    long_steps: int = 150
    """Training steps of the candidate that was kept."""
    tune_rate: float = 2e-3
    """Learning rate of both: constant while brief, then with cosine decay."""
    distil: float = 0.0
    """Share of the parent's outputs in the loss of tuning."""
    recalibrate: bool = False
    """Re-estimate BatchNorm statistics of every candidate before it is tuned."""
    choose_on: Annotated[str, listed(_WORDS["choose_on"])] = "selection"
    """The split whose images the chooser sees: test is as in the paper's code (it leaks)."""
    compile_macs: float = 4e11
    """Multiply-accumulates that the device does while the programs of a smaller network compile (two cores: 16 s): it
    is removed for real before the end where that spares more.  0: gates serve all along."""
    checkpoints: int = 4
    """Networks of a search whose robustness is measured, the dense and the last among them.  0: all."""
    epsilons: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255)
    """Radii of the attacks, in shares of the range of pixels."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of the corruptions."""


@dataclass(frozen=True, kw_only=True)
class Run(Decisive):
    """A search from the dense network to the target, and one record."""

    seed: int
    chooser: str
    budget: str


@dataclass(frozen=True)
class Settings(Decisive, Execution):
    """Every chooser within every budget for every seed."""

    choosers: Annotated[tuple[str, ...], listed(_WORDS["choosers"])] = (
        *("cka", "random", "always-neurons", "always-layer", CONTROL),
    )
    """extra-training: the dense network, tuned for the steps that the budget macs takes to the target, not pruned."""
    budgets: Annotated[tuple[str, ...], listed(BUDGETS)] = ("macs",)
    """What a step removes equal shares of; filters is the paper's."""
    out: Path = Path("results/joint")
    margin: float = 0.01
    """Accuracy that a network may lose and still count as kept; only the verdicts depend on it."""
    watts: float = 65.0
    """Power of the machine while it computes, as you state it: the energy is an estimate made with it."""
    grams_per_kwh: float = 400.0
    """Carbon intensity of the grid, as you state it."""
    paper: bool = False
    """Take the choices of the authors' code, quirks included, for every setting that is at its default; each is named
    in the output."""


PAPER: Mapping[str, tuple[Any, str]] = {
    "keras": (True, "Convolutions have biases, projections no BatchNorm, as in the networks of Keras's examples."),
    "optimizer": ("sgd", "SGD with Nesterov's momentum; its state and its schedule start anew for every candidate."),
    "tune_rate": (1e-2, "Brief tuning runs at the highest rate throughout."),
    "layer_criterion": ("kl-twice", "KL of the outputs after a second softmax, since the networks end in one already."),
    "neuron_criterion": ("kl-twice", "The same for filters, one forward pass for each."),
    "allocation": ("paper", "Half of the filters come one by one from groups drawn at random (here with a seed)."),
    "budgets": (("filters",), "Both candidates lose as many filters, not as many operations."),
    "choosers": (("cka-biased", CONTROL), "Linear CKA without the correction for its bias; of equal ones the layer."),
    "choose_on": ("test", "The chooser sees test images, on which accuracy is reported: selection on test."),
    "target": (0.0, "The search ends when no layer can go any more."),
}
"""What ``--paper`` changes: the value of the authors' code, and the quirk in words."""

UNITS: Mapping[str, Any] = {"choosers": ("always-neurons", CONTROL), "share": 0.1}
"""What a network of the user's own takes instead of the defaults: it has no layers that can go."""
MISSING = (
    "Not reproduced of it: three augmented copies (crops and flips) of the data in an epoch, the mean of every pixel "
    "subtracted, 10 + 190 epochs of tuning in every step with drops of the rate after 102 and 152 of them (here: at "
    "half and three quarters of them), and 500 training images for each class to score with."
)
"""What ``--paper`` does not change."""


def quirks(settings: Settings) -> list[str]:
    """Says what of the authors' choices a study with ``--paper`` has, and what the user set otherwise; else nothing."""
    found = []
    for name, (value, quirk) in PAPER.items() if settings.paper else ():
        chosen = getattr(settings, name)
        found.append(f"{name} = {chosen}: {quirk if chosen == value else f'set by you; the authors have {value}'}")
    return [*found, MISSING] if settings.paper else []


def resolved(settings: Settings) -> Settings:
    """Applies ``--paper``, or what goes with a network of the user's own; what the user set otherwise stays.

    A value that is set to its default cannot be told from one that is not set, so it becomes the authors'.
    """
    if settings.network and not settings.paper:
        free = {name: value for name, value in UNITS.items() if getattr(settings, name) == getattr(Settings, name)}
        return dataclasses.replace(settings, **free)
    authors = {name: value for name, (value, _) in PAPER.items() if getattr(settings, name) == getattr(Settings, name)}
    return dataclasses.replace(settings, **authors) if settings.paper else settings


def plan(settings: Settings, inputs: Any) -> list[Run]:
    """Lists the runs of a study, a seed at a time."""
    fields = fields_of(settings, Decisive)
    cells = itertools.product(settings.seeds, settings.budgets, settings.choosers)
    return [Run(**fields, seed=seed, budget=budget, chooser=chooser) for seed, budget, chooser in cells]


def search_identity(config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Returns all that decides the search of a run, given as records keep it, on data of a fingerprint."""
    measured = ("checkpoints", "epsilons", "severities")  # of a search that has ended
    search = {name: value for name, value in config.items() if name not in measured}
    return {"search": records.canonical(search), "data": data, "version": VERSION}


def trajectory_folder(config: Mapping[str, Any], data: str) -> str:
    """Names the folder of a search, below that of the study; what is measured of it afterwards makes no other."""
    return f"trajectories/{records.digest(search_identity(config, data))[:16]}"


class Inputs(NamedTuple):
    """What the study is made of: settings with everything filled in, all images, and their fingerprint."""

    settings: Settings
    images: jp.data.Source
    fingerprint: str

    def tested(self, seed: int) -> np.ndarray:
        """Says which images test the networks of a seed: their numbers among all."""
        return jp.data.split(self.images.labels, self.images.name, seed, FRACTIONS)["test"]


def open_study(settings: Settings) -> Inputs:
    """Opens the data, and finds every bad value before anything expensive starts."""
    settings = resolved(settings)
    for name, known in _WORDS.items():
        value = getattr(settings, name)
        for word in value if name in ("choosers", "budgets") else (value,):
            check.choice(name, word, known)
    if settings.allocation == "paper" and settings.budgets != ("filters",):
        raise ValueError(
            f"budgets: the allocation of the paper needs the budget 'filters', but got {settings.budgets}."
        )
    _check_numbers(settings)
    seeds_below(settings, 2**32 // 10_000 - 1)
    if not settings.network:
        jp.models.resnet_cifar(settings.depth, 2, settings.width)
    source = images.load(settings.data, settings.data_folder, settings.image).images
    classes = len(source.classes)
    if classes < 2:
        raise ValueError(f"data: expected images of two classes or more, but got {classes}. Add a class.")
    if settings.network:
        _check_own(settings)
        discovered(settings.network, tuple(source.image_shape), classes)
    else:
        network = jp.models.resnet_cifar(settings.depth, classes, settings.width, keras=settings.keras)
        fits("width, depth", f"{settings.width}, {settings.depth}", network, source.image_shape)
    for seed in settings.seeds:
        training = jp.data.split(source.labels, source.name, seed, FRACTIONS)["training"]
        at_most_images(settings.batch_size, len(training), "the training split")
    # What is passed is opened, and only then called by its name; that of the source enters the splits.
    own = named.name(settings.network) if settings.network else ""
    settings = dataclasses.replace(settings, data=named.name(settings.data), network=own)
    return Inputs(settings, source, records.digest([source.name, source.fingerprint()])[:16])


def _check_own(settings: Settings) -> None:
    """Checks that nothing asks for layers of a network in which units alone can go."""
    free = UNITS["choosers"]
    if settings.paper or not set(settings.choosers) <= set(free):
        raise ValueError(
            f"choosers: expected {' or '.join(free)}, since of a network of your own no layer can go, but got "
            f"{'--paper' if settings.paper else ', '.join(settings.choosers)}. Leave it out, or --network."
        )
    if not settings.share or not settings.target or "filters" in settings.budgets:
        raise ValueError(
            "share, target, budgets: expected shares above 0, and another budget than filters, since a network of your "
            "own has no layer to measure a step by. Take --share 0.1 and --target 0.5, or leave out --network."
        )
    for name in ("layer_criterion", "neuron_criterion"):
        if getattr(settings, name) == "cka":
            raise ValueError(
                f"{name}: expected a criterion of weights, activations or outputs, since a network of your own need "
                "not tag its features, but got cka. Take second-order or kl."
            )


def _check_numbers(settings: Settings) -> None:
    for name in ("choosers", "budgets", "epsilons", "severities"):
        each_once(name, getattr(settings, name))
    for name in ("width", "pretrain_steps", "batch_size", "image", "multiple", "brief_steps", "long_steps"):
        check.whole(name, getattr(settings, name))
    positive(settings, "pretrain_rate", "tune_rate", "margin", "watts", "grams_per_kwh")
    if not settings.compile_macs >= 0:
        raise ValueError(f"compile_macs: expected a number of 0 or more, but got {settings.compile_macs}.")
    for name in ("target", "share", "distil"):
        if not 0 <= (share := getattr(settings, name)) < 1:
            raise ValueError(f"{name}: expected a share in [0, 1), but got {share}.")
    if check.whole("checkpoints", settings.checkpoints, least=0) == 1:
        raise ValueError("checkpoints: expected 0 (all), or 2 or more, as the dense network is one, but got 1.")
    for severity in settings.severities:
        if severity not in range(1, 6):
            raise ValueError(f"severities: expected whole numbers from 1 to 5, but got {severity}.")
    for epsilon in settings.epsilons:
        if not 0 <= epsilon <= 1:
            raise ValueError(
                f"epsilons: expected shares of the range of pixels, from 0 to 1, but got {epsilon:g}. 8/255 is 0.0314."
            )
    # Of two that are called alike in records, one would be lost.
    each_once("epsilons", tuple(map(RADIUS.format, (255 * epsilon for epsilon in settings.epsilons))))
    if not settings.network and settings.depth < 20 and (settings.share == 0 or "always-layer" in settings.choosers):
        raise ValueError(
            f"depth: expected 20 or more, so that a stage has a block that can go, but got {settings.depth}: two "
            "blocks of every stage stay. Without always-layer, and with a share for each step, less will do."
        )
