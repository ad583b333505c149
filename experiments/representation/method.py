"""How the study of representations was done, in sentences."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from experiments import options
from experiments.representation_figures import rung_label, title
from experiments.representation_findings import Point
from experiments.representation_networks import LOSS
from experiments.representation_results import Results
from experiments.representation_settings import BUGS, CONTROL, LADDER, LEGACY, RANDOM, SNIP, Study
from experiments.wording import DATA, counted, joined, percent
from jaxprune import tree


def approach(study: Study, results: Results) -> list[Point]:
    """Says how it was done."""
    return [
        ("Data.", _data(study)),
        ("Networks.", _networks(study, results)),
        ("Ladder.", _ladder(study, results)),
        ("Controls.", _controls(results)),
        ("Statistics.", _statistics(results)),
        *[("Filters.", one) for one in _filters(study)],
        ("Observers.", _simulated(study)),
        (
            "Source.",
            "Cassano, Renzulli, Bragagnolo and Grangetto (2025), arXiv 2507.01722, prune ResNet-18, ResNet-50, "
            "Swin-V2-T and ViT-B/32 on ImageNet. Numbers on other data, networks and training are not comparable "
            "with theirs.",
        ),
    ]


def _data(study: Study) -> str:
    kind = DATA.get(study.data, study.data)
    attributed = f"attributions are made of the first {study.attributed_examples}"
    sizes = f"{study.image} pixels a side"
    if study.data != "shapes":
        has_void = study.data.startswith("voc:") or study.void_values
        void = " Void pixels, which are neither object nor ground, count as ground." if has_void else ""
        return (
            f"{kind}, split anew for each seed; {study.test_examples} test images at most, {attributed}; {sizes}.{void}"
        )
    return (
        f"{kind.capitalize()}, painted anew for each seed: ten classes, a shape with a texture of its own each; masks "
        f"and boxes are exact. {study.train_examples} training and {study.test_examples} test images, {attributed}; "
        f"{sizes}. Every second training scene of a class is grey, since distorted images are and should not be new "
        "for that alone. For the shape bias, scenes whose texture is that of another class."
    )


def _networks(study: Study, results: Results) -> str:
    classes = len(results.truths[results.seeds[0]]["classes"])
    kinds = [
        f"{title(name)}: {_layout(options.ARCHITECTURES[name], study.image, classes)}" for name in results.architectures
    ]
    return (
        f"{'; '.join(kinds)}. All are trained with AdamW, weight decay 0.01, warm-up and cosine decay that start anew "
        f"on every rung, batches of {study.batch_size}, {LOSS.__name__.replace('_', ' ')}."
    )


def _layout(kind: options.Architecture, image: int, classes: int) -> str:
    """Writes the numbers of an architecture: its layers, its parameters, its learning rate."""
    module = kind.module(classes, image)
    images = jax.ShapeDtypeStruct((1, image, image, 3), "float32")
    params = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    told = module.describe()
    return f"{_LAYERS[told['family']](told)}, {tree.size(params):,} parameters, peak rate {kind.rate:g}"


def _residual(told: Mapping[str, Any]) -> str:
    inner = list(told["blocks"].values())
    block = "bottleneck" if told["bottleneck"] else "basic"
    stride = told.get("stem_stride", 1)
    # The convolutions of a block are one more than its inner widths; the stem and the classifier are two layers.
    depth = sum(len(one) + 1 for one in inner) + 2
    return (
        f"depth {depth}, {counted(len(inner), f'{block} block')} of inner width "
        f"{joined([str(one[0]) for one in inner])}, a stem of width {told['width']} and stride {stride}"
    )


def _vision(told: Mapping[str, Any]) -> str:
    blocks = list(told["blocks"].values())
    return f"patches of {told['patch']} pixels, width {told['width']}, depth {len(blocks)}, {_heads(blocks)}"


def _shifted(told: Mapping[str, Any]) -> str:
    stages: dict[str, list[Any]] = {}
    for name, block in told["blocks"].items():
        stages.setdefault(name.split("_")[0], []).append(block)
    each = [
        f"{counted(len(blocks), 'block')} of width {blocks[0]['heads'] * width} ({_heads(blocks)})"
        for blocks, width in zip(stages.values(), told["head_widths"], strict=True)
    ]
    return (
        f"patches of {told['patch']} pixels, windows of {told['window']} × {told['window']} tokens, stages of "
        f"{joined(each)}"
    )


def _heads(blocks: list[Any]) -> str:
    return f"{counted(blocks[0]['heads'], 'head')}, {blocks[0]['hidden']} hidden units"


_LAYERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "resnet": _residual,
    "vit": _vision,
    "swin_v2": _shifted,
}
"""What a module says of itself, in words, by its family."""


def _ladder(study: Study, results: Results) -> str:
    first = results.architectures[0]
    rungs = [f"{rung_label(results.sparsity(first, LADDER, rung))} %" for rung in results.rungs(first, LADDER)]
    positions = ", those of the position networks of Swin V2 among them" if "swin" in results.architectures else ""
    left_out = f" Kernels named {study.exclude} are left out." if study.exclude else ""
    return (
        f"The dense network is trained for {study.first_steps} steps. Then {percent(study.share)} of the weights that "
        f"are left go, those that rank lowest by {study.score} over all prunable kernels at once, and the network is "
        f"trained for {study.steps} steps from the weights that it has: {', '.join(rungs)}. Sparsity is that of the "
        f"prunable kernels{positions}; the share of all kernels is in the last table.{left_out}"
    )


def _controls(results: Results) -> str:
    arms = {arm for _, arm, _ in results.runs}
    told = []
    if CONTROL in arms:
        told.append("Equal training: the dense network, trained on as often and as long as the ladder, and not pruned.")
    else:
        told.append("There is no dense network trained equally long.")
    if RANDOM in arms:
        told.append(
            "Random mask: of that network, on the rung before, a random choice of weights goes at once, as many as on "
            "the rung of the ladder, and it is trained for one rung. The ladder comes there gradually, training after "
            "every step, so that the gap between them is not the criterion's alone."
        )
    if SNIP in arms:
        told.append(
            "SNIP (Lee et al. 2019, arXiv 1810.02340): scored at initialisation, where BatchNorm has the statistics of "
            "the scoring images, pruned at once to the sparsity of the rung, then trained once, as long as the dense "
            "network: shorter than the ladder by all its later rungs."
        )
    return " ".join(told)


def _statistics(results: Results) -> str:
    few = (
        "All intervals are widened by √(n / (n − 1)) for n seeds; where seeds differ more than their images make them, "
        "those of few seeds are too narrow all the same."
        if len(results.seeds) > 1
        else "Of one seed intervals say nothing about others."
    )
    return (
        f"{counted(len(results.seeds), 'seed')}. Bands are 95 % bootstrap intervals of each value by itself, over "
        "seeds and images. Gains are paired by seed and image, signed so that above 0 is better, and the intervals of "
        "a ladder hold at once (maximum of the studentised deviations, Romano and Wolf 2005), since the best of "
        f"several rungs is looked for. {few} Found: one interval lies above the margin; not found: none reaches above "
        "it; undecided: anything else. Nothing is corrected for the number of measures and architectures."
    )


def _filters(study: Study) -> Iterator[str]:
    widths = {
        "low-pass": "low-pass in proportion to images of 224 pixels, as in the benchmark",
        "high-pass": "high-pass in pixels of the image itself, as in proportion nothing of a small one would be left",
    }
    if told := [width for name, width in widths.items() if name in study.distortions]:
        yield f"Standard deviations of the distorting filters are: {'; '.join(told)}."


def _simulated(study: Study) -> str:
    return (
        f"Simulated; no people were asked. {study.observers} for every condition. With s the place of a level among "
        "those of its distortion, from 0 (the control) to 1, z the standardised logarithm of the object's area and "
        "c = 1 / classes, an image is answered rightly with probability c + (1 − c) / (1 + exp(−(3 − 5 s + z))). Any "
        "two share 3 of 10 trials."
    )


def legacy(study: Study) -> tuple[str, list[Point]]:
    """Says what the choices of the released code are, and whether they were taken: a heading, and the list."""
    heading = "The choices of the released code, taken here" if study.legacy else "What --legacy would change"
    return heading, [
        *LEGACY.items(),
        ("Not taken over, in any case, as they are plain mistakes.", f"{BUGS[0].upper()}{BUGS[1:]}."),
    ]
