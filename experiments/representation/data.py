"""What the networks of a study see, and what is true of it: images, masks, boxes, distortions, observers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.representation_settings import Settings
from jaxprune import check, records
from jaxprune.evaluate import alignment, discovery, observers, relevance

MEAN, STD = 0.5, 0.25
"""Networks see ``(image - MEAN) / STD``, so that 0, the baseline of attributions, is a mean grey."""

SHOWN = 4
"""Images whose attributions and boxes are kept for the page."""

_SMALL = 2**23  # bytes of a set of test images of which every distorted copy is kept
_FRACTIONS = {"test": 0.3, "training": 0.7}
_TRAINING, _TEST, _CONFLICT, _PAIRS = range(4)  # streams of a seed


@dataclass(frozen=True)
class World:
    """What all networks of one seed share."""

    classes: tuple[str, ...]
    training: dict[str, Any]
    test: jp.data.Annotated
    conditions: dict[str, Callable[[], np.ndarray]]
    """What makes the test images under every distortion and level: {"contrast c30": () -> images}."""
    conflict: dict[str, Any] | None
    """Scenes whose texture is that of another class; None where the data have no such thing."""
    fingerprint: str


def normalised(images: Any) -> np.ndarray:
    """Makes of images in [0, 1] what networks see."""
    return ((np.asarray(images) - MEAN) / STD).astype(np.float32)


def prepare(settings: Settings, seed: int) -> World:
    """Paints the scenes of a seed, or splits and reads the images of a folder."""
    made = _scenes(settings, seed) if settings.data == "shapes" else _annotated(settings, seed)
    training, test, conflict = made
    conditions = {
        f"{name} {level}": _condition(test.images, name, level, seed)
        for name in settings.distortions
        for level in jp.data.DISTORTIONS[name]
    }
    arrays = [*training.values(), test.images, test.labels, test.mask, test.void, *test.boxes]
    arrays += [] if conflict is None else [*conflict.values()]
    return World(test.classes, training, test, conditions, conflict, records.fingerprint(*map(np.asarray, arrays)))


def _condition(images: np.ndarray, name: str, level: str, seed: int) -> Callable[[], np.ndarray]:
    """Makes distorted images when they are asked for, and keeps them where they are small."""

    def make() -> np.ndarray:
        return jp.data.distort(images, name, level, seed, reference=_reference(name, images))

    return cache(make) if images.nbytes < _SMALL else make


def _reference(distortion: str, images: np.ndarray) -> float:
    """The side at which a filter's deviation is in pixels: the benchmark's, but the image's own for the high-pass.

    In proportion, the benchmark's high-pass filters would leave nothing of a small image.
    """
    return float(min(images.shape[1:3])) if distortion == "high-pass" else 224.0


def _scenes(settings: Settings, seed: int) -> tuple[Any, jp.data.Annotated, dict[str, Any]]:
    """Ten classes, a shape with a texture of its own each; in the conflict set texture and shape disagree."""
    keys = jax.random.split(jax.random.key(seed), 4)
    names = tuple(f"{texture} {shape}" for texture, shape in zip(jp.data.TEXTURES, jp.data.SHAPES, strict=True))
    count = len(names)

    def paint(stream: int, labels: np.ndarray, texture: np.ndarray) -> jp.data.Scenes:
        options: dict[str, Any] = {"image": settings.image, "difficulty": settings.difficulty}
        return jp.data.scenes(keys[stream], len(labels), shape=labels, texture=texture, **options)

    learned = np.arange(settings.train_examples, dtype=np.int32) % count
    labels = np.arange(settings.test_examples, dtype=np.int32) % count
    training = paint(_TRAINING, learned, learned).image.astype(np.float32) / 255
    # Every class in colour and in grey: all distorted images are grey, and should not be new for that reason alone.
    grey = learned_in_grey(len(learned), count)
    training[grey] = jp.data.distort(training[grey], "colour", "bw", seed)
    test = jp.data.annotated_scenes(paint(_TEST, labels, labels), labels, names, f"scenes-{seed}")
    drawn = jax.random.randint(keys[_PAIRS], labels.shape, 1, count)
    texture = (labels + np.asarray(drawn)) % count
    conflict = paint(_CONFLICT, labels, texture).image.astype(np.float32) / 255
    return (
        {"image": normalised(training), "label": learned},
        test,
        {"image": conflict, "shape": labels, "texture": texture},
    )


def learned_in_grey(examples: int, classes: int) -> np.ndarray:
    """Says which training scenes are shown in grey: those of every second round of the classes.

    >>> learned_in_grey(6, 2).tolist()
    [False, False, True, True, False, False]
    """
    return np.arange(examples) // classes % 2 == 1


def _annotated(settings: Settings, seed: int) -> tuple[Any, jp.data.Annotated, None]:
    images = read(settings)
    training, tested = _split(images, settings, seed)
    learned = np.asarray(images.labels)[training].astype(np.int32)
    return {"image": normalised(images.images[training]), "label": learned}, images.take(tested), None


def _split(images: jp.data.Annotated, settings: Settings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits into training and test; test images in turns, one of every class, since only the first ones are used."""
    labels = np.asarray(images.labels)
    parts = jp.data.split(labels, images.name, seed, _FRACTIONS)
    tested = np.random.Generator(np.random.Philox(key=seed)).permutation(parts["test"])
    turn = np.array([np.sum(labels[tested[:place]] == labels[one]) for place, one in enumerate(tested)])
    return parts["training"], tested[np.lexsort((labels[tested], turn))][: settings.test_examples]


def read(settings: Settings) -> jp.data.Annotated:
    """Opens images with masks and boxes, once for all seeds."""
    kind, _, name = settings.data.partition(":")
    if kind not in ("voc", "folder", "tfds") or not name:
        check.choice("data", settings.data, ("shapes", "voc:<folder>", "folder:<folder>", "tfds:<name>"))
        raise ValueError(f"data: expected a folder or a name in place of <...>, but got {settings.data!r}.")
    values = (settings.object_values, settings.void_values)
    return _read(kind, name, settings.data_folder, settings.image, *values)


@cache
def _read(
    kind: str, name: str, folder: str | None, image: int, objects: tuple[int, ...], void: tuple[int, ...]
) -> jp.data.Annotated:
    if kind == "voc":
        return jp.data.voc(name, image=image)
    if kind == "folder":
        return jp.data.annotated_folder(name, image=image)
    return jp.data.annotated_tfds(name, image=image, folder=folder, objects=objects or None, void=void)


def open_data(settings: Settings) -> None:
    """Finds what is wrong with the data before anything expensive starts."""
    if settings.data == "shapes":
        return
    images = read(settings)
    _, tested = _split(images, settings, 0)
    labels, counts = np.unique(np.asarray(images.labels)[tested], return_counts=True)
    if len(labels) < 2 or counts.max() < 2:
        raise ValueError(
            f"data, test_examples: expected test images of two classes or more, two of one of them, but the "
            f"{len(tested)} are of {len(labels)} with at most {counts.max()} each. Take more images."
        )
    if len(tested) < settings.attributed_examples:
        raise ValueError(
            f"attributed_examples: expected at most the {len(tested)} test images that there are, but got "
            f"{settings.attributed_examples}."
        )


def watched(world: World, settings: Settings, seed: int) -> dict[str, observers.Observers]:
    """Simulates observers of every condition.

    They err more under stronger distortion, and about small objects: with s the place of a level among those of its
    distortion, from 0 (the control) to 1, and z_i the standardised logarithm of an object's visible area, an image is
    answered rightly with probability ``c + (1 - c) / (1 + exp(-(3 - 5 s + z_i)))``, c = 1 / classes; any two observers
    share 3 of 10 trials.
    """
    area = np.log(world.test.mask.sum(axis=(1, 2)))
    standard = (area - area.mean()) / max(area.std(), 1e-12)
    chance = 1 / len(world.classes)
    found = {}
    for number, condition in enumerate(world.conditions):
        name, level = condition.split(" ")
        levels = jp.data.DISTORTIONS[name]
        strength = levels.index(level) / (len(levels) - 1)
        right = chance + (1 - chance) / (1 + np.exp(-(3 - 5 * strength + standard)))
        found[condition] = observers.simulated(
            right,
            world.test.labels,
            len(world.classes),
            observers=settings.observers,
            rho=0.3,
            seed=1000 * seed + number,
        )
    return found


def truth(world: World, settings: Settings, seed: int) -> dict[str, Any]:
    """Collects what networks are held against: labels, chance levels, baselines, and the answers of observers."""
    few = settings.attributed_examples
    masks = world.test.mask
    size = world.test.images.shape[1:3]
    count = len(world.test.images)
    baselines = {"centre box": discovery.centre_box(size, count), "whole image": discovery.whole_image(size, count)}
    return {
        "classes": list(world.classes),
        "labels": np.asarray(world.test.labels).tolist(),
        "chance": relevance.chance(masks[:few]).tolist(),
        "baselines": {
            name: discovery.corloc(boxes, world.test.boxes, legacy=settings.legacy).hits.tolist()
            for name, boxes in baselines.items()
        },
        "observers": {name: one.responses.tolist() for name, one in watched(world, settings, seed).items()},
        "strip": strip(world, min(SHOWN, settings.attributed_examples)),
        "conflict": None
        if world.conflict is None
        else {name: np.asarray(world.conflict[name]).tolist() for name in ("shape", "texture")},
    }


def strip(world: World, count: int) -> dict[str, Any]:
    """Keeps the first images, masks and boxes for the page, a byte for each number, in hexadecimal."""
    pictures = np.round(255 * world.test.images[:count]).astype(np.uint8)
    return {
        "size": pictures.shape[1],
        "images": [one.tobytes().hex() for one in pictures],
        "masks": [one.astype(np.uint8).tobytes().hex() for one in world.test.mask[:count]],
        "boxes": [np.asarray(one).tolist() for one in world.test.boxes[:count]],
    }


def kept_conditions(settings: Settings, conditions: list[str]) -> list[str]:
    """Leaves out the controls of the benchmark, as it does itself; all stay with the choices of the released code."""
    if settings.legacy:
        return conditions
    excluded = alignment.EXCLUDED
    return [one for one in conditions if one.split(" ")[1] not in excluded.get(one.split(" ")[0], ())]
