"""What the study of representations computes: its settings, its runs, and the check of every value."""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jaxprune as jp
from experiments.representation.architectures import ARCHITECTURES, demand_readable, digest, find
from experiments.shared import named, options
from experiments.shared.methods import DENSE, Method, parse
from experiments.shared.named import Named
from experiments.shared.results import fields_of
from experiments.shared.settings import Execution, at_most_images, each_once, listed
from jaxprune import check, memory

FORMS = ("shapes", "voc:<folder>", "folder:<folder>", "tfds:<name>", "<package.module>:<function>")
"""What ``--data`` takes."""

_Architectures = Annotated[tuple[Named, ...], listed(ARCHITECTURES, own=True, alias="--architecture")]
_Distortions = Annotated[tuple[str, ...], listed(jp.data.DISTORTIONS)]


@dataclass(frozen=True)
class Decisive:
    """What decides the numbers of a run, apart from architecture, seed, arm and rung."""

    data: Annotated[Named, listed(FORMS)] = "shapes"
    """shapes are painted scenes; voc:<folder> has the layout of PASCAL VOC; folder:<folder> holds images and masks;
    tfds:<name> is a prepared set with masks; a function returns a jp.data.Annotated."""
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
    share: float = 0.36
    """Of the weights that are left, pruned from rung to rung: 0.36 is two rungs of the paper, which prunes 0.2."""
    rungs: int = 8
    """The dense network included."""
    exclude: str = ""
    """Regular expression: kernels of these names are neither pruned nor counted, such as query|key|value."""
    distortions: _Distortions = ("contrast", "low-pass", "high-pass", "uniform-noise", "rotation", "phase-scrambling")
    """Under which decisions are compared with those of observers, at all their levels."""
    observers: int = 4
    """Simulated ones, of scenes."""
    path_steps: int = 50
    """Points on the path of integrated gradients."""
    legacy: bool = False
    """Take the choices of the authors' released code, where they are not plain bugs; the page names both."""


@dataclass(frozen=True, kw_only=True)
class Run(Decisive):
    """A network on a rung of an arm, and one record.

    Its three axes are those of its own arm, so that arms that ``--method`` does not change have equal records.
    """

    seed: int
    architecture: str
    network: str
    """A hash of what the architecture is: its module, its learning rate, and where it is read."""
    arm: str
    rung: int
    objective: str
    score: str
    update: str
    distorted: bool


@dataclass(frozen=True, kw_only=True)
class Truth(Decisive):
    """What all networks of a seed are held against: labels, chance levels, baselines, observers."""

    seed: int


@dataclass(frozen=True)
class Settings(Decisive, Execution):
    """For every architecture and seed the ladder, and its controls."""

    method: Annotated[Named, listed(options.SCORES, own=True)] = "magnitude"
    """What prunes from rung to rung, before training: [objective/]score[+update], such as label/diagonal or
    logits/greedy+surgeon; objectives are label and logits.  A function scores: it takes (network, batches), and loss if
    it has such."""

    architectures: _Architectures = tuple(ARCHITECTURES)
    """A function returns an Architecture of experiments.representation.architectures."""
    random_rungs: tuple[int, ...] = (2, 5, 7)
    """Rungs with a random mask of equal sparsity and equal training."""
    snip_rungs: tuple[int, ...] = (5,)
    """Rungs whose sparsity SNIP prunes to at initialisation, before the only training."""
    distorted_rungs: tuple[int, ...] = (0, 2, 5, 7)
    """Rungs whose networks decide on distorted images too."""
    out: Path = Path("results/representation")
    margin: float = 0.0
    """A gain up to this is no sweet spot; only the verdicts depend on it."""


LADDER, CONTROL, RANDOM, SNIP = "ladder", "control", "random", "snip"
"""The arms.  Control: the dense network, trained as often and as long as the ladder and not pruned."""

OBJECTIVES: Mapping[str, str] = {
    "label": "the loss of the labels",
    "logits": "the squared distance to the outputs of the network as it stands",
}
"""What a score may ask to stay, of training images.  There is one task, and so no head of another; and features say
nothing of the classifier behind them, which is pruned too."""

_OTHERS = {CONTROL: DENSE, RANDOM: parse("random"), SNIP: parse("label/snip")}


def ladder_method(settings: Settings) -> Method:
    """Reads what prunes the ladder.

    Raises:
      ValueError: an objective or an update that this study has not; else as ``methods.parse``.
    """
    method = parse(settings.method, "method")
    if method.objective != "none":
        check.choice("method: objective", method.objective, OBJECTIVES, ordered=True)
    if method.update not in ("none", "surgeon"):
        raise ValueError(
            f"method: expected no update or +surgeon, but got {method.word!r}. Between rungs training moves what "
            f"stays; leave out +{method.update}."
        )
    return method


def method_of(method: Method, arm: str, rung: int) -> Method:
    """Says how the network of an arm was pruned: by the method of the ladder, by that of a control, or not."""
    return _OTHERS.get(arm, method if rung else DENSE)


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


def resolved(settings: Settings) -> Settings:
    """Names scores and architectures, applies ``legacy`` to training, leaves out default rungs of longer ladders.

    A function that is passed and the same one that is named have equal records.
    """
    changes: dict[str, Any] = {"steps": settings.first_steps} if settings.legacy else {}
    for name in _RUNGS:
        if getattr(settings, name) == getattr(Settings, name):
            changes[name] = tuple(rung for rung in getattr(settings, name) if rung < settings.rungs)
    changes["method"] = ladder_method(settings).word
    return dataclasses.replace(
        settings,
        **changes,
        architectures=tuple(named.versioned(one, "architectures") for one in settings.architectures),
    )


def plan(settings: Settings, inputs: Any) -> list[Truth | Run]:
    """Lists the runs: of every seed its truth, then those of one architecture together, rung after rung."""
    del inputs
    fields, method = fields_of(settings, Decisive), ladder_method(settings)
    cells = [(LADDER, rung) for rung in range(settings.rungs)] + [(CONTROL, rung) for rung in range(1, settings.rungs)]
    cells += [(RANDOM, rung) for rung in settings.random_rungs] + [(SNIP, rung) for rung in settings.snip_rungs]
    networks = {name: digest(name, settings.image) for name in settings.architectures}
    runs: list[Truth | Run] = []
    for seed in settings.seeds:
        runs.append(Truth(**fields, seed=seed))
        for (name, network), (arm, rung) in itertools.product(networks.items(), cells):
            place = {"seed": seed, "architecture": name, "network": network, "arm": arm, "rung": rung}
            axes = vars(method_of(method, arm, rung))
            runs.append(Run(**fields, **place, **axes, distorted=rung in settings.distorted_rungs))
    return runs


_RUNGS = {"random_rungs": 1, "snip_rungs": 1, "distorted_rungs": 0}  # the least of each
_COUNTS = ("train_examples", "test_examples", "attributed_examples", "batch_size", "first_steps", "steps", "image")


def validate(settings: Settings) -> None:
    """Finds every bad value but those of the data."""
    for name in (*_COUNTS, "observers", "path_steps"):
        check.whole(name, getattr(settings, name))
    check.whole("rungs", settings.rungs, least=2)
    for name in ("architectures", "distortions"):
        each_once(name, getattr(settings, name))
    for name in settings.distortions:
        check.choice("distortions", name, jp.data.DISTORTIONS)
    if not settings.margin >= 0:
        raise ValueError(f"margin: expected 0 or more, but got {settings.margin}.")
    _check_images(settings)
    first = jp.schedules.ladder(2, settings.share)[-1]
    if (last := 1 - (1 - first) ** (settings.rungs - 1)) > 0.999:
        raise ValueError(
            f"share, rungs: the last rung would prune {last:.4%} of the weights; expected at most 99.9 %. Take fewer "
            "rungs or a smaller share."
        )
    for name, least in _RUNGS.items():
        each_once(name, getattr(settings, name) or ("none",))
        for rung in getattr(settings, name):
            if not least <= rung < settings.rungs:
                raise ValueError(f"{name}: expected rungs in [{least}, {settings.rungs}), but got {rung}.")
    if 0 not in settings.distorted_rungs:
        raise ValueError("distorted_rungs: expected rung 0, the dense network, among them: others gain over it.")
    for name in settings.architectures:
        demand_readable(name, settings.image)
    _check_exclude(settings)


def _check_images(settings: Settings) -> None:
    image, tested, attributed = settings.image, settings.test_examples, settings.attributed_examples
    if attributed > tested:
        raise ValueError(f"attributed_examples: expected at most test_examples ({tested}), but got {attributed}.")
    if image < 32 or image % 8:
        raise ValueError(f"image: expected a multiple of 8 (the ViT's patch) of 32 or more, but got {image}.")
    if not 0 <= settings.difficulty <= 1:
        raise ValueError(f"difficulty: expected a number in [0, 1], but got {settings.difficulty}.")
    if (settings.object_values or settings.void_values) and not str(settings.data).startswith("tfds:"):
        raise ValueError("object_values, void_values: expected none, since only masks of tfds:<name> have such values.")
    if settings.data != "shapes":
        return
    trained, names = settings.train_examples, "train_examples, test_examples"
    if min(trained, tested) < 20:
        each = f"two of each of the ten classes, but got {trained} and {tested}"
        raise ValueError(f"{names}: expected 20 or more, {each}.")
    # In float32, three channels; the test images, those whose cues disagree, and a distorted copy.
    taken, allowed = 12 * image**2 * (trained + 3 * tested), memory.available(None)
    if taken > allowed:
        raise ValueError(
            f"image, {names}: expected scenes that fit into memory, but they take {taken / 1e9:,.0f} GB; "
            f"{allowed / 1e9:,.0f} GB may be taken. Take fewer, or smaller ones."
        )
    at_most_images(settings.batch_size, trained, "the training part")


def _check_exclude(settings: Settings) -> None:
    try:
        re.compile(settings.exclude)
    except re.error as error:
        raise ValueError(f"exclude: expected a regular expression, but got {settings.exclude!r} ({error}).") from None
    matched = False
    for name in settings.architectures:
        shapes = find(name).shapes(settings.image)["params"]
        kept = options.prunable(shapes, settings.exclude)  # raises where nothing is left to prune
        matched |= kept != jp.tree.prunable(shapes)
    if settings.exclude and not matched:
        raise ValueError(
            f"exclude: expected a regular expression that kernels match, but {settings.exclude!r} matches none of "
            f"{', '.join(map(named.name, settings.architectures))}. In a ViT they are called query, key and value."
        )
