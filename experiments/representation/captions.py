"""What the figures of the study of representations show, and what every measure means."""

from typing import Any

from experiments.representation import architectures
from experiments.representation.attributions import ATTRIBUTIONS
from experiments.representation.figures import title
from experiments.representation.quantities import ACCURACY, CUES, DECIDE, FIND, LOOK, NEED, ODD
from experiments.representation.results import Results
from experiments.shared.pages import joined

CAPTIONS = {
    ACCURACY: "The share of undistorted test images whose class is right. Dotted: chance.",
    LOOK: "The share of relevance on the object (mass), the share of the object among as many pixels of largest "
    "relevance (rank), and whether the largest lies on it (pointing). Dotted: what flat and random maps reach, the "
    "object's share of the image.",
    NEED: "While pixels appear (insertion: more is better) or vanish (deletion: less is better) in the order of their "
    "relevance: the mean share of the steps at which the network's decision stands. A network that has only become "
    "more confident does not change. Yet some decisions stand in any order: what counts is the distance to the random "
    "order, in grey, and that is what is tested.",
    FIND: "The share of images in which the box that is found, without labels, overlaps the true one by half or more. "
    "Lines across: a box in the centre of every image, and the whole image as the box.",
    DECIDE: "Decisions on distorted images, and how alike they are to those of simulated observers. Error "
    "consistency: agreement beyond what two independent observers of these accuracies have (0). Of accuracy, dotted: "
    "chance; of error consistency, dash and dots: independent errors. Observed consistency "
    "rises with accuracy by itself.",
    CUES: "Of the decisions for the class of the shape or that of the texture, where these disagree, the share for the "
    "shape. One half is no chance level but no leaning; that more shape is better is the convention of the field.",
    ODD: "Two images of one class and one of another: the share of the choice, by the similarity of features, that "
    "falls on the other one. Dotted: chance, one third. Triplets share images, so that they cannot be resampled one "
    "by one: there are neither intervals nor verdicts.",
}
"""What stands below each figure."""


def definitions(settings: Any, results: Results) -> list[tuple[str, str]]:
    """Says in a line or two what every measure is, and whose."""
    noisy = " of two noisy copies of the image" if settings.legacy else ""
    pooling = "stretched to [0, 1]" if settings.legacy else "where they are positive"
    kinds = {title(name): architectures.find(name) for name in results.architectures}
    sites = [f"{kind.cam} ({name})" for name, kind in kinds.items()]
    searched = [f"{kind.tokens} ({name})" for name, kind in kinds.items()]
    methods = dict.fromkeys(name for kind in kinds.values() for name in kind.methods)
    sources = [ATTRIBUTIONS[name].source or ATTRIBUTIONS[name].title for name in methods]
    boundary = "exactly one half misses, as in the released code" if settings.legacy else "exactly one half counts"
    listed = [
        (
            "Attribution.",
            f"Of the class that the network decides for: {joined(sources)}. "
            f"Grad-CAM reads {joined(sites)}. Integrated gradients take {settings.path_steps} Gauss-Legendre steps from "
            f"grey{noisy}. Grad-CAM and attention count {pooling}; the others are squared and summed over channels.",
        ),
        (
            "Mass, rank.",
            "With P the relevance of the pixels and G the object: the share of all P that lies on G, and the share of "
            "G among the |G| pixels of largest P, ties by expectation. Arras et al. (2022), arXiv 2003.07258.",
        ),
        (
            "Pointing.",
            "Whether the pixel of largest relevance lies on the object. Zhang et al. (2016), arXiv 1608.00507.",
        ),
        (
            "Insertion, deletion.",
            "Pixels appear on grey, or turn grey, most relevant first. Area under a curve that is 1 where the network "
            "still decides for the class of the whole image and 0 elsewhere: the mean share of the steps at which it "
            "does. Gains are those of the distance to pixels in random order. After Petsiuk et al. (2018), arXiv "
            "1806.07421, who take the probability of the class, which also moves with the confidence of a network. "
            "The paper on pruning has neither.",
        ),
        (
            "CorLoc.",
            "The share of images whose box has an intersection over union with a true box of one half or more "
            f"({boundary}). Boxes by LOST, Siméoni et al. (2021), arXiv 2109.14279, and TokenCut, Wang et al. (2022), "
            f"arXiv 2202.11539, which read {joined(searched)}. {_places(settings, results)}",
        ),
    ]
    return [*listed, *_alignment(settings, results)]


def _places(settings: Any, results: Results) -> str:
    """Says how features are read at as many places of every architecture."""
    side = settings.image // 4
    tokens = [name for name in results.architectures if not architectures.find(name).is_map]
    sentences = [
        f"All networks see the images in the size that they were trained on, and are read at {side} × {side} places"
    ]
    if tokens:
        sentences.append(
            f"the tokens of {joined([title(name) for name in tokens])} from four copies of each image, moved by a "
            "quarter of a patch up or down, left or right, and interleaved"
        )
    if len(tokens) < len(results.architectures):
        sentences.append("maps are standardised, each by its own mean and deviation")
    sentences.append(
        "in LOST the half of the places with fewest alike are candidates, much as a hundred of the 192 places are that "
        "a VOC image has in patches of 32 pixels"
    )
    return f"{'; '.join(sentences)}."


def _alignment(settings: Any, results: Results) -> list[tuple[str, str]]:
    kept = f"{len(results.kept)} conditions of {joined(settings.distortions)}"
    controls = "with the undistorted controls" if settings.legacy else "without those that the benchmark leaves out"
    points = [
        (
            "Distorted images.",
            f"{kept}, {controls}; means over conditions, then observers, then distortions. Geirhos et al. (2021), "
            "arXiv 2106.07411. Accuracy difference: squared difference to the observer's accuracy. Observed "
            "consistency: both right or both wrong. Error consistency: that beyond chance, (c_obs − c_exp) / (1 − "
            "c_exp), and 1 where c_obs is (Geirhos et al. 2020, arXiv 2006.16736).",
        )
    ]
    if any(one.question == CUES for one in results.quantities):
        points.append(
            (
                "Shape bias.",
                "s / (s + t), of decisions for the class of the shape (s) and of the texture (t); one half where "
                "there are none. Geirhos et al. (2019), arXiv 1811.12231. Networks learned shape and texture "
                "together, so both tell the class.",
            )
        )
    points.append(
        (
            "Odd one out.",
            "The odd one is what remains beside the most similar pair, by the cosine of the features before the "
            "classifier; ties are shared. After the task of Hebart et al. (2020), Nature Human Behaviour 4, with "
            "classes in place of people's choices. Triplets share images: resampled one by one they would give "
            "intervals that are too narrow, so there are none, and no verdicts.",
        )
    )
    return points
