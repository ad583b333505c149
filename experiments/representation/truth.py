"""What the networks of a seed are held against: labels, chance levels, baselines, simulated observers."""

from typing import Any

import numpy as np

import jaxprune as jp
from experiments.representation.data import Images
from experiments.representation.settings import Decisive
from jaxprune.evaluate import alignment, discovery, observers, relevance

SHOWN = 4
"""Images whose attributions and boxes are kept for the page."""


def measure_truth(images: Images, settings: Decisive, seed: int) -> dict[str, Any]:
    """Collects what networks are held against: labels, chance levels, baselines, and the answers of observers."""
    test, few = images.test, settings.attributed_examples
    count, size = len(test.images), test.images.shape[1:3]
    baselines = {"centre box": discovery.centre_box(size, count), "whole image": discovery.whole_image(size, count)}
    cues, shown = images.conflict, min(SHOWN, few)
    pixels = np.round(255 * test.images[:shown]).astype(np.uint8)
    return {
        "classes": list(test.classes),
        "labels": np.asarray(test.labels).tolist(),
        "chance": relevance.chance(test.mask[:few]).tolist(),
        "baselines": {
            name: discovery.corloc(boxes, test.boxes, legacy=settings.legacy).hits.tolist()
            for name, boxes in baselines.items()
        },
        "observers": {name: one.responses.tolist() for name, one in watched(images, settings, seed).items()},
        # For the page, a byte for each number, in hexadecimal.
        "strip": {
            "size": size[0],
            "images": [one.tobytes().hex() for one in pixels],
            "masks": [one.astype(np.uint8).tobytes().hex() for one in test.mask[:shown]],
            "boxes": [np.asarray(one).tolist() for one in test.boxes[:shown]],
        },
        "conflict": cues and {name: np.asarray(cues[name]).tolist() for name in ("shape", "texture")},
    }


def watched(images: Images, settings: Decisive, seed: int) -> dict[str, observers.Observers]:
    """Simulates observers of every condition.

    They err more under stronger distortion, and about small objects: with s the place of a level among those of its
    distortion, from 0 (the control) to 1, and z_i the standardised logarithm of an object's visible area, an image is
    answered rightly with probability ``c + (1 - c) / (1 + exp(-(3 - 5 s + z_i)))``, c = 1 / classes; any two observers
    share 3 of 10 trials.
    """
    area = np.log(images.test.mask.sum(axis=(1, 2)))
    standard = (area - area.mean()) / max(area.std(), 1e-12)
    chance = 1 / len(images.test.classes)
    found = {}
    for number, condition in enumerate(images.conditions):
        name, level = condition.split(" ")
        levels = jp.data.DISTORTIONS[name]
        strength = levels.index(level) / (len(levels) - 1)
        right = chance + (1 - chance) / (1 + np.exp(-(3 - 5 * strength + standard)))
        options: dict[str, Any] = {"observers": settings.observers, "rho": 0.3, "seed": 1000 * seed + number}
        found[condition] = observers.simulated(right, images.test.labels, len(images.test.classes), **options)
    return found


def kept_conditions(settings: Decisive, conditions: list[str]) -> list[str]:
    """Leaves out the controls of the benchmark, as it does itself; all stay with the choices of the released code."""
    if settings.legacy:
        return conditions
    excluded = alignment.EXCLUDED
    return [one for one in conditions if one.split(" ")[1] not in excluded.get(one.split(" ")[0], ())]
