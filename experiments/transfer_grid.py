"""What the transfer study computes: its settings, the grid of its runs, and the check of every value."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxprune as jp
from experiments import options, transfer_data
from experiments.transfer_data import Opened
from jaxprune import check

FINETUNE_RATE, PRETRAINED_RATE = 2e-3, 1e-4
"""Of fine-tuning, where no setting says so: the small network that is trained here, and pretrained ones."""


@dataclass(frozen=True)
class Common:
    """What decides the networks of a run, and their heads, apart from seed, score and sparsity."""

    data: str = "digits"
    """digits, shapes, tfds:<name> for a prepared TensorFlow data set, npz:<path>, or folder:<path> for pictures: one
    folder for each class, or train and val with such.  The images of val test pretrained networks, and no others."""
    data_folder: str | None = None
    """Where prepared TensorFlow data sets lie."""
    image: int | None = None
    """Side of the images in pixels; the digits have 8 whatever it says.  None: 32, or that of pretrained weights."""
    source: str = ""
    """The task whose data prune and fine-tune the network.  Empty: the first task of the data."""
    depth: int = 8
    """Depth of the CIFAR ResNet, 6 n + 2."""
    width: int = 6
    """Channels of its first stage."""
    pretrain_steps: int = 1000
    pretrain_rate: float = 5e-3
    """Peak learning rate of AdamW on cross-entropy over all classes, with cosine decay."""
    batch_size: int = 64
    head: str = "ridge"
    """ridge, logistic, nearest-mean or nearest-neighbours."""
    penalties: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """Of the head; chosen for each task by its accuracy on the selection split, with dense features."""
    loss: str = "squared_error"
    """Through the frozen source head, for scoring and fine-tuning: squared_error or cross_entropy."""
    rounds: int = 1
    """Rounds of pruning: 1 is one-shot, more re-score after each (exponential schedule)."""
    damping: float = 1e-2
    """Of block-obs, relative to the mean diagonal of a leaf."""
    recalibrate: bool = False
    """Re-estimate BatchNorm statistics after pruning, on the fine-tuning images of the source task."""
    finetune_steps: int = 100
    finetune_rate: float | None = None
    """Peak learning rate of Adam, with cosine decay; BatchNorm statistics stay frozen.  None: 2e-3 for the network that
    is trained here, 1e-4 for pretrained ones."""


@dataclass(frozen=True)
class Settings(Common):
    """What decides the numbers of a run, apart from seed, score and sparsity."""

    shifts: tuple[str, ...] = ("noise", "rotation", "blur", "contrast")
    """Shifted domains of every task, evaluated as well."""
    weights: str = ""
    """A file of pretrained weights, or a folder that jp.structured.save wrote.  Empty: a ResNet is trained first."""
    architecture: str = ""
    """Of the weights, such as torchvision/resnet50, moco_v2/resnet50 or dino/vit_s16."""
    protocol: str = "leak-free"
    """leak-free: disjoint splits.  public-proxy: that of the authors' closest public code, which says what leaks."""
    tasks: tuple[str, ...] = ()
    """Which tasks of the data.  Empty: all."""
    most_per_class: int = 0
    """Images of a class in each split, at most, where weights are given.  0: all."""
    largest_batch: int = 256
    """Images that are scored or evaluated at a time: it changes memory, and results by rounding only."""
    on_error: options.OnError = "error"
    """What becomes of pictures that can't be read: error, or skip, which leaves them out before any split."""
    inputs: str = ""
    """Filled in: a hash of the weights and the pictures on disk."""


@dataclass(frozen=True)
class Run(Settings):
    """One cell of the grid, and one record."""

    seed: int = dataclasses.field(kw_only=True)
    score: str = dataclasses.field(kw_only=True)
    sparsity: float = dataclasses.field(kw_only=True)


@dataclass(frozen=True)
class Study(Settings):
    """The grid of runs: every score at every sparsity for every seed, and the dense network for every seed."""

    scores: tuple[str, ...] = ("magnitude", "diagonal", "block-quadratic", "block-obs", "random")
    sparsities: tuple[float, ...] = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("results/transfer")
    """Where records, checkpoints, tables and the page go.  What is there already is not computed again."""
    margin: float = 0.05
    """A network keeps an accuracy if it loses less than this; only the verdicts depend on it."""
    shard: str = "1/1"
    """i/n: compute the i-th of n parts of the grid, so that n processes share one study."""
    dry_run: bool = False
    """Check every input, and say what would be done, how long it would take and how much memory; compute nothing."""


def grid(study: Study) -> list[Run]:
    """Lists the runs of a study, in an order that keeps a seed, and a score, together."""
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(Settings)}
    cells = [("dense", 0.0), *((score, sparsity) for score in study.scores for sparsity in study.sparsities)]
    return [
        Run(**fields, seed=seed, score=score, sparsity=sparsity) for seed in study.seeds for score, sparsity in cells
    ]


_COUNTS = ("width", "pretrain_steps", "batch_size", "rounds", "finetune_steps")
_AMOUNTS = ("pretrain_rate", "damping")


def validate(study: Study) -> Opened:
    """Opens weights and data, and finds every bad value before anything expensive starts."""
    for shift in study.shifts:
        check.choice("shifts", shift, jp.data.SHIFTS)
    for sparsity in study.sparsities:
        check.sparsity(sparsity, "sparsities")
    each_once("sparsities", study.sparsities)
    check.positive("margin", study.margin)
    part(study.shard)
    check_common(study, study.scores, study.seeds, study.out)
    check.whole("most_per_class", study.most_per_class, least=0)
    check.whole("largest_batch", study.largest_batch)
    check.choice("on_error", study.on_error, ("error", "skip"))
    check.choice("protocol", study.protocol, transfer_data.PROTOCOLS)
    each_once("tasks", study.tasks or ("all",))
    if study.most_per_class and study.protocol == "public-proxy":
        raise ValueError(
            f"most_per_class: expected 0 under public-proxy, which is about all test images, but got "
            f"{study.most_per_class}. Leave it out, or take the protocol leak-free."
        )
    if study.weights:
        return transfer_data.open_pretrained(study, study.seeds)
    for name, value in {"architecture": study.architecture, "most_per_class": study.most_per_class}.items():
        if value:
            raise ValueError(
                f"{name}: expected none where a network is trained first, but got {value!r}. Pass weights."
            )
    if study.protocol != "leak-free":
        raise ValueError(f"protocol: {study.protocol!r} is about pretrained networks. Pass weights, or leave it out.")
    return transfer_data.open_plain(study, study.seeds, study.tasks, study.on_error)


def completed(study: Study, opened: Opened) -> Study:
    """Fills in what the settings leave open: the source, the inputs, and the protocol's numbers."""
    study = dataclasses.replace(study, source=opened.source.name)
    if study.data not in options.BUNDLED or study.weights:
        study = dataclasses.replace(study, inputs=opened.fingerprint)
    if study.protocol == "public-proxy":
        study = transfer_data.with_protocol(study, opened)
    if study.weights and study.finetune_rate is None:
        study = dataclasses.replace(study, finetune_rate=PRETRAINED_RATE)
    return study


def check_common(settings: Common, scores: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> None:
    """Finds every bad value among what studies of pruned networks share."""
    for score in scores:
        check.choice("scores", score, options.SCORES)
    check.choice("head", settings.head, options.HEADS)
    check.choice("loss", settings.loss, options.LOSSES)
    for name in (*_COUNTS, *_AMOUNTS):
        check.positive(name, getattr(settings, name))
    for name in ("image", "finetune_rate"):
        if getattr(settings, name) is not None:
            check.positive(name, getattr(settings, name))
    for penalty in settings.penalties:
        check.positive("penalties", penalty)
    for name, values in {"scores": scores, "seeds": seeds, "penalties": settings.penalties}.items():
        each_once(name, values)
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"seeds: expected numbers of 0 or more, but got {seed}.")
    jp.models.resnet_cifar(settings.depth, 2, settings.width)
    check.writable("out", out)


def each_once(name: str, values: Sequence[Any]) -> None:
    """Checks that there are one or more values, and that none repeats."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: expected one or more, each of them once, but got {values}.")


def part(shard: str) -> tuple[int, int]:
    """Reads "i/n" as (i, n)."""
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ValueError(f"shard: expected i/n with 1 <= i <= n, such as 2/4, but got {shard!r}.")
    return int(index), int(count)


def mine(runs: Sequence[Any], shard: str, together: Callable[[Any], Any]) -> list[Any]:
    """Returns this shard's runs; those that are equal in ``together`` stay together, since they share work."""
    index, count = part(shard)
    blocks = list(dict.fromkeys(map(together, runs)))
    chosen = set(blocks[index - 1 :: count])
    return [run for run in runs if together(run) in chosen]
