"""What is measured of a network: where it looks, whether objects are found in it, how it decides.

And what the networks of a seed are held against: labels, chance levels, baselines, simulated observers.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.representation.architectures import ATTRIBUTIONS, Architecture, find
from experiments.representation.data import Images, normalised
from experiments.representation.networks import Trainings
from experiments.representation.settings import Decisive, Run
from jaxprune.evaluate import alignment, discovery, observers, perturbation, relevance, triplets

SHOWN = 4
"""Images whose attributions and boxes are kept for the page."""

_TRIPLETS = 400
_STEPS = 16  # of insertion and deletion
_outputs = jax.jit(lambda network, images: network(images))


def measure_network(run: Run, images: Images, trainings: Trainings) -> dict[str, Any]:
    """Measures all that the study compares, image by image."""
    _, _, mask, network = trainings.network(run.arm, run.rung)
    found = {
        "sparsity": jp.masks.sparsity(mask, trainings.prunable),
        "sparsity_of_all_kernels": jp.masks.sparsity(mask, trainings.everything),
        "hits": (decisions(network, images.test.images) == np.asarray(images.test.labels)).tolist(),
        "attribution": attributions(run, images.test, network),
        "discovery": objects(run, images.test, network),
        "triplets": odd_one_out(images.test, network, run.seed),
    }
    if images.conflict is not None:
        found["conflict"] = decisions(network, images.conflict["image"]).tolist()
    if run.distorted:
        found["distorted"] = {name: decisions(network, make()).tolist() for name, make in images.conditions.items()}
    return found


def decisions(network: jp.Network, images: np.ndarray) -> np.ndarray:
    """Returns the class that the network decides for, [n], of images in [0, 1]."""
    return np.argmax(np.asarray(_outputs(network, normalised(images))), axis=1)


def attributions(run: Run, test: jp.data.Annotated, network: jp.Network) -> dict[str, Any]:
    """Compares attributions of the network's own decisions with the masks of the objects."""
    kind = find(run.architecture)
    key, few = jax.random.key(run.seed), run.attributed_examples
    images, masks = jnp.asarray(normalised(test.images[:few])), test.mask[:few]
    found: dict[str, Any] = {}
    for name in kind.methods:
        attribution = ATTRIBUTIONS[name]
        attribute = attribution.make(site=kind.cam, steps=run.path_steps, key=key, legacy=run.legacy)
        maps = relevance.pooled(attribute(network, images, None), attribution.pooling(run.legacy))
        found[name] = {**scored(network, images, maps, masks, key), "strip": [written(one) for one in maps[:SHOWN]]}
    order = perturbation.random_order(key, (len(images), *test.mask.shape[1:]))
    found["random map"] = scored(network, images, np.asarray(order, np.float64), masks, key)
    return found


def scored(network: jp.Network, images: Any, maps: np.ndarray, masks: np.ndarray, key: jax.Array) -> dict[str, Any]:
    """Measures maps [b, h, w] against masks, and against what the network does without the pixels."""
    options: dict[str, Any] = {"steps": _STEPS, "score": stands, "key": key}
    return {
        "mass": relevance.mass(maps, masks).tolist(),
        "rank": relevance.rank(maps, masks).tolist(),
        "pointing": relevance.pointing(maps, masks).tolist(),
        "flat": relevance.flat(maps).tolist(),
        "insertion": perturbation.insertion(network, images, maps, **options).area.tolist(),
        "deletion": perturbation.deletion(network, images, maps, **options).area.tolist(),
    }


def stands(outputs: Any, targets: Any) -> Any:
    """Says whether the network still decides for the class, 1 or 0: unlike a probability, whatever its confidence."""
    return (jnp.argmax(outputs, axis=1) == targets).astype(outputs.dtype)


def written(pooled: np.ndarray) -> str:
    """Writes a map as one byte for each pixel, its largest value 255, in hexadecimal."""
    largest = max(float(pooled.max()), np.finfo(np.float64).tiny)
    return np.round(255 * np.clip(pooled / largest, 0, 1)).astype(np.uint8).tobytes().hex()


def objects(run: Run, test: jp.data.Annotated, network: jp.Network) -> dict[str, Any]:
    """Searches for one object in each image, without labels."""
    features = places(find(run.architecture), network, normalised(test.images))
    size, shown = test.images.shape[1:3], min(SHOWN, run.attributed_examples)
    # Half of the places, as the hundred of LOST are of the 192 places of a VOC image in the paper's ViT-B/32.
    few = max(1, features.shape[1] * features.shape[2] // 2)
    found = {
        "lost": np.asarray(discovery.lost(features, candidates=few, image=size).box),
        "tokencut": np.asarray(discovery.token_cut(features, image=size).box),
    }
    return {name: {"hits": _hits(one, test, run), "strip": one[:shown].tolist()} for name, one in found.items()}


def _hits(boxes: np.ndarray, test: jp.data.Annotated, settings: Decisive) -> list[bool]:
    return discovery.corloc(boxes, test.boxes, legacy=settings.legacy).hits.tolist()


def places(kind: Architecture, network: jp.Network, images: np.ndarray) -> Any:
    """Reads the features of every place [b, h, w, d], of images as large as those that the network was trained on."""
    if kind.is_map:
        return discovery.standardised(discovery.tokens(network, images, kind.tokens))
    # The tokens of a ViT lie a patch apart, so few that no object has a shape.
    return discovery.moved_tokens(network, images, kind.tokens, patch=kind.patch)


def odd_one_out(test: jp.data.Annotated, network: jp.Network, seed: int) -> list[float]:
    """Shows triplets, two images of one class and one of another: how far is the other one chosen as the odd one?"""
    shown = triplets.of_classes(np.asarray(test.labels), _TRIPLETS, seed)
    (features,) = jp.sites.read_jit(network, normalised(test.images), sites=("features",))
    return triplets.choice_shares(features, shown)[:, 2].tolist()


# ------------------------------------------------------------------------- what the networks of a seed are held against


def measure_truth(images: Images, settings: Decisive, seed: int) -> dict[str, Any]:
    """Collects what networks are held against: labels, chance levels, baselines, and the answers of observers."""
    test, few, cues = images.test, settings.attributed_examples, images.conflict
    count, size = len(test.images), test.images.shape[1:3]
    baselines = {"centre box": discovery.centre_box(size, count), "whole image": discovery.whole_image(size, count)}
    shown = slice(min(SHOWN, few))
    pixels = np.round(255 * test.images[shown]).astype(np.uint8)
    return {
        "classes": list(test.classes),
        "labels": np.asarray(test.labels).tolist(),
        "chance": relevance.chance(test.mask[:few]).tolist(),
        "baselines": {name: _hits(boxes, test, settings) for name, boxes in baselines.items()},
        "observers": {name: one.responses.tolist() for name, one in watched(images, settings, seed).items()},
        # For the page, a byte for each number, in hexadecimal.
        "strip": {
            "size": size[0],
            "images": [one.tobytes().hex() for one in pixels],
            "masks": [one.astype(np.uint8).tobytes().hex() for one in test.mask[shown]],
            "boxes": [np.asarray(one).tolist() for one in test.boxes[shown]],
        },
        "conflict": cues and {name: np.asarray(cues[name]).tolist() for name in ("shape", "texture")},
    }


def watched(images: Images, settings: Decisive, seed: int) -> dict[str, observers.Observers]:
    """Simulates observers of every condition, who err more under stronger distortion and about small objects.

    An image is answered rightly with probability ``c + (1 - c) / (1 + exp(-(3 - 5 s + z)))``: c = 1 / classes, s the
    place of a level among those of its distortion, z the standardised logarithm of the object's visible area.
    """
    area, classes = np.log(images.test.mask.sum(axis=(1, 2))), len(images.test.classes)
    standard, chance, found = (area - area.mean()) / max(area.std(), 1e-12), 1 / classes, {}
    for number, condition in enumerate(images.conditions):
        name, level = condition.split(" ")
        levels = jp.data.DISTORTIONS[name]
        strength = levels.index(level) / (len(levels) - 1)
        right = chance + (1 - chance) / (1 + np.exp(-(3 - 5 * strength + standard)))
        options: dict[str, Any] = {"observers": settings.observers, "rho": 0.3, "seed": 1000 * seed + number}
        found[condition] = observers.simulated(right, images.test.labels, classes, **options)
    return found


def kept_conditions(settings: Decisive, conditions: list[str]) -> list[str]:
    """Leaves out the controls of the benchmark, as it does itself; all stay with the choices of the released code."""
    left_out = {} if settings.legacy else alignment.EXCLUDED
    return [one for one in conditions if one.split(" ")[1] not in left_out.get(one.split(" ")[0], ())]
