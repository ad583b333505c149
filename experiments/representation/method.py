"""How the study of representations was done, in sentences."""

from collections.abc import Iterator
from typing import Any

from experiments.representation import architectures
from experiments.representation.figures import rung_label
from experiments.representation.findings import Point
from experiments.representation.networks import LOSS
from experiments.representation.results import Results
from experiments.representation.settings import BUGS, LADDER, LEGACY, RANDOM, SNIP
from experiments.shared.pages import DATA, counted, percent
from experiments.shared.styles import label
from jaxprune import tree


def approach(settings: Any, results: Results) -> list[Point]:
    """Says how it was done."""
    source = (
        "Cassano, Renzulli, Bragagnolo and Grangetto (2025), arXiv 2507.01722, prune ResNet-18, ResNet-50, Swin-V2-T "
        "and ViT-B/32 on ImageNet. Numbers on other data, networks and training are not comparable with theirs."
    )
    return [
        ("Data.", _data(settings)),
        ("Networks.", _networks(settings, results)),
        ("Ladder.", _ladder(settings, results)),
        ("Controls.", _controls(results)),
        ("Statistics.", _statistics(results)),
        *[("Filters.", one) for one in _filters(settings)],
        ("Observers.", _simulated(settings)),
        ("Source.", source),
    ]


def _data(settings: Any) -> str:
    tested = f"{settings.test_examples} test images"
    attributed = f"attributions are made of the first {settings.attributed_examples}; {settings.image} pixels a side"
    if settings.data != "shapes":
        # Images and masks of a folder have none.
        void = " Void pixels, which are neither object nor ground, count as ground."
        may_have = not settings.data.startswith("folder:")
        return f"{settings.data}, split anew for each seed; {tested} at most, {attributed}.{void if may_have else ''}"
    return (
        f"{DATA['shapes'].capitalize()}, painted anew for each seed: ten classes, a shape with a texture of its own "
        f"each; masks and boxes are exact. {settings.train_examples} training and {tested}, {attributed}. Every second "
        "training scene of a class is grey, since distorted images are and should not be new for that alone. For the "
        "shape bias, scenes whose texture is that of another class."
    )


def _networks(settings: Any, results: Results) -> str:
    kinds = []
    for name in results.architectures:
        kind = architectures.find(name)
        shapes = kind.shapes(settings.image, len(results.truths[results.seeds[0]]["classes"]))
        layers = f"{kind.layers}, " if kind.layers else ""
        kinds.append(f"{kind.title}: {layers}{tree.size(shapes['params']):,} parameters, peak rate {kind.rate:g}")
    return (
        f"{'; '.join(kinds)}. All are trained with AdamW, weight decay 0.01, warm-up and cosine decay that start anew "
        f"on every rung, batches of {settings.batch_size}, {LOSS.__name__.replace('_', ' ')}."
    )


def _ladder(settings: Any, results: Results) -> str:
    first = results.architectures[0]
    rungs = [f"{rung_label(results.sparsity(first, LADDER, rung))} %" for rung in results.rungs(first, LADDER)]
    positions = ", those of the position networks of Swin V2 among them" if "swin" in results.architectures else ""
    left_out = f" Kernels named {settings.exclude} are left out." if settings.exclude else ""
    return (
        f"The dense network is trained for {settings.first_steps} steps. Then {percent(settings.share)} of the weights "
        f"that are left go, those that rank lowest by {label(settings.score)} over all prunable kernels at once, and "
        f"the network is trained for {settings.steps} steps from the weights that it has: {', '.join(rungs)}. Sparsity "
        f"is that of the prunable kernels{positions}; the share of all kernels is in the last table.{left_out}"
    )


def _controls(results: Results) -> str:
    arms = {arm for _, arm, _ in results.runs}
    sentences = ["Equal training: the dense network, trained on as often and as long as the ladder, and not pruned."]
    if RANDOM in arms:
        sentences.append(
            "Random mask: of that network, on the rung before, a random choice of weights goes at once, as many as on "
            "the rung of the ladder, and it is trained for one rung. The ladder comes there gradually, training after "
            "every step, so that the gap between them is not the criterion's alone."
        )
    if SNIP in arms:
        sentences.append(
            "SNIP (Lee et al. 2019, arXiv 1810.02340): scored at initialisation, where BatchNorm has the statistics of "
            "the scoring images, pruned at once to the sparsity of the rung, then trained once, as long as the dense "
            "network: shorter than the ladder by all its later rungs."
        )
    return " ".join(sentences)


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


def _filters(settings: Any) -> Iterator[str]:
    widths = {
        "low-pass": "low-pass in proportion to images of 224 pixels, as in the benchmark",
        "high-pass": "high-pass in pixels of the image itself, as in proportion nothing of a small one would be left",
    }
    if shown := [width for name, width in widths.items() if name in settings.distortions]:
        yield f"Standard deviations of the distorting filters are: {'; '.join(shown)}."


def _simulated(settings: Any) -> str:
    return (
        f"Simulated; no people were asked. {settings.observers} for every condition. With s the place of a level among "
        "those of its distortion, from 0 (the control) to 1, z the standardised logarithm of the object's area and "
        "c = 1 / classes, an image is answered rightly with probability c + (1 − c) / (1 + exp(−(3 − 5 s + z))). Any "
        "two share 3 of 10 trials."
    )


def legacy(settings: Any) -> tuple[str, list[Point]]:
    """Says what the choices of the released code are, and whether they were taken: a heading, and the list."""
    heading = "The choices of the released code, taken here" if settings.legacy else "What --legacy would change"
    return heading, [
        *LEGACY.items(),
        ("Not taken over, in any case, as they are plain mistakes.", f"{BUGS[0].upper()}{BUGS[1:]}."),
    ]
