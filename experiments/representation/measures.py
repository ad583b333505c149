"""What is measured of a network: where it looks, whether objects are found in it, how it decides."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

import jaxprune as jp
from experiments.representation import architectures
from experiments.representation.attributions import ATTRIBUTIONS
from experiments.representation.data import Images, normalised
from experiments.representation.networks import Trainings
from experiments.representation.settings import Run
from experiments.representation.truth import SHOWN
from jaxprune.evaluate import discovery, perturbation, relevance, triplets

_TRIPLETS = 400
_STEPS = 16  # of insertion and deletion


def measure_network(run: Run, images: Images, trainings: Trainings) -> dict[str, Any]:
    """Measures all that the study compares, image by image."""
    _, _, mask, network = trainings.network(run.arm, run.rung)
    found = {
        "sparsity": jp.masks.sparsity(mask, trainings.prunable),
        "sparsity_of_all_kernels": jp.masks.sparsity(mask, trainings.everything),
        "hits": (decisions(network, images.test.images) == np.asarray(images.test.labels)).tolist(),
        "attribution": attributions(run, images.test, network),
        "discovery": objects(run, images.test, network),
        "triplets": odd(images.test, network, run.seed),
    }
    if images.conflict is not None:
        found["conflict"] = decisions(network, images.conflict["image"]).tolist()
    if run.distorted:
        found["distorted"] = {name: decisions(network, make()).tolist() for name, make in images.conditions.items()}
    return found


def decisions(network: jp.Network, images: np.ndarray) -> np.ndarray:
    """Returns the class that the network decides for, [n], of images in [0, 1]."""
    return np.argmax(np.asarray(_outputs(network, normalised(images))), axis=1)


@jax.jit
def _outputs(network: jp.Network, images: Any) -> Any:
    return network(images)


def attributions(run: Run, test: jp.data.Annotated, network: jp.Network) -> dict[str, Any]:
    """Compares attributions of the network's own decisions with the masks of the objects."""
    kind = architectures.find(run.architecture)
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
    features = places(architectures.find(run.architecture), network, normalised(test.images))
    size, shown = test.images.shape[1:3], min(SHOWN, run.attributed_examples)
    # Half of the places, as the hundred of LOST are of the 192 places of a VOC image in the paper's ViT-B/32.
    few = max(1, features.shape[1] * features.shape[2] // 2)
    found = {
        "lost": np.asarray(discovery.lost(features, candidates=few, image=size).box),
        "tokencut": np.asarray(discovery.token_cut(features, image=size).box),
    }
    hits = {name: discovery.corloc(boxes, test.boxes, legacy=run.legacy).hits for name, boxes in found.items()}
    return {name: {"hits": hits[name].tolist(), "strip": boxes[:shown].tolist()} for name, boxes in found.items()}


def places(kind: architectures.Architecture, network: jp.Network, images: np.ndarray) -> Any:
    """Reads the features of every place [b, h, w, d], of images as large as those that the network was trained on.

    The tokens of a ViT lie a patch apart, so few that no object has a shape.  Its images are shown moved by a quarter
    of a patch up or down, left or right, their edges repeated, and the four grids are interleaved: twice as many places
    a side, each in the middle of the patch that it was read from.  (Amir et al. 2021, arXiv 2112.05814, change the
    stride of the patches instead, and with it the positions.)
    """
    if kind.is_map:
        return discovery.standardised(discovery.tokens(network, images, kind.tokens))
    quarter = kind.patch // 4
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (quarter, quarter), (quarter, quarter), (0, 0)), mode="edge")
    rows = []
    for top in (0, 2 * quarter):
        moved = [padded[:, top : top + height, left : left + width] for left in (0, 2 * quarter)]
        grids = [discovery.tokens(network, one, kind.tokens) for one in moved]
        rows.append(jnp.stack(grids, axis=3))
    return rearrange(jnp.stack(rows, axis=2), "b h r w c d -> b (h r) (w c) d")


def odd(test: jp.data.Annotated, network: jp.Network, seed: int) -> list[float]:
    """Shows triplets, two images of one class and one of another: how far is the other one chosen as the odd one?"""
    shown = pairs_and_others(np.asarray(test.labels), seed)
    (features,) = jp.sites.read_jit(network, normalised(test.images), sites=("features",))
    return triplets.choice_shares(features, shown)[:, 2].tolist()


def pairs_and_others(labels: np.ndarray, seed: int) -> np.ndarray:
    """Draws triplets whose first two images share a class and whose third has another, int [m, 3].

    >>> bool(np.all(pairs_and_others(np.array([0, 0, 1, 1]), 0)[:, 0] < 4))
    True
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    drawn = rng.integers(len(labels), size=(100 * _TRIPLETS, 3))
    first, second, third = labels[drawn].T
    fits = (first == second) & (drawn[:, 0] != drawn[:, 1]) & (first != third)
    return drawn[fits][:_TRIPLETS]
