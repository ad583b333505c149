"""What the study of joint pruning computes: its settings, the grid of its runs, and the check of every value."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxprune as jp
from experiments import options
from experiments.transfer_grid import each_once
from jaxprune import check, records


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run, apart from seed, chooser and budget."""

    data: str = "digits"
    """digits, shapes, or tfds:<name> for a prepared TensorFlow data set."""
    data_folder: str | None = None
    """Where prepared TensorFlow data sets lie."""
    image: int = 32
    """Side of the images in pixels; the digits have 8 whatever it says."""
    depth: int = 20
    """Depth of the CIFAR ResNet, 6 n + 2."""
    width: int = 16
    """Channels of its first stage."""
    keras: bool = False
    """Build the variant of Keras's examples: biased convolutions, projections without BatchNorm."""
    pretrain_steps: int = 1000
    pretrain_rate: float = 5e-3
    """Peak learning rate of the dense network, with cosine decay."""
    batch_size: int = 64
    optimizer: str = "adamw"
    """adamw, or sgd with Nesterov's momentum."""
    target: float = 0.8
    """The share of the dense network's operations to remove.  0: until no layer can go."""
    share: float = 0.0
    """Of the dense network, removed in a step.  0: one dense block's worth."""
    layer_criterion: str = "second-order"
    neuron_criterion: str = "second-order"
    allocation: str = "per_cost"
    """How units of different groups compare: global, normalised, per_cost, uniform, or paper."""
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
    choose_on: str = "selection"
    """The split whose images the chooser sees: selection, or test as in the paper's code (it leaks)."""
    compile_macs: float = 4e11
    """Multiply-accumulates that the device does while the programs of a smaller network compile (two cores: 16 s): it
    is removed for real before the end where that spares more.  0: gates serve all along."""
    checkpoints: int = 4
    """Networks of a trajectory whose robustness is measured, the dense and the last among them.  0: all."""
    epsilons: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255)
    """Radii of the attacks, in shares of the range of pixels."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of the corruptions."""


@dataclass(frozen=True)
class Run(Settings):
    """A search from the dense network to the target, and one record."""

    seed: int = dataclasses.field(kw_only=True)
    chooser: str = dataclasses.field(kw_only=True)
    budget: str = dataclasses.field(kw_only=True)


@dataclass(frozen=True)
class Study(Settings):
    """Every chooser within every budget for every seed."""

    choosers: tuple[str, ...] = ("cka", "random", "always-neurons", "always-layer", "extra-training")
    """cka, cka-biased, cka-rbf, cka-minibatch, cka-streaming, procrustes, accuracy, random, always-..., and
    extra-training: the dense network, tuned for the steps that the budget macs takes to the target, and not pruned."""
    budgets: tuple[str, ...] = ("macs",)
    """What a step removes equal shares of: macs, parameters, latency; or filters, the paper's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("results/joint_pruning")
    """Where trajectories, records, tables and the page go.  What is there already is not computed again."""
    margin: float = 0.01
    """Accuracy that a network may lose and still count as kept; only the verdicts depend on it."""
    watts: float = 65.0
    """Power of the machine while it computes, as you state it: the energy is an estimate made with it."""
    grams_per_kwh: float = 400.0
    """Carbon intensity of the grid, as you state it."""
    paper: bool = False
    """Take the choices of the authors' code, quirks included, for every setting that is at its default; each is named
    in the output."""


CONTROL = "extra-training"
"""The word for the dense network that is tuned and not pruned."""

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

MISSING = (
    "Not reproduced of it: three augmented copies (crops and flips) of the data in an epoch, the mean of every pixel "
    "subtracted, 10 + 190 epochs of tuning in every step with drops of the rate after 102 and 152 of them (here: at "
    "half and three quarters of them), and 500 training images for each class to score with."
)
"""What ``--paper`` does not change."""


def quirks(study: Study) -> list[str]:
    """Says what of the authors' choices a study with ``--paper`` has, and what the user set otherwise."""
    told = []
    for name, (value, quirk) in PAPER.items():
        chosen = getattr(study, name)
        told.append(f"{name} = {chosen}: {quirk if chosen == value else 'set by you; the authors have ' + str(value)}")
    return [*told, MISSING]


def resolved(study: Study) -> Study:
    """Applies ``--paper`` where it was asked for; what the user set otherwise stays.

    A value that is set to its default cannot be told from one that is not set, so it becomes the authors'.
    """
    if not study.paper:
        return study
    untouched = Study()
    changes = {name: value for name, (value, _) in PAPER.items() if getattr(study, name) == getattr(untouched, name)}
    return dataclasses.replace(study, **changes)


MEASURED = ("checkpoints", "epsilons", "severities")
"""The settings that decide what is measured of a search, and not the search."""


def searched(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a search; what is measured of it afterwards makes no other."""
    return {name: value for name, value in config.items() if name not in MEASURED}


def trajectory(config: Mapping[str, Any]) -> str:
    """Names the folder of a search.

    Args:
      config: the fields of a run, as a record keeps them.
    """
    # Through JSON, where tuples are lists, whoever asks.
    return records.digest(json.loads(json.dumps(searched(config))))[:16]


def grid(study: Study) -> list[Run]:
    """Lists the runs of a study, a seed at a time."""
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(Settings)}
    return [
        Run(**fields, seed=seed, chooser=chooser, budget=budget)
        for seed in study.seeds
        for budget in study.budgets
        for chooser in study.choosers
    ]


_POSITIVE = ("width", "pretrain_steps", "pretrain_rate", "batch_size", "image", "multiple", "brief_steps")
_POSITIVE += ("long_steps", "tune_rate", "margin", "watts", "grams_per_kwh")
_NOT_NEGATIVE = ("share", "distil", "compile_macs", "checkpoints")

_WHOLE = ("width", "pretrain_steps", "batch_size", "image", "multiple", "brief_steps", "long_steps", "checkpoints")


def _check_numbers(study: Study) -> None:
    """Checks what the type of a setting does not say."""
    for name in _WHOLE:
        if getattr(study, name) != int(getattr(study, name)):
            raise ValueError(f"{name}: expected a whole number, but got {getattr(study, name)}.")
    for seed in study.seeds:
        if seed < 0:
            raise ValueError(f"seeds: expected numbers of 0 or more, but got {seed}.")
    for severity in study.severities:
        if severity not in range(1, 6):
            raise ValueError(f"severities: expected numbers from 1 to 5, but got {severity}.")
    for epsilon in study.epsilons:
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"epsilons: expected finite shares of the range of pixels, 0 or more, but got {epsilon}.")
    if study.depth < 20 and (study.share == 0 or "always-layer" in study.choosers):
        raise ValueError(
            f"depth: expected 20 or more, so that a stage has a block that can go, but got {study.depth}: two blocks "
            "of every stage stay. Without always-layer, and with a share for each step, less will do."
        )


FRACTIONS = {"test": 0.25, "training": 0.55, "scoring": 0.1, "selection": 0.1}
"""Training serves the dense network and all tuning, scoring the criteria, selection the choosers."""


def validate(study: Study) -> Any:
    """Opens the data, and finds every bad value before anything expensive starts."""
    tables = {
        "choosers": (study.choosers, (*options.CHOOSERS, CONTROL)),
        "budgets": (study.budgets, options.BUDGETS),
        "layer_criterion": ((study.layer_criterion,), options.CRITERIA),
        "neuron_criterion": ((study.neuron_criterion,), options.CRITERIA),
        "allocation": ((study.allocation,), (*jp.structured.ALLOCATIONS, "paper")),
        "optimizer": ((study.optimizer,), ("adamw", "sgd")),
        "choose_on": ((study.choose_on,), ("selection", "test")),
    }
    for name, (values, known) in tables.items():
        for value in values:
            check.choice(name, value, known)
    for name in ("choosers", "budgets", "seeds", "epsilons", "severities"):
        each_once(name, getattr(study, name))
    for name in _POSITIVE:
        check.positive(name, getattr(study, name))
    for name in _NOT_NEGATIVE:
        if not getattr(study, name) >= 0:
            raise ValueError(f"{name}: expected a number of 0 or more, but got {getattr(study, name)}.")
    for name in ("target", "share", "distil"):
        if not 0 <= getattr(study, name) < 1:
            raise ValueError(f"{name}: expected a share in [0, 1), but got {getattr(study, name)}.")
    _check_numbers(study)
    if study.allocation == "paper" and study.budgets != ("filters",):
        raise ValueError(f"budgets: the allocation of the paper needs the budget 'filters', but got {study.budgets}.")
    if study.checkpoints == 1:
        raise ValueError("checkpoints: expected 0 (all), or 2 or more, as the dense network is one, but got 1.")
    jp.models.resnet_cifar(study.depth, 2, study.width)
    check.writable("out", study.out)
    images = options.load(study.data, study.data_folder, study.image).images
    for seed in study.seeds:
        jp.data.split(images.labels, images.name, seed, FRACTIONS)
    return images
