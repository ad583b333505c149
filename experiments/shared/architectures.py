"""The networks that studies of pruned networks train first: what each of them is, and how it is trained."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments.shared.settings import fits
from jaxprune.train.stepping import Augment

HEAD_WIDTH, PATCHES = 8, 4
"""Of the ViT: features of a head, and patches along a side of the image."""


@dataclass(frozen=True)
class Architecture:
    """A network that is trained here.

    Attributes:
      usual: depth, width, steps and rate of its pretraining, where no setting says so.
      module: (settings, classes, side of the images) -> the module.
      transformation: (peak rate, steps) -> what trains it.
      said: settings -> what pages call it.
      augment: what becomes of its batches.
      instead: of methods that studies have unless others are named, those in place of which it has others.
    """

    usual: Mapping[str, float]
    module: Callable[[Any, int, int], Any]
    transformation: Callable[[float, int], optax.GradientTransformation]
    said: Callable[[Any], str]
    augment: Augment | None = None
    instead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def shifted(batch: Any, key: Any) -> Any:
    """Moves every image by up to an eighth of its side, each way, and fills in zeros."""
    images = batch["image"]
    reach = images.shape[1] // 8
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)
    cut = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:]))
    return {**batch, "image": cut(padded, corners)}


def _resnet(settings: Any, classes: int, side: int) -> Any:
    del side
    return jp.models.resnet_cifar(settings.depth, classes, settings.width)


def _vit(settings: Any, classes: int, side: int) -> Any:
    for name, value, of in (("width", settings.width, HEAD_WIDTH), ("image", side, PATCHES)):
        if value % of:
            raise ValueError(
                f"{name}: expected a multiple of {of} for the ViT that is trained here, but got {value}. Take "
                f"{-(-value // of) * of}."
            )
    shape: dict[str, Any] = {"width": settings.width, "heads": settings.width // HEAD_WIDTH, "depth": settings.depth}
    return jp.models.vit(patch=side // PATCHES, image=side, classes=classes, pool="mean", **shape)


# One for all seeds, so that a training's programs are compiled once.
@cache
def _cooling(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=1e-2)


@cache
def _warm(rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW whose rate rises over a tenth of the steps; with less decay, or a longer memory, it gets fewer right."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
    return optax.adamw(schedule, b2=0.99, weight_decay=0.1)


ARCHITECTURES: Mapping[str, Architecture] = {
    "": Architecture(
        usual={"depth": 8, "width": 6, "pretrain_steps": 1000, "pretrain_rate": 5e-3},
        module=_resnet,
        transformation=_cooling,
        said=lambda one: f"CIFAR ResNet of depth {one.depth} and width {one.width}",
    ),
    "vit": Architecture(
        usual={"depth": 3, "width": 32, "pretrain_steps": 5000, "pretrain_rate": 4e-3},
        module=_vit,
        transformation=_warm,
        said=lambda one: (
            f"ViT of depth {one.depth} and width {one.width}, {HEAD_WIDTH} features a head, {PATCHES} x {PATCHES} "
            "patches, trained on images that are moved by up to an eighth"
        ),
        augment=shifted,
        # It is nowhere piecewise linear: of the labels' loss the exact Hessian would take a product for every weight.
        # Of a distance to itself the Hessian is the Gauss-Newton matrix, which is exact here, too.
        instead={"label/diagonal": ("logits/diagonal", "label/fisher", "label/snip"), "label/greedy+rounds": ()},
    ),
}
"""By the name of the setting ``architecture``; the one without a name is what studies train if nothing is said."""


def architecture_of(settings: Any) -> Architecture:
    """The network that a study trains first; of one that trains none, whose settings have no meaning, the usual."""
    return ARCHITECTURES.get(getattr(settings, "architecture", ""), ARCHITECTURES[""])


def filled(settings: Any, usual: Mapping[str, float] = MappingProxyType({})) -> Any:
    """Fills in depth, width, steps and rate of the pretraining, and the methods, where they were left open.

    Args:
      settings: of a study.
      usual: what it takes for a ResNet, in place of what is usual.
    """
    found = architecture_of(settings)
    wanted = {**found.usual, **(usual if found is ARCHITECTURES[""] else {})}
    made: dict[str, Any] = {name: value for name, value in wanted.items() if getattr(settings, name) is None}
    if settings.methods is type(settings).methods:  # nobody named any
        methods = (found.instead.get(word, (word,)) for word in settings.methods)
        made["methods"] = tuple(itertools.chain(*methods))
    return replace(settings, **made)


def check_architecture(settings: Any, image_shape: Any) -> None:
    """Checks that the network can be made for images (h, w, c), and trained in memory."""
    if settings.architecture == "vit" and image_shape[0] != image_shape[1]:
        raise ValueError(
            f"data: expected square images for the ViT that is trained here, but got {tuple(image_shape)}. Take a "
            "ResNet, or bring them to a square."
        )
    if settings.architecture == "vit" and settings.recalibrate:
        raise ValueError("recalibrate: expected BatchNorm, whose statistics are averaged. Leave it out for a ViT.")
    settings = filled(settings)
    module = architecture_of(settings).module(settings, 2, image_shape[0])
    fits("width, depth", f"{settings.width}, {settings.depth}", module, image_shape)
