"""What the figures of the study of representations show, and what every measure means."""

from experiments import options
from experiments.representation_figures import method, title
from experiments.representation_quantities import ACCURACY, CUES, DECIDE, FIND, LOOK, NEED, ODD
from experiments.representation_results import Results
from experiments.representation_settings import Study
from experiments.wording import joined

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
    "falls on the other one. Dotted: chance, one third. Triplets share pictures, so that they cannot be resampled one "
    "by one: there are neither intervals nor verdicts.",
}
"""What stands below each figure."""

_WAYS = {
    "grad-cam": "Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)",
    "guided-grad-cam": "guided Grad-CAM (the same, times guided backpropagation: Springenberg et al. 2015, arXiv "
    "1412.6806)",
    "integrated-gradients": "integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365)",
    "attention": "attention of the class token in the last layer",
    "rollout": "attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928)",
}


def definitions(study: Study, results: Results) -> list[tuple[str, str]]:
    """Says in a line or two what every measure is, and whose."""
    noisy = " of two noisy copies of the image" if study.legacy else ""
    pooling = "stretched to [0, 1]" if study.legacy else "where they are positive"
    kinds = {title(name): options.ARCHITECTURES[name] for name in results.architectures}
    sites = [f"{kind.cam} ({name})" for name, kind in kinds.items()]
    searched = [f"{kind.tokens} ({name})" for name, kind in kinds.items()]
    shown = dict.fromkeys(line for kind in kinds.values() for line in kind.methods)
    boundary = "exactly one half misses, as in the released code" if study.legacy else "exactly one half counts"
    listed = [
        (
            "Attribution.",
            f"Of the class that the network decides for: {joined([_WAYS.get(line, method(line)) for line in shown])}. "
            f"Grad-CAM reads {joined(sites)}. Integrated gradients take {study.path_steps} Gauss-Legendre steps from "
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
            f"arXiv 2202.11539, which read {joined(searched)}. {_places(study, results)}",
        ),
    ]
    return [*listed, *_alignment(study, results)]


def _places(study: Study, results: Results) -> str:
    """Says how features are read at as many places of every architecture."""
    side = study.image // 4
    tokens = [name for name in results.architectures if not options.ARCHITECTURES[name].is_map]
    told = [
        f"All networks see the images in the size that they were trained on, and are read at {side} × {side} places"
    ]
    if tokens:
        told.append(
            f"the tokens of {joined([title(name) for name in tokens])} from four copies of each image, moved by a "
            "quarter of a patch up or down, left or right, and interleaved"
        )
    if len(tokens) < len(results.architectures):
        told.append("maps are standardised, each by its own mean and deviation")
    told.append(
        "in LOST the half of the places with fewest alike are candidates, much as a hundred of the 192 places are that "
        "a VOC image has in patches of 32 pixels"
    )
    return f"{'; '.join(told)}."


def _alignment(study: Study, results: Results) -> list[tuple[str, str]]:
    kept = f"{len(results.kept)} conditions of {joined(study.distortions)}"
    controls = "with the undistorted controls" if study.legacy else "without those that the benchmark leaves out"
    told = [
        (
            "Distorted images.",
            f"{kept}, {controls}; means over conditions, then observers, then distortions. Geirhos et al. (2021), "
            "arXiv 2106.07411. Accuracy difference: squared difference to the observer's accuracy. Observed "
            "consistency: both right or both wrong. Error consistency: that beyond chance, (c_obs − c_exp) / (1 − "
            "c_exp), and 1 where c_obs is (Geirhos et al. 2020, arXiv 2006.16736).",
        )
    ]
    if any(one.question == CUES for one in results.quantities):
        told.append(
            (
                "Shape bias.",
                "s / (s + t), of decisions for the class of the shape (s) and of the texture (t); one half where "
                "there are none. Geirhos et al. (2019), arXiv 1811.12231. Networks learned shape and texture "
                "together, so both tell the class.",
            )
        )
    told.append(
        (
            "Odd one out.",
            "The odd one is what remains beside the most similar pair, by the cosine of the features before the "
            "classifier; ties are shared. After the task of Hebart et al. (2020), Nature Human Behaviour 4, with "
            "classes in place of people's choices. Triplets share pictures: resampled one by one they would give "
            "intervals that are too narrow, so there are none, and no verdicts.",
        )
    )
    return told
