"""What the figures of the study of representations show: what every measure means, and whose it is."""

from collections.abc import Mapping
from typing import Any

from experiments.representation import architectures
from experiments.representation.attributions import ATTRIBUTIONS
from experiments.representation.quantities import ACCURACY, CUES, DECIDE, FIND, LOOK, NEED, ODD
from experiments.representation.results import Results
from experiments.shared.pages import joined


def captions(settings: Any, results: Results) -> Mapping[str, str]:
    """Returns what stands below the figure of each question."""
    noisy = " of two noisy copies of the image" if settings.legacy else ""
    pooling = "stretched to [0, 1]" if settings.legacy else "where they are positive"
    boundary = "exactly one half misses, as in the released code" if settings.legacy else "exactly one half counts"
    controls = "with the undistorted controls" if settings.legacy else "without those that the benchmark leaves out"
    kinds = [architectures.find(name) for name in results.architectures]
    sites = joined([f"{kind.cam} ({kind.title})" for kind in kinds])
    searched = joined([f"{kind.tokens} ({kind.title})" for kind in kinds])
    shown = [ATTRIBUTIONS[name] for name in dict.fromkeys(name for kind in kinds for name in kind.methods)]
    sources = joined([f"{one.title} ({one.source})" if one.source else one.title for one in shown])
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
        f"TokenCut, Wang et al. (2022), arXiv 2202.11539, which read {searched}. {_places(settings, kinds)} Lines "
        "across: a box in the centre of every image, and the whole image as the box.",
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
        "people's choices. Dotted: chance, one third. Triplets share images: resampled one by one they would give "
        "intervals that are too narrow, so there are none, and no verdicts.",
    }


def _places(settings: Any, kinds: list[architectures.Architecture]) -> str:
    """Says how features are read at as many places of every architecture."""
    side, tokens = settings.image // 4, [kind.title for kind in kinds if not kind.is_map]
    parts = [
        f"All networks see the images in the size that they were trained on, and are read at {side} × {side} places"
    ]
    if tokens:
        parts.append(
            f"the tokens of {joined(tokens)} from four copies of each image, moved by a quarter of a patch up or down, "
            "left or right, and interleaved"
        )
    if len(tokens) < len(kinds):
        parts.append("maps are standardised, each by its own mean and deviation")
    parts.append(
        "in LOST the half of the places with fewest alike are candidates, much as a hundred of the 192 places are that "
        "a VOC image has in patches of 32 pixels"
    )
    return f"{'; '.join(parts)}."
