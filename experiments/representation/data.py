"""What the networks of a study see: images with masks and boxes, painted or read, and their distortions."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.representation.settings import FORMS, Decisive, Settings, resolved, validate
from experiments.shared import named
from experiments.shared.settings import at_most_images, seeds_below
from jaxprune import check, records

MEAN, STD = 0.5, 0.25
"""Networks see ``(image - MEAN) / STD``, so that 0, the baseline of attributions, is a mean grey."""

_SMALL = 2**23  # bytes of a set of test images of which every distorted copy is kept
_FRACTIONS = {"test": 0.3, "training": 0.7}
_TRAINING, _TEST, _CONFLICT, _PAIRS = range(4)  # streams of a seed
_FEW = 20  # scenes by which a painter is known


@dataclass(frozen=True)
class Images:
    """What all networks of one seed see."""

    training: Callable[[], dict[str, Any]]
    """Makes the images that networks learn from, once."""
    test: jp.data.Annotated
    conditions: dict[str, Callable[[], np.ndarray]]
    """What makes the test images under every distortion and level: {"contrast c30": () -> images}."""
    conflict: dict[str, Any] | None
    """Scenes whose texture is that of another class; None where the data have no such thing."""


@dataclass(frozen=True)
class Inputs:
    """The images of a study."""

    settings: Settings
    """With everything filled in."""
    annotated: jp.data.Annotated | None
    """None where scenes are painted for each seed."""
    fingerprint: str
    """Of the images, or of a few scenes; and of the text of a score of the user's."""
    _last: dict[int, Images] = field(default_factory=dict)

    def tested(self, seed: int) -> np.ndarray | None:
        """Says which images test the networks of a seed: their numbers among all; None where each seed has its own."""
        return None if self.annotated is None else _split(self.annotated, self.settings, seed)[1]

    def images(self, seed: int) -> Images:
        """Paints the scenes of a seed, or splits the images; those of the last seed are kept for all architectures."""
        if seed not in self._last:
            self._last.clear()
            self._last[seed] = prepare(self.settings, self.annotated, seed)
        return self._last[seed]


def open_study(settings: Settings) -> Inputs:
    """Opens the data, and finds every bad value before anything expensive starts."""
    settings = resolved(settings)
    validate(settings)
    seeds_below(settings, 2**32 // 1000)
    painted = isinstance(settings.data, str) and settings.data == "shapes"
    annotated = None if painted else read(settings)
    if annotated is None:
        _, test, conflict = _scenes(settings, 0, _FEW)
        parts, names = [test.images, test.mask, *test.boxes, conflict["image"]], []
    else:
        _check_annotated(annotated, settings)
        parts = [annotated.images, annotated.mask, annotated.void, annotated.labels, *annotated.boxes]
        names = [annotated.name, annotated.classes]  # the name enters the splits
    decisive = [records.fingerprint(*map(np.asarray, parts)), *names]
    # What is passed is opened, and only then called by its name.
    settings = dataclasses.replace(settings, data=named.name(settings.data))
    return Inputs(settings, annotated, records.digest(decisive)[:16])


def normalised(images: Any) -> np.ndarray:
    """Makes of images in [0, 1] what networks see."""
    return ((np.asarray(images) - MEAN) / STD).astype(np.float32)


def prepare(settings: Decisive, annotated: jp.data.Annotated | None, seed: int) -> Images:
    """Makes what all networks of a seed see."""
    if annotated is None:
        training, test, conflict = _scenes(settings, seed, settings.test_examples)
    else:
        trained, tested = _split(annotated, settings, seed)
        labels = np.asarray(annotated.labels)[trained].astype(np.int32)
        training = lambda: {"image": normalised(annotated.images[trained]), "label": labels}  # noqa: E731
        test, conflict = annotated.take(tested), None
    conditions: dict[str, Callable[[], np.ndarray]] = {}
    for name in settings.distortions:
        # The side at which a filter's deviation is in pixels: the benchmark's, but the image's own for the high-pass,
        # which in proportion would leave nothing of a small image.
        side = float(min(test.images.shape[1:3])) if name == "high-pass" else 224.0
        for level in jp.data.DISTORTIONS[name]:
            make = partial(jp.data.distort, test.images, name, level, seed, reference=side)
            conditions[f"{name} {level}"] = cache(make) if test.images.nbytes < _SMALL else make
    return Images(cache(training), test, conditions, conflict)


def _scenes(settings: Decisive, seed: int, tested: int) -> tuple[Any, jp.data.Annotated, dict[str, Any]]:
    """Ten classes, a shape with a texture of its own each; in the conflict set texture and shape disagree."""
    keys = jax.random.split(jax.random.key(seed), 4)
    names = tuple(f"{texture} {shape}" for texture, shape in zip(jp.data.TEXTURES, jp.data.SHAPES, strict=True))
    count = len(names)

    def paint(stream: int, labels: np.ndarray, texture: np.ndarray) -> jp.data.Scenes:
        options: dict[str, Any] = {"image": settings.image, "difficulty": settings.difficulty}
        return jp.data.scenes(keys[stream], len(labels), shape=labels, texture=texture, **options)

    def training() -> dict[str, Any]:
        learned = np.arange(settings.train_examples, dtype=np.int32) % count
        images = paint(_TRAINING, learned, learned).image.astype(np.float32) / 255
        # Every second round of the classes: all distorted images are grey, and should not be new for that reason alone.
        grey = np.arange(len(learned)) // count % 2 == 1
        images[grey] = jp.data.distort(images[grey], "colour", "bw", seed)
        return {"image": normalised(images), "label": learned}

    labels = np.arange(tested, dtype=np.int32) % count
    test = jp.data.annotated_scenes(paint(_TEST, labels, labels), labels, names, f"scenes-{seed}")
    drawn = jax.random.randint(keys[_PAIRS], labels.shape, 1, count, "int32")  # the same ones in float64
    texture = (labels + np.asarray(drawn)) % count
    conflict = paint(_CONFLICT, labels, texture).image.astype(np.float32) / 255
    return training, test, {"image": conflict, "shape": labels, "texture": texture}


def _split(images: jp.data.Annotated, settings: Decisive, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits into training and test; test images in turns, one of every class, since only the first ones are used."""
    labels = np.asarray(images.labels)
    parts = jp.data.split(labels, images.name, seed, _FRACTIONS)
    tested = np.random.Generator(np.random.Philox(key=seed)).permutation(parts["test"])
    turn = np.array([np.sum(labels[tested[:place]] == labels[one]) for place, one in enumerate(tested)])
    return parts["training"], tested[np.lexsort((labels[tested], turn))][: settings.test_examples]


def read(settings: Decisive) -> jp.data.Annotated:
    """Opens images with masks and boxes, once for all seeds."""
    data, image = settings.data, settings.image
    kind, _, name = data.partition(":") if isinstance(data, str) else ("", "", "")
    if isinstance(data, str) and not name:
        check.choice("data", data, FORMS)
    if kind == "voc":
        return jp.data.voc(name, image=image)
    if kind == "folder":
        return jp.data.annotated_folder(name, image=image)
    if kind == "tfds":
        values: dict[str, Any] = {"objects": settings.object_values or None, "void": settings.void_values}
        return jp.data.annotated_tfds(name, image=image, folder=settings.data_folder, **values)
    found = data if isinstance(data, jp.data.Annotated) else named.call("data", data)
    if not isinstance(found, jp.data.Annotated):
        got = type(found).__name__
        raise ValueError(f"data: expected {named.name(data)} to return a jp.data.Annotated, but got {got}.")
    return found


def _check_annotated(images: jp.data.Annotated, settings: Settings) -> None:
    if (size := images.images.shape[1:3]) != (settings.image, settings.image):
        raise ValueError(
            f"data, image: expected images of {settings.image} x {settings.image} pixels, but those of {images.name} "
            f"have {size[0]} x {size[1]}. Pass their side as image."
        )
    # Splits keep the shares of the classes, so that those of all seeds have equal sizes.
    trained, tested = _split(images, settings, settings.seeds[0])
    at_most_images(settings.batch_size, len(trained), "the training part")
    labels, counts = np.unique(np.asarray(images.labels)[tested], return_counts=True)
    if len(labels) < 2 or counts.max() < 2:
        raise ValueError(
            f"data, test_examples: expected test images of two classes or more, two of one of them, but the "
            f"{len(tested)} are of {len(labels)} with at most {counts.max()} each. Take more images."
        )
    if (few := settings.attributed_examples) > len(tested):
        raise ValueError(f"attributed_examples: expected at most the {len(tested)} test images, but got {few}.")
