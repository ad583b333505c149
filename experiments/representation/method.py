"""How the study of representations was done, what every measure means, and whose it is, in sentences."""

from typing import Any

from experiments.representation.architectures import ATTRIBUTIONS, find
from experiments.representation.figures import rung_label
from experiments.representation.networks import LOSS
from experiments.representation.quantities import ACCURACY, CUES, DECIDE, FIND, LOOK, NEED, ODD
from experiments.representation.results import Results
from experiments.representation.settings import BUGS, LADDER, LEGACY, OBJECTIVES, RANDOM, SNIP, ladder_method
from experiments.shared import named
from experiments.shared.pages import DATA, INTERVALS, chosen, counted, joined
from experiments.shared.styles import label
from jaxprune import tree


def approach(settings: Any, results: Results) -> dict[str, str]:
    """Says how it was done."""
    first, arms = results.architectures[0], {arm for _, arm, _ in results.runs}
    rungs = [f"{rung_label(results.sparsity(first, LADDER, rung))} %" for rung in results.rungs(first, LADDER)]
    positions = ", those of the position networks of Swin V2 among them" if "swin" in results.architectures else ""
    left_out = f" Kernels named {settings.exclude} are left out." if settings.exclude else ""
    kinds = []
    for kind in map(find, results.architectures):
        shapes = kind.shapes(settings.image, len(results.truths[results.seeds[0]]["classes"]))
        layers = f"{kind.layers}, " if kind.layers else ""
        kinds.append(f"{kind.title}: {layers}{tree.size(shapes['params']):,} parameters, peak rate {kind.rate:g}")
    widths = [width for name, width in _WIDTHS.items() if name in settings.distortions]
    filters = f"Standard deviations of the distorting filters are: {'; '.join(widths)}."
    return {
        "Data.": _data(settings),
        "Networks.": f"{'; '.join(kinds)}. All are trained with AdamW, weight decay 0.01, warm-up and "
        f"cosine decay that start anew on every rung, batches of {settings.batch_size}, "
        f"{LOSS.__name__.replace('_', ' ')}.",
        "Ladder.": f"The dense network is trained for {settings.first_steps} steps. Then {chosen(settings.share)} of "
        f"the weights that are left go, those that rank lowest by {label(settings.method)} over all prunable kernels "
        f"at once, and the network is trained for {settings.steps} steps from the weights that it has: "
        f"{', '.join(rungs)}. {_axes(settings)} Sparsity is that of the prunable kernels{positions}; the share of all "
        f"kernels is in the last table.{left_out}",
        "Controls.": " ".join(text for arm, text in _CONTROLS.items() if not arm or arm in arms),
        "Statistics.": f"{counted(len(results.seeds), 'seed')}. {INTERVALS} Gains are paired by seed and image, signed "
        "so that above 0 is better, and the intervals of a ladder hold at once (Šidák 1967), since the best of several "
        "rungs is looked for. Found: one interval lies above the margin; not found: none reaches above it; undecided: "
        "anything else. Consistencies and the shape bias, which are no means, have intervals by the jackknife, which "
        "hold less often where images are few (85 % at 40, 95 % at 200).",
        **({"Filters.": filters} if widths else {}),
        "Observers.": f"Simulated; no people were asked. {settings.observers} for every condition. With s the place of "
        "a level among those of its distortion, from 0 (the control) to 1, z the standardised logarithm of the "
        "object's area and c = 1 / classes, an image is answered rightly with probability c + (1 − c) / (1 + "
        "exp(−(3 − 5 s + z))). Any two share 3 of 10 trials.",
        "Source.": "Cassano, Renzulli, Bragagnolo and Grangetto (2025), arXiv 2507.01722, prune ResNet-18, ResNet-50, "
        "Swin-V2-T and ViT-B/32 on ImageNet. Numbers on other data, networks and training are not comparable with "
        "theirs.",
    }


def _axes(settings: Any) -> str:
    """Says what is asked to stay, what ranks, and what moves, as records say it."""
    found = ladder_method(settings)
    asked = f"{found.objective} ({OBJECTIVES[found.objective]})" if found.objective in OBJECTIVES else "none"
    moved = "surgeon (kept weights are re-adjusted in the block of their unit), then training"
    update = moved if found.update == "surgeon" else "none but the training"
    return f"Objective: {asked}; score: {named.label(found.score)}; update: {update}."


_WIDTHS = {
    "low-pass": "low-pass in proportion to images of 224 pixels, as in the benchmark",
    "high-pass": "high-pass in pixels of the image itself, as in proportion nothing of a small one would be left",
}
_CONTROLS = {
    "": "Equal training: the dense network, trained on as often and as long as the ladder, and not pruned.",
    RANDOM: "Random mask: of that network, on the rung before, a random choice of weights goes at once, as many as on "
    "the rung of the ladder, and it is trained for one rung. The ladder comes there gradually, training after every "
    "step, so that the gap between them is not the criterion's alone.",
    SNIP: "SNIP (Lee et al. 2019, arXiv 1810.02340): scored at initialisation, where BatchNorm has the statistics of "
    "the scoring images, pruned at once to the sparsity of the rung, then trained once, as long as the dense network: "
    "shorter than the ladder by all its later rungs.",
}


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


def captions(settings: Any, results: Results) -> dict[str, str]:
    """Returns what stands below the figure of each question."""
    noisy = " of two noisy copies of the image" if settings.legacy else ""
    pooling = "stretched to [0, 1]" if settings.legacy else "where they are positive"
    boundary = "exactly one half misses, as in the released code" if settings.legacy else "exactly one half counts"
    controls = "with the undistorted controls" if settings.legacy else "without those that the benchmark leaves out"
    kinds = list(map(find, results.architectures))
    sites = joined([f"{kind.cam} ({kind.title})" for kind in kinds])
    searched = joined([f"{kind.tokens} ({kind.title})" for kind in kinds])
    shown = [ATTRIBUTIONS[name] for name in dict.fromkeys(name for kind in kinds for name in kind.methods)]
    sources = joined([f"{one.title} ({one.source})" if one.source else one.title for one in shown])
    side, tokens = settings.image // 4, [kind.title for kind in kinds if not kind.is_map]
    moved = "moved by a quarter of a patch up or down, left or right, and interleaved"
    copies = f"the tokens of {joined(tokens)} from four copies of each image, {moved}; " if tokens else ""
    maps = "maps are standardised, each by its own mean and deviation; " if len(tokens) < len(kinds) else ""
    return {
        ACCURACY: "The share of undistorted test images whose class is right. Dotted: chance.",
        LOOK: f"Attributions of the class that the network decides for, by {sources}. Mass: the share of all relevance "
        "that lies on the object. Rank: the share of the object among as many pixels of largest relevance, ties by "
        "expectation (both Arras et al. 2022, arXiv 2003.07258). Pointing: whether the largest lies on it (Zhang et "
        "al. 2016, arXiv 1608.00507). Dotted: what flat and random maps reach, the object's share of the image. "
        f"Grad-CAM reads {sites}. Integrated gradients take {settings.path_steps} Gauss-Legendre steps from "
        f"grey{noisy}. Grad-CAM and attention count {pooling}; the others are squared and summed over channels.",
        NEED: "While pixels appear on grey (insertion: more is better) or turn grey (deletion: less is better), most "
        "relevant first: the mean share of the steps at which the network still decides for the class of the whole "
        "image. A network that has only become more confident does not change; the probability of the class, taken by "
        "Petsiuk et al. (2018), arXiv 1806.07421, would. Yet some decisions stand in any order: what counts is the "
        "distance to pixels in random order, in grey, and that is what is tested. The paper on pruning has neither.",
        FIND: "The share of images in which the box that is found, without labels, has an intersection over union with "
        f"a true box of one half or more ({boundary}). Boxes by LOST, Siméoni et al. (2021), arXiv 2109.14279, and "
        f"TokenCut, Wang et al. (2022), arXiv 2202.11539, which read {searched}. All networks see the images in the "
        f"size that they were trained on, and are read at {side} × {side} places; {copies}{maps}in LOST the half of "
        "the places with fewest alike are candidates, much as a hundred of the 192 places are that a VOC image has in "
        "patches of 32 pixels. Lines across: a box in the centre of every image, and the whole image as the box.",
        DECIDE: f"Decisions on distorted images, {len(results.kept)} conditions of {joined(settings.distortions)}, "
        f"{controls}, and how alike they are to those of simulated observers; means over conditions, then observers, "
        "then distortions (Geirhos et al. 2021, arXiv 2106.07411). Accuracy difference: squared difference to the "
        "observer's accuracy. Observed consistency: both right or both wrong; it rises with accuracy by itself. Error "
        "consistency: that beyond what two independent observers of these accuracies have, (c_obs − c_exp) / (1 − "
        "c_exp), and 1 where c_obs is (Geirhos et al. 2020, arXiv 2006.16736). Of accuracy, dotted: chance; of error "
        "consistency, dash and dots: independent errors.",
        CUES: "Of the decisions for the class of the shape (s) or that of the texture (t), where these disagree, the "
        "share for the shape, s / (s + t); one half where there are none (Geirhos et al. 2019, arXiv 1811.12231). "
        "Networks learned shape and texture together, so both tell the class. One half is no chance level but no "
        "leaning; that more shape is better is the convention of the field.",
        ODD: "Two images of one class and one of another: the share of the choice that falls on the other one. The odd "
        "one is what remains beside the most similar pair, by the cosine of the features before the classifier; ties "
        "are shared. After the task of Hebart et al. (2020), Nature Human Behaviour 4, with classes in place of "
        "people's choices. Dotted: chance, one third. Triplets share images: taken as independent they would give "
        "intervals that are too narrow, so there are none, and no verdicts.",
    }


def legacy(settings: Any) -> tuple[str, dict[str, str]]:
    """Says what the choices of the released code are, and whether they were taken: a heading, and the list."""
    heading = "The choices of the released code, taken here" if settings.legacy else "What --legacy would change"
    mistakes = {"Not taken over, in any case, as they are plain mistakes.": f"{BUGS[0].upper()}{BUGS[1:]}."}
    return heading, {**LEGACY, **mistakes}
