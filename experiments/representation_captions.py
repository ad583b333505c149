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
    NEED: "The mean probability of the network's decision while pixels appear (insertion: more is better) or vanish "
    "(deletion: less is better) in the order of their relevance. Both also move with the confidence of a network, "
    "whatever the order: what counts is the distance to the random order, in grey, and that is what is tested.",
    FIND: "The share of images in which the box that is found, without labels, overlaps the true one by half or more. "
    "Lines across: a box in the centre of every image, and the whole image as the box.",
    DECIDE: "Decisions on distorted images, and how alike they are to those of simulated observers. Error "
    "consistency: agreement beyond what two independent observers of these accuracies have (0). Observed consistency "
    "rises with accuracy by itself.",
    CUES: "Of the decisions for the class of the shape or that of the texture, where these disagree, the share for the "
    "shape. One half is no chance level but no leaning; that more shape is better is the convention of the field.",
    ODD: "Two images of one class and one of another: the share of the choice, by the similarity of features, that "
    "falls on the other one. Dotted: chance, one third.",
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
            "Area under the probability of the decided class while pixels appear on grey, or turn grey, most relevant "
            "first. Gains are those of the distance to pixels in random order. Petsiuk et al. (2018), arXiv "
            "1806.07421. The paper on pruning has neither.",
        ),
        (
            "CorLoc.",
            "The share of images whose box has an intersection over union with a true box of one half or more "
            f"({boundary}). Boxes by LOST, Siméoni et al. (2021), arXiv 2109.14279, and TokenCut, Wang et al. (2022), "
            f"arXiv 2202.11539, which read {joined(searched)}.",
        ),
    ]
    return [*listed, *_alignment(study, results)]


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
            "classes in place of people's choices. Triplets share pictures, and count as if they did not: these "
            "intervals are too narrow.",
        )
    )
    return told
