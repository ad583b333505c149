"""What the words of a command line mean: the only tables from strings to functions."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import jaxprune as jp
from jaxprune import check, records
from jaxprune.evaluate import heads
from jaxprune.structured import Chooser, Criterion
from jaxprune.structured.budgets import Budget
from jaxprune.types import Loss, Preprocess, Prunable, Score

LOSSES: Mapping[str, Loss] = {"squared_error": jp.losses.squared_error, "cross_entropy": jp.losses.cross_entropy}

HEADS: Mapping[str, Callable[[float], heads.HeadMaker]] = {
    "ridge": heads.ridge,
    "logistic": heads.logistic,
    "nearest-mean": lambda penalty: heads.nearest_mean(),
    "nearest-neighbours": lambda penalty: heads.nearest_neighbours(),
}


def prunable(params: Any, *exclude: str) -> Prunable:
    """Says which kernels of one of several architectures may be pruned: all but those that a pattern matches.

    Where ``jp.tree.prunable`` refuses a pattern that matches none, here it leaves nothing out: not every architecture
    has the kernels that are named for one of them.
    """
    found = jp.tree.by_name(jp.tree.prunable(params))
    names = [name for name, inside in found.items() if inside]
    patterns = [pattern for pattern in exclude if pattern and any(re.search(pattern, name) for name in names)]
    return jp.tree.prunable(params, exclude="|".join(f"(?:{pattern})" for pattern in patterns) or None)


@dataclass(frozen=True)
class ScoreOptions:
    """What a score may be configured with."""

    loss: Loss
    scope: Prunable
    seed: int
    damping: float


SCORES: Mapping[str, Callable[[ScoreOptions], Score]] = {
    "magnitude": lambda o: jp.scores.magnitude(),
    "diagonal": lambda o: jp.scores.diagonal_hessian(o.loss, scope=o.scope),
    "block-quadratic": lambda o: jp.scores.block_hessian(o.loss, form="quadratic", scope=o.scope),
    "block-signed": lambda o: jp.scores.block_hessian(o.loss, form="quadratic", ranking="signed", scope=o.scope),
    "block-obs": lambda o: jp.scores.block_hessian(o.loss, form="obs", damping=o.damping, scope=o.scope),
    "block-greedy": lambda o: jp.scores.block_hessian(o.loss, form="greedy", damping=o.damping, scope=o.scope),
    "fisher": lambda o: jp.scores.fisher(o.loss),
    "snip": lambda o: jp.scores.snip(o.loss),
    "grasp": lambda o: jp.scores.grasp(o.loss),
    "synflow": lambda o: jp.scores.synflow(),
    "random": lambda o: jp.scores.random(jax.random.key(o.seed)),
}


@dataclass(frozen=True)
class SearchOptions:
    """What criteria, choosers and budgets of a search may be configured with."""

    loss: Loss
    seed: int
    share: float | None
    images: Any
    """Batches that the chooser sees."""


CRITERIA: Mapping[str, Callable[[SearchOptions], Criterion]] = {
    "second-order": lambda o: jp.structured.effects.second_order(o.loss),
    "kernel-block": lambda o: jp.structured.effects.kernel_block(o.loss),
    "kl": lambda o: jp.structured.effects.kl(),
    "kl-twice": lambda o: jp.structured.effects.kl(softmax_twice=True),
    "cka": lambda o: jp.structured.effects.cka(),
    "l1": lambda o: jp.structured.criteria.l1(),
    "l2": lambda o: jp.structured.criteria.l2(),
    "batchnorm": lambda o: jp.structured.criteria.batchnorm_scale(),
    "activation": lambda o: jp.structured.criteria.activation(),
    "random": lambda o: jp.structured.criteria.random(jax.random.key(o.seed)),
}

CHOOSERS: Mapping[str, Callable[[SearchOptions], Chooser]] = {
    "cka": lambda o: jp.structured.choosers.cka(o.images),
    "cka-biased": lambda o: jp.structured.choosers.cka(o.images, kind="biased"),
    "cka-rbf": lambda o: jp.structured.choosers.cka(o.images, kind="rbf"),
    "cka-minibatch": lambda o: jp.structured.choosers.cka(o.images, kind="minibatch"),
    "cka-streaming": lambda o: jp.structured.choosers.cka(o.images, kind="streaming"),
    "procrustes": lambda o: jp.structured.choosers.procrustes(o.images),
    "accuracy": lambda o: jp.structured.choosers.accuracy(o.images),
    "random": lambda o: jp.structured.choosers.random(o.seed),
    "always-layer": lambda o: jp.structured.choosers.always("layer"),
    "always-neurons": lambda o: jp.structured.choosers.always("neurons"),
}

BUDGETS: Mapping[str, Callable[[SearchOptions], Budget]] = {
    "macs": lambda o: jp.structured.budgets.macs(o.share),
    "parameters": lambda o: jp.structured.budgets.parameters(o.share),
    "filters": lambda o: jp.structured.budgets.filters(),
    "latency": lambda o: jp.structured.budgets.latency(o.images[0]["image"], o.share),
}


@dataclass(frozen=True)
class Architecture:
    """A network of the study of representations, and where its representation is read.

    Attributes:
      title: what figures call it.
      module: (classes, side of the images) -> module.
      rate: peak learning rate of AdamW.
      cam: the site of Grad-CAM.
      tokens: the site in which objects are searched for: at 32 pixels a map of eight by eight places.
      is_map: whether that is a map, standardised before objects are searched for.
      patch: where it is tokens of patches, the side of these: they are read at half a patch's distance.
      methods: the attributions that it can have.
      unpruned: regular expression of the kernels that the released code of arXiv 2507.01722 neither prunes nor counts.
    """

    title: str
    module: Callable[[int, int], Any]
    rate: float
    cam: str
    tokens: str
    is_map: bool
    methods: tuple[str, ...]
    unpruned: str = ""
    patch: int = 0

    def shapes(self, image: int) -> Any:
        """Returns the shapes of the parameters."""
        images = jax.ShapeDtypeStruct((1, image, image, 3), "float32")
        return jax.eval_shape(self.module(2, image).init, jax.random.key(0), images)["params"]

    def digest(self, image: int) -> str:
        """Hashes what the architecture is, but for the number of classes."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name != "module"}
        return records.digest({**fields, "module": self.module(2, image).describe()})[:16]


def _small_resnet(title: str, width: int) -> Architecture:
    return Architecture(
        title,
        lambda classes, image: jp.models.resnet_cifar(8, classes, width, stem_stride=2),
        rate=5e-3,
        cam="stage3/block0",
        tokens="stage2/block0",
        is_map=True,
        methods=("grad-cam", "guided-grad-cam", "integrated-gradients"),
        unpruned="^head/",
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet-small": _small_resnet("ResNet, 8 wide", 8),
    "resnet-large": _small_resnet("ResNet, 16 wide", 16),
    "vit": Architecture(
        "ViT",
        lambda classes, image: jp.models.vit(patch=8, image=image, classes=classes, width=64, heads=4, depth=3),
        rate=1e-3,
        # Behind the last block only the class token matters: Grad-CAM reads the block before.
        cam="block1",
        tokens="block2/keys",
        is_map=False,
        patch=8,
        methods=("grad-cam", "attention", "rollout", "integrated-gradients"),
        unpruned="/(query|key|value)/",
    ),
    "swin": Architecture(
        "Swin V2",
        lambda classes, image: jp.models.swin_v2(
            patch=4, window=4, depths=(2, 2), classes=classes, width=24, heads=(2, 4)
        ),
        rate=2e-3,
        cam="stage2/block1",
        tokens="stage1/block1",
        is_map=True,
        methods=("grad-cam", "integrated-gradients"),
    ),
}


@dataclass(frozen=True)
class AttributionOptions:
    """What an attribution may be configured with."""

    site: str
    steps: int
    key: Any
    legacy: bool


def _integrated(o: AttributionOptions) -> Any:
    method = jp.evaluate.attribution.integrated_gradients(steps=o.steps)
    if not o.legacy:
        return method
    return jp.evaluate.attribution.noise_tunnel(method, samples=2, std=1.0, key=o.key)


ATTRIBUTIONS: Mapping[str, Callable[[AttributionOptions], Any]] = {
    "grad-cam": lambda o: jp.evaluate.attribution.grad_cam(o.site, dead="zeros"),
    "guided-grad-cam": lambda o: jp.evaluate.attribution.guided_grad_cam(o.site, dead="zeros"),
    "guided-backpropagation": lambda o: jp.evaluate.attribution.guided_backpropagation(),
    "integrated-gradients": _integrated,
    "input-times-gradient": lambda o: jp.evaluate.attribution.input_times_gradient(),
    "smooth-grad": lambda o: jp.evaluate.attribution.smooth_grad(samples=16, std=0.5, key=o.key),
    "attention": lambda o: jp.evaluate.attribution.last_attention(),
    "rollout": lambda o: jp.evaluate.attribution.attention_rollout(),
}


OnError = Literal["error", "skip"]

BUNDLED = ("digits", "shapes")
"""Data that come with the library, or are painted by it."""


@dataclass(frozen=True)
class Sources:
    """Labelled images, those that are kept for testing where a data set has such, and the tasks among their classes."""

    images: jp.data.Source
    tests: jp.data.Source | None
    tasks: tuple[jp.data.Task, ...]


def load(
    data: str, folder: str | None, image: int, preprocess: Preprocess | None = None, on_error: OnError = "error"
) -> Sources:
    """Opens a data set and its tasks.

    Args:
      data: "digits", "shapes", "tfds:<name>" for a prepared TensorFlow data set, "folder:<path>" for pictures in a
        folder for each class (or in train/ and val/ of such), or "npz:<path>".
      folder: where prepared data sets lie.
      image: side of the images in pixels; the digits have 8 whatever it says.
      preprocess: what a pretrained network was made for, in place of squares of this size.
      on_error: what becomes of pictures in folders that can't be read: "error" or "skip".

    Returns:
      The sources.  ImageNet, and any set of its 1000 synsets, has the ten shipped groups as tasks; any other data set
      two halves of its classes.
    """
    kind, _, name = data.partition(":")
    if kind not in _OPENERS or not name:
        check.choice("data", data, (*BUNDLED, "tfds:<name>", "folder:<path>", "npz:<path>"))
    if data == "digits":
        return Sources(jp.data.digits(), None, halves(10, ("0-4", "5-9")))
    if data == "shapes":
        return Sources(jp.data.shapes(0, image=image), None, jp.data.shape_tasks())
    images, tests = _OPENERS[kind](name, folder, image, preprocess, on_error)
    if tests is not None and tests.classes != images.classes:
        other = sorted(set(images.classes) ^ set(tests.classes))
        raise ValueError(
            f"data: expected the same classes in {images.name} and {tests.name}, but {len(other)} are in one of them "
            f"only, the first {other[:1]}. Use folders of one data set."
        )
    if (kind == "tfds" and name.startswith("imagenet2012")) or _are_synsets(images.classes):
        return Sources(images, tests, jp.data.imagenet_tasks())
    return Sources(images, tests, halves(len(images.classes), ("first half", "second half")))


def _from_tfds(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    options: dict[str, Any] = {"folder": folder} | ({"preprocess": preprocess} if preprocess else {"image": image})
    # ImageNet's test split has no labels; its validation split is what everyone reports.
    tests = jp.data.tfds(name, "validation", **options) if preprocess and name.startswith("imagenet2012") else None
    return jp.data.tfds(name, **options), tests


def _from_folder(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    del folder
    made = preprocess or Preprocess(resize=(image, image))
    path = Path(name)
    tests = next((part for part in ("val", "validation", "valid", "test") if (path / part).is_dir()), None)
    training = (path / "train").is_dir()
    if training != (tests is not None):
        there, wanted = ("train", "val") if training else (tests, "train")
        raise ValueError(
            f"data: expected a folder for each class in {name!r}, or train and val with such folders, but it has "
            f"{there} and no {wanted}. Pass the folder {there} itself, or add {wanted}."
        )
    if tests is None:
        return jp.data.folder(path, preprocess=made, on_error=on_error), None
    images, held = (jp.data.folder(path / part, preprocess=made, on_error=on_error) for part in ("train", tests))
    return images, held


def _from_npz(
    name: str, folder: str | None, image: int, preprocess: Preprocess | None, on_error: OnError
) -> tuple[jp.data.Source, jp.data.Source | None]:
    del folder, image, on_error
    images = jp.data.npz(name)
    if preprocess is None or images.image_shape[:2] == (preprocess.crop, preprocess.crop):
        return images, None  # they have been brought to that size before
    if images.pixels.dtype != np.uint8:
        raise ValueError(
            f"data: expected images of {preprocess.crop} x {preprocess.crop} pixels, or bytes that can be resized, but "
            f"{name!r} has {images.pixels.dtype} of the shape {images.image_shape}. Save them as uint8."
        )
    pixels = np.stack([jp.data.preprocess(picture, preprocess) for picture in images.pixels])
    return dataclasses.replace(images, pixels=pixels), None


_OPENERS = {"tfds": _from_tfds, "folder": _from_folder, "npz": _from_npz}


def _are_synsets(classes: tuple[str, ...]) -> bool:
    """Whether classes are the 1000 of ImageNet, named by their synsets: their order is that of networks' outputs."""
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def halves(classes: int, names: tuple[str, str]) -> tuple[jp.data.Task, ...]:
    """Groups the classes of a source into a lower and an upper half."""
    middle = classes // 2
    return (
        jp.data.Task(names[0], tuple(range(middle))),
        jp.data.Task(names[1], tuple(range(middle, classes))),
    )
