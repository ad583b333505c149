"""What the study of representations computes: its settings, the grid of its runs, and the check of every value."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxprune as jp
from experiments import options
from experiments.transfer_grid import each_once, part
from jaxprune import check


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run, apart from architecture, seed, arm and rung."""

    data: str = "shapes"
    """shapes, voc:<folder>, folder:<folder> (images and masks), or tfds:<name> for a prepared set with masks."""
    data_folder: str | None = None
    """Where prepared TensorFlow data sets lie."""
    object_values: tuple[int, ...] = ()
    """Values of a TensorFlow data set's masks that mean an object.  None given: every value above 0."""
    void_values: tuple[int, ...] = ()
    """Values that mean neither object nor ground."""
    image: int = 32
    """Side of the images in pixels."""
    difficulty: float = 0.3
    """Of the scenes."""
    train_examples: int = 8000
    """Scenes that are painted for training."""
    test_examples: int = 200
    """Scenes, or images, that every measure but attribution sees; at most so many of a folder."""
    attributed_examples: int = 32
    """Of them, those that attributions are made of."""
    batch_size: int = 32
    first_steps: int = 2000
    """Training steps of the dense network."""
    steps: int = 500
    """Training steps of every further rung, at a learning rate that starts anew."""
    score: str = "magnitude"
    """What ranks the weights from rung to rung."""
    share: float = 0.36
    """Of the weights that are left, pruned from rung to rung: 0.36 is two rungs of the paper, which prunes 0.2."""
    rungs: int = 8
    """The dense network included."""
    exclude: str = ""
    """Regular expression: kernels of these names are neither pruned nor counted, such as query|key|value."""
    distortions: tuple[str, ...] = (
        "contrast",
        "low-pass",
        "high-pass",
        "uniform-noise",
        "rotation",
        "phase-scrambling",
    )
    """Under which decisions are compared with those of observers, at all their levels."""
    observers: int = 4
    """Simulated ones, of scenes."""
    path_steps: int = 50
    """Points on the path of integrated gradients."""
    legacy: bool = False
    """Take the choices of the authors' released code, where they are not plain bugs; the page names both."""


@dataclass(frozen=True)
class Run(Settings):
    """A network on a rung of an arm, and one record."""

    architecture: str = dataclasses.field(kw_only=True)
    network: str = dataclasses.field(kw_only=True)
    """A hash of what the architecture is: its module, its learning rate, and where it is read."""
    seed: int = dataclasses.field(kw_only=True)
    arm: str = dataclasses.field(kw_only=True)
    rung: int = dataclasses.field(kw_only=True)
    distorted: bool = dataclasses.field(kw_only=True)


@dataclass(frozen=True)
class Truth(Settings):
    """What all networks of a seed are held against: labels, chance levels, baselines, observers."""

    seed: int = dataclasses.field(kw_only=True)


@dataclass(frozen=True)
class Study(Settings):
    """For every architecture and seed the ladder, and its controls."""

    architectures: tuple[str, ...] = ("resnet-small", "resnet-large", "vit", "swin")
    seeds: tuple[int, ...] = (0, 1, 2)
    random_rungs: tuple[int, ...] = (2, 5, 7)
    """Rungs with a random mask of equal sparsity and equal training."""
    snip_rungs: tuple[int, ...] = (5,)
    """Rungs whose sparsity SNIP prunes to at initialisation, before the only training."""
    distorted_rungs: tuple[int, ...] = (0, 2, 5, 7)
    """Rungs whose networks decide on distorted images too."""
    out: Path = Path("results/representation")
    """Where records, checkpoints, tables and the page go.  What is there already is not computed again."""
    margin: float = 0.0
    """A gain up to this is no sweet spot; only the verdicts depend on it."""
    shard: str = "1/1"
    """i/n: compute the i-th of n parts (architectures and seeds), so that n processes share one study."""


LADDER, CONTROL, RANDOM, SNIP = "ladder", "control", "random", "snip"
"""The arms.  Control: the dense network, trained as often and as long as the ladder and not pruned."""

LEGACY: Mapping[str, str] = {
    "Budget.": "Every rung is trained as long as the dense network.",
    "Attention kernels.": "Query, key and value kernels of the ViT are neither pruned nor counted, as torchvision has "
    "them outside of its linear layers. Both sparsities are in the tables.",
    "Classifier of the ResNets.": "It stays dense: the masks of the released ResNet-18 are those of convolutions.",
    "Noise.": "Integrated gradients are the mean of two noisy copies of the image, of deviation 1 in normalised units.",
    "Pooling.": "Grad-CAM and attention are stretched to [0, 1] before the mass is taken, which makes it depend on the "
    "least value of the map.",
    "Boundary of CorLoc.": "Intersection over union in floating point with an epsilon: exactly one half is a miss.",
    "All conditions.": "Accuracy on distorted images includes the undistorted controls.",
}
"""What ``--legacy`` takes over from the released code of arXiv 2507.01722."""

BUGS = (
    "masks read as colours, by which half of the classes vanish; padding that counts as object; transposed attention "
    "maps; Grad-CAM of a ViT behind its last block, where it is zero everywhere; tokens scrambled before object "
    "discovery; a dilation that only renames a folder; accuracies of one model drawn beside another's; missing rungs "
    "filled with a mean; ties broken by the order of pixels"
)
"""What ``--legacy`` does not take over, as it is plainly wrong."""


def schedule(settings: Settings) -> tuple[float, ...]:
    """Returns the sparsity of every rung."""
    return jp.schedules.ladder(settings.rungs, settings.share)


def resolved(study: Study) -> Study:
    """Applies what ``--legacy`` means for the training, and leaves out default rungs that a shorter ladder lacks."""
    changes: dict[str, Any] = {"steps": study.first_steps} if study.legacy else {}
    for name in ("random_rungs", "snip_rungs", "distorted_rungs"):
        if getattr(study, name) == getattr(Study, name):
            changes[name] = tuple(rung for rung in getattr(study, name) if rung < study.rungs)
    return dataclasses.replace(study, **changes)


def grid(study: Study) -> list[Run]:
    """Lists the runs of a study; those of one architecture and seed together, rung after rung."""
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(Settings)}
    later = range(1, study.rungs)
    cells = [(LADDER, rung) for rung in range(study.rungs)] + [(CONTROL, rung) for rung in later]
    cells += [(RANDOM, rung) for rung in study.random_rungs] + [(SNIP, rung) for rung in study.snip_rungs]
    return [
        Run(
            **fields,
            architecture=name,
            network=options.ARCHITECTURES[name].digest(study.image),
            seed=seed,
            arm=arm,
            rung=rung,
            distorted=rung in study.distorted_rungs,
        )
        for name in study.architectures
        for seed in study.seeds
        for arm, rung in cells
    ]


def truths(study: Study) -> list[Truth]:
    """Lists what the networks of every seed are held against."""
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(Settings)}
    return [Truth(**fields, seed=seed) for seed in study.seeds]


_COUNTS = ("train_examples", "test_examples", "attributed_examples", "batch_size", "first_steps", "steps", "rungs")


def validate(study: Study) -> None:
    """Finds every bad value before anything expensive starts."""
    for name in (*_COUNTS, "observers", "path_steps"):
        check.positive(name, getattr(study, name))
    for name in ("architectures", "seeds", "distortions", "distorted_rungs"):
        each_once(name, getattr(study, name))
    for name in study.architectures:
        check.choice("architectures", name, options.ARCHITECTURES)
    for name in study.distortions:
        check.choice("distortions", name, jp.data.DISTORTIONS)
    check.choice("score", study.score, options.SCORES)
    part(study.shard)
    for seed in study.seeds:
        if seed < 0:
            raise ValueError(f"seeds: expected numbers of 0 or more, but got {seed}.")
    if study.margin < 0:
        raise ValueError(f"margin: expected 0 or more, but got {study.margin}.")
    _check_images(study)
    _check_rungs(study)
    check.writable("out", study.out)


def _check_images(study: Study) -> None:
    if study.attributed_examples > study.test_examples:
        raise ValueError(
            f"attributed_examples: expected at most test_examples ({study.test_examples}), but got "
            f"{study.attributed_examples}."
        )
    image = study.image
    if image < 32 or image % 8:
        raise ValueError(f"image: expected a multiple of 8 (the ViT's patch) of 32 or more, but got {image}.")
    if not 0 <= study.difficulty <= 1:
        raise ValueError(f"difficulty: expected a number in [0, 1], but got {study.difficulty}.")
    if study.data == "shapes" and min(study.train_examples, study.test_examples) < 20:
        raise ValueError(
            f"train_examples, test_examples: expected 20 or more, two of each of the ten classes, but got "
            f"{study.train_examples} and {study.test_examples}."
        )
    if not study.data.startswith("tfds:") and (study.object_values or study.void_values):
        raise ValueError("object_values, void_values: expected none, since only masks of tfds:<name> have such values.")


def _check_rungs(study: Study) -> None:
    last = schedule(study)[-1]
    if last > 0.999:
        raise ValueError(
            f"share, rungs: the last rung would prune {last:.4%} of the weights; expected at most 99.9 %. Take fewer "
            "rungs or a smaller share."
        )
    for name in ("random_rungs", "snip_rungs", "distorted_rungs"):
        rungs, least = getattr(study, name), 0 if name == "distorted_rungs" else 1
        if len(set(rungs)) < len(rungs):
            raise ValueError(f"{name}: expected each rung once, but got {rungs}.")
        for rung in rungs:
            if not least <= rung < study.rungs:
                raise ValueError(f"{name}: expected rungs in [{least}, {study.rungs}), but got {rung}.")
    if 0 not in study.distorted_rungs:
        raise ValueError(
            "distorted_rungs: expected rung 0, the dense network, among them: the others are compared to it."
        )
    try:
        re.compile(study.exclude)
    except re.error as error:
        raise ValueError(f"exclude: expected a regular expression, but got {study.exclude!r} ({error}).") from None
    matched = False
    for name in study.architectures:
        shapes = options.ARCHITECTURES[name].shapes(study.image)
        # Raises where nothing is left to prune.
        kept = options.prunable(shapes, study.exclude)
        matched |= kept != jp.tree.prunable(shapes)
    if study.exclude and not matched:
        raise ValueError(
            f"exclude: expected a regular expression that kernels match, but none of {', '.join(study.architectures)} "
            f"has one that {study.exclude!r} matches. In a ViT they are called query, key and value."
        )
