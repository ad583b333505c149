"""Which images a study of one network and several tasks uses for what."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxprune as jp
from experiments.shared import architectures, images, pretrained
from experiments.shared.pretrained import Weights
from experiments.shared.settings import at_most_images
from jaxprune import memory, records

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

_APART = {"test": 0.7, "certificate": 0.3}

PROXY_SCORING = 128
"""Images that prune the network under the protocol public-proxy: two batches of 64, in the order of the classes."""

_LITTLE = 2**27
"""Bytes of shifted images that are kept where the images themselves are not: shifting takes as long as a network."""


@dataclass(frozen=True)
class Inputs:
    """The images of a study, its tasks, and its network where that was trained elsewhere.

    Attributes:
      settings: of the study.
      images: all that are split.
      tests: those kept for testing, where a data set has such.
      tasks: among the classes.
      source: the task whose images prune the network.
      weights: None where the network is trained first.
      protocol: one of ``PROTOCOLS``.
      most_per_class: images of a class in each split, at most; 0: all.
      certifies: whether a share of the test images is kept apart, on which nothing is reported: "certificate".
      fingerprint: of network and images.
    """

    settings: Any
    images: jp.data.Source
    tests: jp.data.Source | None
    tasks: tuple[jp.data.Task, ...]
    source: jp.data.Task
    weights: Weights | None = None
    protocol: str = "leak-free"
    most_per_class: int = 0
    certifies: bool = False
    fingerprint: str = ""

    @property
    def streams(self) -> bool:
        """Whether images are brought to the size of a pretrained network, as bytes, when they are asked for."""
        return self.weights is not None and self.weights.preprocess is not None

    def part(self, seed: int, name: str, classes: tuple[int, ...] | None = None) -> dict[str, Any]:
        """Returns the images of a split, of these classes: in memory where they fit, else streamed from disk."""
        source, indices = self.indices(seed, name, classes)
        if not self.streams:
            return jp.data.select(source, indices, classes)
        data = jp.data.stream(source, indices, classes, complete=self.has_every_class(name))
        # What lies in memory as it is gets its size anew for each batch: that takes less time than the network does.
        return data if isinstance(source, jp.data.Preprocessed) else _held(data)

    def has_every_class(self, name: str) -> bool:
        """Whether a split must have an image of every class; the few images that prune by the public code need not."""
        return not (self.protocol == "public-proxy" and name == "scoring")

    def shifted(self, seed: int, classes: tuple[int, ...], shift: str) -> dict[str, Any]:
        """Returns the test images of these classes under a shift."""
        if not self.streams:
            data = self.part(seed, "test", classes)
            return {**data, "image": jp.data.shift(data["image"], shift, seed)}
        source, indices = self.indices(seed, "test", classes)
        moved = _Shifted(source, indices, shift, seed)
        data = jp.data.stream(moved, np.arange(len(indices)), classes)
        if isinstance(source, jp.data.Preprocessed) and _bytes(data) > _LITTLE:
            return data
        return _held(data)

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
        tested = name in ("test", "certificate")
        if tested and self.tests is not None:
            source, found = self.tests, _of(self.tests, self.classes)
        else:
            source, found = self.images, self._split(seed)["test" if tested else name]
        if tested and self.certifies:
            found = found[jp.data.split(source.labels[found], f"{source.name}/certificate", seed, _APART)[name]]
        if classes is not None:
            found = found[np.isin(source.labels[found], classes)]
        return source, _first(source, found, self.most_per_class)

    def identities(self, seed: int, name: str, classes: tuple[int, ...] | None = None) -> list[str]:
        """Names the images of a split, of these classes or all: equal names are equal images, of any split and seed."""
        source, found = self.indices(seed, name, self.classes if classes is None else classes)
        return [f"{source.name}/{number}" for number in found]

    def tested(self, seed: int, tasks: Sequence[str]) -> np.ndarray:
        """Numbers the test images of tasks, in the order of these: equal numbers are equal images, of any seed."""
        found, places = [], [task.name for task in self.tasks]
        for name in tasks:
            place = places.index(name)
            source, indices = self.indices(seed, "test", self.tasks[place].classes)
            found.append(place * len(source) + indices)
        return np.concatenate(found)

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

    @property
    def skipped(self) -> dict[str, int]:
        """How many images of each folder were left out, since they could not be read or are hidden."""
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


def open_inputs(
    settings: Any, *, tasks: Sequence[str] = (), protocol: str = "leak-free", certifies: bool = False
) -> Inputs:
    """Opens the network and the images of a study, and checks all that can be checked before anything is computed.

    Where a network was trained elsewhere, every image in use is decoded once: one that can't be read is found now, and
    not in the middle of a study.

    Args:
      settings: ``conditions.Conditions``, with ``seeds``.
      tasks: the names of the tasks.  Empty: all.
      protocol: one of ``PROTOCOLS``.
      certifies: see ``Inputs``.
    """
    weights = _weights(settings)
    preprocess = None if weights is None else weights.preprocess
    side = settings.image or 32
    found = images.load(settings.data, settings.data_folder, side, preprocess, settings.on_error)
    if weights is None:
        architectures.check_architecture(settings, found.images.image_shape)
    chosen = tuple(jp.data.find_task(found.tasks, name) for name in tasks) or tuple(found.tasks)
    if len(chosen) < 2:
        raise ValueError(
            f"tasks: expected two or more, one that prunes the network and one that it is never shown, but got "
            f"{', '.join(task.name for task in chosen) or 'none'}."
        )
    source = jp.data.find_task(chosen, settings.source) if settings.source else chosen[0]
    tests = found.tests if weights is not None else None
    most = settings.most_per_class
    inputs = Inputs(settings, found.images, tests, chosen, source, weights, protocol, most, certifies)
    programs = []
    for one, indices in inputs.used():
        if weights is None:
            continue
        programs.append(pretrained.demand_fitting(weights, one))
        # Where images are skipped, all were decoded when the folder was opened.
        if isinstance(one, jp.data.Folder) and settings.on_error == "error":
            one.check(indices, whole=True)
    if weights is not None and weights.network.train_apply is None and settings.recalibrate:
        raise ValueError(
            "recalibrate: expected a network with a train_apply, whose statistics are averaged. Leave it out."
        )
    _demand_every_class(inputs, settings.seeds)
    at_most_images(settings.batch_size, len(inputs.images), inputs.images.name)
    used = [(one.name, one.fingerprint()) for one, _ in inputs.used()]  # the name enters the splits
    parts = [weights.fingerprint if weights else "", *used, [(task.name, task.classes) for task in chosen]]
    # Names of architectures say what the network computes; of a user's function only its program does.
    parts += programs if settings.network else []
    return dataclasses.replace(inputs, fingerprint=records.digest(parts)[:16])


def _weights(settings: Any) -> Weights | None:
    if settings.network:
        if settings.weights or settings.architecture:
            raise ValueError("weights, architecture: expected none beside network. Leave out one of them.")
        return pretrained.own(settings.network)
    if settings.weights:
        return pretrained.load_weights(settings.weights, settings.architecture, settings.image)
    for name, known in (("architecture", "none, or vit,"), ("most_per_class", "none")):
        if (value := getattr(settings, name)) and value not in architectures.ARCHITECTURES:
            raise ValueError(
                f"{name}: expected {known} where a network is trained first, but got {value!r}. Pass weights."
            )
    return None


def _demand_every_class(inputs: Inputs, seeds: Sequence[int]) -> None:
    """Makes the splits of every seed once: each part of a task has an image of every class."""
    for seed in seeds:
        for task in inputs.tasks:
            for name in ("scoring", "head", "finetuning", "selection", "test", *["certificate"] * inputs.certifies):
                source, found = inputs.indices(seed, name, task.classes)
                jp.data.relabelled(source, found, task.classes, complete=inputs.has_every_class(name))


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
    if _bytes(data) > memory.available(None) // 4:
        return data
    return {**data, "image": np.asarray(data["image"])}


def _bytes(data: dict[str, Any]) -> int:
    return math.prod(data["image"].shape) * data["image"].dtype.itemsize


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
