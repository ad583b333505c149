"""Which images the transfer study uses for what, and the pretrained network that looks at them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxprune as jp
from experiments import options
from jaxprune import check, memory, records
from jaxprune.models import pretrained
from jaxprune.types import Preprocess

PROTOCOLS: Mapping[str, tuple[str, ...]] = {
    "leak-free": (),
    "public-proxy": (
        "The head of a task is fitted on the very images that test it: zero-shot accuracy is training accuracy.",
        "The images that prune the network are test images of the source task.",
        "The images that fine-tune it are the test images of the source task, all of them.",
        "The first 128 images of the source task prune it, which in the order of the classes are of few classes.",
        "The head's penalty is 1; were there several, they would be compared on the test images.",
    ),
}
"""What leaks between training and test under each protocol.  The second is that of the authors' closest public code."""

PROXY_EPOCHS = 90
PROXY_SCORING = 128
"""Images that prune the network under the protocol public-proxy: two batches of 64, in the order of the classes."""


@dataclass(frozen=True)
class Weights:
    """A pretrained network as the study uses it.

    Attributes:
      name: what the page calls it.
      network: it takes bytes, or pixels in [0, 1].
      preprocess: how pictures are brought to its size.
      dropped: what its file holds beside it, with the reasons.
      fingerprint: of the file.
    """

    name: str
    network: jp.Network
    preprocess: Preprocess
    dropped: Mapping[str, str]
    fingerprint: str


@dataclass(frozen=True)
class Opened:
    """The images of a study, its tasks, and its network where that is pretrained."""

    images: jp.data.Source
    tests: jp.data.Source | None
    tasks: tuple[jp.data.Task, ...]
    source: jp.data.Task
    weights: Weights | None = None
    protocol: str = "leak-free"
    most_per_class: int = 0

    def part(self, seed: int, name: str, classes: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Returns the images of a split, of these classes: in memory where they fit, else streamed from disk."""
        source, indices = self.indices(seed, name, classes)
        if self.weights is None:
            return jp.data.select(source, indices, classes)
        return _held(jp.data.stream(source, indices, classes, complete=self.has_every_class(name)))

    def has_every_class(self, name: str) -> bool:
        """Whether a split must have an image of every class; the few images that prune by the public code need not."""
        return not (self.protocol == "public-proxy" and name == "scoring")

    def shifted(self, seed: int, classes: tuple[int, ...], shift: str) -> dict[str, Any]:
        """Returns the test images of these classes under a shift."""
        if self.weights is None:
            data = self.part(seed, "test", classes)
            return {**data, "image": jp.data.shift(data["image"], shift, seed)}
        source, indices = self.indices(seed, "test", classes)
        moved = _Shifted(source, indices, shift, seed)
        return _held(jp.data.stream(moved, np.arange(len(indices)), classes))

    def indices(
        self, seed: int, name: str, classes: tuple[int, ...] | None = None
    ) -> tuple[jp.data.Source, np.ndarray]:
        """Says which images a split has: (the source, their numbers there)."""
        if self.protocol == "public-proxy":
            source = self.tests or self.images
            found = _of(source, self.classes if classes is None else classes)
            if name == "scoring":
                # In the order of the classes, in which a data set need not be.
                found = found[np.argsort(source.labels[found], kind="stable")][:PROXY_SCORING]
            return source, found
        if name == "test" and self.tests is not None:
            source, found = self.tests, _of(self.tests, self.classes)
        else:
            source, found = self.images, self._split(seed)[name]
        if classes is not None:
            found = found[np.isin(source.labels[found], classes)]
        return source, _first(source, found, self.most_per_class)

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that matter: those of the tasks, or all where the network is trained on all."""
        if self.weights is None:
            return tuple(range(len(self.images.classes)))
        return tuple(sorted({one for task in self.tasks for one in task.classes}))

    def used(self) -> list[tuple[jp.data.Source, np.ndarray]]:
        """Lists the images that any seed may use, by source."""
        sources = [self.images, self.tests] if self.protocol == "leak-free" else [self.tests or self.images]
        return [(source, _of(source, self.classes)) for source in sources if source is not None]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and of all images."""
        parts = [source.fingerprint() for source, _ in self.used()]
        return records.digest([self.weights.fingerprint if self.weights else "", *parts])[:16]

    @property
    def skipped(self) -> dict[str, int]:
        """How many pictures of each folder were left out, since they could not be read or are hidden."""
        counts = {source.name: len(getattr(source, "skipped", ())) for source, _ in self.used()}
        return {name: count for name, count in counts.items() if count}

    def _split(self, seed: int) -> dict[str, np.ndarray]:
        """The splits of the images; pretrained networks need none for pretraining, a set of its own none for tests."""
        if self.weights is None:
            return jp.data.split(self.images.labels, self.images.name, seed)
        without = {"pretraining"} | ({"test"} if self.tests is not None else set())
        shares = {name: share for name, share in jp.data.FRACTIONS.items() if name not in without}
        total = sum(shares.values())
        fractions = {name: share / total for name, share in shares.items()}
        found = _of(self.images, self.classes)
        parts = jp.data.split(self.images.labels[found], self.images.name, seed, fractions)
        return {name: found[places] for name, places in parts.items()}


def open_plain(
    settings: Any, seeds: Sequence[int], chosen: Sequence[str] = (), on_error: options.OnError = "error"
) -> Opened:
    """Opens the data of a study that trains its network first.

    Args:
      settings: what studies of pruned networks share.
      seeds: whose splits are made once, to see that each has an image of every class.
      chosen: the names of the tasks.  Empty: all.
      on_error: what becomes of pictures in folders that can't be read: "error" or "skip".
    """
    found = options.load(settings.data, settings.data_folder, settings.image or 32, on_error=on_error)
    return _checked(Opened(found.images, None, *_tasks(found.tasks, chosen, settings.source)), seeds)


def open_pretrained(settings: Any, seeds: Sequence[int]) -> Opened:
    """Opens weights and data of a transfer study, and checks all that can be checked before anything is computed.

    Every picture in use is decoded once: one that can't be read is found now, and not in the middle of a study.
    """
    weights = load_weights(settings.weights, settings.architecture, settings.image)
    found = options.load(settings.data, settings.data_folder, 0, weights.preprocess, settings.on_error)
    tasks, source = _tasks(found.tasks, settings.tasks, settings.source)
    opened = Opened(found.images, found.tests, tasks, source, weights, settings.protocol, settings.most_per_class)
    for images, indices in opened.used():
        _demand_fitting(weights, images)
        # Where pictures are skipped, all were decoded when the folder was opened.
        if isinstance(images, jp.data.Folder) and settings.on_error == "error":
            images.check(indices, whole=True)
    return _checked(opened, seeds)


def load_weights(path: str, architecture: str, image: int | None) -> Weights:
    """Loads a pretrained network, or one that ``jp.structured.save`` wrote (architecture "jaxprune").

    Raises:
      ValueError: no architecture is given, or what ``jp.models.load`` and ``jp.structured.load`` raise.
    """
    known = ("jaxprune", *jp.models.ARCHITECTURES)
    if not architecture:
        fitting = " It looks like jaxprune." if Path(path).is_dir() else ""
        if not fitting and (names := pretrained.looks_like(path)):
            fitting = f" It looks like {' or '.join(names)}."
        raise ValueError(f"architecture: expected whose weights {path!r} are, one of {', '.join(known)}.{fitting}")
    check.choice("architecture", architecture, known)
    if architecture == "jaxprune":
        return _own(path, image)
    # Heads of the study's own replace the last layer.
    found = pretrained.read(path, architecture, image=image, head=False)
    network = jp.models.normalised(found.network, found.preprocess)
    return Weights(architecture, network, found.preprocess, found.dropped, found.fingerprint)


def _own(path: str, image: int | None) -> Weights:
    specification, network = jp.structured.load(path, jp.models.specification)
    preprocess = jp.structured.preprocess_of(path)
    if image is not None:
        preprocess = dataclasses.replace(preprocess, resize=(image, image), crop=None)
    family = specification.describe()["family"]
    made = jp.models.normalised(network, preprocess)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((network.params, network.state))]
    # The shape and the preprocessing too: the same arrays mean another network with others.
    parts = [records.fingerprint(*leaves), specification.describe(), dataclasses.asdict(preprocess)]
    return Weights(f"{family} of jaxprune", made, preprocess, {}, records.digest(parts)[:16])


def with_protocol(study: Any, opened: Opened) -> Any:
    """Gives a study the numbers of the public code, but for settings that are not at their defaults.

    Ridge heads with a penalty of 1, squared error, 100 rounds, and 90 epochs of fine-tuning in batches of 64.
    """
    _, found = opened.indices(0, "finetuning", opened.source.classes)
    wanted = {
        "head": "ridge",
        "penalties": (1.0,),
        "loss": "squared_error",
        "rounds": 100,
        "batch_size": 64,
        "finetune_rate": 5e-5,
        "shifts": (),
    }
    chosen = records.changed(study)
    made = dataclasses.replace(study, **{name: value for name, value in wanted.items() if name not in chosen})
    if "finetune_steps" in chosen:
        return made
    return dataclasses.replace(made, finetune_steps=PROXY_EPOCHS * -(-len(found) // made.batch_size))


def proxy_transformation(rate: float, steps: int) -> optax.GradientTransformation:
    """Makes the public code's: SGD, momentum 0.9, decay 1e-4, and a tenth of the rate after 30, 60 and 80 epochs."""
    places = {steps * part // PROXY_EPOCHS: 0.1 for part in (30, 60, 80)}
    schedule = optax.piecewise_constant_schedule(rate, places)
    return optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(schedule, momentum=0.9))


def _checked(opened: Opened, seeds: Sequence[int]) -> Opened:
    """Makes the splits of every seed once: each part of a task has an image of every class."""
    for seed in seeds:
        for task in opened.tasks:
            for name in ("scoring", "head", "finetuning", "selection", "test"):
                source, found = opened.indices(seed, name, task.classes)
                jp.data.relabelled(source, found, task.classes, complete=opened.has_every_class(name))
    return opened


def _tasks(
    known: Sequence[jp.data.Task], chosen: Sequence[str], source: str
) -> tuple[tuple[jp.data.Task, ...], jp.data.Task]:
    """Finds the tasks of these names, or takes all; and the source among them, or takes the first."""
    tasks = tuple(jp.data.find_task(known, name) for name in chosen) or tuple(known)
    return tasks, jp.data.find_task(tasks, source) if source else tasks[0]


def _demand_fitting(weights: Weights, images: jp.data.Source) -> None:
    """Checks that a network takes the images of a source."""
    if images.image_shape[-1] != 3:
        raise ValueError(
            f"data: expected pictures in colours, but those of {images.name} have the shape {images.image_shape}. "
            "Repeat a grey channel."
        )
    try:
        jax.eval_shape(weights.network, jax.ShapeDtypeStruct((1, *images.image_shape), np.uint8))
    except ValueError as error:
        raise ValueError(
            f"data: images of {images.name}, {images.image_shape}, do not fit {weights.name}: {error}"
        ) from error


def _of(source: jp.data.Source, classes: tuple[int, ...]) -> np.ndarray:
    return np.flatnonzero(np.isin(source.labels, classes))


def _first(source: jp.data.Source, indices: np.ndarray, most: int) -> np.ndarray:
    """Takes the first examples of each class, at most so many; 0: all.  Splits are random, so these are too."""
    if not most:
        return indices
    labels = source.labels[indices]
    return np.sort(np.concatenate([indices[labels == one][:most] for one in np.unique(labels)]))


def _held(data: dict[str, Any]) -> dict[str, Any]:
    """Reads a stream into memory where it takes less than a quarter of what may be taken; numbers are the same."""
    images = data["image"]
    if math.prod(images.shape) * images.dtype.itemsize > memory.available(None) // 4:
        return data
    return {**data, "image": np.asarray(images)}


class _Shifted(jp.data.Source):
    """Some images of a source, moved into a shifted domain when they are asked for."""

    def __init__(self, source: jp.data.Source, indices: np.ndarray, shift: str, seed: int) -> None:
        self.name, self.classes = f"{source.name}+{shift}", source.classes
        self.labels = source.labels[indices]
        self._source, self._indices, self._shift, self._seed = source, indices, shift, seed

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._source.image_shape

    def images(self, indices: np.ndarray) -> np.ndarray:
        whole = jp.data.as_float(self._source.images(self._indices[indices]))
        moved = [
            jp.data.shift(image[None], self._shift, self._seed, first=int(place))
            for image, place in zip(whole, indices, strict=True)
        ]
        return np.concatenate(moved)

    def fingerprint(self) -> str:
        return self._source.fingerprint()
